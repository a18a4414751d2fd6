//! Hours of the day in a time zone: whether it is time now, and when that changes. No I/O.
//!
//! ```text
//! start 18:30, end 06:00   ───────┐ 18:30          06:00 ┌───────
//!                                 └──── it is time ──────┘          (of the day on which it begins)
//! ```
//! An end that is not after the start is of the next day; the same time twice is the whole day. Where clocks are put
//! forward or back, a time that does not exist is the one after the gap, and one that comes twice is the first.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::api::hyperv_site::{Day, Window};

/// Days that are looked at for the next hours: those that began yesterday, and those of a week.
const DAYS: std::ops::RangeInclusive<i32> = -1..=8;

/// Hours of every day.
#[derive(Clone, Debug, PartialEq)]
pub struct Hours {
    start: Time,
    end: Time,
    zone: TimeZone,
}

/// How a moment stands to hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Within {
        until: Timestamp,
    },
    /// Nothing: they never come.
    Outside {
        next: Option<Timestamp>,
    },
}

impl Moment {
    /// When it changes.
    pub const fn changes(self) -> Option<Timestamp> {
        match self {
            Moment::Within { until } => Some(until),
            Moment::Outside { next } => next,
        }
    }
}

/// Hours that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is no time of day such as 18:30")]
    Start(String),
    #[error("{0:?} is no time of day such as 06:00")]
    End(String),
    #[error("{0:?} is no time zone of the IANA database, such as Europe/Berlin")]
    Zone(String),
}

impl Error {
    /// The field of a window that is wrong.
    pub const fn field(&self) -> &'static str {
        match self {
            Error::Start(_) => "start",
            Error::End(_) => "end",
            Error::Zone(_) => "timeZone",
        }
    }
}

impl Hours {
    /// The hours that a spec means.
    ///
    /// # Errors
    /// If a time of day or the time zone is not known.
    pub fn parse(window: &Window) -> Result<Self, Error> {
        let time = |text: &str, wrong: fn(String) -> Error| {
            Time::strptime("%H:%M", text).map_err(|_| wrong(text.to_owned()))
        };
        let zone = TimeZone::get(&window.time_zone);
        Ok(Hours {
            start: time(&window.start, Error::Start)?,
            end: time(&window.end, Error::End)?,
            zone: zone.map_err(|_| Error::Zone(window.time_zone.clone()))?,
        })
    }

    /// How `now` stands to these hours of `days`; of every day, if there are none.
    pub fn at(&self, days: &[Day], now: Timestamp) -> Moment {
        let today = self.zone.to_datetime(now).date();
        let dates = DAYS.filter_map(|offset| today.checked_add(offset.days()).ok());
        let dates = dates.filter(|date| is_one_of(days, date.weekday()));
        for (start, end) in dates.filter_map(|date| self.on(date)) {
            if now < start {
                return Moment::Outside { next: Some(start) };
            }
            if now < end {
                return Moment::Within { until: end };
            }
        }
        Moment::Outside { next: None }
    }

    /// The hours that begin on a day; nothing where the clock leaves nothing of them.
    fn on(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        let last = match self.end > self.start {
            true => date,
            false => date.tomorrow().ok()?,
        };
        let at = |date: Date, time| self.zone.to_timestamp(date.to_datetime(time)).ok();
        let (start, end) = (at(date, self.start)?, at(last, self.end)?);
        (start < end).then_some((start, end))
    }
}

fn is_one_of(days: &[Day], weekday: Weekday) -> bool {
    let day = match weekday {
        Weekday::Monday => Day::Mon,
        Weekday::Tuesday => Day::Tue,
        Weekday::Wednesday => Day::Wed,
        Weekday::Thursday => Day::Thu,
        Weekday::Friday => Day::Fri,
        Weekday::Saturday => Day::Sat,
        Weekday::Sunday => Day::Sun,
    };
    days.is_empty() || days.contains(&day)
}

#[cfg(test)]
mod tests;
