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
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    pub trust: Trust,
}
