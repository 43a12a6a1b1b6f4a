use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// `[journal]`: the durable buffer.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Budget of mean wear: one commit per interval, bursts allowed. 0: commit as soon as the previous one is done.
    #[serde(with = "humantime_serde")]
    pub commit_interval: Duration,
    /// A generation is sealed at about this size on disk.
    pub generation_size: ByteSize,
    /// Delivered generations are kept this long to recognise re-sent readings after a restart.
    #[serde(with = "humantime_serde")]
    pub dedupe_window: Duration,
    /// Most distinct devices per run.
    pub max_devices: usize,
    /// Keys that the journal is encrypted with, the last one for what is new. `None`: the systemd credential
    /// `journal-key` if there is one, else no encryption.
    pub key_file: Option<PathBuf>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            commit_interval: Duration::from_secs(1),
            generation_size: ByteSize::mib(16),
            dedupe_window: Duration::from_secs(600),
            max_devices: 10_000,
            key_file: None,
        }
    }
}

/// `[batch]`: when a batch is closed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Size of a batch's JSON lines before compression.
    pub max_bytes: ByteSize,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(60), max_bytes: ByteSize::mib(2) }
    }
}
