//! A storage account over HTTP, with rights over all of it: its key, or an Entra identity.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use jiff::Timestamp;

use crate::blob::answer::{AccountInformation, ContainerProperties, ListPage, ServiceProperties};
use crate::blob::client::container::{ContainerClient, found};
use crate::blob::client::{Client, Options, account_calls, read};
use crate::blob::credential::sas::{self, Grant};
use crate::blob::credential::{AccountKey, Credential, RenewableSas};
use crate::blob::endpoint::Endpoint;
use crate::blob::error::{Error, Kind, Operation};
use crate::blob::names::{self, Invalid};
use crate::blob::parameters::Permissions;
use crate::blob::xml;
use crate::blob::xml::service::DelegationKey;
use crate::blob::{Account, Container, Result};
use crate::report::Code;
use crate::secret::SasToken;
use crate::transport::http::Http;
use crate::transport::token::Tokens;

/// The audience of blob storage, the same in every cloud.
const SCOPE: &str = "https://storage.azure.com/.default";

/// A token would go over plain http, where anybody on the way could take it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: an access token is sent over https alone")]
pub struct PlainToken {
    endpoint: Endpoint,
}

impl PlainToken {
    pub const fn code(&self) -> Code {
        Code::Configuration
    }
}

/// A storage account.
#[derive(Clone)]
pub struct AccountClient {
    client: Arc<Client>,
    /// The last key that was got for signing; it is asked for again when it does not live long enough.
    delegation_key: Arc<ArcSwapOption<DelegationKey>>,
}

impl AccountClient {
    /// An account that is reached with one of its keys.
    pub fn with_key(http: &Http, endpoint: Endpoint, key: AccountKey, options: Options) -> Self {
        AccountClient::of(Client::new(http, endpoint, Credential::Key(key), options))
    }

    /// An account that is reached with an Entra identity.
    ///
    /// # Errors
    /// If the endpoint is not https.
    pub fn with_identity(
        http: &Http,
        endpoint: Endpoint,
        identity: Arc<dyn TokenCredential>,
        options: Options,
    ) -> std::result::Result<Self, PlainToken> {
        if !endpoint.is_secure() {
            return Err(PlainToken { endpoint });
        }
        let credential = Credential::Token(Arc::new(Tokens::of(identity, SCOPE)));
        Ok(AccountClient::of(Client::new(
            http, endpoint, credential, options,
        )))
    }

    /// An account that is reached by a shared access signature: what it may do is what the signature grants.
    pub fn with_sas(http: &Http, endpoint: Endpoint, sas: RenewableSas, options: Options) -> Self {
        let credential = Credential::Signature(sas);
        AccountClient::of(Client::new(http, endpoint, credential, options))
    }

    fn of(client: Client) -> Self {
        AccountClient {
            client: Arc::new(client),
            delegation_key: Arc::new(ArcSwapOption::empty()),
        }
    }

    /// A key of the identity that may sign for `start..expiry`.
    async fn delegation_key(
        &self,
        object: &str,
        start: Timestamp,
        expiry: Timestamp,
    ) -> Result<Arc<DelegationKey>> {
        if let Some(key) = self.delegation_key.load_full()
            && sas::covers(&key, start, expiry)
        {
            return Ok(key);
        }
        let (from, to) = sas::key_life(start, expiry).ok_or_else(|| {
            let why = Invalid::new(
                format!("{start} to {expiry}"),
                "an identity signs for at most seven days",
            );
            Error::invalid(Operation::SignAccess, object, why)
        })?;
        let reply = self
            .client
            .send(account_calls::user_delegation_key(from, to))
            .await?;
        let key = Arc::new(reply.read(|answer| xml::service::delegation_key(&answer.body))?);
        self.delegation_key.store(Some(key.clone()));
        Ok(key)
    }
}

#[async_trait]
impl Account for AccountClient {
    fn endpoint(&self) -> &Endpoint {
        self.client.endpoint()
    }

    fn container(&self, name: &str) -> Arc<dyn Container> {
        Arc::new(ContainerClient::of(self.client.clone(), name))
    }

    async fn create_container(&self, name: &str) -> Result<bool> {
        match self
            .client
            .send(account_calls::create_container(name))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn delete_container(&self, name: &str) -> Result<bool> {
        found(
            self.client
                .send(account_calls::delete_container(name))
                .await,
        )
    }

    async fn container_properties(&self, name: &str) -> Result<Option<ContainerProperties>> {
        match self
            .client
            .send(account_calls::container_properties(name))
            .await
        {
            Ok(reply) => reply.read(|answer| read::container(name, answer)).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_containers(
        &self,
        prefix: &str,
        marker: Option<&str>,
    ) -> Result<ListPage<ContainerProperties>> {
        let call = account_calls::list_containers(prefix, marker);
        self.client.send(call).await?.read(|answer| {
            let page = xml::listing::containers(&answer.body)?;
            Ok(ListPage {
                items: page.items,
                next: page.next,
                date: read::date(answer)?,
            })
        })
    }

    async fn information(&self) -> Result<AccountInformation> {
        self.client
            .send(account_calls::information())
            .await?
            .read(read::information)
    }

    async fn service_properties(&self) -> Result<ServiceProperties> {
        let reply = self
            .client
            .send(account_calls::service_properties())
            .await?;
        reply.read(|answer| xml::service::properties(&answer.body))
    }

    async fn sas(
        &self,
        container: &str,
        permissions: Permissions,
        start: Timestamp,
        expiry: Timestamp,
    ) -> Result<SasToken> {
        let endpoint = self.client.endpoint();
        let object = endpoint.object(Some(container), None);
        let invalid = |why| Error::invalid(Operation::SignAccess, object.as_str(), why);
        names::check_container(container).map_err(invalid)?;
        if expiry <= start {
            let why = Invalid::new(format!("{start} to {expiry}"), "it ends before it starts");
            return Err(invalid(why));
        }
        let grant = Grant {
            account: endpoint.account(),
            container,
            permissions,
            start,
            expiry,
            secure_only: endpoint.is_secure(),
        };
        match self.client.credential() {
            Credential::Key(key) => Ok(sas::service(key, &grant)),
            Credential::Token(_) => {
                let key = self.delegation_key(&object, start, expiry).await?;
                sas::user_delegation(&key, &grant).map_err(|why| {
                    Error::new(Operation::SignAccess, &object, Kind::Malformed).because(why)
                })
            }
            Credential::Signature(_) => Err(Error::new(
                Operation::SignAccess,
                &object,
                Kind::Unauthorized,
            )),
        }
    }
}
