//! The durable buffer: sled, fenced in.
//!
//! # What it promises
//! - A reading whose group has a [`Durable`] is on the device: it survives `kill -9` and a power cut, and is read back
//!   with the values it came with.
//! - A reading has one number for ever ([`Seq`], generation x 2^32 + n), no number has two readings, and every number
//!   that is missing is told: by an [`Entry::End`] after each generation, by an [`Entry::Gap`] within.
//! - A stamped reading that is appended again is stored once; the second copy's ticket is the first one's.
//! - Memory does not grow with the backlog: readers see pages, at most three databases are open, the open group is
//!   bounded and makes its sources wait.
//! - A damaged generation is moved to `quarantine/` and salvaged value by value ([`salvage`]); the gateway goes on
//!   meanwhile, and the numbers that are gone are told as lost, each of them.
//! - With a key, everything that is stored is encrypted ([`keys`]). Readings whose key is missing stop nothing: they are
//!   told as withheld, and kept until the quota takes them.
//!
//! # What it does not
//! - It does not know the network, and it drops nothing but at its [`quota`], as configured and told by gaps: a disk that
//!   others fill stops acknowledgements.
//! - It does not recognise a re-sent reading that carries no stamp of its device.
//!
//! # How
//! [`Journal::append`] puts readings into the open group ([`intake`]). The [`Driver`] closes the group when the
//! [`policy`] says so; the [`commit`] thread writes it as columnar [`block`]s into the head [`generation`], flushes, and
//! syncs with its own `fdatasync`, because sled's `flush()` does not, and proves that the sync counted. The [`spool`] holds all generations: a head is
//! sealed at about 16 MB, read by the uplinks, and deleted whole when every [`cursor`] has passed it. Numbers are given
//! at commit, sorted by device within a group. Each start opens a new generation; none is ever reopened for writing.

mod accounts;
pub mod block;
mod boots;
mod commit;
mod cursor;
mod debts;
mod devices;
mod disk;
mod driver;
mod erase;
mod fence;
mod generation;
mod identity;
mod intake;
mod keys;
mod live;
mod manifest;
mod mark;
mod metrics;
mod names;
mod open;
mod policy;
mod proof;
mod quota;
mod roll;
pub mod salvage;
mod spool;
mod status;
mod tally;
mod thin;
mod told;
mod types;
mod upkeep;
mod varint;
mod window;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};

pub use accounts::{Account, Accounts, Refusal};
pub use block::{BlockError, Encoder, Place};
pub use cursor::UplinkCursor;
pub use debts::ClockNote;
pub use devices::Devices;
pub use disk::{Disk, RealDisk, disk_usage};
pub use driver::Driver;
pub use erase::{EraseError, Erased};
pub use keys::{KeyError, KeyId, KeySource, Keys, Sealer, add_key};
pub use live::Live;
pub use manifest::Missing;
pub use manifest::State as GenerationState;
pub use metrics::{CommitState, Metrics};
pub use proof::{Facts, Given, Proof, Readable, unexplained};
pub use quota::{Admission, QuotaStatus, Trouble};
pub use salvage::Program;
pub use spool::{
    Encryption, GenerationStatus, OpenError, Recovered, Repaired, SalvageError, ThinnedGeneration, Thinning,
    Verified,
};
pub use status::{DamageStatus, JournalStatus};
pub use tally::{Began, Tally, UplinkAccount};
pub use thin::{Level as ThinLevel, ThinError};
pub use told::DurableWatch;
pub use types::{
    Appended, Bounds, CursorError, DeviceCounts, Durable, Entry, GapCause, Page, ReadError, Seq, StartAt,
    Ticket,
};

use crate::clock::Clock;
use crate::reading::{DeviceId, Reading};
use intake::Intake;
use quota::Keeper;
use spool::Spool;

