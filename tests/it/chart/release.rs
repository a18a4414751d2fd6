//! A release of the chart, with what it expects to be there.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use site_recovery::lab::authority::{Authority, Validity};
use site_recovery::lab::cluster::Cluster;
use site_recovery::lab::installed::{Installed, Ports, http};
use site_recovery::lab::process::{Process, port};
use site_recovery::units::{Clock as _, SystemClock};

use crate::shared_cluster::{NEVER, kubectl};

/// The Secret that a release of the name `site-recovery` mounts.
pub(crate) const SECRET: &str = "site-recovery-gateway";

/// Installs the chart as `site-recovery` and makes the certificates that it asks for.
pub(crate) async fn install(cluster: &Cluster, namespace: &str, values: &Value) -> Installed {
    let installed = Installed::install(cluster, namespace, "site-recovery", values);
    let installed = installed.await.unwrap();
    make_certificates(cluster, namespace, &["tls.crt", "tls.key", "ca.crt"]);
    installed
}

/// Makes the Secret with these of the three files.
pub(crate) fn make_certificates(cluster: &Cluster, namespace: &str, files: &[&str]) {
    let hour = Duration::from_secs(3600);
    let valid = Validity::around(SystemClock.now(), hour, hour);
    let authority = Authority::new("test authority", valid).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let issued = authority.gateway(&["127.0.0.1"], valid).unwrap();
    issued.write(folder.path()).unwrap();
    let files: Vec<String> = files
        .iter()
        .map(|file| format!("--from-file={}", folder.path().join(file).display()))
        .collect();
    let namespace = format!("--namespace={namespace}");
    let mut arguments = vec!["create", "secret", "generic", SECRET, &namespace];
    arguments.extend(files.iter().map(String::as_str));
    kubectl(cluster, &arguments).unwrap();
}

/// Starts a replica.
pub(crate) async fn start(
    cluster: &Cluster,
    installed: &Installed,
    replica: &str,
) -> (Process, Ports) {
    let ports = Ports {
        gateway: port::free().unwrap(),
        probes: port::free().unwrap(),
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_site-recovery"));
    let process = installed.start_controller(cluster, binary, replica, ports);
    (process.await.unwrap(), ports)
}

/// Starts a replica and waits until it is ready.
pub(crate) async fn start_ready(
    cluster: &Cluster,
    installed: &Installed,
    replica: &str,
) -> Process {
    let (mut process, ports) = start(cluster, installed, replica).await;
    let ready = || http::is_ready(ports.probes);
    process.wait_ready(NEVER, ready).await.unwrap();
    process
}

/// Waits until `replica` leads.
pub(crate) fn wait_until_leads(cluster: &Cluster, namespace: &str, replica: &str) {
    let holder = format!("--for=jsonpath={{.spec.holderIdentity}}={replica}");
    wait(cluster, namespace, &holder, "lease/site-recovery");
}

/// Waits until the API server says `condition` of `object`.
pub(crate) fn wait(cluster: &Cluster, namespace: &str, condition: &str, object: &str) {
    let namespace = format!("--namespace={namespace}");
    let arguments = ["wait", condition, object, &namespace, "--timeout=60s"];
    kubectl(cluster, &arguments).unwrap();
}
