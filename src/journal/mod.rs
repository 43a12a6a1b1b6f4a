//! The durable buffer (contract stub; the implementation replaces the bodies).

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::BootId;
use crate::reading::{DeviceId, Reading};

/// A reading's number: generation x 2^32 + n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Seq(pub u64);

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
}

/// The group a reading was put into; redeem it with [`Journal::durable`] or [`Journal::wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

/// Proof that everything behind a ticket is on disk. Only the journal makes it.
#[derive(Debug, Clone, Copy)]
pub struct Durable(());

/// What became of one appended reading.
#[derive(Debug, Clone, Copy)]
pub struct Appended {
    pub ticket: Ticket,
    /// The journal holds this very reading already; `ticket` is that of the stored copy.
    pub duplicate: bool,
}

/// Device names and their run-local numbers.
pub struct Devices;

impl Devices {
    /// The number of `name`, given now if it is new. `None`: the limit on distinct devices is reached.
    pub fn intern(&self, _name: &str) -> Option<DeviceId> {
        unimplemented!()
    }
    pub fn name(&self, _id: DeviceId) -> Option<Arc<str>> {
        unimplemented!()
    }
}

/// A handle on the journal; clones share it.
#[derive(Clone)]
pub struct Journal;

impl Journal {
    pub fn devices(&self) -> &Devices {
        unimplemented!()
    }
    /// Puts readings into the open group; one [`Appended`] per reading is pushed to `out`, in order.
    /// Waits only while the open group is full (the disk cannot keep up): that is the back-pressure.
    pub async fn append(&self, _readings: &mut Vec<Reading>, _out: &mut Vec<Appended>) {
        unimplemented!()
    }
    /// The proof, if the ticket's group is on disk.
    pub fn durable(&self, _ticket: Ticket) -> Option<Durable> {
        unimplemented!()
    }
    pub async fn wait(&self, _ticket: Ticket) -> Durable {
        unimplemented!()
    }
    /// The newest durable ticket; changes once per commit.
    pub fn watch_durable(&self) -> watch::Receiver<Ticket> {
        unimplemented!()
    }
    /// Says that a publisher on some connection waits for its acknowledgements (see the commit policy).
    pub fn publisher_waits(&self, _ticket: Ticket) {
        unimplemented!()
    }
    /// First number not yet durable; readers stop there. Changes once per commit.
    pub fn watch_watermark(&self) -> watch::Receiver<Seq> {
        unimplemented!()
    }
    /// Reads on from `from`, at most about `max` readings. Blocking (sled): call it off the runtime.
    pub fn read(&self, _from: Seq, _max: usize) -> Result<Page, ReadError> {
        unimplemented!()
    }
    /// The named uplink's cursor, made at the oldest kept reading (or at the watermark) if it is new.
    pub fn uplink(&self, _name: &str, _start: StartAt) -> Result<UplinkCursor, CursorError> {
        unimplemented!()
    }
    /// Readings from `from` up to the watermark.
    pub fn backlog(&self, _from: Seq) -> u64 {
        unimplemented!()
    }
    /// `<spool>` of every id.
    pub fn spool(&self) -> &str {
        unimplemented!()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    Oldest,
    Now,
}

/// What a reader got: entries in order, and where to go on.
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
    /// A generation ended with `count` readings, numbers 0 to count - 1.
    End {
        generation: u32,
        count: u32,
    },
    /// Numbers that will never be delivered.
    Gap {
        first: Seq,
        last: Seq,
        cause: GapCause,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    Lost,
    Evicted,
    Thinned,
    Withheld,
}

/// The bounds of one batch: readings `from <= seq < to` (and what lies between them in the journal's order).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bounds {
    pub from: Seq,
    pub to: Seq,
    /// When the bounds were fixed, ms since the epoch: decides `dt` and `hour` of the delivery.
    pub fixed_ms: i64,
}

/// An uplink's place in the journal, kept in a small file of its own.
pub struct UplinkCursor;

impl UplinkCursor {
    /// First number this uplink has not confirmed.
    pub fn cursor(&self) -> Seq {
        unimplemented!()
    }
    /// Batches that were begun and not confirmed, oldest first (after a restart they are sent again, unchanged).
    pub fn open(&self) -> Vec<Bounds> {
        unimplemented!()
    }
    /// Fixes a batch's bounds, on disk before it returns. Blocking.
    pub fn begin(&self, _bounds: Bounds) -> Result<(), CursorError> {
        unimplemented!()
    }
    /// The uplink has confirmed the batch. Written at most every 5 s, or with the next `begin`. Blocking.
    pub fn confirm(&self, _bounds: Bounds) -> Result<(), CursorError> {
        unimplemented!()
    }
    /// Writes what is not yet on disk. Blocking.
    pub fn sync(&self) -> Result<(), CursorError> {
        unimplemented!()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("generation {0} cannot be read: {1}")]
    Generation(u32, String),
}

#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    #[error("cannot write the cursor file {path}: {source}")]
    Write { path: std::path::PathBuf, source: std::io::Error },
}
