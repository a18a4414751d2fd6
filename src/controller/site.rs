//! Reconciles a `HyperVSite`: may the account be used, does this cluster act, are the agents there, how are the VMs.

pub mod bandwidth;
pub mod deletions;
pub mod handle;
pub mod ownership;
pub mod records;
pub mod report;
pub mod settings;
pub mod spec;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kube::runtime::controller::Action;

use crate::api::hyperv_site::{
    DeletionBreaker, HyperVSite, HyperVSiteStatus, RefusedAgent, VirtualMachineCounts,
};
use crate::api::time::Time;
use crate::api::vm_status::{Health, ReplicationState};
use crate::blob::Account;
use crate::controller::accounts::Opened;
use crate::controller::context::{Context, name_of};
use crate::controller::gateway::host_state::{HostState, Link};
use crate::controller::gateway::refusals::Claimant;
use crate::controller::site::handle::{SiteHandle, SiteView};
use crate::controller::site::ownership::Settled;
use crate::controller::site::report::{Facts, Host, Owner};
use crate::controller::site::settings::Told;
use crate::controller::status::Lane;
use crate::controller::{annotations, unsupported};
use crate::ids::{HostName, ObjectName};
use crate::replica::names::{self, Prefix};
use crate::report::{Code, Fault};

/// How often a site is looked at without anything having happened.
const LOOK: Duration = Duration::from_secs(60);
/// How soon at the earliest: the clock may be a little early.
const SOON: Duration = Duration::from_secs(1);
/// How long storage may take to answer before an object that says nothing yet says that it waits for that.
const FIRST: Duration = Duration::from_secs(3);
/// How often the account's kind is asked for.
const ACCOUNT_LOOK: Duration = Duration::from_secs(1800);

/// What is remembered of a site between two looks.
#[derive(Default)]
pub struct SiteMemory {
    /// The object that this is remembered of: another may come under its name.
    uid: Option<String>,
    opened: Option<Opened>,
    /// When the account last said that it can hold replicas.
    suitable: Option<tokio::time::Instant>,
    handle: Option<Arc<SiteHandle>>,
    /// The generation of the spec that the VMs were looked at with.
    generation: Option<i64>,
    told: Told,
    /// What was said of annotations that have no effect.
    ignored: Option<String>,
}

/// How the storage side of a site was found.
struct Found {
    credentials: Result<(), Fault>,
    account: Option<Result<(), Fault>>,
    owner: Owner,
}

/// Looks at a site once.
pub async fn reconcile(site: &HyperVSite, context: &Context, memory: &mut SiteMemory) -> Action {
    let Some(name) = name_of(site) else {
        return Action::await_change();
    };
    if memory.uid != site.metadata.uid {
        *memory = SiteMemory {
            uid: site.metadata.uid.clone(),
            ..SiteMemory::default()
        };
        context.forget_site(&name);
    }
    if let Some(note) = annotations::news(annotations::of_site(site), &mut memory.ignored) {
        context
            .events
            .warning(site, annotations::REASON, &note)
            .await;
    }
    let unsupported = unsupported::of_site(&site.spec);
    let found = {
        let mut looking = std::pin::pin!(look(site, &name, context, memory));
        match tokio::time::timeout(FIRST, &mut looking).await {
            Ok(found) => found,
            Err(_) => {
                say_what_is_awaited(site, &name, context, &unsupported).await;
                looking.await
            }
        }
    };
    let hosts = hosts(site, &name, context);
    let breaker = deletions::now(site, &name, context, memory.handle.as_deref());
    let facts = facts(site, context, &found, &hosts, (&unsupported, breaker));
    show(&name, context, memory, &facts);
    // Policy, window, pauses and maintenance are said of the site and done for its VMs.
    if memory.generation != site.metadata.generation {
        memory.generation = site.metadata.generation;
        context.touch_vms(&name);
    }
    let now = context.clock.now();
    let cap = bandwidth::cap(site.spec.bandwidth.as_ref(), now);
    memory.told.tell(cap, &hosts).await;
    write_status(site, &name, context, &facts).await;
    // Spread over time, so that many sites are not looked at in the same second.
    let look = LOOK.mul_f64(rand::random_range(0.9..1.1));
    let changes = cap.changes.map(|at| at.duration_since(now));
    let changes = changes.and_then(|left| Duration::try_from(left).ok());
    Action::requeue(changes.map_or(look, |left| look.min(left.max(SOON))))
}

