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
    /// ... or when its oldest reading is so old: delivered readings leave the journal with their generation.
    #[serde(with = "humantime_serde")]
    pub generation_age: Duration,
    /// Delivered generations are kept this long to recognise re-sent readings after a restart.
    #[serde(with = "humantime_serde")]
    pub dedupe_window: Duration,
    /// Most distinct devices per run.
    pub max_devices: usize,
    /// Most that the journal takes on its disk. Default: the smaller of 2 GiB and half of what is free at the first
    /// start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteSize>,
    pub when_full: WhenFull,
    /// Damaged generations are kept for a look within this many bytes.
    pub quarantine: ByteSize,
    /// Keys that the journal is encrypted with, the last one for what is new. `None`: the systemd credential
    /// `journal-key` if there is one, else no encryption.
    pub key_file: Option<PathBuf>,
}

/// What gives way when the quota is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The oldest undelivered readings.
    #[default]
    DropOldest,
    /// Their detail: the oldest become summaries; then the oldest summaries go.
    Thin,
    /// New readings: they are not taken, and stay with who sends them.
    RefuseNew,
}

/// A quota holds at least so many generations: the head, two with a batch under way, one that may go, and the room to
/// work in.
pub const LEAST_GENERATIONS: u64 = 6;
/// Least quota, bytes.
pub const LEAST_QUOTA: u64 = 16 << 20;

impl Default for Journal {
    fn default() -> Self {
        Self {
            commit_interval: Duration::from_secs(1),
            generation_size: ByteSize::mib(16),
            generation_age: Duration::from_secs(86_400),
            dedupe_window: Duration::from_secs(600),
            max_devices: 10_000,
            quota: None,
            when_full: WhenFull::default(),
            quarantine: ByteSize::mib(64),
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
