//! The clock's gauges for `/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::keeper::{Health, Observed};

/// Cheap handles; clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    synced: Gauge,
    uncertainty: Gauge<f64, AtomicU64>,
    boots_waiting: Gauge,
    anchors: Counter,
    contradictions: Counter,
}

impl Metrics {
    /// Names get their prefix from the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "clock_synced",
            "1 once the wall clock of this boot is believed",
            self.synced.clone(),
        );
        registry.register(
            "clock_uncertainty_seconds",
            "How far off stamps may be; 0 while the clock is not synchronised",
            self.uncertainty.clone(),
        );
        registry.register(
            "clock_boots_waiting",
            "Boots with stored readings whose time is not known yet",
            self.boots_waiting.clone(),
        );
        registry.register(
            "clock_anchors",
            "Moments at which the clock's time was noted",
            self.anchors.clone(),
        );
        registry.register(
            "clock_contradictions",
            "Samples of the synchronised system clock that contradicted what was known",
            self.contradictions.clone(),
        );
    }

    pub(super) fn observed(&self, seen: Observed) {
        match seen {
            Observed::First | Observed::Corrected | Observed::Agrees { renewed: true } => {
                self.anchors.inc();
            }
            Observed::Doubted | Observed::Impossible => {
                self.contradictions.inc();
            }
            Observed::Agrees { renewed: false } => {}
        }
    }

    pub(super) fn show(&self, health: &Health) {
        self.synced.set(i64::from(health.synced));
        self.uncertainty.set(health.uncertainty_s.unwrap_or(0.0));
        self.boots_waiting.set(i64::try_from(health.boots_waiting).unwrap_or(i64::MAX));
    }
}