/// Says of a site that has not said anything of its present spec what it waits for.
async fn say_what_is_awaited(
    site: &HyperVSite,
    name: &ObjectName,
    context: &Context,
    unsupported: &[&'static str],
) {
    let found = site.status.clone().unwrap_or_default();
    let (last, _) = context.site_status.last(name, &found);
    if Some(last.observed_generation) == site.metadata.generation {
        return;
    }
    let awaited = Found {
        credentials: Ok(()),
        account: None,
        owner: Owner::Unknown,
    };
    let hosts = hosts(site, name, context);
    let breaker = deletions::now(site, name, context, None);
    let facts = facts(site, context, &awaited, &hosts, (unsupported, breaker));
    write_status(site, name, context, &facts).await;
}

fn facts<'a>(
    site: &HyperVSite,
    context: &Context,
    found: &'a Found,
    hosts: &'a [(HostName, Option<Arc<HostState>>)],
    (unsupported, breaker): (&'a [&'static str], Option<DeletionBreaker>),
) -> Facts<'a> {
    let name = &name_of(site).expect("an object that is reconciled has a name");
    let worked_on = |host: &HostName| {
        let mut listed = site.spec.hosts.iter();
        listed.any(|listed| listed.name == host.as_str() && listed.maintenance == Some(true))
    };
    let listed: Vec<HostName> = hosts.iter().map(|(name, _)| name.clone()).collect();
    Facts {
        hosts: hosts
            .iter()
            .map(|(name, state)| Host {
                maintenance: worked_on(name),
                ..host(name, state.as_deref())
            })
            .collect(),
        refused: refused(name, &listed, context),
        credentials: found.credentials.as_ref().copied(),
        account: found
            .account
            .as_ref()
            .map(|account| account.as_ref().copied()),
        owner: found.owner.clone(),
        counts: counts(name, context),
        unsupported,
        wrong: spec::faults(&site.spec),
        suspended: site.spec.suspend,
        breaker,
        deleting: site.metadata.deletion_timestamp.is_some(),
    }
}

/// Opens the account, makes sure that it can hold replicas, and finds out who acts.
async fn look(
    site: &HyperVSite,
    name: &ObjectName,
    context: &Context,
    memory: &mut SiteMemory,
) -> Found {
    let opened = context
        .opener
        .open(name.namespace(), &site.spec.azure, memory.opened.as_ref())
        .await;
    let opened = match opened {
        Ok(opened) => opened,
        Err(fault) => {
            // Whoever deletes everything at once deletes the Secret in any order: with what was opened by it, the VMs end.
            let deleted = site.metadata.deletion_timestamp.is_some();
            let before = memory.opened.clone().filter(|_| deleted);
            let (account, owner) = match before {
                Some(opened) => found(site, name, context, memory, &opened).await,
                None => (None, Owner::Unknown),
            };
            return Found {
                credentials: Err(fault),
                account,
                owner,
            };
        }
    };
    if memory
        .opened
        .as_ref()
        .is_none_or(|before| before.fingerprint != opened.fingerprint)
    {
        memory.suitable = None;
    }
    memory.opened = Some(opened.clone());
    let (account, owner) = found(site, name, context, memory, &opened).await;
    Found {
        credentials: Ok(()),
        account,
        owner,
    }
}

/// How the account is, and who acts.
async fn found(
    site: &HyperVSite,
    name: &ObjectName,
    context: &Context,
    memory: &mut SiteMemory,
    opened: &Opened,
) -> (Option<Result<(), Fault>>, Owner) {
    match use_account(site, name, context, memory, opened).await {
        Ok(owner) => (Some(Ok(())), owner),
        Err(fault) => {
            // Who acted before still does as far as anybody knows; it is looked at again.
            let known = memory.handle.is_some();
            let owner = if known { Owner::Ours } else { Owner::Unknown };
            (Some(Err(fault)), owner)
        }
    }
}

