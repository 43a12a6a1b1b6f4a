//! What the Bluetooth source counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ladder::Step;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

/// Counters and gauges of the source; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub readings: Counter,
    pub dropped: Counter,
    pub refused: Counter,
    pub silent: Counter,
    pub failed_calls: Counter,
    pub rebuilds: Counter,
    pub connections: Gauge,
    pub streams: Gauge,
    steps: Family<StepLabel, Counter>,
}

impl Metrics {
    pub fn step(&self, step: Step) {
        self.steps.get_or_create(&StepLabel { step: step.label() }).inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("ble");
        r.register("readings", "Readings handed to the journal", self.readings.clone());
        r.register("dropped", "Readings lost because the journal took none", self.dropped.clone());
        r.register("refused", "Readings of devices beyond journal.max_devices", self.refused.clone());
        r.register("silent", "Wearables that were connected and sent no heart rate", self.silent.clone());
        r.register("failed_calls", "Calls of the Bluetooth stack that failed", self.failed_calls.clone());
        r.register("rebuilds", "Connections to the Bluetooth stack made anew", self.rebuilds.clone());
        r.register("connections", "Wearables that hold a connection", self.connections.clone());
        r.register("streams", "Open notification streams", self.streams.clone());
        r.register("recovery_steps", "Steps taken because an adapter fell silent", self.steps.clone());
    }
}
