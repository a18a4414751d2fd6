//! Watches the API server, the agents and the data path, and brings back the objects that something happened to.
//!
//! One watch and one store per kind and namespace, shared by all who look. An object that cannot be understood is
//! reported on itself and does not stop the watch.

use std::fmt::Debug;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{
    Controller, Predicate, PredicateConfig, WatchStreamExt, finalizer, predicates,
};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::hyperv_site::HyperVSite;
use crate::api::protected_vm::ProtectedVM;
use crate::controller::context::{Context, Guarded, Watched, name_of};
use crate::controller::gateway::changes::Event;
use crate::controller::gateway::refusals::Claimant;
use crate::controller::vm::{self, Outcome};
use crate::controller::{orphans, site};
use crate::ids::{ObjectName, ReplicaId};

/// Keeps a ProtectedVM until replication on its host was told to end.
const FINALIZER: &str = "siterecovery.dev/replication";
/// Keeps a HyperVSite until its VMs are gone: they need its storage and its records.
const SITE_FINALIZER: &str = "siterecovery.dev/virtual-machines";
/// How soon an object is looked at again after the API server refused something.
const RETRY: Duration = Duration::from_secs(10);
/// How soon an object is looked at again that came before those which it belongs to.
const SOON: Duration = Duration::from_millis(200);
/// How often an object is looked at that cannot be understood: it has to be changed first.
const INVALID: Duration = Duration::from_secs(3600);

/// One watch: what comes from the API server, the store that it fills, and who asks for another look.
pub struct Watch<K: Resource<DynamicType = ()> + Clone + 'static> {
    stream: BoxStream<'static, Result<Guarded<K>, watcher::Error>>,
    reader: reflector::Store<Guarded<K>>,
    touched: mpsc::UnboundedReceiver<ObjectRef<Guarded<K>>>,
}

/// A watch of each namespace, or of all.
pub fn all<K>(client: &Client, namespaces: &[String]) -> (Vec<Watched<K>>, Vec<Watch<K>>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let each: Vec<Option<String>> = match namespaces {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    let pairs = each.into_iter().map(|namespace| {
        let api: Api<Guarded<K>> = match &namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let (reader, writer) = reflector::store();
        let (touch, touched) = mpsc::unbounded_channel();
        // Half of an object's metadata is who wrote which field; nobody here asks.
        let stream = watcher(api, watcher::Config::default().any_semantic())
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .touched_objects()
            .predicate_filter(
                predicates::generation
                    .combine(predicates::annotations)
                    .combine(predicates::finalizers),
                PredicateConfig::default(),
            );
        let watched = Watched {
            namespace,
            store: reader.clone(),
            touch,
        };
        (
            watched,
            Watch {
                stream: stream.boxed(),
                reader,
                touched,
            },
        )
    });
    pairs.unzip()
}

/// Keeps the stores of watches filled, for ever.
pub async fn fill<K>(watches: Vec<Watch<K>>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let fill = |watch: Watch<K>| {
        watch.stream.for_each(async |object| {
            if let Err(error) = object {
                tracing::warn!(error = crate::report::chain(&error), "a watch begins anew");
            }
        })
    };
    futures::future::join_all(watches.into_iter().map(fill)).await;
}

/// Nothing is returned as an error: what fails is written on the object.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("{0}")]
    Refused(String),
    /// The object is deleted and has to stay for now: it says itself for what. It is looked at again then.
    #[error("it waits")]
    Waits(Action),
}

impl Failed {
    fn of(error: &dyn std::error::Error) -> Self {
        Failed::Refused(crate::report::chain(error))
    }
}

/// When an object is looked at again. One that waits for its end is no failure.
fn ended(result: Result<Action, finalizer::Error<Failed>>) -> Result<Action, Failed> {
    match result {
        Err(finalizer::Error::CleanupFailed(Failed::Waits(action))) => Ok(action),
        other => other.map_err(|error| Failed::of(&error)),
    }
}

fn looking<K>(watch: Watch<K>, concurrency: u16, stop: &CancellationToken) -> Controller<Guarded<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let touched = tokio_stream(watch.touched);
    Controller::for_stream(watch.stream, watch.reader)
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(touched)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
}

fn tokio_stream<T: Send + 'static>(
    receiver: mpsc::UnboundedReceiver<T>,
) -> impl Stream<Item = T> + Send + 'static {
    futures::stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    })
}

fn retry_soon<K>(_: Arc<K>, error: &Failed, _: Arc<Context>) -> Action {
    tracing::warn!(%error, "an object is looked at again");
    Action::requeue(RETRY)
}

