//! The mapping table (contract stub).
use serde::Deserialize;

/// One `[[mqtt.mapping]]`.
#[derive(Debug, Clone, Deserialize)]
pub struct MappingConfig {
    pub topic: String,
}
