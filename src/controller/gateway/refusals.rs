//! Who was refused, and why: bounded, the oldest out.
//!
//! A claim is what an unverified certificate says. It serves to show an administrator which host to look at, and for
//! nothing else: anyone who reaches the gateway can claim anything, and push out what others have claimed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use crate::report::Fault;
use crate::tls::PeerIdentity;

/// As whom a refused peer is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claimant {
    /// Its certificate says so.
    Host(PeerIdentity),
    /// It showed no certificate, or one that names no host.
    Address(IpAddr),
}

/// All refusals of one claimant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub claimant: Claimant,
    /// Of the last one.
    pub fault: Fault,
    /// From where the last one came.
    pub peer: SocketAddr,
    pub first: Timestamp,
    pub last: Timestamp,
    pub count: u64,
}

pub(crate) struct Refusals {
    max: usize,
    by_claimant: HashMap<Claimant, Refused>,
}

impl Refusals {
    pub(crate) fn new(max: usize) -> Self {
        Refusals {
            max,
            by_claimant: HashMap::new(),
        }
    }

    /// Counts a refusal. True if it says something that was not known.
    pub(crate) fn note(
        &mut self,
        claimant: Claimant,
        peer: SocketAddr,
        fault: Fault,
        now: Timestamp,
    ) -> bool {
        if let Some(known) = self.by_claimant.get_mut(&claimant) {
            let news = known.fault != fault;
            known.fault = fault;
            known.peer = peer;
            known.last = now;
            known.count += 1;
            return news;
        }
        if self.by_claimant.len() >= self.max {
            self.drop_oldest();
        }
        let refused = Refused {
            claimant: claimant.clone(),
            fault,
            peer,
            first: now,
            last: now,
            count: 1,
        };
        self.by_claimant.insert(claimant, refused);
        true
    }

    /// A host that was let in is not refused any more. True if it was.
    pub(crate) fn admitted(&mut self, identity: &PeerIdentity) -> bool {
        let claimant = Claimant::Host(identity.clone());
        self.by_claimant.remove(&claimant).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Refused> {
        self.by_claimant.values()
    }

    fn drop_oldest(&mut self) {
        let oldest = self
            .by_claimant
            .values()
            .min_by_key(|refused| refused.last)
            .map(|refused| refused.claimant.clone());
        if let Some(oldest) = oldest {
            self.by_claimant.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ObjectName;
    use crate::report::Code;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

    fn host(number: i64) -> Claimant {
        Claimant::Host(PeerIdentity {
            site: ObjectName::new("dr", "factory").unwrap(),
            host: format!("hv{number}").parse().unwrap(),
        })
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn fault(message: &str) -> Fault {
        Fault::new(Code::Configuration, message)
    }

    #[test]
    fn a_repeat_is_counted_and_is_no_news() {
        let mut refusals = Refusals::new(10);
        assert!(refusals.note(host(1), PEER, fault("expired"), at(1)));
        assert!(!refusals.note(host(1), PEER, fault("expired"), at(2)));
        assert!(refusals.note(host(1), PEER, fault("unknown"), at(3)));
        let refused = refusals.iter().next().unwrap();
        assert_eq!(
            (refused.count, refused.first, refused.last),
            (3, at(1), at(3))
        );
    }

    #[test]
    fn beyond_the_bound_the_oldest_goes() {
        let mut refusals = Refusals::new(3);
        for number in 1..=3 {
            refusals.note(host(number), PEER, fault("expired"), at(number));
        }
        refusals.note(host(1), PEER, fault("expired"), at(4));
        refusals.note(host(4), PEER, fault("expired"), at(5));
        let mut left: Vec<_> = refusals.iter().map(|r| r.claimant.clone()).collect();
        left.sort_by_key(|claimant| format!("{claimant:?}"));
        assert_eq!(left, [host(1), host(3), host(4)]);
    }
}
