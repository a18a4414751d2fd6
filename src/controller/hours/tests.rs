//! Hours against the clock on the wall.

use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

fn window(start: &str, end: &str, zone: &str) -> Window {
    Window {
        start: start.to_owned(),
        end: end.to_owned(),
        time_zone: zone.to_owned(),
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn moment(window: &Window, now: &str) -> Moment {
    Hours::parse(window).unwrap().at(&[], at(now))
}

fn within(until: &str) -> Moment {
    Moment::Within { until: at(until) }
}

fn outside(next: &str) -> Moment {
    Moment::Outside {
        next: Some(at(next)),
    }
}

#[test]
fn a_night_is_one_window_and_comes_again() {
    let night = window("18:30", "06:00", "UTC");
    let opens = outside("2026-11-23T18:30:00Z");
    assert_eq!(moment(&night, "2026-11-23T18:29:59Z"), opens);
    let open = within("2026-11-24T06:00:00Z");
    assert_eq!(moment(&night, "2026-11-23T18:30:00Z"), open);
    assert_eq!(moment(&night, "2026-11-24T05:59:59Z"), open);
    let next = outside("2026-11-24T18:30:00Z");
    assert_eq!(moment(&night, "2026-11-24T06:00:00Z"), next);
}

#[test]
fn hours_follow_the_clock_on_the_wall_when_it_is_put_forward_and_back() {
    let night = window("18:30", "06:00", "Europe/Berlin");
    let spring = within("2026-03-29T04:00:00Z");
    assert_eq!(moment(&night, "2026-03-28T17:30:00Z"), spring);
    let autumn = within("2026-10-25T05:00:00Z");
    assert_eq!(moment(&night, "2026-10-24T16:30:00Z"), autumn);
    // A quarter past two does not exist on that day, and comes twice on the other.
    let short = window("02:15", "04:00", "Europe/Berlin");
    let late = outside("2026-03-29T01:15:00Z");
    assert_eq!(moment(&short, "2026-03-29T00:30:00Z"), late);
    let first = outside("2026-10-25T00:15:00Z");
    assert_eq!(moment(&short, "2026-10-25T00:00:00Z"), first);
}

#[test]
fn the_same_time_twice_is_the_whole_day() {
    let always = window("06:00", "06:00", "UTC");
    let until = within("2026-11-24T06:00:00Z");
    assert_eq!(moment(&always, "2026-11-23T06:00:00Z"), until);
}

#[test]
fn hours_of_a_day_of_the_week_end_on_the_next_day() {
    let night = Hours::parse(&window("22:00", "05:00", "UTC")).unwrap();
    // 2026-11-23 is a Monday.
    let monday = |now| night.at(&[Day::Mon], at(now));
    assert_eq!(
        monday("2026-11-24T04:00:00Z"),
        within("2026-11-24T05:00:00Z")
    );
    assert_eq!(
        monday("2026-11-24T22:00:00Z"),
        outside("2026-11-30T22:00:00Z")
    );
}

#[test]
fn what_is_no_zone_or_no_time_is_said() {
    let zone = Hours::parse(&window("18:30", "06:00", "Europe/Berln"));
    assert_eq!(zone, Err(Error::Zone("Europe/Berln".to_owned())));
    let time = Hours::parse(&window("25:00", "06:00", "UTC"));
    assert_eq!(time, Err(Error::Start("25:00".to_owned())));
}

fn zone() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("UTC"),
        Just("Europe/Berlin"),
        Just("America/New_York"),
        Just("Asia/Kathmandu"),
        Just("Australia/Lord_Howe"),
        Just("Pacific/Apia"),
    ]
}

proptest! {
    #[test]
    fn nothing_changes_before_it_is_said_to(
        (start, end, zone) in (0..1440, 0..1440, zone()),
        now in 1_700_000_000..1_900_000_000_i64,
        part in 0..1000_i64,
    ) {
        let text = |minute: i32| format!("{:02}:{:02}", minute / 60, minute % 60);
        let hours = Hours::parse(&window(&text(start), &text(end), zone)).unwrap();
        let moment = hours.at(&[], Timestamp::from_second(now).unwrap());
        let changes = moment.changes().expect("they are of every day").as_second();
        prop_assert!(now < changes && changes - now <= 3 * 86_400);
        let between = now + (changes - 1 - now) * part / 1000;
        let then = hours.at(&[], Timestamp::from_second(between).unwrap());
        prop_assert_eq!(then, moment);
    }

    #[test]
    fn it_is_time_when_the_wall_says_so(
        (start, end) in (0..1440, 0..1440),
        now in 1_700_000_000..1_900_000_000_i64,
    ) {
        let text = |minute: i32| format!("{:02}:{:02}", minute / 60, minute % 60);
        // A zone without summer time.
        let hours = Hours::parse(&window(&text(start), &text(end), "Asia/Kathmandu")).unwrap();
        let moment = hours.at(&[], Timestamp::from_second(now).unwrap());
        let minute = i32::try_from((now + 20_700).rem_euclid(86_400) / 60).unwrap();
        let expected = match start < end {
            true => (start..end).contains(&minute),
            false => minute >= start || minute < end,
        };
        prop_assert_eq!(matches!(moment, Moment::Within { .. }), expected);
    }
}
