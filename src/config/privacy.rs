use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[privacy]`: what of a person leaves the gateway.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// Uplinks are told a keyed hash in place of a device's name; an uplink may say otherwise for itself.
    pub pseudonyms: bool,
    /// The key: 64 hexadecimal digits. Default: the systemd credential `fogbeat-pseudonym-key`.
    pub key_file: Option<PathBuf>,
}
