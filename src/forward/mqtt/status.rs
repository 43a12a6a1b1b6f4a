//! What an MQTT uplink shows of its connection.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use super::Settings;
use super::relay::WireBytes;
use crate::forward::label::UplinkLabel;
use crate::forward::verdict::Verdict;

/// Counters of all MQTT uplinks.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    connected: Family<UplinkLabel, Gauge>,
    connections: Family<UplinkLabel, Counter>,
    expiry: Family<UplinkLabel, Gauge>,
    sent: Family<UplinkLabel, Counter>,
    received: Family<UplinkLabel, Counter>,
    slowed: Family<UplinkLabel, Counter>,
    live: Family<UplinkLabel, Counter>,
}

impl Metrics {
    /// Names get their prefix from the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("uplink_connected", "1 while the broker has accepted us", self.connected.clone());
        registry.register(
            "uplink_connections",
            "Connections that the broker accepted",
            self.connections.clone(),
        );
        registry.register(
            "uplink_certificate_expiry_timestamp_seconds",
            "When the gateway's own certificate ends, Unix time",
            self.expiry.clone(),
        );
        registry.register(
            "uplink_wire_sent_bytes",
            "Bytes written to the network, TLS included",
            self.sent.clone(),
        );
        registry.register("uplink_live_messages", "Live values sent", self.live.clone());
        registry.register(
            "uplink_wire_received_bytes",
            "Bytes read from the network, TLS included",
            self.received.clone(),
        );
        registry.register(
            "uplink_slowed",
            "Times the broker said that its quota is exceeded",
            self.slowed.clone(),
        );
    }
}

/// The connection in `fogbeat status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct LinkStatus {
    /// Host and port.
    pub endpoint: String,
    /// Client id: for AWS the thing's name.
    pub client_id: String,
    /// Where batches go; left out where there are none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic: String,
    pub connected: bool,
    /// Connections that the broker accepted in this run.
    pub connections: u64,
    /// The broker has said that its quota is exceeded, and is being spared.
    pub slowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// Live values sent in this run.
    pub live_messages: u64,
    pub wire_sent_bytes: u64,
    pub wire_received_bytes: u64,
    /// Why there is no connection. An uplink with batches tells it by what becomes of them.
    #[serde(skip)]
    pub(crate) trouble: Option<Verdict>,
    /// How often a connection did not come about, or ended.
    #[serde(skip)]
    pub(crate) lost: u64,
}

/// The gateway's own certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct CertificateStatus {
    /// RFC 3339.
    pub expires: String,
    pub days_left: i64,
    /// Why the files are not the certificate in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_one_refused: Option<String>,
}

/// The task's side: it alone writes.
pub(super) struct Board {
    status: watch::Sender<LinkStatus>,
    metrics: Metrics,
    label: UplinkLabel,
    pub(super) wire: WireBytes,
    /// What of `wire` is in the metrics already.
    counted: (u64, u64),
}

impl Board {
    pub(super) fn new(settings: &Settings, metrics: &Metrics) -> Self {
        let status = LinkStatus {
            endpoint: format!("{}:{}", settings.host, settings.port),
            client_id: settings.client_id.clone(),
            topic: settings.topic.clone(),
            ..LinkStatus::default()
        };
        let label = UplinkLabel { uplink: settings.name.clone() };
        metrics.connected.get_or_create(&label).set(0);
        Self {
            status: watch::Sender::new(status),
            metrics: metrics.clone(),
            label,
            wire: WireBytes::default(),
            counted: (0, 0),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<LinkStatus> {
        self.status.subscribe()
    }

    pub(super) fn connected(&self, connected: bool) {
        self.metrics.connected.get_or_create(&self.label).set(i64::from(connected));
        self.status.send_modify(|status| {
            status.connected = connected;
            status.connections += u64::from(connected);
            if connected {
                status.trouble = None;
            }
        });
        if connected {
            self.metrics.connections.get_or_create(&self.label).inc();
        }
    }

    /// A connection did not come about, or has ended.
    pub(super) fn lost(&self, verdict: &Verdict) {
        self.status.send_modify(|status| {
            status.trouble = Some(verdict.clone());
            status.lost += 1;
        });
    }

    pub(super) fn sent_live(&self) {
        self.metrics.live.get_or_create(&self.label).inc();
        self.status.send_modify(|status| status.live_messages += 1);
    }

    pub(super) fn complained(&self) {
        self.metrics.slowed.get_or_create(&self.label).inc();
    }

    pub(super) fn slowed(&self, slowed: bool) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.slowed, slowed) != slowed);
    }

    pub(super) fn certificate(&self, expires: Option<OffsetDateTime>, days_left: i64, refused: Option<&str>) {
        let certificate = expires.map(|expires| CertificateStatus {
            expires: expires.format(&Rfc3339).unwrap_or_default(),
            days_left,
            new_one_refused: refused.map(str::to_owned),
        });
        if let Some(expires) = expires {
            self.metrics.expiry.get_or_create(&self.label).set(expires.unix_timestamp());
        }
        self.status.send_if_modified(|status| {
            let changed = status.certificate != certificate;
            status.certificate.clone_from(&certificate);
            changed
        });
    }

    /// Takes over what has passed on the wire.
    pub(super) fn count_wire(&mut self) {
        let (sent, received) = (self.wire.sent(), self.wire.received());
        self.metrics.sent.get_or_create(&self.label).inc_by(sent - self.counted.0);
        self.metrics.received.get_or_create(&self.label).inc_by(received - self.counted.1);
        self.counted = (sent, received);
        self.status.send_modify(|status| {
            status.wire_sent_bytes = sent;
            status.wire_received_bytes = received;
        });
    }
}
