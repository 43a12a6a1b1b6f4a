//! List prices, measured sizes and the stack's defaults, from `config/aws/prices.toml`. USD; GB is 2^30 bytes.

use serde::Deserialize;

const FILE: &str = include_str!("../../config/aws/prices.toml");
/// Bytes.
pub const GB: f64 = 1_073_741_824.0;

/// Everything a bill is reckoned with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Year and month in which they were looked up.
    pub date: String,
    pub region: String,
    pub firehose: Firehose,
    pub iot: Iot,
    pub s3: S3,
    pub athena: Athena,
    pub measured: Measured,
    pub stack: Stack,
}

/// Amazon Data Firehose, Direct PUT.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firehose {
    pub per_gb: f64,
    /// Each record counts as the next multiple of so many bytes.
    pub rounded_up_to: u64,
    pub source: String,
    pub checked: String,
}

/// AWS IoT Core.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iot {
    pub per_million_messages: f64,
    pub per_million_rules: f64,
    pub per_million_actions: f64,
    /// Each message counts once per so many bytes, or part of them.
    pub rounded_up_to: u64,
    /// The largest message, bytes.
    pub most_bytes: u64,
    pub per_million_connection_minutes: f64,
    pub source: String,
    pub checked: String,
}

/// Amazon S3 Standard.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    pub per_gb_month: f64,
    pub per_thousand_puts: f64,
    pub source: String,
    pub checked: String,
}

/// Amazon Athena.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Athena {
    pub per_tb_scanned: f64,
    /// What the smallest query counts as, bytes.
    pub least_bytes: u64,
    pub source: String,
    pub checked: String,
}

/// Sizes of what fogbeat sends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Of a gzip member, whatever is in it.
    pub member_bytes: f64,
    /// Of one reading in it.
    pub reading_bytes: f64,
    /// Of one reading's JSON line.
    pub text_bytes: f64,
}

/// Defaults of the stack.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    pub buffer_seconds: f64,
    pub buffer_bytes: f64,
    pub retention_days: f64,
    pub view_days: f64,
}

impl Prices {
    /// The prices that this build knows.
    ///
    /// # Errors
    /// Never, in a build whose tests have passed.
    pub fn list() -> Result<Self, toml::de::Error> {
        toml::from_str(FILE)
    }
}

impl Firehose {
    /// What a record of so many bytes costs.
    #[must_use]
    pub fn record(&self, bytes: u64) -> f64 {
        let counted = bytes.div_ceil(self.rounded_up_to.max(1)) * self.rounded_up_to;
        counted as f64 / GB * self.per_gb
    }
}

impl Iot {
    /// How many a message of so many bytes counts as.
    #[must_use]
    pub fn units(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.rounded_up_to.max(1)).max(1)
    }
}

impl Athena {
    /// What a query over so many bytes costs.
    #[must_use]
    pub fn query(&self, bytes: f64) -> f64 {
        bytes.max(self.least_bytes as f64) / 1e12 * self.per_tb_scanned
    }
}

impl Measured {
    /// Bytes of a gzip member of so many readings.
    #[must_use]
    pub fn member(&self, readings: f64) -> f64 {
        self.member_bytes + readings * self.reading_bytes
    }
}
