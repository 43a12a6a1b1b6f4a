use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// `[http]`: health, metrics and status for this machine.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub enabled: bool,
    pub bind: SocketAddr,
    /// There is no password on this port: an address others can reach must be asked for twice.
    pub allow_remote: bool,
    /// Devices that get counters of their own on `/metrics`; each is several time series.
    pub device_metrics: usize,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            enabled: true,
            bind: SocketAddr::from(([127, 0, 0, 1], 9110)),
            allow_remote: false,
            device_metrics: 0,
        }
    }
}
