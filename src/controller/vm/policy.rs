//! The policy of one VM: its own words over its site's. No I/O.

use crate::api::policy::{PolicyOverride, ReplicationPolicy, RetentionTier};
use crate::api::quantity;
use crate::datapath::runner::Duties;
use crate::replica::retention::{Retention, Tier};
use crate::wire;

/// What holds for a VM: what it says itself, and else what its site says.
pub fn effective(site: &ReplicationPolicy, own: Option<&PolicyOverride>) -> ReplicationPolicy {
    let own = own.cloned().unwrap_or_default();
    let site = site.clone();
    ReplicationPolicy {
        copy_frequency: own.copy_frequency.unwrap_or(site.copy_frequency),
        recovery_points: own.recovery_points.unwrap_or(site.recovery_points),
        app_consistent_frequency: own
            .app_consistent_frequency
            .unwrap_or(site.app_consistent_frequency),
        initial_replication: site.initial_replication,
    }
}

/// What the agent is told of it.
pub fn told(policy: &ReplicationPolicy) -> wire::Policy {
    let hours = policy.app_consistent_frequency.trim_end_matches('h');
    wire::Policy {
        copy_interval: policy.copy_frequency.seconds(),
        application_consistent_hours: hours.parse().unwrap_or(0),
        compress: true,
    }
}

/// What the data path does by it. Where a tier cannot be understood, all points stay.
pub fn duties(policy: &ReplicationPolicy) -> Duties {
    let tier = |tier: &RetentionTier| {
        Some(Tier {
            every: quantity::duration(&tier.every)?,
            keep: quantity::duration(&tier.for_)?,
        })
    };
    let tiers: Option<Vec<Tier>> = policy.recovery_points.keep.iter().map(tier).collect();
    let retention = Retention {
        tiers: tiers.unwrap_or_default(),
    };
    Duties { retention }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::policy::{CopyFrequency, RecoveryPoints};

    #[test]
    fn a_vm_says_what_it_has_otherwise_and_has_the_rest_of_its_site() {
        let site = ReplicationPolicy {
            copy_frequency: CopyFrequency::FifteenMinutes,
            app_consistent_frequency: "4h".to_owned(),
            ..ReplicationPolicy::default()
        };
        let own = PolicyOverride {
            copy_frequency: Some(CopyFrequency::ThirtySeconds),
            ..PolicyOverride::default()
        };
        let told = |own| {
            let told = told(&effective(&site, own));
            (told.copy_interval, told.application_consistent_hours)
        };
        assert_eq!(told(None), (900, 4));
        assert_eq!(told(Some(&own)), (30, 4));
        let quiesced = PolicyOverride {
            app_consistent_frequency: Some("0h".to_owned()),
            ..PolicyOverride::default()
        };
        assert_eq!(told(Some(&quiesced)), (900, 0));
    }

    #[test]
    fn points_are_kept_as_the_vm_says_and_all_where_it_cannot_be_understood() {
        let keep = |every: &str| PolicyOverride {
            recovery_points: Some(RecoveryPoints {
                keep: vec![RetentionTier {
                    every: every.to_owned(),
                    for_: "7d".to_owned(),
                }],
            }),
            ..PolicyOverride::default()
        };
        let site = ReplicationPolicy::default();
        let tiers =
            |own: Option<PolicyOverride>| duties(&effective(&site, own.as_ref())).retention.tiers;
        let tier = |minutes, hours| Tier {
            every: Duration::from_mins(minutes),
            keep: Duration::from_hours(hours),
        };
        assert_eq!(tiers(Some(keep("1d"))), [tier(24 * 60, 7 * 24)]);
        assert_eq!(tiers(Some(keep("1w"))), []);
        assert_eq!(tiers(None), [tier(5, 2), tier(60, 24)]);
    }
}
