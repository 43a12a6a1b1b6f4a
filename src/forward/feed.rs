//! What a forwarder needs of the journal, in one place: so that its tests can bring faults.
//!
//! It is also the one place where device names turn into pseudonyms: what an uplink sends has come through here.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::BootId;
use crate::journal::{Bounds, ClockNote, CursorError, Journal, Page, ReadError, Seq, Tally, UplinkCursor};
use crate::privacy::Pseudonyms;
use crate::relayed::Lane;

use super::Member;

/// How much waits behind a cursor; for `status`.
pub(super) trait Backlog: Send + Sync {
    /// Readings not yet confirmed.
    fn queued(&self) -> u64;
    fn cursor(&self) -> Seq;
    /// Members of other gateways not yet confirmed; `None`: none are taken.
    fn members(&self) -> Option<usize> {
        None
    }
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
    /// Members of other gateways: told when there may be new ones.
    fn member_changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }
    /// Whether there are such that were not handed out.
    fn has_members(&self) -> bool {
        false
    }
    /// The next of them.
    fn next_member(&self) -> std::io::Result<Option<Member>> {
        Ok(None)
    }
    /// None of them is held any more.
    fn let_members_go(&self) {}
}

pub(super) struct JournalFeed {
    journal: Journal,
    cursor: UplinkCursor,
    pseudonyms: Option<Arc<Pseudonyms>>,
    members: Option<Lane>,
}

impl JournalFeed {
    pub(super) const fn new(
        journal: Journal,
        cursor: UplinkCursor,
        pseudonyms: Option<Arc<Pseudonyms>>,
        members: Option<Lane>,
    ) -> Self {
        Self { journal, cursor, pseudonyms, members }
    }

    /// A place among members that could not be written.
    fn unwritten(&self, source: std::io::Error) -> CursorError {
        CursorError::Write { path: format!("relayed/{}.place", self.cursor.name()).into(), source }
    }
}

impl Backlog for JournalFeed {
    fn queued(&self) -> u64 {
        self.journal.backlog(self.cursor.cursor())
    }
    fn cursor(&self) -> Seq {
        self.cursor.cursor()
    }
    fn members(&self) -> Option<usize> {
        self.members.as_ref().map(Lane::unconfirmed)
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
        match self.members.as_ref().filter(|_| Lane::owns(bounds)) {
            Some(members) => members.confirm(bounds).map_err(|source| self.unwritten(source)),
            None => self.cursor.confirm(bounds, tally),
        }
    }
    fn sync(&self) -> Result<(), CursorError> {
        if let Some(members) = &self.members {
            members.sync().map_err(|source| self.unwritten(source))?;
        }
        self.cursor.sync()
    }
    fn member_changes(&self) -> Option<watch::Receiver<u64>> {
        self.members.as_ref().map(Lane::changes)
    }
    fn has_members(&self) -> bool {
        self.members.as_ref().is_some_and(Lane::is_waiting)
    }
    fn next_member(&self) -> std::io::Result<Option<Member>> {
        self.members.as_ref().map_or(Ok(None), Lane::next)
    }
    fn let_members_go(&self) {
        if let Some(members) = &self.members {
            members.let_go();
        }
    }
}
