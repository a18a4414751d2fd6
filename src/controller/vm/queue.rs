//! Whose first copy is next: a few per host, the others in the order in which they were created, from an hour on.

use jiff::Timestamp;

use crate::ids::ObjectName;

/// A VM of a host whose first copy is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub object: ObjectName,
    pub created: Timestamp,
    /// Whether it has been started.
    pub running: bool,
}

/// Whether a first copy may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Free,
    /// So many come before it, of so many that wait.
    Queued {
        position: usize,
        waiting: usize,
    },
}

/// The slot of `object` among the `entries` of its host, of which `most` may run at the same time.
pub fn slot(object: &ObjectName, entries: &[Entry], most: usize) -> Slot {
    let running = entries.iter().filter(|entry| entry.running).count();
    let waiting = waiting(entries);
    let place = waiting
        .iter()
        .position(|entry| entry.object == *object)
        .unwrap_or(waiting.len());
    if running + place < most {
        Slot::Free
    } else {
        let first = most.saturating_sub(running);
        Slot::Queued {
            position: place - first.min(place) + 1,
            waiting: waiting.len() - first.min(waiting.len()),
        }
    }
}

/// The first of those that wait, `most` of them at most.
pub fn next(entries: &[Entry], most: usize) -> impl Iterator<Item = &ObjectName> {
    let waiting = waiting(entries).into_iter().take(most);
    waiting.map(|entry| &entry.object)
}

/// Those that wait, in their order.
fn waiting(entries: &[Entry]) -> Vec<&Entry> {
    let mut waiting: Vec<&Entry> = entries.iter().filter(|entry| !entry.running).collect();
    waiting.sort_by(|a, b| (a.created, &a.object).cmp(&(b.created, &b.object)));
    waiting
}

/// Whether `time` (`HH:MM`, UTC) has come between `created` and `now`.
pub fn has_come(time: &str, created: Timestamp, now: Timestamp) -> bool {
    let Some((hour, minute)) = time.split_once(':') else {
        return true;
    };
    let (Ok(hour), Ok(minute)) = (hour.parse::<i64>(), minute.parse::<i64>()) else {
        return true;
    };
    let at = (hour * 60 + minute) * 60;
    let day = 86_400;
    // The first occurrence at or after the creation.
    let since = created.as_second() - at;
    let first = at + since.div_euclid(day) * day + if since.rem_euclid(day) == 0 { 0 } else { day };
    now.as_second() >= first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> ObjectName {
        ObjectName::new("dr", name).unwrap()
    }

    fn entry(name: &str, created: i64, running: bool) -> Entry {
        Entry {
            object: object(name),
            created: Timestamp::from_second(created).unwrap(),
            running,
        }
    }

    #[test]
    fn the_oldest_come_first_and_the_others_see_their_place() {
        let entries = [
            entry("c", 3, false),
            entry("a", 1, true),
            entry("b", 2, false),
            entry("d", 4, false),
        ];
        assert_eq!(slot(&object("b"), &entries, 2), Slot::Free);
        assert_eq!(
            slot(&object("c"), &entries, 2),
            Slot::Queued {
                position: 1,
                waiting: 2
            }
        );
        assert_eq!(
            slot(&object("d"), &entries, 2),
            Slot::Queued {
                position: 2,
                waiting: 2
            }
        );
    }

    #[test]
    fn nobody_starts_while_all_slots_are_taken() {
        let entries = [
            entry("a", 1, true),
            entry("b", 2, true),
            entry("c", 3, false),
        ];
        assert_eq!(
            slot(&object("c"), &entries, 2),
            Slot::Queued {
                position: 1,
                waiting: 1
            }
        );
        assert_eq!(
            slot(&object("c"), &entries, 1),
            Slot::Queued {
                position: 1,
                waiting: 1
            }
        );
        assert_eq!(slot(&object("c"), &entries, 3), Slot::Free);
    }

    #[test]
    fn who_is_next_are_the_oldest_that_wait() {
        let entries = [
            entry("c", 3, false),
            entry("a", 1, true),
            entry("b", 2, false),
            entry("d", 4, false),
        ];
        let next: Vec<&str> = next(&entries, 2).map(ObjectName::name).collect();
        assert_eq!(next, ["b", "c"]);
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn first_copies_start_at_the_next_occurrence_of_their_hour() {
        let created = at("2026-11-23T14:00:00Z");
        assert!(!has_come("22:00", created, at("2026-11-23T21:59:59Z")));
        assert!(has_come("22:00", created, at("2026-11-23T22:00:00Z")));
        assert!(has_come("22:00", created, at("2026-11-24T09:00:00Z")));
        assert!(!has_come("13:00", created, at("2026-11-24T12:59:59Z")));
        assert!(has_come("14:00", created, created));
    }
}
