//! What the controller counts, for Prometheus.

pub mod vms;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::controller::metrics::vms::Vms;
use crate::controller::probes::Scraper;
use crate::units::Clock;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

/// The controller's metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciliations: Family<Kind, Counter>,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    leader: Gauge,
    agents: Gauge,
    vms: Family<State, Gauge>,
    /// Of each VM.
    pub figures: Arc<Vms>,
}

impl Metrics {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let mut registry = Registry::with_prefix("site_recovery");
        let reconciliations = Family::default();
        registry.register(
            "reconciliations",
            "Looks at objects, by kind",
            reconciliations.clone(),
        );
        let durations: Family<Kind, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new([0.001, 0.01, 0.1, 1.0, 10.0]));
        registry.register(
            "reconcile_duration_seconds",
            "How long a look takes, by kind",
            durations.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "Whether this replica leads", leader.clone());
        let agents = Gauge::default();
        registry.register(
            "agents_connected",
            "Connected agents of all sites",
            agents.clone(),
        );
        let vms = Family::default();
        registry.register("protected_vms", "ProtectedVMs, by state", vms.clone());
        let figures = Arc::new(Vms::new(clock));
        registry.register_collector(Box::new(figures.clone()));
        Metrics {
            registry: Mutex::new(registry),
            reconciliations,
            durations,
            leader,
            agents,
            vms,
            figures,
        }
    }

    /// Counts a look at an object.
    pub fn reconciled(&self, kind: &'static str, took: Duration) {
        self.reconciliations.get_or_create(&Kind { kind }).inc();
        self.durations
            .get_or_create(&Kind { kind })
            .observe(took.as_secs_f64());
    }

    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub fn set_agents(&self, connected: usize) {
        self.agents
            .set(i64::try_from(connected).unwrap_or(i64::MAX));
    }

    /// Shows how many VMs are in each state.
    pub fn set_vms(&self, states: impl IntoIterator<Item = String>) {
        self.vms.clear();
        for state in states {
            self.vms.get_or_create(&State { state }).inc();
        }
    }

    /// All metrics, in the text format of OpenMetrics.
    pub fn encode(&self) -> String {
        let registry = self.registry.lock();
        encode(&registry.unwrap_or_else(PoisonError::into_inner))
    }

    pub fn scraper(self: &Arc<Self>) -> Scraper {
        let metrics = self.clone();
        Arc::new(move || metrics.encode())
    }
}

/// All metrics of a registry, in the text format of OpenMetrics.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        // Writing into memory does not fail; a scraper sees a comment instead of nothing.
        let _ = writeln!(text, "# cannot be encoded");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_can_be_scraped() {
        let metrics = Metrics::new(Arc::new(crate::units::SystemClock));
        metrics.reconciled("ProtectedVM", Duration::from_millis(5));
        metrics.set_vms(["Protected".to_owned(), "Protected".to_owned()]);
        let text = metrics.encode();
        assert!(
            text.contains(r#"site_recovery_reconciliations_total{kind="ProtectedVM"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"site_recovery_protected_vms{state="Protected"} 2"#),
            "{text}"
        );
    }
}
