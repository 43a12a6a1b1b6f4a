//! What the listener counts. Counters are incremented once per socket read or per event, not per message.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Every cause that [`Metrics::refused_connects`] has.
const REFUSALS: [&str; 15] = [
    "accept",
    "address_share",
    "address_throttled",
    "auth_method",
    "client_id",
    "client_throttled",
    "closed",
    "credentials",
    "handshake_given_up",
    "handshake_timeout",
    "not_authorized",
    "protocol",
    "tls",
    "too_many_connections",
    "too_many_handshakes",
];

/// The one label some counters have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    cause: &'static str,
}

/// Counters and gauges of `source/mqtt`; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub connections: Gauge,
    pub accepted: Counter,
    /// Connections before their CONNECT.
    pub handshakes: Gauge,
    pub auth_failures: Counter,
    pub throttled_addresses: Gauge,
    pub refused_connects: Family<Cause, Counter>,
    pub malformed: Family<Cause, Counter>,
    pub takeovers: Counter,
    pub timeouts: Counter,
    pub publishes: Counter,
    pub readings: Counter,
    pub duplicates: Counter,
    pub possible_duplicates: Counter,
    pub unreadable: Family<Cause, Counter>,
    pub unmapped: Counter,
    pub denied: Counter,
    pub subscribers: Gauge,
    pub relayed: Counter,
    pub relay_dropped: Counter,
    pub router_restarts: Counter,
    pub external_messages: Counter,
    pub external_reconnects: Counter,
}

impl Metrics {
    pub(crate) fn count(family: &Family<Cause, Counter>, cause: &'static str) {
        family.get_or_create(&Cause { cause }).inc();
    }

    /// Connections turned away, for the status. A cause that is missing has not occurred.
    pub(crate) fn refusals(&self) -> BTreeMap<&'static str, u64> {
        let count = |cause| self.refused_connects.get(&Cause { cause }).map(|counter| (cause, counter.get()));
        REFUSALS.iter().copied().filter_map(count).collect()
    }

    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("mqtt");
        r.register("connections", "Open MQTT connections", self.connections.clone());
        r.register("connections_accepted", "TCP connections taken", self.accepted.clone());
        r.register("connects_refused", "Connections turned away, by cause", self.refused_connects.clone());
        r.register("handshakes", "Connections that have not said who they are yet", self.handshakes.clone());
        r.register("auth_failures", "Wrong or missing secrets", self.auth_failures.clone());
        let help = "Addresses that were refused new connections within the last minute";
        r.register("throttled_addresses", help, self.throttled_addresses.clone());
        r.register(
            "malformed",
            "Connections closed for a malformed packet, by cause",
            self.malformed.clone(),
        );
        r.register(
            "takeovers",
            "Connections closed because their client connected anew",
            self.takeovers.clone(),
        );
        r.register("timeouts", "Connections closed for silence or for not reading", self.timeouts.clone());
        r.register("publishes", "PUBLISH packets taken in", self.publishes.clone());
        r.register("readings", "Readings handed to the journal", self.readings.clone());
        r.register("duplicates", "Readings that were stored before and sent again", self.duplicates.clone());
        let help = "Readings without a stamp of their own in publishes marked as sent again";
        r.register("possible_duplicates", help, self.possible_duplicates.clone());
        r.register("unreadable", "Publishes whose payload cannot be read, by cause", self.unreadable.clone());
        r.register("unmapped", "Publishes to topics that carry no readings", self.unmapped.clone());
        r.register("denied", "Publishes and subscriptions without permission", self.denied.clone());
        r.register("subscribers", "Sessions with subscriptions", self.subscribers.clone());
        r.register("relayed", "Messages given to the router for local subscribers", self.relayed.clone());
        let help = "Messages not given to local subscribers because they are too slow or too many";
        r.register("relay_dropped", help, self.relay_dropped.clone());
        r.register("router_restarts", "Routers that died and were replaced", self.router_restarts.clone());
        r.register(
            "external_messages",
            "Messages taken from external brokers",
            self.external_messages.clone(),
        );
        r.register(
            "external_reconnects",
            "Connections to external brokers",
            self.external_reconnects.clone(),
        );
    }
}