/// Reconciles all sites until `stop`.
pub async fn run_sites(
    watches: Vec<Watch<HyperVSite>>,
    context: Arc<Context>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let run = |watch| {
        let controller =
            looking(watch, concurrency, &stop).run(reconcile_site, retry_soon, context.clone());
        let context = context.clone();
        controller.for_each(move |looked| {
            if let Some(site) = gone(looked).filter(|site| context.sites.get(site).is_none()) {
                forget_site(&context, &site);
            }
            ready(())
        })
    };
    futures::future::join_all(watches.into_iter().map(run)).await;
}

/// Reconciles all VMs until `stop`.
pub async fn run_vms(
    watches: Vec<Watch<ProtectedVM>>,
    context: Arc<Context>,
    concurrency: u16,
    stop: CancellationToken,
) {
    let run = |watch| {
        let controller =
            looking(watch, concurrency, &stop).run(reconcile_vm, retry_soon, context.clone());
        let context = context.clone();
        controller.for_each(move |looked| {
            if let Some(vm) = gone(looked).filter(|vm| context.vms.get(vm).is_none()) {
                forget_vm(&context, &vm);
            }
            ready(())
        })
    };
    futures::future::join_all(watches.into_iter().map(run)).await;
}

/// The object that was to be looked at and is gone: somebody may have taken its finalizer away.
fn gone<T>(looked: Result<T, controller::Error<Failed, watcher::Error>>) -> Option<ObjectName> {
    let Err(controller::Error::ObjectNotFound(object)) = looked else {
        return None;
    };
    ObjectName::new(object.namespace.as_deref()?, &object.name).ok()
}

/// Forgets a site that is gone.
fn forget_site(context: &Context, name: &ObjectName) {
    context.site_memory.forget(name);
    context.forget_site(name);
}

/// Forgets a VM that is gone, and ends what is done for it.
fn forget_vm(context: &Context, name: &ObjectName) {
    if let Some((replica, _)) = context.vm_memory.take(name).attached {
        tracing::warn!(vm = %name, %replica, "the object is gone without having been let go");
        context.detach(&replica);
    }
    context.vm_status.forget(name);
    context.metrics.figures.forget(name);
    context.places.set(name, None);
}

async fn reconcile_site(
    site: Arc<Guarded<HyperVSite>>,
    context: Arc<Context>,
) -> Result<Action, Failed> {
    let began = Instant::now();
    let Some(name) = name_of(site.as_ref()) else {
        return Ok(Action::await_change());
    };
    if !context.vms.are_known(&name) {
        return Ok(Action::requeue(SOON));
    }
    let action = match &site.0 {
        Ok(site) => with_site_finalizer(site.clone(), &name, &context).await,
        Err(error) => Ok(say_invalid(&context, site.as_ref(), &error.error).await),
    };
    orphans::know_sites(&context);
    context.metrics.reconciled("HyperVSite", began.elapsed());
    action
}

async fn with_site_finalizer(
    site: HyperVSite,
    name: &ObjectName,
    context: &Arc<Context>,
) -> Result<Action, Failed> {
    let api: Api<HyperVSite> = Api::namespaced(context.client.clone(), name.namespace());
    let look = async |site: Arc<HyperVSite>| {
        let mut memory = context.site_memory.take(name);
        let action = site::reconcile(&site, context, &mut memory).await;
        context.site_memory.put(name, memory);
        action
    };
    let result =
        finalizer::finalizer(
            &api,
            SITE_FINALIZER,
            Arc::new(site),
            async |event| match event {
                finalizer::Event::Apply(site) => Ok(look(site).await),
                finalizer::Event::Cleanup(site) => {
                    if !has_vms(name, context).await? {
                        forget_site(context, name);
                        return Ok(Action::await_change());
                    }
                    Err(Failed::Waits(look(site).await))
                }
            },
        );
    ended(result.await)
}

/// Whether a site still has VMs, as the API server says: after a start, the store of VMs may not have been filled yet.
async fn has_vms(site: &ObjectName, context: &Context) -> Result<bool, Failed> {
    let vms: Api<ProtectedVM> = Api::namespaced(context.client.clone(), site.namespace());
    let of_site = format!("spec.siteRef.name={}", site.name());
    let one = ListParams::default().fields(&of_site).limit(1);
    let listed = vms.list_metadata(&one).await;
    let listed = listed.map_err(|error| Failed::of(&error))?;
    Ok(!listed.items.is_empty())
}

