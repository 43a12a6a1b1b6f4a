use std::net::SocketAddr;

use serde::Deserialize;

/// `[http]`: health, metrics and status for this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub enabled: bool,
    pub bind: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self { enabled: true, bind: SocketAddr::from(([127, 0, 0, 1], 9110)) }
    }
}
