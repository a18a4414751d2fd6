//! The lab's real components: what the quick start and the other tests take for granted.

use std::path::{Path, PathBuf};
use std::process::Command;

use site_recovery::lab::azurite::{Account, Azurite, Certificate, Options};
use site_recovery::lab::cluster::Cluster;
use site_recovery::lab::cluster::audit::by_user_and_resource;
use site_recovery::lab::tools::{AzuriteVersion, Tools};

/// Obtains something that may take minutes the first time, off the runtime's threads.
async fn obtain<T: Send + 'static>(
    what: impl FnOnce(&Tools) -> Result<T, site_recovery::lab::tools::Error> + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(move || what(&Tools::locate().unwrap()).unwrap())
        .await
        .unwrap()
}

async fn cluster(folder: &Path) -> Cluster {
    let tools = obtain(Tools::control_plane).await;
    Cluster::start(&tools, folder).await.unwrap()
}

/// Runs a command that should succeed, or else fail with a word of why; returns what it said.
fn run(command: &mut Command, arguments: &[&str]) -> Result<String, String> {
    let output = command.args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

#[tokio::test]
async fn a_service_account_may_do_what_its_role_says_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path()).await;
    let admin = |line: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        run(&mut cluster.kubectl(), &arguments).unwrap()
    };
    admin("create serviceaccount controller");
    admin("create role reader --verb=get,list --resource=configmaps");
    admin("create rolebinding reader --role=reader --serviceaccount=default:controller");
    admin("create configmap greeting --from-literal=text=hello");

    let controller = cluster.service_account("default", "controller").await;
    let controller = controller.unwrap();
    let kubectl = |arguments: &[&str]| run(&mut cluster.kubectl_as(&controller), arguments);

    // The server learns of a new binding by its own watch, a moment after it has said that it is created.
    let mut attempts = 0..100;
    let text = loop {
        match kubectl(&["get", "configmap", "greeting", "-o=jsonpath={.data.text}"]) {
            Err(refused) if refused.contains("cannot get") && attempts.next().is_some() => {}
            answer => break answer.unwrap(),
        }
    };
    assert_eq!(text, "hello");
    let refused = kubectl(&["delete", "configmap", "greeting"]).unwrap_err();
    assert!(refused.contains("system:serviceaccount:default:controller\" cannot delete"));
}

#[tokio::test]
async fn two_clusters_beside_each_other_share_nothing() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, other) = tokio::join!(cluster(folders[0].path()), cluster(folders[1].path()));

    run(&mut one.kubectl(), &["create", "namespace", "prod"]).unwrap();

    assert!(run(&mut one.kubectl(), &["get", "namespace", "prod"]).is_ok());
    let absent = run(&mut other.kubectl(), &["get", "namespace", "prod"]).unwrap_err();
    assert!(absent.contains("NotFound"), "{absent}");
    let installed = run(
        &mut other.helm(),
        &["list", "--all-namespaces", "--output=json"],
    );
    assert_eq!(installed.unwrap().trim(), "[]");
}

#[tokio::test]
async fn every_write_is_counted_with_its_user_resource_and_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path()).await;
    run(&mut cluster.kubectl(), &["create", "configmap", "before"]).unwrap();

    let mark = cluster.mark().unwrap();
    for arguments in [
        ["create", "configmap", "a"],
        ["create", "configmap", "b"],
        ["get", "configmap", "a"],
        ["delete", "configmap", "a"],
    ] {
        run(&mut cluster.kubectl(), &arguments).unwrap();
    }
    run(&mut cluster.kubectl(), &["create", "configmap", "b"]).unwrap_err();

    let mut writes = cluster.writes_since(mark).await.unwrap();
    writes.retain(|write| write.user == "admin");
    let seen: Vec<_> = writes
        .iter()
        .map(|write| (write.verb.as_str(), write.status))
        .collect();
    assert_eq!(
        seen,
        [
            ("create", Some(201)),
            ("create", Some(201)),
            ("delete", Some(200)),
            ("create", Some(409)),
        ]
    );
    assert_eq!(by_user_and_resource(&writes)[&("admin", "configmaps")], 4);
}

