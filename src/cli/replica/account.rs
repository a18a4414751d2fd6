//! Which storage account, and by which right: from flags and from the variables that Azure's own tools read.
//!
//! No secret is ever an argument: arguments are shown to everybody on the machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::blob::client::Options;
use crate::blob::client::account::AccountClient;
use crate::blob::credential::{AccountKey, RenewableSas};
use crate::blob::endpoint::Endpoint;
use crate::cli::replica::Opened;
use crate::replica::names::Prefix;
use crate::secret::{SasToken, Secret};
use crate::transport::http::Http;
use crate::transport::identity::{Cloud, Identity};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Storage account")]
pub(super) struct AccountArgs {
    /// The account's name
    #[arg(long, value_name = "NAME", env = "AZURE_STORAGE_ACCOUNT")]
    account: Option<String>,
    /// Its blob endpoint, where it is not the cloud's usual one: http://127.0.0.1:10000/devstoreaccount1
    #[arg(long, value_name = "URL", env = "SITE_RECOVERY_STORAGE_ENDPOINT")]
    endpoint: Option<String>,
    /// The cloud that the account and Entra ID are in
    #[arg(long, value_enum, default_value_t)]
    cloud: CloudName,
    /// Look only at containers of this prefix (azure.storage.containerPrefix of the site)
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<Prefix>,
    /// By which right. Absent: by what is there, in this order
    #[arg(long, value_enum, value_name = "KIND")]
    credentials: Option<Kind>,
    /// A file with the account's key, in the place of AZURE_STORAGE_KEY
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A file with a shared access signature, in the place of AZURE_STORAGE_SAS_TOKEN
    #[arg(long, value_name = "FILE")]
    sas_file: Option<PathBuf>,
    /// A file with a client secret, in the place of AZURE_CLIENT_SECRET
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The tenant of an Entra identity
    #[arg(long, value_name = "ID", env = "AZURE_TENANT_ID")]
    tenant_id: Option<String>,
    /// The application, or the user-assigned identity
    #[arg(long, value_name = "ID", env = "AZURE_CLIENT_ID")]
    client_id: Option<String>,
    /// Give up if what there is cannot be listed in so many seconds; content may take longer. Absent: when storage has
    /// not answered for some minutes
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
    /// A PEM file of certificate authorities to trust besides the machine's
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum CloudName {
    #[default]
    Public,
    UsGovernment,
    China,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// --key-file or AZURE_STORAGE_KEY
    AccountKey,
    /// --sas-file or AZURE_STORAGE_SAS_TOKEN
    Sas,
    /// --client-secret-file or AZURE_CLIENT_SECRET, with tenant and client
    ClientSecret,
    /// A federated token, as Kubernetes mounts it: AZURE_FEDERATED_TOKEN_FILE
    WorkloadIdentity,
    /// The identity of this machine; never taken unless asked for
    ManagedIdentity,
}

/// The secrets that were given, each from its file or else from its variable.
#[derive(Default)]
struct Given {
    key: Option<Secret>,
    sas: Option<Secret>,
    client_secret: Option<Secret>,
    federated: bool,
}

impl AccountArgs {
    /// Opens the account; nothing is asked of it yet.
    pub(super) fn open(&self) -> anyhow::Result<Opened> {
        let pem = match &self.certificate_authority {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?,
            None => String::new(),
        };
        let roots: Vec<&str> = Some(pem.as_str())
            .filter(|pem| !pem.is_empty())
            .into_iter()
            .collect();
        let http = Http::new(&roots)?;
        let endpoint = self.endpoint()?;
        let given = Given {
            key: secret(self.key_file.as_deref(), "AZURE_STORAGE_KEY")?,
            sas: secret(self.sas_file.as_deref(), "AZURE_STORAGE_SAS_TOKEN")?,
            client_secret: secret(self.client_secret_file.as_deref(), "AZURE_CLIENT_SECRET")?,
            federated: variable("AZURE_FEDERATED_TOKEN_FILE").is_some(),
        };
        let options = Options::default();
        let identity = match self.right(given)? {
            Right::Key(key) => {
                let key = AccountKey::new(&key)?;
                return Ok(self.opened(AccountClient::with_key(&http, endpoint, key, options)));
            }
            Right::Sas(sas) => {
                let sas = RenewableSas::new(SasToken::new(sas.expose()));
                return Ok(self.opened(AccountClient::with_sas(&http, endpoint, sas, options)));
            }
            Right::Identity(identity) => identity,
        };
        let credential = identity.credential(&self.entra(), &http)?;
        let account = AccountClient::with_identity(&http, endpoint, credential, options)?;
        Ok(self.opened(account))
    }

