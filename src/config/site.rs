use serde::{Deserialize, Serialize};

/// `[site]`: where the gateway stands.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// A name of the IANA time zone database, such as `Europe/Berlin`. Readings are in UTC all the same: it is for what
    /// people ask by local day and hour. `None`: nobody said.
    pub timezone: Option<String>,
}
