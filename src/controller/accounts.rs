//! From what a site's spec says of its credentials to a storage account that can be used.
//!
//! Secrets are read by name, from the site's namespace. The controller's own identity may be used only from namespaces
//! that its configuration lists: whoever may create a site would otherwise act with the controller's rights.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::{Api, Client};

use crate::api::hyperv_site::{AzureTarget, Cloud, CredentialType, Credentials};
use crate::blob::Account;
use crate::blob::client::Options;
use crate::blob::client::account::AccountClient;
use crate::blob::credential::AccountKey;
use crate::blob::endpoint::Endpoint;
use crate::report::{Code, Fault};
use crate::secret::Secret;
use crate::transport::http::Http;
use crate::transport::identity::{self, Identity};

/// How long the API server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a look at an account is tried: whoever waits for it is told soon what does not answer. What applies logs
/// has the patience of the storage client.
const PATIENCE: Duration = Duration::from_secs(15);
/// The key of a Secret that holds an account key.
const ACCOUNT_KEY: &str = "accountKey";
/// The key of a Secret that holds a client secret.
const CLIENT_SECRET: &str = "clientSecret";

/// What sites are opened with.
#[derive(Clone)]
pub struct Opener {
    pub client: Client,
    pub http: Http,
    pub options: Options,
    /// Namespaces whose sites may use the controller's own identity.
    pub ambient_namespaces: Vec<String>,
}

/// A storage account, and what it was opened with: equal if nothing changed.
#[derive(Clone)]
pub struct Opened {
    /// For looks: it gives up soon.
    pub account: Arc<dyn Account>,
    /// For the data path.
    pub patient: Arc<dyn Account>,
    pub fingerprint: blake3::Hash,
}

impl Opener {
    /// Opens the account of a site, unless it is `open` already.
    ///
    /// # Errors
    /// If the Secret cannot be read, or the credentials cannot be used.
    pub async fn open(
        &self,
        namespace: &str,
        azure: &AzureTarget,
        open: Option<&Opened>,
    ) -> Result<Opened, Fault> {
        let credentials = &azure.credentials;
        let secret = match &credentials.secret_ref {
            Some(secret) => Some(
                self.secret(namespace, &secret.name, key_of(credentials.type_))
                    .await?,
            ),
            None => None,
        };
        let fingerprint = fingerprint(azure, secret.as_ref());
        if let Some(open) = open.filter(|open| open.fingerprint == fingerprint) {
            return Ok(open.clone());
        }
        let looks = Options {
            patience: PATIENCE,
            ..self.options.clone()
        };
        let account = self.account(namespace, azure, secret.clone(), looks)?;
        let patient = self.account(namespace, azure, secret, self.options.clone())?;
        Ok(Opened {
            account: Arc::new(account),
            patient: Arc::new(patient),
            fingerprint,
        })
    }

    fn account(
        &self,
        namespace: &str,
        azure: &AzureTarget,
        secret: Option<Secret>,
        options: Options,
    ) -> Result<AccountClient, Fault> {
        let endpoint = endpoint(azure)?;
        let Credentials {
            type_, client_id, ..
        } = &azure.credentials;
        let missing = |what: &str| {
            Fault::new(
                Code::Configuration,
                format!("azure.credentials of type {type_:?} need {what}"),
            )
        };
        let identity = match type_ {
            CredentialType::AccountKey => {
                let secret = secret.ok_or_else(|| missing("secretRef"))?;
                let key =
                    AccountKey::new(&secret).map_err(|error| Fault::of(error.code(), &error))?;
                return Ok(AccountClient::with_key(&self.http, endpoint, key, options));
            }
            CredentialType::ClientSecret => Identity::ClientSecret {
                tenant_id: azure
                    .tenant_id
                    .clone()
                    .ok_or_else(|| missing("azure.tenantID"))?,
                client_id: client_id.clone().ok_or_else(|| missing("clientID"))?,
                secret: secret.ok_or_else(|| missing("secretRef"))?,
            },
            CredentialType::WorkloadIdentity => {
                self.check_ambient(namespace)?;
                let (tenant_id, client_id) = (azure.tenant_id.clone(), client_id.clone());
                Identity::Workload {
                    tenant_id,
                    client_id,
                    token_file: None,
                }
            }
            CredentialType::ManagedIdentity => {
                self.check_ambient(namespace)?;
                Identity::Managed {
                    client_id: client_id.clone(),
                }
            }
        };
        let credential = identity.credential(&cloud(azure.cloud), &self.http);
        let credential = credential.map_err(|error| Fault::of(error.code(), &error))?;
        AccountClient::with_identity(&self.http, endpoint, credential, options)
            .map_err(|error| Fault::of(error.code(), &error))
    }

