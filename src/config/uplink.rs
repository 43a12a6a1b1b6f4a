use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

/// How the lines of a batch are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Gzip,
    Zstd,
    /// Plain JSON lines.
    Json,
}

/// `[[uplink]]`: where batches go.
#[derive(Debug, Clone, Deserialize)]
pub struct Uplink {
    /// Unique; default: the kind.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub encoding: Encoding,
    /// `oldest` (default) or `now`.
    #[serde(default)]
    pub from: From,
    /// `false`: loses first at the quota.
    #[serde(default = "yes")]
    pub required: bool,
    #[serde(flatten)]
    pub kind: UplinkKind,
}

fn yes() -> bool {
    true
}

/// Where a new uplink starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    #[default]
    Oldest,
    Now,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum UplinkKind {
    Directory(Directory),
    Firehose(Firehose),
}

#[derive(Debug, Clone, Deserialize)]
pub struct Directory {
    /// Default: `lake` below the state directory.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Default: a quarter of the disk.
    #[serde(default)]
    pub max_bytes: Option<ByteSize>,
    #[serde(default = "thirty_days", with = "humantime_serde")]
    pub keep: Duration,
}

fn thirty_days() -> Duration {
    Duration::from_secs(30 * 86_400)
}

#[derive(Debug, Clone, Deserialize)]
pub struct Firehose {
    pub stream: String,
    #[serde(default)]
    pub region: Option<String>,
    /// For emulators.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// Longest wait for one answer.
    #[serde(default = "thirty_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}
