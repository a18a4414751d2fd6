//! A way into the cluster with somebody's rights: a token, as a kubeconfig file and as a client.

use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use crate::durable;
use crate::lab::cluster::error::{Error, of_durable};
use crate::lab::cluster::keys::Keys;
use crate::secret::Secret;

/// A month: longer than any lab is left running, so that nothing has to renew it.
const TOKEN_SECONDS: i64 = 30 * 24 * 60 * 60;
/// The one cluster, user and context of each of our files.
const NAME: &str = "lab";

/// Somebody's rights in the cluster.
#[derive(Clone, Debug)]
pub struct Access {
    kubeconfig: PathBuf,
    token: Secret,
}

impl Access {
    /// Writes a kubeconfig, readable by the user alone.
    pub(super) fn write(
        path: &Path,
        keys: &Keys,
        port: u16,
        namespace: &str,
        token: Secret,
    ) -> Result<Self, Error> {
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": NAME,
            "clusters": [{"name": NAME, "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": keys.authority(),
            }}],
            "users": [{"name": NAME, "user": {"token": token.expose()}}],
            "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": namespace}}],
        });
        let text = serde_yaml::to_string(&kubeconfig).map_err(|source| Error::WriteKubeconfig {
            path: path.to_owned(),
            source,
        })?;
        durable::write(path, text.as_bytes()).map_err(of_durable)?;
        Ok(Access {
            kubeconfig: path.to_owned(),
            token,
        })
    }

    /// The file, for programs: `KUBECONFIG` or `--kubeconfig`.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The bearer token.
    pub const fn token(&self) -> &Secret {
        &self.token
    }

    /// A client with these rights, made from the file.
    ///
    /// # Errors
    /// If the file is refused.
    pub async fn client(&self) -> Result<Client, Error> {
        let refused = |source| Error::Kubeconfig {
            path: self.kubeconfig.clone(),
            source: Box::new(source),
        };
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).map_err(refused)?;
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(refused)?;
        // The user's proxy has no business on the loopback interface.
        config.proxy_url = None;
        Client::try_from(config).map_err(|source| Error::Client {
            path: self.kubeconfig.clone(),
            source: Box::new(source),
        })
    }
}

/// A token for an existing ServiceAccount, by the TokenRequest API.
pub(super) async fn token(client: &Client, namespace: &str, name: &str) -> Result<Secret, Error> {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let granted = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .map_err(|source| Error::Token {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            source: Box::new(source),
        })?;
    match granted.status {
        Some(status) => Ok(Secret::new(status.token)),
        None => Err(Error::NoToken {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
    }
}
