use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// `[mqtt]`
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    pub listener: Listener,
    /// Names of presets from `config/mappings/` that are switched on.
    pub mappings: Vec<String>,
    /// The operator's own mappings, tried before the presets: `[[mqtt.mapping]]`.
    #[serde(rename = "mapping")]
    pub custom: Vec<super::mapping::MappingConfig>,
    /// Further brokers to collect from: `[[mqtt.external]]`.
    #[serde(rename = "external")]
    pub externals: Vec<External>,
}

/// `[mqtt.listener]`: the broker that fogbeat carries itself.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listener {
    pub enabled: bool,
    pub bind: SocketAddr,
    /// Only allowed on a loopback address.
    pub anonymous: bool,
    /// Present: batches of other fogbeats are taken, and at most so much of them is kept until every uplink has them.
    pub members: Option<ByteSize>,
    /// The ports that others can reach are announced on the local network (mDNS).
    pub mdns: bool,
    pub tls: Option<Tls>,
    pub limits: Limits,
}

impl Listener {
    /// The ports that others than this machine can reach, and whether they are encrypted.
    pub fn reachable(&self) -> impl Iterator<Item = (SocketAddr, bool)> {
        let ports = [Some((self.bind, false)), self.tls.as_ref().map(|tls| (tls.bind, true))];
        ports.into_iter().flatten().filter(move |(bind, _)| self.enabled && !bind.ip().is_loopback())
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            enabled: true,
            bind: SocketAddr::from(([127, 0, 0, 1], 1883)),
            anonymous: false,
            members: None,
            mdns: false,
            tls: None,
            limits: Limits::default(),
        }
    }
}

/// `[mqtt.listener.tls]`: present = a second, encrypted port.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub bind: SocketAddr,
    /// PEM files. Both left out: a certificate that fogbeat makes with a CA of the site's own, and renews
    /// ([`own_certificate`]).
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// CA of client certificates; with `require_client_certificate` a client without one is turned away.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    #[serde(default)]
    pub require_client_certificate: bool,
}

/// Where fogbeat keeps the certificate that it makes, and its key, in one file.
pub fn own_certificate(state_dir: &Path) -> PathBuf {
    state_dir.join("tls/server.pem")
}

impl Tls {
    pub(super) fn complete(&mut self, state_dir: &Path) {
        let (certificate, key) = self.pair(state_dir);
        (self.certificate, self.key) = (Some(certificate), Some(key));
    }

    /// Certificate and key.
    pub fn pair(&self, state_dir: &Path) -> (PathBuf, PathBuf) {
        let own = || own_certificate(state_dir);
        (self.certificate.clone().unwrap_or_else(own), self.key.clone().unwrap_or_else(own))
    }

    /// Whether there ought to be a certificate by now: the first start makes its own.
    pub fn is_given(&self, state_dir: &Path) -> bool {
        !self.is_own(state_dir) || own_certificate(state_dir).exists()
    }

    /// Whether the certificate is the one that fogbeat makes and renews.
    pub fn is_own(&self, state_dir: &Path) -> bool {
        self.pair(state_dir).0 == own_certificate(state_dir)
    }
}

/// `[mqtt.listener.limits]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub connections: usize,
    /// Of these, from one address (IPv6: one /64). Default: half of them.
    pub connections_per_address: Option<usize>,
    /// New connections a second from one address; bursts up to its share of connections.
    pub new_per_second: u32,
    /// Reconnects a minute of one client id from one address; bursts up to as many.
    pub reconnects_per_minute: u32,
    /// Wrong secrets a minute from one address that are answered; bursts up to as many.
    pub auth_failures_per_minute: u32,
    /// Connections between TCP accept and CONNECT.
    pub handshakes: usize,
    pub packet_size: ByteSize,
    /// Unacknowledged publishes per connection (MQTT 5 Receive Maximum).
    pub in_flight: u16,
    /// TCP accept to CONNECT, TLS included.
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// Distinct topics the router may hold, and subscriptions per connection.
    pub topics: usize,
    pub subscriptions: usize,
    /// Sessions with subscriptions, and distinct filters they may have together.
    pub subscribers: usize,
    pub filters: usize,
}

impl Limits {
    /// Most connections from one address.
    pub fn share(&self) -> usize {
        self.connections_per_address.unwrap_or(self.connections.div_ceil(2))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_address: None,
            new_per_second: 100,
            reconnects_per_minute: 60,
            auth_failures_per_minute: 20,
            handshakes: 96,
            packet_size: ByteSize::kib(256),
            in_flight: 1000,
            handshake: Duration::from_secs(10),
            topics: 10_000,
            subscriptions: 100,
            subscribers: 80,
            filters: 32,
        }
    }
}

/// `[[mqtt.external]]`: a broker somebody else runs (e.g. Mosquitto).
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    pub name: String,
    /// `mqtt://host:port` or `mqtts://host:port`.
    pub url: String,
    pub topics: Vec<String>,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    #[serde(default)]
    pub ca: Option<PathBuf>,
}
