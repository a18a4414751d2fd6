//! What must hold for every message between controller and agent, and for what observations add up to.
//!
//! - A message that decodes means the same when it is encoded and decoded again.
//! - Versions meet inside both ranges, whoever asks.
//! - A body that is no fault becomes a short one.
//! - Observations either contradict themselves, or name only what exists; the same news twice change nothing more, and
//!   the changes are exactly what differs.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use site_recovery::controller::gateway::observed::{Changes, Observed};
use site_recovery::ids::ReplicaId;
use site_recovery::wire::{
    Answer, Command, Hello, HelloReply, Observations, Relationship, Remove, Settings, Start,
    Versions, fault_of, status_of,
};

/// The target `wire`: each line of the input is a body, as each kind of message; all of them are a host's news.
pub fn run(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n');
    let mut observed = Observed::default();
    for body in lines {
        again::<Hello>(body);
        again::<HelloReply>(body);
        if let Some(versions) = again::<Versions>(body) {
            check_versions(versions);
        }
        again::<Answer>(body);
        again::<Command<Settings>>(body);
        again::<Command<Relationship>>(body);
        again::<Command<Start>>(body);
        again::<Command<Remove>>(body);
        check_fault(body);
        if let Some(news) = again::<Observations>(body)
            && let Some(after) = follow(&observed, &news)
        {
            observed = after;
        }
    }
}

/// The message, if it is one; it must come back from its own JSON.
fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) -> Option<T> {
    let message: T = serde_json::from_slice(body).ok()?;
    let encoded = serde_json::to_vec(&message).expect("messages are data");
    let decoded: T = serde_json::from_slice(&encoded).expect("what we say, we understand");
    assert_eq!(decoded, message);
    Some(message)
}

fn check_versions(theirs: Versions) {
    let common = Versions::OURS.common(theirs);
    assert_eq!(theirs.common(Versions::OURS), common);
    let inside = |versions: Versions| {
        common.is_none_or(|common| (versions.oldest..=versions.newest).contains(&common))
    };
    assert!(inside(Versions::OURS) && inside(theirs), "{theirs:?}");
}

fn check_fault(body: &[u8]) {
    let fault = fault_of(502, body);
    let encoded = serde_json::to_vec(&fault).expect("a fault is data");
    assert_eq!(fault_of(502, &encoded), fault);
    assert!((400..600).contains(&status_of(fault.code)));
}

/// What holds after the news; nothing if they are garbage.
fn follow(before: &Observed, news: &Observations) -> Option<Observed> {
    let (after, changes) = before.after(news.clone()).ok()?;
    assert_eq!(
        (after.session, after.revision),
        (news.session, news.revision)
    );
    let replications = || after.replications.iter();
    assert!(replications().all(|(id, held)| *id == held.replica && news.existing.contains(id)));
    let said = |id: &ReplicaId| news.replications.iter().find(|said| said.replica == *id);
    assert!(replications().all(|(id, held)| said(id).is_none_or(|said| *said == **held)));
    let mut differ: Vec<_> = before
        .replications
        .keys()
        .chain(after.replications.keys())
        .collect();
    differ.retain(|id| before.replications.get(*id) != after.replications.get(*id));
    differ.sort_unstable();
    differ.dedup();
    let mut told: Vec<_> = changes.replications.iter().collect();
    told.sort_unstable();
    assert_eq!(told, differ);
    assert_eq!(changes.machines, before.machines != after.machines);
    let again = after
        .after(news.clone())
        .expect("the same news are as good as before");
    assert_eq!(again, (after.clone(), Changes::default()));
    Some(after)
}
