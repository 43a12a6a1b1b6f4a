use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When the wall clock counts as synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// As the operating system reports it.
    #[default]
    Auto,
    /// The host keeps its clock by means fogbeat cannot see (a hypervisor, PTP, a GPS receiver).
    Always,
    Never,
}

/// `[clock]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    pub trust: Trust,
    /// For so long after the boot readings wait for the clock to be synchronised, before they leave with a guess.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// A wearable's own stamp is believed when it is at most this old at arrival,
    #[serde(with = "humantime_serde")]
    pub device_past: Duration,
    /// and at most this far ahead.
    #[serde(with = "humantime_serde")]
    pub device_future: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            trust: Trust::Auto,
            patience: Duration::from_secs(600),
            device_past: Duration::from_secs(31 * 86_400),
            device_future: Duration::from_secs(300),
        }
    }
}
