use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[gateway]`: who this gateway is and where it keeps its state.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Made once and kept in the state directory when it is not given.
    pub id: Option<String>,
    pub site: Option<String>,
    pub state_dir: PathBuf,
    /// How long a stop may go on delivering.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            id: None,
            site: None,
            state_dir: PathBuf::from("/var/lib/fogbeat"),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
