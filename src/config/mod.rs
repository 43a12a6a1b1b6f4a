//! Typed settings. Each section is a file of its own; loading and validation live here.

mod gateway;
mod http;
mod journal;
mod mqtt;
mod replay;
mod uplink;

pub use gateway::Gateway;
pub use http::Http;
pub use journal::{Batch, Journal};
pub use mqtt::{External, Limits, Listener, Mqtt, Tls};
pub use replay::Replay;
pub use uplink::{Directory, Encoding, Firehose, From, Uplink, UplinkKind};

use serde::Deserialize;

/// The whole configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub gateway: Gateway,
    pub mqtt: Mqtt,
    pub journal: Journal,
    pub batch: Batch,
    pub http: Http,
    pub replay: Vec<Replay>,
    /// Empty: one `directory` uplink below the state directory.
    #[serde(rename = "uplink")]
    pub uplinks: Vec<Uplink>,
}
