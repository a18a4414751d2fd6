//! What is only read: checks before a failover, and lists.

use std::net::IpAddr;

use async_trait::async_trait;
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::azure::check::{
    AddressCheck, Page, Permission, Provider, RawSize, RawUsage, Size, Usage,
};
use crate::azure::client::{API_VERSION, ArmClient, object};
use crate::azure::error::{Error, Kind};
use crate::azure::id::{GroupId, ResourceId, check_part};
use crate::azure::{Checks, Result};

/// Pages of one list: a region has some thousand sizes, a run some thousand resources.
const PAGES_MAX: usize = 200;
const SKUS_VERSION: &str = "2021-07-01";
const COMPUTE_USAGES_VERSION: &str = "2024-07-01";
const NETWORK_USAGES_VERSION: &str = "2024-05-01";
const PERMISSIONS_VERSION: &str = "2022-04-01";
const RESOURCES_VERSION: &str = "2021-04-01";

#[async_trait]
impl Checks for ArmClient {
    async fn address(&self, network: &ResourceId, address: IpAddr) -> Result<AddressCheck> {
        let query = [("ipAddress", address.to_string())];
        let url = self.url_of(network, "/CheckIPAddressAvailability", &query);
        let call = self.reading("check an address of", object(network), url);
        let answer = self.send(&call).await?;
        self.read(call.operation, &call.object, &answer.body)
    }

    async fn sizes(&self, subscription: &str, location: &str) -> Result<Vec<Size>> {
        let what = "list the machine sizes of";
        let object = format!("region {location}");
        let path = self.subscribed(
            what,
            subscription,
            location,
            "providers/Microsoft.Compute/skus",
        )?;
        let query = [
            ("$filter", format!("location eq '{location}'")),
            (API_VERSION, SKUS_VERSION.to_owned()),
        ];
        let url = self.environment().url(&path, &query);
        let raw: Vec<RawSize> = self.pages(what, object, url).await?;
        Ok(raw.into_iter().filter_map(RawSize::read).collect())
    }

    async fn usages(
        &self,
        subscription: &str,
        provider: Provider,
        location: &str,
    ) -> Result<Vec<Usage>> {
        let what = "read the quotas of";
        let (namespace, version) = match provider {
            Provider::Compute => ("Microsoft.Compute", COMPUTE_USAGES_VERSION),
            Provider::Network => ("Microsoft.Network", NETWORK_USAGES_VERSION),
        };
        let below = format!("providers/{namespace}/locations/{location}/usages");
        let path = self.subscribed(what, subscription, location, &below)?;
        let query = [(API_VERSION, version.to_owned())];
        let url = self.environment().url(&path, &query);
        let object = format!("region {location}");
        let raw: Vec<RawUsage> = self.pages(what, object, url).await?;
        Ok(raw.into_iter().map(RawUsage::read).collect())
    }

    async fn permissions(&self, group: &GroupId) -> Result<Vec<Permission>> {
        let path = format!("{group}/providers/Microsoft.Authorization/permissions");
        let query = [(API_VERSION, PERMISSIONS_VERSION.to_owned())];
        let url = self.environment().url(&path, &query);
        let object = format!("resource group {group}");
        self.pages("read the rights on", object, url).await
    }
}

impl ArmClient {
    /// Resources of a group with a tag, of the types that are used here.
    pub(super) async fn tagged(
        &self,
        group: &GroupId,
        tag: &str,
        value: &str,
    ) -> Result<Vec<ResourceId>> {
        #[derive(Deserialize)]
        struct Listed {
            id: String,
        }
        // A quote in a literal is doubled (OData).
        let value = value.replace('\'', "''");
        let query = [
            (
                "$filter",
                format!("tagName eq '{tag}' and tagValue eq '{value}'"),
            ),
            (API_VERSION, RESOURCES_VERSION.to_owned()),
        ];
        let url = self
            .environment()
            .url(&format!("{group}/resources"), &query);
        let object = format!("resource group {group}");
        let listed: Vec<Listed> = self.pages("list the resources of", object, url).await?;
        Ok(listed
            .iter()
            .filter_map(|one| one.id.parse().ok())
            .collect())
    }

    /// All pages of a list.
    async fn pages<T: DeserializeOwned>(
        &self,
        what: &'static str,
        object: String,
        first: Url,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        let mut next = Some(first);
        for _ in 0..PAGES_MAX {
            let Some(url) = next.take() else {
                return Ok(items);
            };
            let answer = self.send(&self.reading(what, object.clone(), url)).await?;
            let page: Page<T> = self.read(what, &object, &answer.body)?;
            items.extend(page.value);
            if let Some(link) = page.next.filter(|link| !link.is_empty()) {
                let url = self.environment().admit(&link);
                next = Some(url.ok_or_else(|| Error::new(what, &object, Kind::Malformed))?);
            }
        }
        match next {
            None => Ok(items),
            Some(_) => Err(Error::new(what, object, Kind::Malformed)),
        }
    }

    fn read<T: DeserializeOwned>(
        &self,
        what: &'static str,
        object: &str,
        body: &[u8],
    ) -> Result<T> {
        serde_json::from_slice(body)
            .map_err(|why| Error::new(what, object, Kind::Malformed).because(why))
    }

    fn subscribed(
        &self,
        what: &'static str,
        subscription: &str,
        location: &str,
        below: &str,
    ) -> Result<String> {
        for part in [subscription, location] {
            check_part(part, part).map_err(|why| {
                Error::new(what, format!("region {location}"), Kind::Refused).because(why)
            })?;
        }
        Ok(format!("/subscriptions/{subscription}/{below}"))
    }
}