    fn check_ambient(&self, namespace: &str) -> Result<(), Fault> {
        if self
            .ambient_namespaces
            .iter()
            .any(|allowed| allowed == namespace)
        {
            return Ok(());
        }
        let message = format!(
            "sites of namespace {namespace} may not use the controller's own identity; the chart's value \
             ambientIdentityNamespaces lists those that may"
        );
        Err(Fault::new(Code::Configuration, message))
    }

    async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Secret, Fault> {
        let secrets: Api<KubeSecret> = Api::namespaced(self.client.clone(), namespace);
        let wrong = |why: &str| {
            Fault::new(
                Code::Configuration,
                format!("Secret {namespace}/{name} {why}"),
            )
        };
        let secret = match tokio::time::timeout(TIMEOUT, secrets.get_opt(name)).await {
            Ok(Ok(Some(secret))) => secret,
            Ok(Ok(None)) => return Err(wrong("does not exist")),
            Ok(Err(error)) => return Err(wrong(&format!("cannot be read: {error}"))),
            Err(_) => return Err(wrong("cannot be read: the API server did not answer")),
        };
        let data = secret.data.unwrap_or_default();
        let value = data
            .get(key)
            .ok_or_else(|| wrong(&format!("has no key {key}")))?;
        let text = std::str::from_utf8(&value.0)
            .map_err(|_| wrong(&format!("has a key {key} that is no text")))?;
        Ok(Secret::new(text.trim()))
    }
}

const fn key_of(type_: CredentialType) -> &'static str {
    match type_ {
        CredentialType::AccountKey => ACCOUNT_KEY,
        CredentialType::ClientSecret
        | CredentialType::WorkloadIdentity
        | CredentialType::ManagedIdentity => CLIENT_SECRET,
    }
}

fn endpoint(azure: &AzureTarget) -> Result<Endpoint, Fault> {
    let account = &azure.storage.account;
    let text = match &azure.storage.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => format!("https://{account}.blob.{}", suffix(azure.cloud)),
    };
    Endpoint::of_account(&text, account).map_err(|error| Fault::of(error.code(), &error))
}

const fn suffix(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Public => "core.windows.net",
        Cloud::USGovernment => "core.usgovcloudapi.net",
        Cloud::China => "core.chinacloudapi.cn",
    }
}

const fn cloud(cloud: Cloud) -> identity::Cloud {
    match cloud {
        Cloud::Public => identity::Cloud::Public,
        Cloud::USGovernment => identity::Cloud::UsGovernment,
        Cloud::China => identity::Cloud::China,
    }
}

fn fingerprint(azure: &AzureTarget, secret: Option<&Secret>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(
        serde_json::to_string(&azure.credentials)
            .unwrap_or_default()
            .as_bytes(),
    );
    hasher.update(
        serde_json::to_string(&azure.storage)
            .unwrap_or_default()
            .as_bytes(),
    );
    hasher.update(format!("{:?} {:?}", azure.cloud, azure.tenant_id).as_bytes());
    hasher.update(secret.map(Secret::expose).unwrap_or_default().as_bytes());
    hasher.finalize()
}
