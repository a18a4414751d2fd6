//! What a kubelet would make of a Deployment's pod, as far as a process of this machine can have it. Pure.
//!
//! Never leaves out what it does not know: an unknown kind of volume, variable or probe is an error, so that the lab
//! cannot pass where a cluster would fail.

use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Volume};

use crate::lab::installed::error::Error;

/// A pod that is about to be a process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) service_account: String,
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    pub(super) mounts: Vec<Mount>,
}

/// A Secret that is mounted as a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) volume: String,
    pub(super) secret: String,
    pub(super) path: String,
}

impl Pod {
    /// The pod of this name that `deployment` would make in `namespace`.
    ///
    /// # Errors
    /// If it asks for something that is not done here.
    pub(super) fn of(deployment: &Deployment, namespace: &str, name: &str) -> Result<Self, Error> {
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        let spec = template
            .and_then(|template| template.spec.as_ref())
            .ok_or_else(|| not_done("a pod without a spec"))?;
        let container = only_container(spec)?;
        let arguments = container.args.clone().unwrap_or_default();
        // `$(NAME)` stands for a variable there.
        if let Some(argument) = arguments.iter().find(|argument| argument.contains("$(")) {
            return Err(not_done(&format!("a variable in {argument}")));
        }
        let variables = container.env.iter().flatten();
        Ok(Pod {
            service_account: spec
                .service_account_name
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            arguments,
            variables: variables
                .map(|variable| resolved(variable, namespace, name))
                .collect::<Result<_, _>>()?,
            mounts: mounts(spec, container)?,
        })
    }

    /// Listens on a loopback port instead of the address that the argument `flag` has.
    ///
    /// # Errors
    /// If there is no such argument.
    pub(super) fn listen(&mut self, flag: &'static str, port: u16) -> Result<(), Error> {
        let argument = self
            .arguments
            .iter_mut()
            .find(|argument| {
                argument
                    .strip_prefix(flag)
                    .is_some_and(|rest| rest.starts_with('='))
            })
            .ok_or(Error::NoArgument { flag })?;
        *argument = format!("{flag}=127.0.0.1:{port}");
        Ok(())
    }

    /// Has the folder `volume` where the pod would have `mount`.
    ///
    /// # Errors
    /// If the folder's path is no text.
    pub(super) fn mount(&mut self, mount: &Mount, volume: &Path) -> Result<(), Error> {
        let volume = volume.to_str().ok_or_else(|| Error::Path {
            path: volume.to_owned(),
        })?;
        let variables = self.variables.iter_mut().map(|(_, value)| value);
        for text in self.arguments.iter_mut().chain(variables) {
            *text = text.replace(&mount.path, volume);
        }
        Ok(())
    }
}

fn only_container(spec: &PodSpec) -> Result<&Container, Error> {
    let [container] = spec.containers.as_slice() else {
        return Err(not_done("other than one container"));
    };
    if spec.init_containers.is_some() {
        return Err(not_done("containers before the first"));
    }
    // Without a command it is the image's, and the image's is our binary.
    if container.command.is_some() {
        return Err(not_done("a command"));
    }
    if container.env_from.is_some() {
        return Err(not_done("variables from elsewhere"));
    }
    Ok(container)
}

/// A variable with its value.
fn resolved(variable: &EnvVar, namespace: &str, name: &str) -> Result<(String, String), Error> {
    let value = match (&variable.value, &variable.value_from) {
        (value, None) => value.clone().unwrap_or_default(),
        (_, Some(source)) => {
            let field = source.field_ref.as_ref();
            match field.map(|field| field.field_path.as_str()) {
                Some("metadata.name") => name.to_owned(),
                Some("metadata.namespace") => namespace.to_owned(),
                _ => return Err(not_done(&format!("the value of {}", variable.name))),
            }
        }
    };
    Ok((variable.name.clone(), value))
}