async fn use_account(
    site: &HyperVSite,
    name: &ObjectName,
    context: &Context,
    memory: &mut SiteMemory,
    opened: &Opened,
) -> Result<Owner, Fault> {
    if memory.suitable.is_none_or(|at| at.elapsed() > ACCOUNT_LOOK) {
        check_account(opened.account.as_ref()).await?;
        memory.suitable = Some(tokio::time::Instant::now());
    }
    let prefix: Prefix = site
        .spec
        .azure
        .storage
        .container_prefix
        .parse()
        .map_err(|error| Fault::of(Code::Configuration, &error as &names::NotAPrefix))?;
    let container = prefix.site(name);
    opened
        .account
        .create_container(&container)
        .await
        .map_err(|error| error.fault())?;
    let fences = memory.handle.as_ref().map_or(0, |handle| handle.fences());
    let account = opened.account.as_ref();
    let term = match ownership::settle(site, name, context, account, &container, fences).await? {
        Settled::Ours { term } => term,
        Settled::Other(owner) => {
            memory.handle = None;
            return Ok(owner);
        }
    };
    // What was known in an earlier term is not: another cluster may have acted since.
    let known = memory.handle.take().filter(|handle| handle.term == term);
    memory.handle = Some(match known {
        Some(handle) if handle.fingerprint == opened.fingerprint => handle,
        Some(handle) => Arc::new(handle.reopened(opened)),
        None => {
            let records =
                handle::read_records(opened.account.container(&container).as_ref()).await?;
            Arc::new(SiteHandle::new(name.clone(), opened, prefix, term, records))
        }
    });
    Ok(Owner::Ours)
}

async fn check_account(account: &dyn Account) -> Result<(), Fault> {
    let information = account.information().await.map_err(|error| error.fault())?;
    let hierarchical = information.hierarchical_namespace;
    match report::unsuitable(&information.sku, &information.kind, hierarchical) {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

fn hosts(
    site: &HyperVSite,
    name: &ObjectName,
    context: &Context,
) -> Vec<(HostName, Option<Arc<HostState>>)> {
    let hosts = site
        .spec
        .hosts
        .iter()
        .filter_map(|host| host.name.parse::<HostName>().ok());
    hosts
        .map(|host| {
            let state = context.registry.host(name, &host);
            (host, state)
        })
        .collect()
}

fn host<'a>(name: &HostName, state: Option<&'a HostState>) -> Host<'a> {
    let machines = state.and_then(|state| state.observed.machines.as_deref());
    Host {
        name: name.to_string(),
        maintenance: false,
        link: state.map(|state| match &state.link {
            Link::Connected { since, .. } => (true, *since),
            Link::Lost { since, .. } => (false, *since),
        }),
        release: state.map(|state| state.release.clone()),
        machines: machines.map(|machines| machines.machines.as_slice()),
        fault: state
            .and_then(|state| state.trouble.clone())
            .or_else(|| machines.and_then(|machines| machines.fault.clone())),
    }
}

/// Agents that were turned away and claim to be of this site, and those of hosts that it does not list.
fn refused(site: &ObjectName, listed: &[HostName], context: &Context) -> Vec<RefusedAgent> {
    let turned_away = context
        .registry
        .refused()
        .into_iter()
        .filter_map(|refused| match refused.claimant {
            Claimant::Host(identity) if identity.site == *site => Some(RefusedAgent {
                host: identity.host.to_string(),
                reason: refused.fault.message,
                since: refused.first.into(),
            }),
            Claimant::Host(_) | Claimant::Address(_) => None,
        });
    let known = context.registry.hosts(site);
    let unlisted = known.iter().filter_map(|state| match &state.link {
        Link::Connected { since, .. } if !listed.contains(&state.host) => Some(RefusedAgent {
            host: state.host.to_string(),
            reason: "spec.hosts does not list it: add it, or stop its agent".to_owned(),
            since: (*since).into(),
        }),
        Link::Connected { .. } | Link::Lost { .. } => None,
    });
    let mut refused: Vec<RefusedAgent> = turned_away.chain(unlisted).collect();
    refused.sort_by(|a, b| a.host.cmp(&b.host));
    refused.truncate(16);
    refused
}

