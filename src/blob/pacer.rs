//! How fast one page blob is written: as fast as it goes, until the service says that it is too fast.
//!
//! ```text
//! rate ▲ ceiling ─────╮ throttled: ×0.65 of what was really sent, at most once in 20 s
//!      │              ╰╮                              ╭──── +1.5 % a second, probing
//!      │               │      ╭───────────────────────╯ +0.15 % a second around the last peak
//!      │               ╰──────╯ 10 % of the way back to the last peak, each second
//! ```
//! Two such lanes, bytes and requests: Azure promises a page blob 60 MiB/s and 500 requests/s, and the lane that is
//! nearer to its promise is the one that was meant. [`Pacer`] is pure and is told the time; [`Pacers`] does the waiting.
//! A pace is no promise to anyone: it only keeps retries from making up most of the traffic.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes a second that Azure promises one page blob, and what it starts with: 16 Gbit/s, which no single blob reaches.
/// It may be that high because a cut starts from what was really sent.
const BYTES: Target = Target {
    promised: 60.0 * 1024.0 * 1024.0,
    ceiling: 2e9,
    floor: 1024.0 * 1024.0,
};
/// Requests a second, likewise.
const REQUESTS: Target = Target {
    promised: 500.0,
    ceiling: 20_000.0,
    floor: 10.0,
};
/// What is left of the rate after a refusal.
const CUT: f64 = 0.65;
/// Refusals this soon after a cut are answers to what was sent before it.
const DEAD_BAND: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_secs(1);
/// After so many quiet ticks every rate is back at its ceiling.
const TICKS_MAX: u32 = 1000;
/// What may be sent at once after a pause, in seconds of the rate: more than a timer's grain, too little to be refused.
const BURST: f64 = 0.1;

/// What is known of a lane before the first request.
#[derive(Clone, Copy, Debug)]
struct Target {
    promised: f64,
    ceiling: f64,
    floor: f64,
}

/// One rate: a bucket that drains at it, and its history.
#[derive(Clone, Debug)]
struct Lane {
    target: Target,
    rate: f64,
    /// The rate at which the service last refused.
    peak: f64,
    /// Admitted and not yet drained.
    level: f64,
    /// Admitted in this tick.
    admitted: f64,
    /// Admitted in the tick before.
    admitted_before: f64,
}

impl Lane {
    const fn new(target: Target) -> Self {
        Lane {
            target,
            rate: target.ceiling,
            peak: target.ceiling,
            level: 0.0,
            admitted: 0.0,
            admitted_before: 0.0,
        }
    }

    /// Takes `amount` and says how many seconds it has to wait.
    fn admit(&mut self, amount: f64) -> f64 {
        let wait = self.level / self.rate - BURST;
        self.level += amount;
        self.admitted += amount;
        wait.max(0.0)
    }

    fn drain(&mut self, seconds: f64) {
        self.level = (self.level - self.rate * seconds).max(0.0);
    }

    fn tick(&mut self, recovers: bool) {
        self.admitted_before = self.admitted;
        self.admitted = 0.0;
        if recovers {
            self.recover();
        }
    }

    fn recover(&mut self) {
        if self.rate < self.peak * 0.95 {
            self.rate += (self.peak - self.rate) * 0.10;
        } else if self.rate <= self.peak * 1.05 {
            self.rate *= 1.0015;
        } else {
            self.rate *= 1.015;
        }
        self.rate = self.rate.min(self.target.ceiling);
    }

    /// What was really sent a second, from a tick that began `seconds` ago and the one before.
    fn used(&self, seconds: f64) -> f64 {
        (self.admitted / seconds.max(BURST)).max(self.admitted_before)
    }

    fn cut(&mut self, used: f64) {
        self.peak = used.clamp(self.target.floor, self.rate);
        self.rate = (self.peak * CUT).max(self.target.floor);
    }
}

/// The pace of one blob.
#[derive(Clone, Debug)]
pub struct Pacer {
    bytes: Lane,
    requests: Lane,
    /// When the present tick began.
    tick: Instant,
    /// Up to when the lanes are drained.
    drained: Instant,
    cut: Option<Instant>,
    throttled_in_tick: bool,
}

