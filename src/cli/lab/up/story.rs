//! What the demonstration prints: each step with the time since the beginning.

use std::io;
use std::time::Instant;

use crate::api::annotation;
use crate::cli::output;
use crate::lab::stage::Stage;

pub(super) struct Story {
    begun: Instant,
}

impl Story {
    pub(super) fn begin() -> Self {
        Story {
            begun: Instant::now(),
        }
    }

    /// Tells a step that begins now.
    pub(super) fn say(&self, text: &str) -> io::Result<()> {
        let seconds = self.begun.elapsed().as_secs_f32();
        output::line(&format!("[{seconds:6.1} s] {text}"))
    }

    /// Shows what a step has brought.
    pub(super) fn show(&self, text: &str) -> io::Result<()> {
        for line in text.lines() {
            output::line(&format!("            {line}"))?;
        }
        Ok(())
    }
}

/// Says what can be tried while everything runs.
pub(super) fn next(story: &Story, stage: &Stage, namespace: &str) -> io::Result<()> {
    let kubeconfig = stage.cluster.admin().kubeconfig().display();
    let kubectl = stage.cluster.kubectl();
    let kubectl = kubectl.get_program().to_string_lossy();
    let folder = stage.folder().display();
    let (endpoint, key) = (
        stage.azurite.endpoint(),
        stage.azurite.account().key.expose(),
    );
    let this = std::env::current_exe()?;
    let this = this.display();
    let sync_now = annotation::SYNC_NOW;
    story.say("Everything runs until Ctrl-C. In another terminal:")?;
    story.show(&format!(
        "export KUBECONFIG={kubeconfig}\n\
         alias kubectl={kubectl}\n\
         kubectl get pvm --watch                       # the machines, as they change\n\
         kubectl describe pvm web                      # conditions, progress per disk, events\n\
         kubectl get hvsite berlin -o yaml             # the host, its agent, its volumes\n\
         kubectl annotate pvm web {sync_now}=1         # a recovery point at once\n\
         kubectl delete pvm legacy                     # ends its replication, keeps the replica\n\
         kubectl explain protectedvm.spec --namespace {namespace}\n\
         less {folder}/hosts/hv01/agent.log"
    ))?;
    story.say("What is in the account is enough, without cluster and host:")?;
    story.show(&format!(
        "export SITE_RECOVERY_STORAGE_ENDPOINT={endpoint}\n\
         export AZURE_STORAGE_KEY={key}\n\
         alias site-recovery={this}\n\
         site-recovery replica list {namespace}/web          # its recovery points\n\
         site-recovery replica verify {namespace}/web\n\
         site-recovery replica restore {namespace}/web -o {folder}/restored"
    ))
}
