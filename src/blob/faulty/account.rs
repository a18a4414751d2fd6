//! A storage account on a bad day: its containers are on the same one.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::blob::answer::{AccountInformation, ContainerProperties, ListPage, ServiceProperties};
use crate::blob::endpoint::Endpoint;
use crate::blob::error::Operation;
use crate::blob::faulty::Faults;
use crate::blob::faulty::container::FaultyContainer;
use crate::blob::parameters::Permissions;
use crate::blob::{Account, Container, Result};
use crate::secret::SasToken;

/// A storage account on a bad day.
#[derive(Clone)]
pub struct FaultyAccount {
    inner: Arc<dyn Account>,
    faults: Arc<Faults>,
}

impl FaultyAccount {
    pub fn new(inner: Arc<dyn Account>, faults: Arc<Faults>) -> Self {
        FaultyAccount { inner, faults }
    }

    /// Carries out `act`, which owns what it needs: it may outlive its caller.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        object: &str,
        act: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.faults.run(operation, object.to_owned(), act).await
    }
}

#[async_trait]
impl Account for FaultyAccount {
    fn endpoint(&self) -> &Endpoint {
        self.inner.endpoint()
    }

    fn container(&self, name: &str) -> Arc<dyn Container> {
        let inner = self.inner.container(name);
        Arc::new(FaultyContainer::new(inner, self.faults.clone()))
    }

    async fn create_container(&self, name: &str) -> Result<bool> {
        let (to, wanted) = (self.inner.clone(), name.to_owned());
        let act = async move { to.create_container(&wanted).await };
        self.run(Operation::CreateContainer, name, act).await
    }

    async fn delete_container(&self, name: &str) -> Result<bool> {
        let (to, wanted) = (self.inner.clone(), name.to_owned());
        let act = async move { to.delete_container(&wanted).await };
        self.run(Operation::DeleteContainer, name, act).await
    }

    async fn container_properties(&self, name: &str) -> Result<Option<ContainerProperties>> {
        let (to, wanted) = (self.inner.clone(), name.to_owned());
        let act = async move { to.container_properties(&wanted).await };
        self.run(Operation::GetContainerProperties, name, act).await
    }

    async fn list_containers(
        &self,
        prefix: &str,
        marker: Option<&str>,
    ) -> Result<ListPage<ContainerProperties>> {
        let to = self.inner.clone();
        let (wanted, marker) = (prefix.to_owned(), marker.map(str::to_owned));
        let act = async move { to.list_containers(&wanted, marker.as_deref()).await };
        self.run(Operation::ListContainers, "", act).await
    }

    async fn information(&self) -> Result<AccountInformation> {
        let to = self.inner.clone();
        let act = async move { to.information().await };
        self.run(Operation::GetAccountInformation, "", act).await
    }

    async fn service_properties(&self) -> Result<ServiceProperties> {
        let to = self.inner.clone();
        let act = async move { to.service_properties().await };
        self.run(Operation::GetServiceProperties, "", act).await
    }

    async fn sas(
        &self,
        container: &str,
        permissions: Permissions,
        start: Timestamp,
        expiry: Timestamp,
    ) -> Result<SasToken> {
        let (to, wanted) = (self.inner.clone(), container.to_owned());
        let act = async move { to.sas(&wanted, permissions, start, expiry).await };
        self.run(Operation::SignAccess, container, act).await
    }
}