impl Pacer {
    pub const fn new(now: Instant) -> Self {
        Pacer {
            bytes: Lane::new(BYTES),
            requests: Lane::new(REQUESTS),
            tick: now,
            drained: now,
            cut: None,
            throttled_in_tick: false,
        }
    }

    /// Takes a request of `bytes` and says how long it has to wait before it is sent.
    pub fn admit(&mut self, now: Instant, bytes: u32) -> Duration {
        self.advance(now);
        let wait = self.bytes.admit(f64::from(bytes));
        Duration::from_secs_f64(wait.max(self.requests.admit(1.0)))
    }

    /// The service refused a request as too much.
    pub fn throttled(&mut self, now: Instant) {
        self.advance(now);
        self.throttled_in_tick = true;
        if self
            .cut
            .is_some_and(|cut| now.duration_since(cut) < DEAD_BAND)
        {
            return;
        }
        self.cut = Some(now);
        let seconds = now.duration_since(self.tick).as_secs_f64();
        let (bytes, requests) = (self.bytes.used(seconds), self.requests.used(seconds));
        let share = |used: f64, lane: &Lane| used / lane.target.promised;
        if share(bytes, &self.bytes) >= share(requests, &self.requests) {
            self.bytes.cut(bytes);
        } else {
            self.requests.cut(requests);
        }
    }

    /// Bytes a second at present.
    pub const fn bytes_per_second(&self) -> f64 {
        self.bytes.rate
    }

    /// Requests a second at present.
    pub const fn requests_per_second(&self) -> f64 {
        self.requests.rate
    }

    /// Whether nothing of the past matters any more: a new pacer would do the same.
    fn is_rested(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.drained) > TICK * TICKS_MAX
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.drained).as_secs_f64();
        for lane in [&mut self.bytes, &mut self.requests] {
            lane.drain(elapsed);
        }
        self.drained = self.drained.max(now);
        let mut ticks = 0;
        while now.saturating_duration_since(self.tick) >= TICK {
            if ticks == TICKS_MAX {
                self.tick = now;
                break;
            }
            ticks += 1;
            self.tick += TICK;
            let recovers = !std::mem::take(&mut self.throttled_in_tick);
            for lane in [&mut self.bytes, &mut self.requests] {
                lane.tick(recovers);
            }
        }
    }
}

/// The pace of one blob, shared by all who write it.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Pacer>);

impl Pace {
    fn new() -> Self {
        Pace(Mutex::new(Pacer::new(Instant::now())))
    }