    fn opened(&self, account: AccountClient) -> Opened {
        Opened {
            account: std::sync::Arc::new(account),
            prefix: self.prefix.clone(),
            timeout: self.timeout.map(Duration::from_secs),
        }
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        match (&self.endpoint, &self.account) {
            (Some(url), Some(account)) => Ok(Endpoint::of_account(url, account)?),
            (Some(url), None) => Ok(Endpoint::parse(url)?),
            (None, Some(account)) => {
                let suffix = match self.cloud {
                    CloudName::Public => "core.windows.net",
                    CloudName::UsGovernment => "core.usgovcloudapi.net",
                    CloudName::China => "core.chinacloudapi.cn",
                };
                let url = format!("https://{account}.blob.{suffix}");
                Ok(Endpoint::of_account(&url, account)?)
            }
            (None, None) => bail!(
                "which storage account? Give --account (or AZURE_STORAGE_ACCOUNT), or --endpoint"
            ),
        }
    }

    const fn entra(&self) -> Cloud {
        match self.cloud {
            CloudName::Public => Cloud::Public,
            CloudName::UsGovernment => Cloud::UsGovernment,
            CloudName::China => Cloud::China,
        }
    }

    fn right(&self, given: Given) -> anyhow::Result<Right> {
        let kind = match self.credentials {
            Some(kind) => kind,
            None => given.kind().context(
                "no credentials: set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_SECRET, name a file \
                 with one of them, or choose --credentials managed-identity",
            )?,
        };
        let (tenant_id, client_id) = (self.tenant_id.clone(), self.client_id.clone());
        Ok(match kind {
            Kind::AccountKey => Right::Key(
                given
                    .key
                    .context("an account key is needed: --key-file or AZURE_STORAGE_KEY")?,
            ),
            Kind::Sas => Right::Sas(given.sas.context(
                "a shared access signature is needed: --sas-file or AZURE_STORAGE_SAS_TOKEN",
            )?),
            Kind::ClientSecret => Right::Identity(Identity::ClientSecret {
                tenant_id: tenant_id
                    .context("a tenant is needed: --tenant-id or AZURE_TENANT_ID")?,
                client_id: client_id
                    .context("a client is needed: --client-id or AZURE_CLIENT_ID")?,
                secret: given.client_secret.context(
                    "a client secret is needed: --client-secret-file or AZURE_CLIENT_SECRET",
                )?,
            }),
            Kind::WorkloadIdentity => Right::Identity(Identity::Workload {
                tenant_id,
                client_id,
                token_file: None,
            }),
            Kind::ManagedIdentity => Right::Identity(Identity::Managed { client_id }),
        })
    }
}

#[derive(Debug)]
enum Right {
    Key(Secret),
    Sas(Secret),
    Identity(Identity),
}

impl Given {
    const fn kind(&self) -> Option<Kind> {
        if self.key.is_some() {
            Some(Kind::AccountKey)
        } else if self.sas.is_some() {
            Some(Kind::Sas)
        } else if self.client_secret.is_some() {
            Some(Kind::ClientSecret)
        } else if self.federated {
            Some(Kind::WorkloadIdentity)
        } else {
            None
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn secret(file: Option<&Path>, name: &str) -> anyhow::Result<Option<Secret>> {
    let Some(path) = file else {
        return Ok(variable(name).map(|value| Secret::new(value.trim())));
    };
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(Secret::new(text.trim())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        account: AccountArgs,
    }

    fn typed(line: &str) -> AccountArgs {
        let words = ["replica"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().account
    }

    #[test]
    fn a_name_is_enough_and_an_endpoint_goes_before_it() {
        let endpoint = |line| typed(line).endpoint().unwrap().to_string();
        assert_eq!(
            endpoint("--account prod1 --cloud china"),
            "https://prod1.blob.core.chinacloudapi.cn"
        );
        let emulator = "--endpoint http://127.0.0.1:10000/devstoreaccount1";
        assert_eq!(
            endpoint(emulator),
            "http://127.0.0.1:10000/devstoreaccount1"
        );
        assert!(
            typed("--endpoint http://example.com/prod1")
                .endpoint()
                .is_err()
        );
    }

    #[test]
    fn a_key_goes_before_a_signature_and_no_identity_is_taken_unasked() {
        let both = || Given {
            key: Some(Secret::new("a2V5")),
            sas: Some(Secret::new("sig=x")),
            ..Given::default()
        };
        let of = |line: &str, given| typed(line).right(given);
        let line = "--account prod1";
        assert!(matches!(of(line, both()), Ok(Right::Key(_))));
        assert!(matches!(
            of("--account prod1 --credentials sas", both()),
            Ok(Right::Sas(_))
        ));
        assert!(of("--account prod1", Given::default()).is_err());
        let managed = of("--account prod1 --credentials managed-identity", both());
        assert!(matches!(
            managed,
            Ok(Right::Identity(Identity::Managed { .. }))
        ));
    }
}
