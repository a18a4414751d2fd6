//! Lets requests go wrong where and as often as was asked for.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A fault that is set.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `GET`, `PUT`, `POST`, `DELETE`.
    pub method: String,
    /// What the path has in it, in any case: `/disks/`, a name, `deallocate`.
    pub path: String,
    /// How often it strikes.
    pub times: u32,
    pub effect: Effect,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It is carried out, and the connection breaks before the answer.
    LoseReply,
    /// The connection breaks; nothing is carried out.
    LoseRequest,
    /// It is answered so, and not carried out.
    Answer {
        status: u16,
        code: String,
        message: String,
        retry_after: Option<u64>,
    },
    /// It is carried out after a while.
    Delay(Duration),
    /// What it begins fails in the end, with this code and message.
    FailOperation { code: String, message: String },
    /// What it begins is forgotten: its status is not found.
    ForgetOperation,
}

#[derive(Default)]
pub(crate) struct Faults {
    set: Mutex<Vec<Fault>>,
}

impl Faults {
    pub(crate) fn set(&self, fault: Fault) {
        self.set
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(fault);
    }

    pub(crate) fn clear(&self) {
        self.set
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// What happens to a request, if anything.
    pub(crate) fn strike(&self, method: &str, path: &str) -> Option<Effect> {
        let path = path.to_ascii_lowercase();
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let meant = |fault: &Fault| {
            fault.method.eq_ignore_ascii_case(method)
                && path.contains(&fault.path.to_ascii_lowercase())
        };
        let at = set.iter().position(meant)?;
        let effect = set[at].effect.clone();
        set[at].times = set[at].times.saturating_sub(1);
        if set[at].times == 0 {
            set.remove(at);
        }
        Some(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_as_often_as_was_asked_for_and_only_there() {
        let faults = Faults::default();
        faults.set(Fault {
            method: "PUT".into(),
            path: "/disks/".into(),
            times: 2,
            effect: Effect::LoseReply,
        });
        let strikes = |method, path| faults.strike(method, path).is_some();
        assert!(!strikes("GET", "/x/disks/d"));
        assert!(!strikes("PUT", "/x/snapshots/d"));
        let all = [(); 3].map(|()| strikes("PUT", "/x/Disks/d"));
        assert_eq!(all, [true, true, false]);
    }
}
