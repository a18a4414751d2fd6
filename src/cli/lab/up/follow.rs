//! Shows how replication goes on, from the objects' statuses: the way that anybody would who has only `kubectl`.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};

use crate::api::ProtectedVM;
use crate::api::vm_status::{CopyProgress, ReplicationState};
use crate::cli::lab::up::story::Story;
use crate::lab::demo::Machine;
use crate::lab::stage::Stage;

/// Returns when all machines are protected, with a recovery point.
pub(super) async fn until_protected(
    story: &Story,
    stage: &Stage,
    machines: &[Machine],
) -> anyhow::Result<()> {
    let names: Vec<&str> = machines.iter().map(|machine| machine.name).collect();
    until(story, stage, &names, is_protected).await
}

/// Returns when `reached` holds of all the machines of these names; tells what changes until then.
pub(super) async fn until(
    story: &Story,
    stage: &Stage,
    names: &[&str],
    reached: impl Fn(&ProtectedVM) -> bool,
) -> anyhow::Result<()> {
    let api: Api<ProtectedVM> = Api::namespaced(stage.client(), super::NAMESPACE);
    let changes = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut changes = std::pin::pin!(changes);
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let mut there: BTreeMap<String, bool> = BTreeMap::new();
    while let Some(vm) = changes.try_next().await? {
        let name = vm.name_any();
        if !names.contains(&name.as_str()) {
            continue;
        }
        let line = described(&vm);
        if shown.get(&name) != Some(&line) {
            story.say(&format!("{name:<7} {line}"))?;
            shown.insert(name.clone(), line);
        }
        there.insert(name, reached(&vm));
        if names.iter().all(|name| there.get(*name) == Some(&true)) {
            return Ok(());
        }
    }
    anyhow::bail!("the API server ended the watch")
}

fn is_protected(vm: &ProtectedVM) -> bool {
    vm.status.as_ref().is_some_and(|status| {
        status.state == Some(ReplicationState::Protected)
            && status
                .recovery_points
                .as_ref()
                .is_some_and(|points| points.count > 0)
    })
}

/// Where replication stands, in one line.
fn described(vm: &ProtectedVM) -> String {
    let Some(status) = &vm.status else {
        return "no status yet".to_owned();
    };
    let mut line = status
        .state
        .map_or_else(|| "no state yet".to_owned(), |state| format!("{state:?}"));
    let copying = status.state == Some(ReplicationState::InitialReplication);
    if let Some(progress) = status.progress.as_ref().filter(|_| !copying) {
        line.push_str(&format!(", {progress}"));
    }
    let copies = status
        .disks
        .iter()
        .filter_map(|disk| Some((disk, disk.copy.as_ref()?)));
    for (disk, copy) in copies.filter(|_| copying) {
        line.push_str(&format!("; {} {}", disk.id, copied(copy)));
    }
    if let Some(latest) = status
        .recovery_points
        .as_ref()
        .and_then(|points| points.latest.as_ref())
    {
        line.push_str(&format!(", recovery point of {}", latest.time));
    }
    if let Some(retry) = &status.retry {
        line.push_str(&format!(
            "; {}: {}",
            retry.last_error.code, retry.last_error.message
        ));
        if let Some(next) = &retry.next_retry_time {
            line.push_str(&format!("; tried again at {next}"));
        }
    } else if let Some(ready) = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status != "True")
        .filter(|_| !copying)
    {
        line.push_str(&format!(" ({})", ready.message));
    }
    line
}

fn copied(copy: &CopyProgress) -> String {
    let rate = copy.rate.as_deref().map(|rate| format!(", {rate}"));
    format!(
        "{} % of {}{}",
        copy.percent,
        copy.total,
        rate.unwrap_or_default()
    )
}
