//! Who asks Entra ID for tokens: a workload identity, a service principal with a secret, or a managed identity.
//!
//! Built here so that every identity has the process's own transport (proxy, certificates) and no retries of its own:
//! the one retry loop is the client's.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};

use crate::report::Code;
use crate::secret::Secret;
use crate::transport::http::Http;

/// An identity that cannot be used as it is described.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the {identity}")]
pub struct Unusable {
    identity: &'static str,
    source: azure_core::Error,
}

impl Unusable {
    pub const fn code(&self) -> Code {
        Code::Configuration
    }
}

/// Which Entra ID an identity lives in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cloud {
    Public,
    UsGovernment,
    /// Azure operated by 21Vianet.
    China,
    /// A private cloud; its authority's URL, https.
    Custom {
        authority: String,
    },
}

/// Who asks for tokens.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A Kubernetes service account that Entra ID trusts. What is not given is read from the environment that
    /// Azure's webhook sets (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_FEDERATED_TOKEN_FILE`).
    Workload {
        tenant_id: Option<String>,
        client_id: Option<String>,
        token_file: Option<PathBuf>,
    },
    ClientSecret {
        tenant_id: String,
        client_id: String,
        secret: Secret,
    },
    /// The identity of the machine, or the user-assigned one with this client id.
    Managed { client_id: Option<String> },
}

impl Identity {
    /// What gets tokens for this identity; it asks for none yet.
    ///
    /// # Errors
    /// If a part is missing or malformed, or the token file cannot be read.
    pub fn credential(
        &self,
        cloud: &Cloud,
        http: &Http,
    ) -> Result<Arc<dyn TokenCredential>, Unusable> {
        let unusable = |source| Unusable {
            identity: self.name(),
            source,
        };
        Ok(match self {
            Identity::Workload {
                tenant_id,
                client_id,
                token_file,
            } => {
                let options = WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions {
                        client_options: client_options(cloud, http.routed()),
                    },
                    client_id: client_id.clone(),
                    tenant_id: tenant_id.clone(),
                    token_file_path: token_file.clone(),
                };
                WorkloadIdentityCredential::new(Some(options)).map_err(unusable)?
            }
            Identity::ClientSecret {
                tenant_id,
                client_id,
                secret,
            } => ClientSecretCredential::new(
                tenant_id,
                client_id.clone(),
                azure_core::credentials::Secret::new(secret.expose().to_owned()),
                Some(ClientSecretCredentialOptions {
                    client_options: client_options(cloud, http.routed()),
                }),
            )
            .map_err(unusable)?,
            Identity::Managed { client_id } => {
                let options = ManagedIdentityCredentialOptions {
                    user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                    // The metadata service is the machine's own: no proxy reaches it.
                    client_options: client_options(cloud, http.direct()),
                };
                ManagedIdentityCredential::new(Some(options)).map_err(unusable)?
            }
        })
    }

    const fn name(&self) -> &'static str {
        match self {
            Identity::Workload { .. } => "workload identity",
            Identity::ClientSecret { .. } => "client secret",
            Identity::Managed { .. } => "managed identity",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn client_options(cloud: &Cloud, client: &reqwest::Client) -> ClientOptions {
    let configuration = match cloud {
        Cloud::Public => CloudConfiguration::AzurePublic,
        Cloud::UsGovernment => CloudConfiguration::AzureGovernment,
        Cloud::China => CloudConfiguration::AzureChina,
        Cloud::Custom { authority } => {
            let mut custom = CustomConfiguration::default();
            custom.authority_host.clone_from(authority);
            CloudConfiguration::Custom(custom)
        }
    };
    ClientOptions {
        retry: RetryOptions::none(),
        transport: Some(Transport::new(Arc::new(client.clone()))),
        cloud: Some(Arc::new(configuration)),
        ..ClientOptions::default()
    }
}