fn counts(site: &ObjectName, context: &Context) -> VirtualMachineCounts {
    let mut counts = VirtualMachineCounts::default();
    for vm in context.vms_of(site) {
        let Ok(vm) = &vm.0 else { continue };
        counts.total += 1;
        let (Some(name), Some(found)) = (name_of(vm), &vm.status) else {
            continue;
        };
        // The watch brings what was written a moment later.
        let unseen = context.vm_status.unseen(&name);
        let status = unseen.as_deref().unwrap_or(found);
        counts.protected += i32::from(status.state == Some(ReplicationState::Protected));
        counts.warning += i32::from(status.health == Some(Health::Warning));
        counts.critical += i32::from(status.health == Some(Health::Critical));
    }
    counts
}

/// Shows VMs how their site was found, and has them looked at if that changed.
fn show(name: &ObjectName, context: &Context, memory: &SiteMemory, facts: &Facts<'_>) {
    let view = match (&facts.owner, &memory.handle) {
        (Owner::Other { .. }, _) => SiteView::NotOurs(report::not_ready(facts).unwrap_or_default()),
        (Owner::Ours, Some(handle)) if facts.account == Some(Ok(())) => {
            SiteView::Ready(handle.clone())
        }
        (Owner::Ours | Owner::Unknown, _) => {
            SiteView::NotReady(report::not_ready(facts).unwrap_or_default())
        }
    };
    let same = |before: &SiteView| match (before, &view) {
        (SiteView::Ready(a), SiteView::Ready(b)) => Arc::ptr_eq(a, b),
        (SiteView::NotReady(a), SiteView::NotReady(b))
        | (SiteView::NotOurs(a), SiteView::NotOurs(b)) => a == b,
        (SiteView::Ready(_) | SiteView::NotReady(_) | SiteView::NotOurs(_), _) => false,
    };
    let mut views = context
        .views
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    let changed = !views.get(name).is_some_and(same);
    views.insert(name.clone(), view);
    drop(views);
    if changed {
        context.touch_vms(name);
    }
}

async fn write_status(site: &HyperVSite, name: &ObjectName, context: &Context, facts: &Facts<'_>) {
    let generation = site.metadata.generation.unwrap_or(0);
    let found = site.status.clone().unwrap_or_default();
    let (last, _) = context.site_status.last(name, &found);
    let now: Time = context.clock.now().into();
    let status = report::status(facts, &last, generation, now);
    if status == last {
        return;
    }
    tokio::time::sleep_until(context.pace.turn(Lane::Sites)).await;
    if let Err(fault) = context.site_status.write::<HyperVSite>(name, &status).await {
        tracing::warn!(site = %name, %fault, "the status is written later");
        return;
    }
    if last.deletion_breaker != status.deletion_breaker {
        context.touch_vms(name);
    }
    // What changed is announced once it stands there: what is not written is found changed again.
    announce(site, context, facts, &last, &status).await;
}

/// Events of what changed.
async fn announce(
    site: &HyperVSite,
    context: &Context,
    facts: &Facts<'_>,
    last: &HyperVSiteStatus,
    status: &HyperVSiteStatus,
) {
    if last.observed_generation != status.observed_generation && !facts.unsupported.is_empty() {
        let note = format!(
            "this version does not act upon: {}",
            facts.unsupported.join(", ")
        );
        context
            .events
            .warning(site, unsupported::REASON, &note)
            .await;
    }
    let ready = |status: &HyperVSiteStatus| {
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready");
        ready.map(|ready| {
            (
                ready.status.clone(),
                ready.reason.clone(),
                ready.message.clone(),
            )
        })
    };
    let (before, now) = (ready(last), ready(status));
    let key = |ready: &Option<(String, String, String)>| {
        ready
            .as_ref()
            .map(|(status, reason, _)| (status.clone(), reason.clone()))
    };
    if let Some((status, reason, message)) = now.clone().filter(|_| key(&before) != key(&now)) {
        match status.as_str() {
            "True" => context.events.normal(site, &reason, &message).await,
            _ => context.events.warning(site, &reason, &message).await,
        }
    }
}
