//! One cluster with our kinds, for all tests to which a namespace of their own is enough.
//!
//! Started by the first test that asks. Nobody drops it: its processes end with this one (`lab::process`), its folder
//! goes when a later run finds that nobody uses it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use site_recovery::lab::cluster::Cluster;
use site_recovery::lab::tools::Tools;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Nothing here takes so long, unless it never happens.
pub(crate) const NEVER: Duration = Duration::from_secs(60);

/// The work tree.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The cluster.
pub(crate) async fn shared() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED
        .get_or_init(async || {
            let cluster = start(&folder()).await;
            let crds = repository().join("crds");
            let crds = crds.to_str().unwrap();
            kubectl(&cluster, &["apply", "--server-side", "--filename", crds]).unwrap();
            let established = "wait --for=condition=Established --timeout=60s \
                crd/hypervsites.siterecovery.dev crd/protectedvms.siterecovery.dev";
            let arguments: Vec<&str> = established.split(' ').collect();
            kubectl(&cluster, &arguments).unwrap();
            cluster
        })
        .await
}

/// A new cluster in `folder`.
pub(crate) async fn start(folder: &Path) -> Cluster {
    let tools = tokio::task::spawn_blocking(|| Tools::locate().unwrap().control_plane().unwrap());
    Cluster::start(&tools.await.unwrap(), folder).await.unwrap()
}

/// A folder that is known by our process id. Those of processes that are gone are removed.
fn folder() -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clusters");
    fs::create_dir_all(&all).unwrap();
    for entry in fs::read_dir(&all).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.parse().ok());
        let process = process.and_then(Pid::from_raw);
        if process.is_none_or(|process| test_kill_process(process).is_err()) {
            // Another run may have removed it first.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    all.join(std::process::id().to_string())
}

/// Runs a command that should succeed, or else fail with a word of why; returns what it said.
pub(crate) fn run(command: &mut Command, arguments: &[&str]) -> Result<String, String> {
    let output = command.args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// kubectl as the administrator.
pub(crate) fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result<String, String> {
    run(&mut cluster.kubectl(), arguments)
}

pub(crate) fn make_namespace(cluster: &Cluster, name: &str) {
    kubectl(cluster, &["create", "namespace", name]).unwrap();
}

/// Asks until the answer is yes.
pub(crate) async fn eventually(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !probe().await {
        assert!(begun.elapsed() < NEVER, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