/// A handle on the journal; clones share it.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    intake: Intake,
    devices: Devices,
    spool: Arc<Spool>,
    cursors: cursor::Cursors,
    keeper: Keeper,
    metrics: Arc<Metrics>,
    /// Newest durable ticket, as the committer knows it.
    durable: AtomicU64,
    /// The committer has carried out an order.
    committed: Notify,
    /// The same for everybody who waits, told once per commit from inside the runtime.
    told: told::Told,
    watermark: watch::Sender<Seq>,
    close: watch::Sender<bool>,
    rolls: roll::Rolls,
    dedupe_window: Duration,
    /// Bytes that the quarantine may take.
    quarantine: u64,
    /// Something waits to be salvaged.
    repair: Notify,
    /// What is started as the child that salvages.
    program: OnceLock<Program>,
    /// Newest readings, once somebody wants to show them.
    live: OnceLock<Arc<Live>>,
    /// Devices that go by another name; empty nearly always.
    aliases: RwLock<HashMap<DeviceId, DeviceId>>,
    has_aliases: AtomicBool,
}

impl Journal {
    /// From now on what a device sends is stored under its new name. Replaces what was set before.
    pub fn set_aliases<'a>(&self, aliases: impl Iterator<Item = (&'a str, &'a str)>) {
        let devices = &self.inner.devices;
        // One beyond the limit of devices keeps its name.
        let known = aliases.filter_map(|(old, new)| Some((devices.intern(old)?, devices.intern(new)?)));
        let known: HashMap<DeviceId, DeviceId> = known.collect();
        let any = !known.is_empty();
        *self.inner.aliases.write().unwrap_or_else(PoisonError::into_inner) = known;
        self.inner.has_aliases.store(any, Ordering::Release);
    }

    /// The newest reading of each device, from now on.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(self.inner.live.get_or_init(Arc::default))
    }

    pub fn devices(&self) -> &Devices {
        &self.inner.devices
    }

    /// Puts readings into the open group; one [`Appended`] per reading is pushed to `out`, in order.
    /// Waits only while the open group is full (the disk cannot keep up): that is the back-pressure.
    pub async fn append(&self, readings: &mut Vec<Reading>, out: &mut Vec<Appended>) {
        let before = out.len();
        if self.inner.has_aliases.load(Ordering::Acquire) {
            let aliases = self.inner.aliases.read().unwrap_or_else(PoisonError::into_inner);
            for reading in &mut *readings {
                reading.device = aliases.get(&reading.device).copied().unwrap_or(reading.device);
            }
        }
        if let Some(live) = self.inner.live.get() {
            live.note(readings);
        }
        self.inner.intake.append(readings, out).await;
        let duplicates = out.iter().skip(before).filter(|appended| appended.duplicate).count();
        if duplicates > 0 {
            self.inner.metrics.duplicates.inc_by(duplicates as u64);
        }
    }

    /// Would [`Journal::append`] wait now, because the disk does not keep up?
    pub fn full(&self) -> bool {
        self.inner.intake.full()
    }

    /// The proof, if the ticket's group is on disk.
    pub fn durable(&self, ticket: Ticket) -> Option<Durable> {
        (ticket.0 <= self.inner.durable.load(Ordering::Acquire)).then_some(Durable(()))
    }

    /// Waits for the proof.
    pub async fn wait(&self, ticket: Ticket) -> Durable {
        let mut told = self.inner.told.watch();
        loop {
            told.mark_seen();
            if let Some(proof) = self.durable(ticket) {
                return proof;
            }
            told.changed(Some(ticket)).await;
        }
    }

    /// Hears of groups that become durable, once per commit.
    pub fn watch_durable(&self) -> DurableWatch {
        self.inner.told.watch()
    }

    /// Says that a publisher stands still with unacknowledged readings in the ticket's group; `proven` when it answered
    /// its last acknowledgements with new readings at once (see [`policy`]).
    pub fn publisher_waits(&self, ticket: Ticket, proven: bool) {
        self.inner.intake.publisher_waits(ticket, proven);
    }

    /// First number not yet durable; readers stop there. Changes once per commit.
    pub fn watch_watermark(&self) -> watch::Receiver<Seq> {
        self.inner.watermark.subscribe()
    }

    /// Reads on from `from`, one generation's entries, at most about `max` readings, for an uplink: what it is told to be
    /// withheld is kept. Blocking (sled): call it off the runtime's workers.
    ///
    /// # Errors
    /// When a generation cannot be opened or read just now; ask again later.
    pub fn read(&self, from: Seq, max: usize) -> Result<Page, ReadError> {
        let page = self.peek(from, max)?;
        for entry in &page.entries {
            if let Entry::Gap { first, cause: GapCause::Withheld, .. } = entry {
                let generation = first.generation();
                self.inner
                    .spool
                    .keep_withheld(generation)
                    .map_err(|error| ReadError::Read { generation, cause: error.to_string() })?;
            }
        }
        Ok(page)
    }

    /// As [`Journal::read`], for somebody who only looks.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn peek(&self, from: Seq, max: usize) -> Result<Page, ReadError> {
        let watermark = *self.inner.watermark.borrow();
        let names = |device| self.inner.devices.name(crate::reading::DeviceId(device));
        let read = self.inner.spool.read(from, watermark, max, &names);
        if let Err(ReadError::Damaged { .. }) = &read {
            self.inner.repair.notify_one();
            // It may be the head, which only the driver can end.
            self.inner.intake.changed.notify_one();
        }
        read
    }

    /// As [`Journal::read`], for the uplink that is to be given what is read: from the moment it has taken something of a
    /// generation until its cursor is past it, that generation is not thinned.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn read_for(&self, uplink: &UplinkCursor, from: Seq, max: usize) -> Result<Page, ReadError> {
        loop {
            let page = self.read(from, max)?;
            let Some(first) = page.entries.first() else { return Ok(page) };
            let generation = first.span().0.generation();
            if generation <= uplink.reached() {
                return Ok(page);
            }
            // Read once more: between the two the generation may have been replaced. Now it cannot be any more.
            uplink.reach(generation);
        }
    }

    /// Readings at or after `cursor` that are durable.
    pub fn backlog(&self, cursor: Seq) -> u64 {
        self.inner.spool.backlog(cursor, *self.inner.watermark.borrow())
    }

    /// The named uplink's cursor; made at the oldest kept reading or at the newest if it is new.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn uplink(&self, name: &str, start: StartAt) -> Result<UplinkCursor, CursorError> {
        let watermark = *self.inner.watermark.borrow();
        let cursor = self.inner.cursors.get(name, || match start {
            StartAt::Oldest => self.inner.spool.oldest().unwrap_or(watermark),
            StartAt::Now => watermark,
        })?;
        self.begin_account(&cursor);
        Ok(cursor)
    }

    fn begin_account(&self, cursor: &UplinkCursor) {
        let watermark = *self.inner.watermark.borrow();
        if cursor.cursor() < watermark {
            cursor.owe_clocks(&self.clock().anchors().guessed());
        }
        cursor.begin_account(|cursor| self.inner.spool.around(cursor, watermark));
    }

    /// Counts what a source did not take.
    pub fn refuse(&self, refusals: &[Refusal]) {
        if !refusals.is_empty() {
            self.inner.intake.refuse(refusals);
        }
    }

    /// Every uplink that holds a place, whether it is configured or not.
    pub fn uplinks(&self) -> Vec<UplinkCursor> {
        self.inner.cursors.list()
    }

    /// Drops an uplink's place; `false` when there is none of that name.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn forget_uplink(&self, name: &str) -> Result<bool, CursorError> {
        self.inner.cursors.forget(name)
    }

    /// `<spool>` of the ids given from now on.
    pub fn spool(&self) -> &str {
        self.inner.spool.name()
    }

    /// The clock that readings of this run are stamped by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.inner.spool.clock()
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Closes the open group at the next look, whatever the budget says: somebody stops and waits for it.
    pub fn hurry(&self) {
        self.inner.intake.hurry();
    }

    /// Commits what is in the open group and ends the generation, so that its `end` can be delivered. Call it when no
    /// source is running any more; returns when it is done.
    pub async fn close(&self) {
        self.inner.close.send_replace(true);
        self.inner.intake.hurry();
        self.inner.close.closed().await;
    }

    /// Whether readings are taken, and what is in the way.
    pub fn admission(&self) -> watch::Receiver<Admission> {
        self.inner.keeper.admission()
    }

    /// Waits while readings are refused.
    pub async fn admitted(&self) {
        // An error means that the journal is gone, and with it whoever asks.
        let _ = self.admission().wait_for(|admission| !admission.is_refused()).await;
    }

    /// Returns once readings are refused.
    pub async fn refused(&self) {
        if self.admission().wait_for(|admission| admission.is_refused()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
