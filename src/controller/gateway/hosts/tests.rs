//! Which connection speaks for a host, and when its word ends.

use async_trait::async_trait;
use uuid::Uuid;

use super::*;
use crate::ids::ReplicaId;
use crate::report::{Code, Fault};
use crate::wire::{
    Answer, Command, Hello, HostCommand, Observations, Relationship, Remove, Resynchronize,
    Settings, Start, Synchronize,
};

/// An agent that nobody asks.
struct Mute;

fn mute<T>() -> Result<T, Fault> {
    Err(Fault::new(Code::Internal, "nobody asks this agent"))
}

#[async_trait]
impl Agent for Mute {
    async fn hello(&self, _: &Hello) -> Result<HelloReply, Fault> {
        mute()
    }

    async fn observations(&self, _: Uuid, _: u64) -> Result<Observations, Fault> {
        mute()
    }

    async fn settings(&self, _: &HostCommand<Settings>) -> Result<Answer, Fault> {
        mute()
    }

    async fn create_relationship(&self, _: &Command<Relationship>) -> Result<Answer, Fault> {
        mute()
    }

    async fn start(&self, _: &ReplicaId, _: &Command<Start>) -> Result<Answer, Fault> {
        mute()
    }

    async fn synchronize(&self, _: &ReplicaId, _: &Command<Synchronize>) -> Result<Answer, Fault> {
        mute()
    }

    async fn resynchronize(
        &self,
        _: &ReplicaId,
        _: &Command<Resynchronize>,
    ) -> Result<Answer, Fault> {
        mute()
    }

    async fn remove(&self, _: &ReplicaId, _: &Command<Remove>) -> Result<Answer, Fault> {
        mute()
    }
}

fn site(name: &str) -> ObjectName {
    ObjectName::new("dr", name).unwrap()
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn arrival(site_name: &str, host_name: &str, session: u128) -> Arrival {
    Arrival {
        identity: PeerIdentity {
            site: site(site_name),
            host: host(host_name),
        },
        peer: "192.0.2.1:5".parse().unwrap(),
        certificate_expires: None,
        reply: HelloReply {
            version: 1,
            release: "0.1.0".to_owned(),
            host: host(host_name),
            session: Uuid::from_u128(session),
        },
        agent: Arc::new(Mute),
    }
}

fn arrive(hosts: &mut Hosts, site: &str, host: &str, session: u128) -> Arrived {
    let admitted = hosts.arrive(arrival(site, host, session), at(1));
    admitted.unwrap_or_else(|full| panic!("{full}"))
}

fn bounds(connected: usize, strangers: usize, lost: usize) -> Hosts {
    Hosts::new(Bounds {
        connected,
        strangers,
        lost,
    })
}

fn names(hosts: &Hosts, site_name: &str) -> Vec<String> {
    let of_site = hosts.of_site(&site(site_name));
    of_site.iter().map(|state| state.host.to_string()).collect()
}

#[test]
fn the_newest_connection_of_a_host_speaks_for_it() {
    let mut hosts = bounds(10, 10, 10);
    let older = arrive(&mut hosts, "a", "hv1", 1).ticket;
    let newer = arrive(&mut hosts, "a", "hv1", 1).ticket;
    assert!(older.over.is_cancelled() && !newer.over.is_cancelled());
    assert!(hosts.update(&older, |_| ()).is_none());
    assert!(!hosts.lose(&older, at(2), "late news".to_owned()));
    assert!(hosts.get(&site("a"), &host("hv1")).unwrap().is_connected());
    assert!(hosts.lose(&newer, at(3), "cable".to_owned()));
    let lost = hosts.get(&site("a"), &host("hv1")).unwrap();
    assert!(
        matches!(&lost.link, Link::Lost { since, reason } if *since == at(3) && reason == "cable")
    );
}

#[test]
fn what_was_observed_outlives_a_connection_but_not_a_session() {
    let mut hosts = bounds(10, 10, 10);
    let first = arrive(&mut hosts, "a", "hv1", 1);
    hosts.update(&first.ticket, |state| state.observed.revision = 7);
    let same = arrive(&mut hosts, "a", "hv1", 1);
    assert_eq!(same.observed.revision, 7);
    let other = arrive(&mut hosts, "a", "hv1", 2);
    assert_eq!(other.observed, Observed::nothing_of(Uuid::from_u128(2)));
    assert_eq!(other.before.unwrap().observed.revision, 7);
}

#[test]
fn a_reader_keeps_what_it_has_read() {
    let mut hosts = bounds(10, 10, 10);
    let ticket = arrive(&mut hosts, "a", "hv1", 1).ticket;
    let read = hosts.get(&site("a"), &host("hv1")).unwrap();
    hosts.update(&ticket, |state| state.heard_at = at(9));
    assert_eq!(read.heard_at, at(1));
}

#[test]
fn beyond_the_bound_only_hosts_that_are_connected_already_may_connect() {
    let mut hosts = bounds(2, 10, 10);
    arrive(&mut hosts, "a", "hv1", 1);
    let second = arrive(&mut hosts, "b", "hv1", 1).ticket;
    assert!(matches!(
        hosts.arrive(arrival("a", "hv2", 1), at(1)),
        Err(Full::Hosts(2))
    ));
    arrive(&mut hosts, "a", "hv1", 2);
    hosts.lose(&second, at(2), String::new());
    arrive(&mut hosts, "a", "hv2", 1);
}

#[test]
fn hosts_of_sites_that_do_not_exist_are_few_and_soon_forgotten() {
    let mut hosts = bounds(10, 1, 10);
    for name in ["hv1", "hv2", "hv3"] {
        arrive(&mut hosts, "early", name, 1);
    }
    hosts.know_sites(HashSet::from([site("a")]));
    assert!(hosts.arrive(arrival("other", "hv1", 1), at(1)).is_err());
    arrive(&mut hosts, "a", "hv1", 1);
    let back = arrive(&mut hosts, "early", "hv1", 2).ticket;
    hosts.lose(&back, at(2), String::new());
    assert_eq!(names(&hosts, "early"), ["hv2", "hv3"]);
    hosts.know_sites(HashSet::from([site("a"), site("early")]));
    arrive(&mut hosts, "early", "hv1", 3);
}

#[test]
fn of_the_lost_hosts_the_oldest_are_forgotten() {
    let mut hosts = bounds(10, 10, 2);
    for (second, name) in [(3, "hv1"), (1, "hv2"), (2, "hv3"), (4, "hv4")] {
        let ticket = arrive(&mut hosts, "a", name, 1).ticket;
        hosts.lose(&ticket, at(second), String::new());
    }
    assert_eq!(names(&hosts, "a"), ["hv1", "hv4"]);
}

#[test]
fn clearing_ends_every_connection() {
    let mut hosts = bounds(10, 10, 10);
    let tickets = ["hv1", "hv2"].map(|name| arrive(&mut hosts, "a", name, 1).ticket);
    hosts.clear();
    assert!(tickets.iter().all(|ticket| ticket.over.is_cancelled()));
    assert!(names(&hosts, "a").is_empty());
    assert!(!hosts.lose(&tickets[0], at(2), String::new()));
}
