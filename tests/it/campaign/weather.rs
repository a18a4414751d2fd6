//! What one life of somebody meets at the storage account.

use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure, Rule};

use std::sync::Arc;

/// What a network may deliver late: whatever changes something.
const LATE: [Operation; 8] = [
    Operation::PutBlob,
    Operation::PutPages,
    Operation::ClearPages,
    Operation::SetSequenceNumber,
    Operation::Resize,
    Operation::Snapshot,
    Operation::CreatePageBlob,
    Operation::DeleteBlob,
];

#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    /// One request in so many fails, before or after it was carried out, or is delivered late.
    pub(crate) fails_one_in: Option<u64>,
    pub(crate) late_one_in: Option<u64>,
    /// The request at which this life stands still, and whether it is carried out before.
    pub(crate) stands_at: Option<(u64, bool)>,
    /// The write of a whole blob, or the listing, that the network holds back while its sender waits for the reply.
    pub(crate) waits_at: Option<u64>,
    pub(crate) seed: u64,
}

/// Rules made of the weather, and the gates in them.
pub(crate) struct Met {
    pub(crate) faults: Arc<Faults>,
    /// Opens what this life stands still at.
    pub(crate) stands: Option<Gate>,
    /// Holds what is delivered late.
    pub(crate) late: Vec<Gate>,
}

impl Weather {
    pub(crate) fn begin(&self) -> Met {
        let faults = Faults::new(self.seed);
        let add = |operations: &[Operation], calls, effect| {
            faults.add(Rule {
                operations: operations.to_vec(),
                object: "*".to_owned(),
                calls,
                effect,
            });
        };
        let mut late = Vec::new();
        if let Some(one_in) = self.fails_one_in {
            let calls = Calls::OneIn(2 * one_in);
            add(&[], calls, Effect::Fail(Failure::Throttled));
            add(&[], calls, Effect::FailAfter(Failure::Interrupted));
        }
        if let Some(one_in) = self.late_one_in {
            let gate = Gate::closed();
            add(&LATE, Calls::OneIn(one_in), Effect::Late(gate.clone()));
            late.push(gate);
        }
        if let Some(at) = self.waits_at {
            let gate = Gate::closed();
            let some = [Operation::PutBlob, Operation::ListBlobs];
            add(&some, Calls::Nth(at), Effect::Hold(gate.clone()));
            late.push(gate);
        }
        let stands = self.stands_at.map(|(at, carried_out)| {
            let gate = Gate::closed();
            let effect = match carried_out {
                true => Effect::HoldReply(gate.clone()),
                false => Effect::Hold(gate.clone()),
            };
            add(&[], Calls::Nth(at), effect);
            gate
        });
        Met {
            faults,
            stands,
            late,
        }
    }
}
