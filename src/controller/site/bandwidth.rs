//! What a host of a site may send now, by the site's schedule. No I/O.

use jiff::Timestamp;

use crate::api::hyperv_site::{Bandwidth, BandwidthHours};
use crate::api::quantity;
use crate::controller::hours::{Hours, Moment};

/// What holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cap {
    /// Bytes per second of one host; nothing: no limit.
    pub bytes: Option<u64>,
    /// When another limit may hold.
    pub changes: Option<Timestamp>,
}

/// The limit of `now`: the first of the schedule whose hours it is in, or the one of all other hours. Where a schedule
/// cannot be understood, its limit always holds: production comes first.
pub fn cap(bandwidth: Option<&Bandwidth>, now: Timestamp) -> Cap {
    let Some(bandwidth) = bandwidth else {
        return Cap::default();
    };
    let moments: Vec<_> = bandwidth
        .schedule
        .iter()
        .map(|entry| (entry, moment(entry, now)))
        .collect();
    let within = moments.iter().find_map(|(entry, moment)| match moment {
        Some(Moment::Outside { .. }) => None,
        Some(Moment::Within { .. }) | None => Some(&entry.per_host),
    });
    let limit = within.or(bandwidth.per_host.as_ref());
    let changes = moments
        .iter()
        .filter_map(|(_, moment)| moment.and_then(Moment::changes));
    Cap {
        bytes: limit.and_then(|limit| quantity::bytes_per_second(limit)),
        changes: changes.min(),
    }
}

fn moment(entry: &BandwidthHours, now: Timestamp) -> Option<Moment> {
    let hours = Hours::parse(&entry.hours).ok()?;
    Some(hours.at(&entry.days, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::hyperv_site::{Day, Window};

    fn entry(days: &[Day], start: &str, end: &str, zone: &str, limit: &str) -> BandwidthHours {
        BandwidthHours {
            days: days.to_vec(),
            hours: Window {
                start: start.to_owned(),
                end: end.to_owned(),
                time_zone: zone.to_owned(),
            },
            per_host: limit.to_owned(),
        }
    }

    fn of(schedule: Vec<BandwidthHours>, now: &str) -> (Option<u64>, Option<String>) {
        let bandwidth = Bandwidth {
            per_host: Some("80Mbit".to_owned()),
            schedule,
        };
        let cap = cap(Some(&bandwidth), now.parse().unwrap());
        (cap.bytes, cap.changes.map(|at| at.to_string()))
    }

    #[test]
    fn the_first_hours_that_match_count_and_outside_of_all_the_general_limit_does() {
        let office = entry(&[Day::Mon], "08:00", "18:00", "Europe/Berlin", "8Mbit");
        let day = entry(&[], "06:00", "20:00", "UTC", "16Mbit");
        let at = |now| of(vec![office.clone(), day.clone()], now);
        // 2026-11-23 is a Monday; Berlin is an hour ahead.
        let morning = Some("2026-11-23T07:00:00Z".to_owned());
        assert_eq!(at("2026-11-23T06:59:00Z"), (Some(2_000_000), morning));
        let evening = Some("2026-11-23T17:00:00Z".to_owned());
        assert_eq!(at("2026-11-23T07:00:00Z"), (Some(1_000_000), evening));
        let night = Some("2026-11-24T06:00:00Z".to_owned());
        assert_eq!(at("2026-11-23T20:00:00Z"), (Some(10_000_000), night));
    }

    #[test]
    fn a_limit_whose_hours_are_not_known_always_holds() {
        let typo = entry(&[], "08:00", "18:00", "Europe/Berln", "8Mbit");
        assert_eq!(
            of(vec![typo], "2026-11-23T23:00:00Z"),
            (Some(1_000_000), None)
        );
    }

    #[test]
    fn nothing_said_is_no_limit() {
        assert_eq!(cap(None, Timestamp::UNIX_EPOCH), Cap::default());
    }
}
