//! Which sites, objects and replicas a storage account has, by the names of its containers and the records in them.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};

use crate::blob::parameters::Include;
use crate::blob::{Account, Container, walk};
use crate::datapath::inspect::{Error, load};
use crate::datapath::store::Store;
use crate::ids::{ObjectName, ReplicaId};
use crate::replica::names::{self, Place, Prefix};
use crate::replica::owner::Owner;
use crate::replica::record::Record;
use crate::report::Fault;

/// The most containers of an account that are looked through: two for each of a hundred thousand machines.
const CONTAINERS_MAX: u64 = 250_000;
/// The most objects of one site.
const RECORDS_MAX: u64 = 100_000;
/// Documents that are read at the same time.
const READS: usize = 16;

/// What an account has.
#[derive(Debug, Default)]
pub struct Catalog {
    pub sites: Vec<Site>,
    /// Replicas that no record of these sites names, by their containers.
    pub unrecorded: Vec<(ReplicaId, String)>,
}

/// A site's container and the objects that it records.
#[derive(Debug)]
pub struct Site {
    pub container: String,
    /// Nothing where nobody has claimed it.
    pub owner: Result<Option<Owner>, Fault>,
    pub records: Vec<Record>,
    /// Records that cannot be read.
    pub unreadable: Vec<Fault>,
}

/// What somebody looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Object(ObjectName),
    Replica(ReplicaId),
}

/// Looks through an account, or through what begins with a prefix.
///
/// # Errors
/// If the account or a site's container cannot be listed.
pub async fn catalog(account: &dyn Account, prefix: Option<&Prefix>) -> Result<Catalog, Error> {
    let mut catalog = Catalog::default();
    let mut replicas = Vec::new();
    for (name, place) in containers(account, prefix).await? {
        match place {
            Place::Site => catalog.sites.push(site(account, &name).await?),
            Place::Replica(id) => replicas.push((id, name)),
            Place::Inbox(_) => {}
        }
    }
    let recorded: BTreeSet<&ReplicaId> = catalog
        .sites
        .iter()
        .flat_map(|site| &site.records)
        .map(|record| &record.replica)
        .collect();
    replicas.retain(|(id, _)| !recorded.contains(id));
    catalog.unrecorded = replicas;
    Ok(catalog)
}

/// Finds one replica.
///
/// # Errors
/// If there is none, or there are several of an object; else if the account cannot be read.
pub async fn find(
    account: &dyn Account,
    prefix: Option<&Prefix>,
    wanted: &Wanted,
) -> Result<Store, Error> {
    let mut found = match (wanted, prefix) {
        (Wanted::Replica(id), Some(prefix)) => vec![(prefix.clone(), id.clone())],
        (Wanted::Replica(id), None) => replica_containers(account, id).await?,
        (Wanted::Object(object), prefix) => recorded(account, prefix, object).await?,
    };
    let (account_name, said) = (account.endpoint().to_string(), wanted.to_string());
    match (found.pop(), found.is_empty()) {
        (Some((prefix, id)), true) => Ok(Store {
            inbox: account.container(&prefix.inbox(&id)),
            replica: account.container(&prefix.replica(&id)),
            id,
        }),
        (None, _) => Err(Error::NoReplica {
            account: account_name,
            wanted: said,
        }),
        (Some(last), false) => Err(Error::Ambiguous {
            account: account_name,
            wanted: said,
            replicas: found
                .into_iter()
                .chain([last])
                .map(|(_, id)| id.to_string())
                .collect(),
        }),
    }
}

async fn replica_containers(
    account: &dyn Account,
    id: &ReplicaId,
) -> Result<Vec<(Prefix, ReplicaId)>, Error> {
    let containers = containers(account, None).await?;
    let replicas = containers.into_iter().filter_map(|(name, place)| {
        let (prefix, _) = names::container(&name)?;
        (place == Place::Replica(id.clone())).then(|| (prefix, id.clone()))
    });
    Ok(replicas.collect())
}

async fn recorded(
    account: &dyn Account,
    prefix: Option<&Prefix>,
    object: &ObjectName,
) -> Result<Vec<(Prefix, ReplicaId)>, Error> {
    let mut found = Vec::new();
    for (name, place) in containers(account, prefix).await? {
        let Some((prefix, _)) = names::container(&name).filter(|_| place == Place::Site) else {
            continue;
        };
        let site = account.container(&name);
        if let Some(record) = load::<Record>(site.as_ref(), &names::record(object)).await? {
            found.push((prefix, record.replica));
        }
    }
    Ok(found)
}

async fn containers(
    account: &dyn Account,
    prefix: Option<&Prefix>,
) -> Result<Vec<(String, Place)>, Error> {
    let start = prefix.map_or_else(String::new, |prefix| format!("{prefix}-"));
    let listed = walk::containers(account, &start, CONTAINERS_MAX).await;
    let action = "list the containers, without which a replica is found by its id and prefix alone";
    let ours = listed
        .map_err(Error::storage(action))?
        .into_iter()
        .filter_map(|container| {
            let (found, place) = names::container(&container.name)?;
            let wanted = prefix.is_none_or(|prefix| *prefix == found);
            wanted.then_some((container.name, place))
        });
    Ok(ours.collect())
}

async fn site(account: &dyn Account, name: &str) -> Result<Site, Error> {
    let container = account.container(name);
    let owner = load::<Owner>(container.as_ref(), names::OWNER).await;
    let listed = walk::blobs(
        container.as_ref(),
        names::RECORDS,
        Include::default(),
        RECORDS_MAX,
    )
    .await;
    let blobs = listed.map_err(Error::storage("list the records of a site"))?;
    let reads = blobs.items.into_iter().map(|blob| {
        let container = container.clone();
        async move { read_record(container.as_ref(), &blob.name).await }
    });
    let mut site = Site {
        container: name.to_owned(),
        owner: owner.map_err(|error| error.fault()),
        records: Vec::new(),
        unreadable: Vec::new(),
    };
    let mut read = futures::stream::iter(reads).buffered(READS);
    while let Some(record) = read.try_next().await? {
        match record {
            Ok(record) => site.records.extend(record),
            Err(fault) => site.unreadable.push(fault),
        }
    }
    Ok(site)
}

/// A record; the fault of one that is there and cannot be understood.
async fn read_record(
    container: &dyn Container,
    blob: &str,
) -> Result<Result<Option<Record>, Fault>, Error> {
    match load::<Record>(container, blob).await {
        Ok(record) => Ok(Ok(record)),
        Err(error @ Error::Document { .. }) => Ok(Err(error.fault())),
        Err(error) => Err(error),
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::Object(object) => object.fmt(f),
            Wanted::Replica(id) => write!(f, "id {id}"),
        }
    }
}