#[tokio::test]
async fn objects_and_rights_outlive_the_death_of_the_api_server_and_of_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster(folder.path()).await;
    run(&mut cluster.kubectl(), &["create", "namespace", "prod"]).unwrap();
    let client = cluster.client().await.unwrap();

    cluster.kill_api_server();
    assert!(client.apiserver_version().await.is_err());
    cluster.restart().await.unwrap();
    run(&mut cluster.kubectl(), &["get", "namespace", "prod"]).unwrap();

    cluster.kill_etcd();
    cluster.restart().await.unwrap();
    run(&mut cluster.kubectl(), &["get", "namespace", "prod"]).unwrap();

    // A new start in the same folder, as after a reboot.
    drop(cluster);
    let cluster = self::cluster(folder.path()).await;
    run(&mut cluster.kubectl(), &["get", "namespace", "prod"]).unwrap();
    // The client from before knows the same port and trusts the same keys.
    client.apiserver_version().await.unwrap();
}

/// Azure's own client, as another process: writes half of a page blob if asked to, and prints what is in it.
const JUDGE: &str = "
import sys
from azure.storage.blob import BlobServiceClient
name, key, endpoint, action = sys.argv[1:]
service = BlobServiceClient(endpoint, credential={'account_name': name, 'account_key': key}, retry_total=0)
blob = service.get_blob_client('disks', 'os.vhd')
if action == 'write':
    service.create_container('disks')
    blob.create_page_blob(1024)
    blob.upload_page(b'x' * 512, offset=512, length=512)
print(blob.download_blob().readall().strip(b'\\0').decode())
";

async fn azurite(version: AzuriteVersion, folder: &Path, options: Options) -> (Azurite, PathBuf) {
    let tools = obtain(move |tools| Ok((tools.azurite(version)?, tools.python()?)));
    let (command, python) = tools.await;
    let azurite = Azurite::start(&command, folder, options).await.unwrap();
    (azurite, python)
}

/// The judge of what `azurite` holds; it wants one more argument, `read` or `write`.
fn judge(python: &Path, azurite: &Azurite) -> Command {
    let Account { name, key, .. } = azurite.account();
    let mut command = Command::new(python);
    command.args(["-c", JUDGE, name, key.expose(), &azurite.endpoint()]);
    command
}

async fn a_crash_keeps_what_was_acknowledged(version: AzuriteVersion) {
    let folder = tempfile::tempdir().unwrap();
    let (mut azurite, python) = azurite(version, folder.path(), Options::default()).await;
    let content = "x".repeat(512);
    let written = run(&mut judge(&python, &azurite), &["write"]);
    assert_eq!(written.unwrap().trim(), content);
    let endpoint = azurite.endpoint();

    azurite.crash().await.unwrap();
    let dead = run(&mut judge(&python, &azurite), &["read"]).unwrap_err();
    assert!(dead.contains("Connection refused"), "{dead}");

    azurite.restart().await.unwrap();
    assert_eq!(azurite.endpoint(), endpoint);
    let read = run(&mut judge(&python, &azurite), &["read"]);
    assert_eq!(read.unwrap().trim(), content);
}

#[tokio::test]
async fn a_crash_of_the_azurite_that_checks_keeps_what_was_acknowledged() {
    a_crash_keeps_what_was_acknowledged(AzuriteVersion::Conformance).await;
}

#[tokio::test]
async fn a_crash_of_the_fast_azurite_keeps_what_was_acknowledged() {
    a_crash_keeps_what_was_acknowledged(AzuriteVersion::Throughput).await;
}

#[tokio::test]
async fn in_memory_and_over_https_it_serves_azures_own_client_and_forgets_in_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = Certificate {
        certificate: folder.path().join("server.crt"),
        key: folder.path().join("server.key"),
    };
    std::fs::write(&certificate.certificate, made.cert.pem()).unwrap();
    std::fs::write(&certificate.key, made.signing_key.serialize_pem()).unwrap();
    let options = Options {
        account: Account::random(),
        port: None,
        in_memory: true,
        oauth: Some(certificate.clone()),
    };
    let (mut azurite, python) = azurite(AzuriteVersion::Conformance, folder.path(), options).await;
    let ask = |azurite: &Azurite, action: &str| {
        let mut judge = judge(&python, azurite);
        judge.env("REQUESTS_CA_BUNDLE", &certificate.certificate);
        run(&mut judge, &[action])
    };
    assert!(azurite.endpoint().starts_with("https://127.0.0.1:"));
    assert_eq!(ask(&azurite, "write").unwrap().trim(), "x".repeat(512));

    azurite.crash().await.unwrap();
    azurite.restart().await.unwrap();

    let gone = ask(&azurite, "read").unwrap_err();
    assert!(gone.contains("ContainerNotFound"), "{gone}");
}
