//! The chart before it is installed.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use site_recovery::lab::cluster::Cluster;
use site_recovery::lab::installed::chart;

use crate::shared_cluster::{repository, run, shared};

fn chart() -> PathBuf {
    repository().join("charts/site-recovery")
}

fn render(cluster: &Cluster, values: &Value) -> Result<String, String> {
    let chart = chart();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), values.to_string()).unwrap();
    let [chart, file] = [chart.as_path(), file.path()].map(|path| path.to_str().unwrap());
    let arguments = [
        "template",
        "dr",
        chart,
        "--namespace=default",
        "--values",
        file,
    ];
    run(&mut cluster.helm(), &arguments)
}

/// Every file below `folder`, by its path within `chart`.
fn files(chart: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(chart, &path, found);
        } else {
            let name = path.strip_prefix(chart).unwrap().to_str().unwrap();
            found.push((name.to_owned(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn the_binary_carries_the_chart_of_the_repository_in_its_own_version() {
    let mut found = Vec::new();
    files(&chart(), &chart(), &mut found);
    found.sort();
    let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    let carried: Vec<_> = chart::FILES.iter().map(own).collect();
    assert!(
        found == carried,
        "lab::installed::chart::FILES is not charts/site-recovery"
    );

    let text = fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let said: Value = serde_yaml::from_str(&text).unwrap();
    assert_eq!(said["version"], json!(env!("CARGO_PKG_VERSION")));
    assert_eq!(said["appVersion"], json!(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn helm_has_nothing_against_it() {
    let chart = chart();
    let arguments = ["lint", "--strict", chart.to_str().unwrap()];
    run(&mut shared().await.helm(), &arguments).unwrap();
}

/// Each of the values has to be refused in these words.
fn refuses(cluster: &Cluster, cases: &[(Value, &str)]) {
    for (values, words) in cases {
        let said = render(cluster, values).unwrap_err();
        assert!(
            said.contains(words),
            "{values} was refused with\n{said}\ninstead of\n{words}"
        );
    }
}

#[tokio::test]
async fn values_that_mean_nothing_are_refused_by_name() {
    let cluster = shared().await;
    let cases = [
        (
            json!({ "replicas": 3 }),
            "additional properties 'replicas' not allowed",
        ),
        (
            json!({ "replicaCount": "two" }),
            "at '/replicaCount': got string, want integer",
        ),
        (
            json!({ "watchNamespaces": "prod" }),
            "at '/watchNamespaces': got string, want array",
        ),
        (
            json!({ "watchNamespaces": ["Prod"] }),
            "at '/watchNamespaces/0'",
        ),
        (
            json!({ "image": { "digest": "sha256:1" } }),
            "at '/image/digest'",
        ),
        (
            json!({ "gateway": { "service": { "type": "External" } } }),
            "at '/gateway/service/type'",
        ),
        (
            json!({ "gateway": { "certificates": { "secret": "x" } } }),
            "at '/gateway/certificates': additional properties 'secret' not allowed",
        ),
        (
            json!({ "terminationGracePeriodSeconds": 10 }),
            "minimum: got 10, want 25",
        ),
        (
            json!({ "logFormat": "xml" }),
            "at '/logFormat': value must be one of 'json', 'text'",
        ),
        (
            json!({ "commonLabels": { "team": 1 } }),
            "at '/commonLabels/team': got number, want string",
        ),
        (json!({ "listenAddress": "::" }), "at '/listenAddress'"),
        (
            json!({ "metrics": { "serviceMonitor": { "enabled": true } } }),
            "at '/metrics/service/enabled': value must be true",
        ),
    ];
    refuses(cluster, &cases);
}

#[tokio::test]
async fn values_that_the_cluster_or_the_controller_would_refuse_later_are_refused_at_once() {
    let cluster = shared().await;
    let cases = [
        (
            json!({ "listenAddress": "300.1.1.1" }),
            "at '/listenAddress'",
        ),
        (
            json!({ "replicaCount": -1 }),
            "at '/replicaCount': minimum: got -1, want 0",
        ),
        (json!({ "logFilter": "loud" }), "at '/logFilter'"),
        (
            json!({ "logFilter": "warn,site_recovery=all" }),
            "at '/logFilter'",
        ),
        (
            json!({ "image": { "repository": "https://registry.example.com/dr" } }),
            "at '/image/repository'",
        ),
        (
            json!({ "gateway": { "service": { "port": "8443" } } }),
            "at '/gateway/service/port': got string, want integer",
        ),
        (
            json!({ "gateway": { "service": { "port": 70_000 } } }),
            "at '/gateway/service/port': maximum",
        ),
        (
            json!({ "gateway": { "service": { "loadBalancerSourceRanges": ["office/24"] } } }),
            "at '/gateway/service/loadBalancerSourceRanges/0'",
        ),
        (
            json!({ "gateway": { "certificates": { "secretName": "My Secret" } } }),
            "at '/gateway/certificates/secretName'",
        ),
        (
            json!({ "resources": { "limits": { "memory": "lots" } } }),
            "at '/resources/limits/memory'",
        ),
        (
            json!({ "resources": { "limits": { "cpu": -1 } } }),
            "at '/resources/limits/cpu'",
        ),
        (
            json!({ "commonLabels": { "team": "disaster recovery" } }),
            "at '/commonLabels/team'",
        ),
        (
            json!({ "extraEnv": [{ "name": "A", "value": "b", "valueFrom": {} }] }),
            "at '/extraEnv/0'",
        ),
    ];
    refuses(cluster, &cases);
}

#[tokio::test]
async fn the_api_server_takes_what_is_rendered() {
    let cluster = shared().await;
    let workers = json!({ "dataPath": { "workers": { "replicas": 2 } } });
    let everything = json!({
        "dataPath": { "workers": { "replicas": 3, "resources": { "limits": { "memory": "2Gi" } } } },
        "watchNamespaces": ["default", "kube-public"],
        "ambientIdentityNamespaces": ["default"],
        "image": { "digest": format!("sha256:{}", "0".repeat(64)) },
        "imagePullSecrets": [{ "name": "registry" }],
        "gateway": { "service": {
            "type": "LoadBalancer", "nodePort": 30443, "loadBalancerClass": "example.com/internal",
            "loadBalancerSourceRanges": ["203.0.113.0/24"], "externalTrafficPolicy": "Local",
            "annotations": { "example.com/a": "b" },
        } },
        "logFilter": "warn,site_recovery=debug",
        "extraEnv": [{ "name": "HTTPS_PROXY", "value": "http://10.0.0.1:3128" }],
        "commonLabels": { "team": "dr" },
        "podLabels": { "azure.workload.identity/use": "true" },
        "podAnnotations": { "example.com/a": "b" },
        "serviceAccount": { "annotations": { "azure.workload.identity/client-id": "x" }, "labels": { "a": "b" } },
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "tolerations": [{ "key": "dr", "operator": "Exists" }],
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
        }],
        "priorityClassName": "system-cluster-critical",
        "metrics": { "service": { "enabled": true } },
        "networkPolicy": {
            "enabled": true,
            "gatewayFrom": [{ "ipBlock": { "cidr": "203.0.113.0/24" } }],
            "egress": [{ "ports": [{ "port": 443 }] }],
        },
        "extraObjects": [
            { "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "as-a-map" } },
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-as-text\n",
        ],
    });
    for (values, objects) in [(json!({}), 14), (workers, 21), (everything, 31)] {
        let rendered = render(cluster, &values).unwrap();
        let mut kubectl = cluster.kubectl();
        kubectl.args([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--filename=-",
        ]);
        kubectl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut kubectl = kubectl.spawn().unwrap();
        let mut input = kubectl.stdin.take().unwrap();
        input.write_all(rendered.as_bytes()).unwrap();
        drop(input);
        let output = kubectl.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(said.lines().count(), objects, "{said}");
    }
}

#[tokio::test]
async fn the_service_monitor_selects_the_metrics_service_and_no_other() {
    let values = json!({ "metrics": { "service": { "enabled": true }, "serviceMonitor": { "enabled": true } } });
    let rendered = render(shared().await, &values).unwrap();
    let objects: Vec<Value> = serde_yaml::Deserializer::from_str(&rendered)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect();
    let of_kind = |kind: &str| -> Vec<&Value> {
        objects
            .iter()
            .filter(|object| object["kind"] == kind)
            .collect()
    };
    let selected = &of_kind("ServiceMonitor")[0]["spec"]["selector"]["matchLabels"];
    let matches = |service: &&&Value| {
        let labels = &service["metadata"]["labels"];
        let mut wanted = selected.as_object().unwrap().iter();
        wanted.all(|(name, value)| labels[name] == *value)
    };
    let names: Vec<&Value> = of_kind("Service")
        .iter()
        .filter(matches)
        .map(|service| &service["metadata"]["name"])
        .collect();
    assert_eq!(names, [&json!("dr-site-recovery-metrics")]);
}
