//! The flight recorder: what happened on this gateway, kept over crashes and power cuts, for whoever has to find out why.
//!
//! One file of fixed size, `flight.ring` in the state directory: 1 MiB (2,048 slots of 512 bytes), written full of zeros
//! when it is made, so that from then on it grows no more and can be written on a full disk. It stands beside the
//! journal's quota, as the audit log and the control socket do.
//!
//! | slots | what | fills in |
//! |---|---|---|
//! | 0-255 | the gateway's life: starts and stops with version, configuration and reason, phases, the watchdog, panics | months |
//! | 256-1,535 | warnings and errors of the log, and what it says of uplinks, clock, journal, disk and Bluetooth | days to months |
//! | 1,536-2,047 | figures every five minutes: memory, descriptors, backlog, disk | 42 hours |
//!
//! Each of the three is a ring of its own, so that no flood of warnings pushes out the last starts. A slot:
//!
//! ```text
//! 0   u32 LE   crc32c of bytes 4 to 15 and of the payload
//! 4   u64 LE   number of the record; counts over all three rings, and from one start to the next
//! 12  u16 LE   length of the payload, at most 496
//! 14  u8       ring: 0 life, 1 events, 2 figures
//! 15  u8       version of this format: 1
//! 16  ..       JSON (see [`Entry`]); behind it zeros
//! ```
//!
//! A slot whose sum does not fit (torn by a power cut, a flipped bit) is passed over, alone. Nothing about the ring ever
//! stops a start or a reading: events go through a channel of 256 places to a thread of their own and are dropped and
//! counted (`dropped` of the next record) when it is full; the same line of source is recorded at most ten times a minute
//! (`again`: how often it was left out). What was written survives a crash of the process at once, and a power cut once it
//! is synced: starts, stops and errors within 5 s, everything else within 30 s, with nothing to sync when nothing
//! happens. That is at most one fdatasync in 5 s, and some 300 a day on a quiet gateway.
//!
//! What is recorded is what [`crate::telemetry`] is told at `info` and above by fogbeat, at `warn` and above by others,
//! and marks that are made for it alone (targets below `flight`, which the log does not show; at `info`, so that what is
//! below it costs the way of a reading no more than before: one look at a level). All of it is redacted before it is written ([`crate::redact`]): no reading, no name, no address.

mod layer;
mod recorder;
mod ring;
mod slot;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use layer::filter;
pub use recorder::{FlightLayer, Recorded, Recorder, channel};
pub use ring::{Flight, SIZE, read};

/// Name of the file in the state directory.
pub const FILE: &str = "flight.ring";
/// Target of `tracing` events that are recorded among the gateway's life, and not logged. Any other target below
/// `flight` is recorded among the events, so that no module has to know this one.
pub const LIFE: &str = "flight::life";
/// The same among the figures.
pub const FIGURES: &str = "flight::figures";

/// Which ring a record goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Life,
    Events,
    Figures,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::Life, Self::Events, Self::Figures];
}

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The system clock as it stood, ms since the Unix epoch; right or not.
    pub time_ms: i64,
    /// Since boot, suspend included.
    pub uptime_ms: u64,
    /// The first 8 digits of the boot id.
    pub boot: String,
    pub level: String,
    /// The module that spoke.
    pub from: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
    /// How often the same was not recorded since the last time it was.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub again: u64,
    /// Events of any kind that were dropped before this one, because the recorder did not keep up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
