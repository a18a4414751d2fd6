//! The replication policy: of a site, with defaults, and of a VM, where what is absent is the site's.

#![expect(
    unreachable_pub,
    reason = "the derive of KubeSchema repeats each type inside of a function"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::{DURATION_PATTERN, TIME_OF_DAY_PATTERN};

/// How often changes are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CopyFrequency {
    #[serde(rename = "30s")]
    ThirtySeconds,
    #[default]
    #[serde(rename = "5m")]
    FiveMinutes,
    #[serde(rename = "15m")]
    FifteenMinutes,
}

impl CopyFrequency {
    pub const fn seconds(self) -> u32 {
        match self {
            CopyFrequency::ThirtySeconds => 30,
            CopyFrequency::FiveMinutes => 300,
            CopyFrequency::FifteenMinutes => 900,
        }
    }
}

/// How the VMs of a site are replicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationPolicy {
    /// How often changes are copied to Azure: 30s, 5m or 15m. RPOMet is True as long as everything older than twice this
    /// is in Azure: what is written right after a copy began comes with the next, unless that one is late.
    #[serde(default)]
    pub copy_frequency: CopyFrequency,
    /// Which recovery points are kept.
    #[serde(default)]
    pub recovery_points: RecoveryPoints,
    /// How often a recovery point is application-consistent: 1h to 12h, or 0h for never. The guest is quiesced for it.
    #[serde(default = "never")]
    #[schemars(regex(pattern = "^([0-9]|1[0-2])h$"))]
    pub app_consistent_frequency: String,
    /// The first copy.
    #[serde(default)]
    pub initial_replication: InitialReplication,
}

/// Which recovery points are kept: of each tier, one in every `every`, for as long as `for`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryPoints {
    /// Tiers of retention. Default: of the last 2 hours a point in every 5 minutes, of the last 24 hours hourly
    /// ones. The newest point always stays.
    #[serde(default = "a_day")]
    #[schemars(length(min = 1, max = 8))]
    pub keep: Vec<RetentionTier>,
}

/// That `for` is not shorter than `every`. Both are digits and a unit; `duration()` knows no days, and to replace them
/// would cost more than an API server grants.
const KEEPS_AN_INTERVAL: &str = "\
    {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}[self.__for__.substring(size(self.__for__) - 1)] \
    * int(self.__for__.substring(0, size(self.__for__) - 1)) >= \
    {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}[self.every.substring(size(self.every) - 1)] \
    * int(self.every.substring(0, size(self.every) - 1))";

/// A tier of retention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(KEEPS_AN_INTERVAL).message("for must not be shorter than every: points would go before their interval ends"),
)]
pub struct RetentionTier {
    /// One point is kept in every interval of this length, such as 1h or 1d.
    #[schemars(length(max = 8), regex(pattern = DURATION_PATTERN))]
    pub every: String,
    /// Points older than this go, such as 24h or 30d; not shorter than `every`.
    #[serde(rename = "for")]
    #[schemars(length(max = 8), regex(pattern = DURATION_PATTERN))]
    pub for_: String,
}

/// When and how many first copies run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitialReplication {
    /// The time of day (UTC) at which first copies start, such as 22:00. Absent: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = TIME_OF_DAY_PATTERN))]
    pub start: Option<String>,
    /// How many VMs of one host are copied at the same time; the others queue.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 32))]
    pub max_concurrent_per_host: i32,
}

/// What one VM does otherwise than its site. Absent fields are the site's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyOverride {
    /// How often changes are copied to Azure: 30s, 5m or 15m. RPOMet is True as long as everything older than twice this
    /// is in Azure: what is written right after a copy began comes with the next, unless that one is late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_frequency: Option<CopyFrequency>,
    /// Which recovery points are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_points: Option<RecoveryPoints>,
    /// How often a recovery point is application-consistent: 1h to 12h, or 0h for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]|1[0-2])h$"))]
    pub app_consistent_frequency: Option<String>,
}

impl Default for ReplicationPolicy {
    fn default() -> Self {
        ReplicationPolicy {
            copy_frequency: CopyFrequency::default(),
            recovery_points: RecoveryPoints::default(),
            app_consistent_frequency: never(),
            initial_replication: InitialReplication::default(),
        }
    }
}

impl Default for RecoveryPoints {
    fn default() -> Self {
        RecoveryPoints { keep: a_day() }
    }
}

impl Default for InitialReplication {
    fn default() -> Self {
        InitialReplication {
            start: None,
            max_concurrent_per_host: two(),
        }
    }
}

fn never() -> String {
    "0h".to_owned()
}

fn a_day() -> Vec<RetentionTier> {
    let tier = |every: &str, for_: &str| RetentionTier {
        every: every.to_owned(),
        for_: for_.to_owned(),
    };
    vec![tier("5m", "2h"), tier("1h", "24h")]
}

fn two() -> i32 {
    2
}
