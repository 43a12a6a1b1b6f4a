//! The journal's vocabulary: numbers, tickets, proofs, and what a reader gets.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::BootId;
use crate::reading::Reading;
use crate::reading::summary::Summary;

/// A reading's number: generation x 2^32 + n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// The group a reading was put into; redeem it with [`super::Journal::durable`] or [`super::Journal::wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// Proof that everything behind a ticket is on disk. Only the journal makes it.
#[derive(Debug, Clone, Copy)]
pub struct Durable(pub(super) ());

/// What became of one appended reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub ticket: Ticket,
    /// The journal holds this very reading already; `ticket` is that of the stored copy.
    pub duplicate: bool,
}

/// Where a new uplink starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest reading that is kept.
    Oldest,
    /// With what comes from now on.
    Now,
}

/// What a reader got from one generation: entries in order, and where to go on.
#[derive(Debug, Clone)]
pub struct Page {
    /// The spool these numbers belong to: first part of every id.
    pub spool: Arc<str>,
    /// The boot whose monotonic time the stamps are.
    pub boot: BootId,
    pub entries: Vec<Entry>,
    /// Where the next read goes on; equals the `from` of the call when there is nothing new.
    pub next: Seq,
}

/// One thing in the journal's order.
#[derive(Debug, Clone)]
pub enum Entry {
    Reading {
        seq: Seq,
        device: Arc<str>,
        reading: Reading,
    },
    /// A generation ended: its numbers were 0 to `count` - 1.
    End {
        generation: u32,
        count: u32,
    },
    /// What stands for readings that were thinned. Positions are shared with readings: a generation has the one or the
    /// other.
    Summary {
        /// Its position: the generation and its place among the generation's summaries.
        at: Seq,
        device: Arc<str>,
        summary: Summary,
    },
    /// Numbers that will never be delivered.
    Gap {
        /// Its position: `first`, but behind the summaries in a generation that was thinned.
        at: Seq,
        first: Seq,
        last: Seq,
        cause: GapCause,
        /// How many of them each device gave; empty when that is not known.
        devices: DeviceCounts,
    },
}

/// Readings per device's name, sorted by name.
pub type DeviceCounts = Arc<[(Arc<str>, u64)]>;

/// Why numbers are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The storage lost or damaged them.
    Lost,
    /// Dropped at the quota.
    Evicted,
    /// Replaced by summaries at the quota.
    Thinned,
    /// Not for this uplink; or sealed with a key that is not at hand: kept, and perhaps exported one day.
    Withheld,
    /// Removed because a person asked for it.
    Erased,
}

/// The bounds of one batch: everything at or after `from` and before `to` in the journal's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    pub from: Seq,
    pub to: Seq,
    /// When the bounds were fixed, ms since the epoch: decides `dt` and `hour` of the delivery.
    pub fixed_ms: i64,
    /// Revision of the clock's anchors by which its times are told, whatever is known when it is sent again.
    #[serde(default)]
    pub clock: u32,
    /// `fixed_ms` is a guess: the clock was not synchronised.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guessed: bool,
}

/// Why stored readings cannot be had right now.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(
        "generation {generation} cannot be opened ({cause}); it stays where it is: run `fogbeat journal verify`"
    )]
    Open { generation: u32, cause: String },
    #[error("generation {generation} cannot be read ({cause}); run `fogbeat journal verify`")]
    Read { generation: u32, cause: String },
    /// Its reader waits: what can be kept is there in a moment.
    #[error(
        "generation {generation} is damaged and not salvaged yet: a running gateway does it by itself, without one run \
         `fogbeat journal salvage`"
    )]
    Damaged { generation: u32 },
}

/// Why an uplink's place could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    #[error("cannot write the cursor file {path}: {source}; check free space and permissions")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot read the cursor file {path}: {cause}; move it away to start at the oldest kept reading")]
    Read { path: PathBuf, cause: String },
    #[error("generation {generation} was replaced or dropped while a batch was being made of it")]
    Changed { generation: u32 },
    #[error("uplink name {0:?} is not usable: 1 to 64 of a-z, A-Z, 0-9, '-', '_', '.'")]
    Name(String),
}

/// What a device is called whose name is lost in every place: told apart from the others of its generation, and taken
/// for none of them.
pub(super) fn unnamed(generation: u32, device: u32) -> Arc<str> {
    format!("unnamed-{generation}-{device}").into()
}

// === impl Entry ===

impl Entry {
    /// Its position in the journal's order, and the position after it.
    pub fn span(&self) -> (Seq, Seq) {
        let after = |seq: Seq| Seq(seq.0.saturating_add(1));
        match self {
            Self::Reading { seq: at, .. } | Self::Summary { at, .. } => (*at, after(*at)),
            Self::Gap { at, first, last, .. } if at == first => (*at, after(*last)),
            Self::Gap { at, .. } => (*at, after(*at)),
            Self::End { generation, count } => {
                (Seq::new(*generation, *count), Seq::new(generation.saturating_add(1), 0))
            }
        }
    }
}

// === impl Seq ===

impl Seq {
    pub const fn new(generation: u32, n: u32) -> Self {
        Self(((generation as u64) << 32) | n as u64)
    }

    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub const fn n(self) -> u32 {
        self.0 as u32
    }

    /// The generation of the position before this one.
    pub(super) const fn last_generation(self) -> u32 {
        Self(self.0.saturating_sub(1)).generation()
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
