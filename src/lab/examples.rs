//! The manifests of `examples/`, with what a lab has in the place of Azure.
//!
//! People read those files with an Azure subscription in mind. A lab applies the same ones, and only what says *where*
//! the replicas go is its own, so that whoever tried the lab has tried the examples.

use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::ids::ObjectName;
use crate::secret::Secret;

const SITE: &str = include_str!("../../examples/site.yaml");
const PROTECTED_VMS: &str = include_str!("../../examples/protected-vms.yaml");
/// The Secret with the account's key, beside the site.
const SECRET: &str = "lab-storage";

/// A storage account that stands in for one in Azure.
#[derive(Clone, Copy, Debug)]
pub struct Storage<'a> {
    pub account: &'a str,
    pub key: &'a Secret,
    /// Such as `http://127.0.0.1:10000/devstoreaccount1`.
    pub endpoint: &'a str,
}

/// The Secret, the site and its VMs, in the order in which they are best applied. None names a namespace.
pub fn manifests(storage: Storage<'_>) -> Vec<Value> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": SECRET },
        "stringData": { "accountKey": storage.key.expose() },
    });
    let mut objects = vec![secret];
    objects.extend(documents(SITE).map(|site| with_storage(site, storage)));
    objects.extend(documents(PROTECTED_VMS));
    objects
}

/// The site of the examples, in `namespace`.
pub fn site(namespace: &str) -> ObjectName {
    let site = documents(SITE).next().expect("the example is not empty");
    let name = site["metadata"]["name"].as_str().unwrap_or_default();
    ObjectName::new(namespace, name).expect("the API server takes the example")
}

fn with_storage(mut site: Value, storage: Storage<'_>) -> Value {
    let azure = &mut site["spec"]["azure"];
    azure["credentials"] = json!({ "type": "AccountKey", "secretRef": { "name": SECRET } });
    azure["storage"] = json!({ "account": storage.account, "endpoint": storage.endpoint });
    site
}

fn documents(text: &'static str) -> impl Iterator<Item = Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("the tests apply every example"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::hyperv_site::CredentialType;
    use crate::api::{HyperVSite, ProtectedVM};

    #[test]
    fn only_where_the_replicas_go_is_the_labs_own() {
        let key = Secret::new("key");
        let endpoint = "http://127.0.0.1:10000/devstoreaccount1";
        let mut objects = manifests(Storage {
            account: "devstoreaccount1",
            key: &key,
            endpoint,
        });

        let vms = objects.split_off(2);
        let example: HyperVSite = serde_yaml::from_str(SITE).unwrap();
        let mut site: HyperVSite = serde_json::from_value(objects.remove(1)).unwrap();
        let azure = &mut site.spec.azure;
        assert_eq!(azure.credentials.type_, CredentialType::AccountKey);
        assert_eq!(azure.storage.account, "devstoreaccount1");
        assert_eq!(azure.storage.endpoint.as_deref(), Some(endpoint));
        azure.credentials = example.spec.azure.credentials.clone();
        azure.storage = example.spec.azure.storage.clone();
        assert_eq!(site, example);

        for vm in vms {
            let vm: ProtectedVM = serde_json::from_value(vm).unwrap();
            assert_eq!(Some(&vm.spec.site_ref.name), site.metadata.name.as_ref());
        }
    }
}
