//! Objects to try, and the API server's opinion of them.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::shared_cluster::{make_namespace, shared};

/// The name of all objects that are tried.
pub(crate) const NAME: &str = "tried";

/// A site that says no more than it must.
pub(crate) fn site() -> Value {
    json!({
        "apiVersion": "siterecovery.dev/v1alpha1",
        "kind": "HyperVSite",
        "metadata": { "name": NAME },
        "spec": {
            "hosts": [{ "name": "hv01" }],
            "azure": {
                "location": "westeurope",
                "credentials": { "type": "AccountKey", "secretRef": { "name": "storage" } },
                "storage": { "account": "contosoreplicas" },
            },
        },
    })
}

/// A VM that says no more than it must.
pub(crate) fn vm() -> Value {
    json!({
        "apiVersion": "siterecovery.dev/v1alpha1",
        "kind": "ProtectedVM",
        "metadata": { "name": NAME },
        "spec": { "siteRef": { "name": "berlin" }, "vm": { "name": "web" } },
    })
}

/// `object` with `change` merged into its spec: null removes, a list replaces (RFC 7386).
pub(crate) fn with(mut object: Value, change: &Value) -> Value {
    merge(&mut object["spec"], change);
    object
}

fn merge(target: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in change {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

/// A namespace of its own, to try objects in.
pub(crate) struct Trial {
    client: Client,
    namespace: String,
}

impl Trial {
    pub(crate) async fn new(namespace: &str) -> Self {
        let cluster = shared().await;
        make_namespace(cluster, namespace);
        Trial {
            client: cluster.client().await.unwrap(),
            namespace: namespace.to_owned(),
        }
    }

    /// The objects of the same kind as `object`.
    pub(crate) fn api(&self, object: &Value) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(object))
    }

    /// Creates `object`: what the server made of it.
    pub(crate) async fn create(&self, object: Value) -> Value {
        let api = self.api(&object);
        let object = serde_json::from_value(object).unwrap();
        let created = api.create(&PostParams::default(), &object).await.unwrap();
        serde_json::to_value(created).unwrap()
    }

    /// What the server says of `object` without keeping it: nothing where it would take it.
    pub(crate) async fn refusal(&self, object: Value) -> Option<String> {
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let api = self.api(&object);
        let object = serde_json::from_value(object).unwrap();
        api.create(&params, &object).await.err().map(said)
    }

    /// What the server says of a change of the object that was created, without making it.
    pub(crate) async fn refusal_of_change(&self, object: &Value, change: &Value) -> Option<String> {
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "spec": change }));
        let answer = self.api(object).patch(NAME, &params, &patch).await;
        answer.err().map(said)
    }

    /// Every change of `object` has to be refused in these words.
    pub(crate) async fn refuses(&self, object: &Value, cases: &[(Value, &str)]) {
        for (change, words) in cases {
            let said = self.refusal(with(object.clone(), change)).await;
            expect_words(change, said, words);
        }
    }

    /// Every change of `object` has to be taken.
    pub(crate) async fn takes(&self, object: &Value, cases: &[Value]) {
        for change in cases {
            let said = self.refusal(with(object.clone(), change)).await;
            assert_eq!(said, None, "{change} should be taken");
        }
    }
}

/// The refusal of `change` has to be there and to contain `words`.
pub(crate) fn expect_words(change: &Value, said: Option<String>, words: &str) {
    let said = said.unwrap_or_else(|| panic!("{change} was taken, and should not be: {words}"));
    assert!(
        said.contains(words),
        "{change} was refused with\n{said}\ninstead of\n{words}"
    );
}

fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => panic!("the API server did not answer: {other}"),
    }
}

fn resource(object: &Value) -> ApiResource {
    let (group, version) = object["apiVersion"]
        .as_str()
        .unwrap()
        .split_once('/')
        .unwrap();
    let kind = object["kind"].as_str().unwrap();
    let kind = kube::core::GroupVersionKind::gvk(group, version, kind);
    ApiResource::from_gvk(&kind)
}