async fn reconcile_vm(
    vm: Arc<Guarded<ProtectedVM>>,
    context: Arc<Context>,
) -> Result<Action, Failed> {
    let began = Instant::now();
    let Some(name) = name_of(vm.as_ref()) else {
        return Ok(Action::await_change());
    };
    if !context.sites.are_known(&name) {
        return Ok(Action::requeue(SOON));
    }
    let action = match &vm.0 {
        Ok(vm) => with_finalizer(vm.clone(), &name, &context).await,
        Err(error) => Ok(say_invalid(&context, vm.as_ref(), &error.error).await),
    };
    context.metrics.reconciled("ProtectedVM", began.elapsed());
    action
}

async fn with_finalizer(
    vm: ProtectedVM,
    name: &ObjectName,
    context: &Arc<Context>,
) -> Result<Action, Failed> {
    let api: Api<ProtectedVM> = Api::namespaced(context.client.clone(), name.namespace());
    let look = async |vm: Arc<ProtectedVM>| {
        let mut memory = context.vm_memory.take(name);
        let outcome = vm::reconcile(&vm, name, context, &mut memory).await;
        match outcome {
            Outcome::Again(action) => {
                context.vm_memory.put(name, memory);
                Ok((action, false))
            }
            Outcome::Gone => {
                forget_vm(context, name);
                Ok((Action::await_change(), true))
            }
        }
    };
    let result = finalizer::finalizer(&api, FINALIZER, Arc::new(vm), async |event| match event {
        finalizer::Event::Apply(vm) => look(vm).await.map(|(action, _)| action),
        finalizer::Event::Cleanup(vm) => match look(vm).await? {
            (action, true) => Ok(action),
            (action, false) => Err(Failed::Waits(action)),
        },
    });
    ended(result.await)
}

/// An object that cannot be understood is said so, once.
async fn say_invalid<K>(context: &Context, object: &Guarded<K>, error: &str) -> Action
where
    K: Resource<DynamicType = ()> + Clone,
{
    context
        .events
        .warning(
            object,
            "InvalidObject",
            &format!("the object cannot be understood: {error}"),
        )
        .await;
    Action::requeue(INVALID)
}

/// Brings back what the agents' observations are of.
pub async fn follow_agents(context: Arc<Context>, stop: CancellationToken) {
    let mut changes = context.registry.changes();
    loop {
        let event = tokio::select! {
            event = changes.next() => event,
            () = stop.cancelled() => return,
        };
        match event {
            None => return,
            Some(Event::HostChanged { site, host }) => {
                context.sites.touch(&site);
                context.touch_vms_at(&site, &host);
            }
            Some(Event::ReplicationChanged {
                site,
                host,
                replica,
            }) => {
                // A barrier that found nothing changed brings nothing: storage is not asked for it.
                if context.has_news(&site, &host, &replica) {
                    context.datapath.wake(&replica);
                }
                if let Some(vm) = context.owner(&replica) {
                    context.vms.touch(&vm);
                }
            }
            // Whoever reaches the gateway can claim to be one host after the other: that is no look each.
            Some(Event::Refused(Claimant::Host(identity))) => {
                context.site_looks.ask(&identity.site);
            }
            // Nobody's site can show somebody who did not say who he is.
            Some(Event::Refused(Claimant::Address(_))) => {}
            Some(Event::Everything) => {
                for site in context.sites.list() {
                    if let Some(name) = name_of(site.as_ref()) {
                        context.sites.touch(&name);
                        context.touch_vms(&name);
                    }
                }
            }
        }
    }
}

/// Brings back the VMs whose replica changed.
pub async fn follow_datapath(
    context: Arc<Context>,
    mut replicas: mpsc::UnboundedReceiver<ReplicaId>,
    stop: CancellationToken,
) {
    loop {
        let replica = tokio::select! {
            replica = replicas.recv() => replica,
            () = stop.cancelled() => return,
        };
        let Some(replica) = replica else { return };
        if let Some(vm) = context.owner(&replica) {
            context.vms.touch(&vm);
        }
    }
}

/// Brings back the sites whose VMs changed.
pub async fn follow_site_looks(context: Arc<Context>, stop: CancellationToken) {
    loop {
        let asked = tokio::select! {
            asked = context.site_looks.next() => asked,
            () = stop.cancelled() => return,
        };
        for site in asked {
            context.sites.touch(&site);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_that_waits_is_no_failure_and_is_looked_at_when_it_says() {
        let minute = Action::requeue(Duration::from_secs(60));
        let waits = finalizer::Error::CleanupFailed(Failed::Waits(minute.clone()));
        assert_eq!(ended(Err(waits)).unwrap(), minute);
        let failed = finalizer::Error::CleanupFailed(Failed::Refused("no".to_owned()));
        assert!(ended(Err(failed)).is_err());
    }
}