fn mounts(spec: &PodSpec, container: &Container) -> Result<Vec<Mount>, Error> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .map(|mount| {
            let volume = spec
                .volumes
                .iter()
                .flatten()
                .find(|volume| volume.name == mount.name);
            let secret = volume.and_then(whole_secret);
            let secret = secret.filter(|_| mount.sub_path.is_none());
            Ok(Mount {
                volume: mount.name.clone(),
                secret: secret
                    .ok_or_else(|| not_done(&format!("the volume {}", mount.name)))?
                    .to_owned(),
                path: mount.mount_path.clone(),
            })
        })
        .collect()
}

/// The Secret that a volume is, with all its keys.
fn whole_secret(volume: &Volume) -> Option<&str> {
    let secret = volume.secret.as_ref()?;
    if secret.items.is_some() || secret.optional.is_some() {
        return None;
    }
    secret.secret_name.as_deref()
}

fn not_done(what: &str) -> Error {
    Error::NotDone {
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: &Value) -> Result<Pod, Error> {
        let deployment = json!({ "spec": { "selector": {}, "template": { "spec": {
            "serviceAccountName": "controller",
            "containers": [container],
            "volumes": [
                { "name": "certificates", "secret": { "secretName": "gateway" } },
                { "name": "one-key", "secret": { "secretName": "gateway", "items": [] } },
                { "name": "scratch", "emptyDir": {} },
            ],
        } } } });
        Pod::of(
            &serde_json::from_value(deployment).unwrap(),
            "prod",
            "pod-1",
        )
    }

    #[test]
    fn arguments_variables_and_secrets_become_those_of_a_process() {
        let mut pod = pod(&json!({
            "name": "controller",
            "args": ["controller", "--gateway=0.0.0.0:8443", "--certificates=/etc/certificates"],
            "env": [
                { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                { "name": "POD_NAMESPACE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.namespace" } } },
                { "name": "AUTHORITY", "value": "/etc/certificates/ca.crt" },
            ],
            "volumeMounts": [{ "name": "certificates", "mountPath": "/etc/certificates" }],
        }))
        .unwrap();
        let mounts = std::mem::take(&mut pod.mounts);
        assert_eq!(mounts[0].secret, "gateway");

        pod.listen("--gateway", 20_000).unwrap();
        pod.mount(&mounts[0], Path::new("/lab/c")).unwrap();

        assert_eq!(pod.service_account, "controller");
        let expected = [
            "controller",
            "--gateway=127.0.0.1:20000",
            "--certificates=/lab/c",
        ];
        assert_eq!(pod.arguments, expected);
        let expected = [
            ("POD_NAME", "pod-1"),
            ("POD_NAMESPACE", "prod"),
            ("AUTHORITY", "/lab/c/ca.crt"),
        ];
        assert_eq!(
            pod.variables,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn what_only_a_kubelet_can_do_is_refused_by_name() {
        let secret = json!({ "secretKeyRef": { "name": "proxy", "key": "url" } });
        let cases = [
            (json!({ "command": ["sh"] }), "a command"),
            (json!({ "envFrom": [] }), "variables from elsewhere"),
            (
                json!({ "env": [{ "name": "PROXY", "valueFrom": secret }] }),
                "the value of PROXY",
            ),
            (json!({ "args": ["--host=$(NODE)"] }), "a variable in"),
            (
                json!({ "volumeMounts": [{ "name": "scratch", "mountPath": "/tmp" }] }),
                "the volume scratch",
            ),
            (
                json!({ "volumeMounts": [{ "name": "one-key", "mountPath": "/k" }] }),
                "the volume one-key",
            ),
        ];
        for (mut container, expected) in cases {
            container["name"] = json!("controller");
            let error = pod(&container).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_address_that_no_argument_has_cannot_be_replaced() {
        let mut pod = pod(&json!({ "name": "controller", "args": ["--gateway-name=a"] })).unwrap();
        let error = pod.listen("--gateway", 20_000).unwrap_err().to_string();
        assert!(error.contains("--gateway"), "{error}");
    }
}
