//! What a forwarder needs of the journal, in one place: so that its tests can bring faults.
//!
//! It is also the one place where device names turn into pseudonyms: what an uplink sends has come through here.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::BootId;
use crate::journal::{Bounds, ClockNote, CursorError, Journal, Page, ReadError, Seq, Tally, UplinkCursor};
use crate::privacy::Pseudonyms;

/// How much waits behind a cursor; for `status`.
pub(super) trait Backlog: Send + Sync {
    /// Readings not yet confirmed.
    fn queued(&self) -> u64;
    fn cursor(&self) -> Seq;
}

/// The journal as one uplink sees it. All methods but `watermark` may block.
pub(super) trait Feed: Backlog + 'static {
    fn watermark(&self) -> watch::Receiver<Seq>;
    fn read(&self, from: Seq, max: usize) -> Result<Page, ReadError>;
    fn open(&self) -> Vec<Bounds>;
    /// A new batch is going to be read.
    fn renew(&self) {}
    fn begin(&self, bounds: Bounds, note: &ClockNote) -> Result<(), CursorError>;
    /// Boots whose `clock` line is owed and in no batch yet.
    fn clocks_owed(&self) -> Vec<BootId>;
    /// Boots whose `clock` line an open batch carries.
    fn clocks_carried(&self, bounds: Bounds) -> Vec<BootId>;
    /// `tally` is what became of the batch's numbers.
    fn confirm(&self, bounds: Bounds, tally: Tally) -> Result<(), CursorError>;
    fn sync(&self) -> Result<(), CursorError>;
}

pub(super) struct JournalFeed {
    journal: Journal,
    cursor: UplinkCursor,
    pseudonyms: Option<Arc<Pseudonyms>>,
}

impl JournalFeed {
    pub(super) const fn new(
        journal: Journal,
        cursor: UplinkCursor,
        pseudonyms: Option<Arc<Pseudonyms>>,
    ) -> Self {
        Self { journal, cursor, pseudonyms }
    }
}

impl Backlog for JournalFeed {
    fn queued(&self) -> u64 {
        self.journal.backlog(self.cursor.cursor())
    }
    fn cursor(&self) -> Seq {
        self.cursor.cursor()
    }
}

impl Feed for JournalFeed {
    fn watermark(&self) -> watch::Receiver<Seq> {
        self.journal.watch_watermark()
    }
    fn read(&self, from: Seq, max: usize) -> Result<Page, ReadError> {
        let mut page = self.journal.read_for(&self.cursor, from, max)?;
        if let Some(pseudonyms) = &self.pseudonyms {
            pseudonyms.conceal(&mut page);
        }
        Ok(page)
    }
    fn open(&self) -> Vec<Bounds> {
        self.cursor.open()
    }
    fn renew(&self) {
        self.cursor.renew();
    }
    fn begin(&self, bounds: Bounds, note: &ClockNote) -> Result<(), CursorError> {
        self.cursor.begin_noting(bounds, note)
    }
    fn clocks_owed(&self) -> Vec<BootId> {
        self.cursor.clocks_owed()
    }
    fn clocks_carried(&self, bounds: Bounds) -> Vec<BootId> {
        self.cursor.clocks_carried(bounds)
    }
    fn confirm(&self, bounds: Bounds, tally: Tally) -> Result<(), CursorError> {
        self.cursor.confirm(bounds, tally)
    }
    fn sync(&self) -> Result<(), CursorError> {
        self.cursor.sync()
    }
}