    /// Waits until a request of `bytes` may be sent; `false` if it was told to stop meanwhile.
    pub(crate) async fn admit(&self, bytes: usize, stop: &CancellationToken) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let wait = self.with(|pacer| pacer.admit(Instant::now(), bytes));
        if wait.is_zero() {
            return true;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = stop.cancelled() => false,
        }
    }

    pub(crate) fn throttled(&self) {
        self.with(|pacer| pacer.throttled(Instant::now()));
    }

    /// A pacer is whole between any two of its lines, so that a panic elsewhere does no harm to it.
    fn with<T>(&self, act: impl FnOnce(&mut Pacer) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The paces of all blobs that a process writes.
#[derive(Debug, Default)]
pub(crate) struct Pacers(Mutex<HashMap<String, Arc<Pace>>>);

/// More blobs than one process writes at a time, at some hundred bytes each.
const PACERS_MAX: usize = 32 << 10;

impl Pacers {
    /// The pace of the blob that `object` names. When there are too many, those that rest are forgotten; one that finds
    /// no place even so is not shared, which costs a few refused requests.
    pub(crate) fn of(&self, object: &str) -> Arc<Pace> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pace) = paces.get(object) {
            return pace.clone();
        }
        let pace = Arc::new(Pace::new());
        if paces.len() >= PACERS_MAX {
            let now = Instant::now();
            paces.retain(|_, pace| !pace.with(|pacer| pacer.is_rested(now)));
        }
        if paces.len() < PACERS_MAX {
            paces.insert(object.to_owned(), pace.clone());
        }
        pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u32 = 4 << 20;

    /// Sends `count` requests of `bytes`, each as soon as it may, and returns the time then.
    fn send(pacer: &mut Pacer, mut now: Instant, count: u32, bytes: u32) -> Instant {
        for _ in 0..count {
            now += pacer.admit(now, bytes);
        }
        now
    }

    #[test]
    fn an_unrefused_blob_is_written_at_the_ceiling() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        let end = send(&mut pacer, start, 4800, PAGE);
        let rate = 4800.0 * f64::from(PAGE) / (end - start).as_secs_f64();
        assert!((1.96e9..2.08e9).contains(&rate), "{rate}");
    }

    #[test]
    fn a_refusal_cuts_to_what_was_sent_and_others_of_its_time_do_not() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        // Twenty pages a second: 80 MiB/s.
        let mut now = start;
        for _ in 0..60 {
            pacer.admit(now, PAGE);
            now += Duration::from_millis(50);
        }
        pacer.throttled(now);
        let rate = pacer.bytes_per_second();
        let expected = 20.0 * f64::from(PAGE) * CUT;
        assert!((rate / expected - 1.0).abs() < 0.06, "{rate} {expected}");
        pacer.throttled(now + Duration::from_millis(900));
        assert_eq!(pacer.bytes_per_second(), rate);
        pacer.throttled(now + DEAD_BAND + TICK);
        assert!(pacer.bytes_per_second() < rate);
    }

    #[test]
    fn the_lane_that_is_nearer_to_its_promise_is_the_one_that_is_cut() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        let mut now = start;
        for _ in 0..2000 {
            pacer.admit(now, 4096);
            now += Duration::from_millis(1);
        }
        pacer.throttled(now);
        assert!(
            pacer.requests_per_second() < 700.0,
            "{}",
            pacer.requests_per_second()
        );
        assert_eq!(pacer.bytes_per_second(), BYTES.ceiling);
    }

    #[test]
    fn a_cut_rate_comes_back_to_its_peak_and_then_probes_beyond() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        let mut now = start;
        for _ in 0..60 {
            pacer.admit(now, PAGE);
            now += Duration::from_millis(50);
        }
        pacer.throttled(now);
        let peak = pacer.bytes.peak;
        pacer.admit(now + 20 * TICK, 0);
        let recovered = pacer.bytes_per_second();
        assert!(
            (0.94 * peak..1.05 * peak).contains(&recovered),
            "{recovered} {peak}"
        );
        pacer.admit(now + 120 * TICK, 0);
        assert!(pacer.bytes_per_second() > 1.2 * peak);
        pacer.admit(now + 900 * TICK, 0);
        assert_eq!(pacer.bytes_per_second(), BYTES.ceiling);
    }

    #[test]
    fn refusals_without_end_leave_the_floor() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start);
        for n in 1..200 {
            let now = start + (DEAD_BAND + TICK) * n;
            pacer.admit(now, 512);
            pacer.throttled(now);
        }
        assert!(pacer.bytes_per_second() >= BYTES.floor);
        assert!(pacer.requests_per_second() >= REQUESTS.floor);
    }

    #[test]
    fn a_clock_that_stands_or_steps_back_does_no_harm() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut pacer = Pacer::new(start);
        pacer.throttled(start);
        pacer.admit(start - Duration::from_secs(5), PAGE);
        pacer.throttled(start - Duration::from_secs(5));
        assert!(pacer.bytes_per_second() > 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_blob_has_one_pace_and_a_stop_ends_the_wait() {
        let pacers = Pacers::default();
        let stop = CancellationToken::new();
        let pace = pacers.of("c/b");
        pace.throttled();
        for _ in 0..16 {
            pacers
                .of("c/b")
                .with(|pacer| pacer.admit(Instant::now(), PAGE));
        }
        assert!(pacers.of("c/other").admit(1, &stop).await);
        stop.cancel();
        assert!(!pace.admit(1, &stop).await);
    }
}
