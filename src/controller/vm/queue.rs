//! Whose first copy is next: a few per host, the others in the order in which they were created.

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
    let mut waiting: Vec<&Entry> = entries.iter().filter(|entry| !entry.running).collect();
    waiting.sort_by(|a, b| (a.created, &a.object).cmp(&(b.created, &b.object)));
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
}
