//! What is tried once all machines are protected, by annotations, as an administrator would: a barrier at once, a
//! comparison at once, and a storage account that cannot be reached for a while.

use kube::Api;

use crate::api::vm_status::{LastHandled, ReplicationState};
use crate::api::{ProtectedVM, annotation};
use crate::cli::lab::up::follow;
use crate::cli::lab::up::story::Story;
use crate::lab::stage::Stage;

/// What every annotation of the demonstration says.
const TOKEN: &str = "demo";

/// A recovery point at once, and a machine compared with its replica.
pub(super) async fn ask(story: &Story, stage: &Stage) -> anyhow::Result<()> {
    let before = newest_now(stage, "web").await?;
    story.say("A recovery point of web now, instead of at the next copy interval")?;
    annotate(story, stage, "web", annotation::SYNC_NOW, TOKEN).await?;
    follow::until(story, stage, &["web"], |vm| newest(vm) != before).await?;
    let before = newest_now(stage, "sql").await?;
    story.say("A resynchronization of sql now: its disks are compared with the replica, what differs is sent")?;
    annotate(story, stage, "sql", annotation::RESYNCHRONIZE, TOKEN).await?;
    follow::until(story, stage, &["sql"], |vm| {
        handled(vm).resynchronize.as_deref() == Some(TOKEN)
            && newest(vm) != before
            && state(vm) == Some(ReplicationState::Protected)
    })
    .await
}

/// The storage account cannot be reached for a while: the failure and the next attempt are said, and it goes on.
pub(super) async fn interrupt(story: &Story, stage: &mut Stage) -> anyhow::Result<()> {
    story.say(
        "The storage account cannot be reached: legacy says what fails and when it is tried again",
    )?;
    stage.azurite.crash().await?;
    annotate(story, stage, "legacy", annotation::SYNC_NOW, "unreachable").await?;
    let retrying = |vm: &ProtectedVM| {
        let retry = vm.status.as_ref().and_then(|status| status.retry.as_ref());
        retry.is_some_and(|retry| retry.next_retry_time.is_some())
    };
    follow::until(story, stage, &["legacy"], retrying).await?;
    story.say("It can be reached again; an annotation asks for an attempt at once")?;
    stage.azurite.restart().await?;
    annotate(story, stage, "legacy", annotation::RETRY, TOKEN).await?;
    let well = |vm: &ProtectedVM| vm.status.as_ref().is_some_and(|s| s.retry.is_none());
    follow::until(story, stage, &["legacy"], well).await
}

async fn annotate(
    story: &Story,
    stage: &Stage,
    name: &str,
    annotation: &str,
    token: &str,
) -> anyhow::Result<()> {
    let value = format!("{annotation}={token}");
    story.show(&format!("$ kubectl annotate pvm {name} {value}"))?;
    let arguments = ["annotate", "--overwrite", "protectedvm", name, &value];
    let namespace = ["--namespace", super::NAMESPACE];
    let arguments: Vec<&str> = arguments.into_iter().chain(namespace).collect();
    stage.kubectl(&arguments, b"").await?;
    Ok(())
}

async fn newest_now(stage: &Stage, name: &str) -> anyhow::Result<Option<String>> {
    let api: Api<ProtectedVM> = Api::namespaced(stage.client(), super::NAMESPACE);
    Ok(newest(&api.get(name).await?))
}

/// The id of the newest recovery point. How many there are says nothing: older ones of the same hour go.
fn newest(vm: &ProtectedVM) -> Option<String> {
    let points = vm.status.as_ref()?.recovery_points.as_ref()?;
    Some(points.latest.as_ref()?.id.clone())
}

fn state(vm: &ProtectedVM) -> Option<ReplicationState> {
    vm.status.as_ref().and_then(|status| status.state)
}

fn handled(vm: &ProtectedVM) -> LastHandled {
    let status = vm.status.as_ref();
    let handled = status.and_then(|status| status.last_handled.clone());
    handled.unwrap_or_default()
}
