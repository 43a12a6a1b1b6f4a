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
//! syncs with its own `fdatasync`, because sled's `flush()` does not. The [`spool`] holds all generations: a head is
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
mod offline;
mod policy;
mod proof;
mod quota;
mod roll;
pub mod salvage;
mod spool;
mod tally;
mod thin;
mod told;
mod types;
mod varint;
mod window;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

pub use accounts::{Account, Accounts, Refusal};
pub use block::{BlockError, Encoder, Place};
pub use cursor::UplinkCursor;
pub use debts::ClockNote;
pub use devices::Devices;
pub use disk::{Disk, RealDisk, disk_usage};
pub use erase::{EraseError, Erased};
pub use keys::{KeyError, KeyId, KeySource, Keys, Sealer, add_key};
pub use live::Live;
pub use manifest::Missing;
pub use manifest::State as GenerationState;
pub use metrics::{CommitState, Metrics};
pub use offline::look as offline;
pub use proof::{Facts, Given, Proof, Readable, unexplained};
pub use quota::{Admission, QuotaStatus, Trouble};
pub use salvage::Program;
pub use spool::{
    Encryption, GenerationStatus, OpenError, Recovered, Repaired, SalvageError, ThinnedGeneration, Thinning,
    Verified,
};
pub use tally::{Began, Tally, UplinkAccount};
pub use thin::{Level as ThinLevel, ThinError};
pub use told::DurableWatch;
pub use types::{
    Appended, Bounds, CursorError, DeviceCounts, Durable, Entry, GapCause, Page, ReadError, Seq, StartAt,
    Ticket,
};

use crate::clock::Clock;
use crate::config;
use crate::reading::{DeviceId, Reading};
use commit::{Committer, Order};
use intake::Intake;
use keys::Keyring;
use mark::Mark;
use policy::{Decision, Policy};
use quota::Keeper;
use spool::Spool;

/// How often delivered generations are looked for and cursors written.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// The quarantine takes at most this share of the quota, whatever is configured.
const QUARANTINE_SHARE: u64 = 8;
/// How often a generation that could not be salvaged is tried again.
const SALVAGE_RETRY: Duration = Duration::from_secs(10);
/// The same while the disk is in trouble: its return is noticed within this time.
const TROUBLED: Duration = Duration::from_secs(1);
/// Least time between two rounds, however often the committer asks.
const HOUSE_PAUSE: Duration = Duration::from_millis(200);
/// Delivered generations that are kept to recognise re-sent readings after a restart.
const KEPT_DELIVERED: usize = 2;
/// Readings that are read back at start for that purpose.
const MOST_REMEMBERED: usize = 1 << 20;
/// Turns of the runtime between noticing a group and closing it, so that every ready socket is read into it first.
const GATHERING_TURNS: usize = 3;

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

/// Closes groups when they are due; awaited by whoever owns the journal.
pub struct Driver {
    inner: Arc<Inner>,
    policy: Policy,
    orders: SyncSender<Order>,
    thread: std::thread::JoinHandle<()>,
}

/// The journal at a glance, for `fogbeat status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct JournalStatus {
    pub spool: String,
    /// `working`, or the error that keeps groups from the disk.
    pub commit: String,
    pub readings: u64,
    pub duplicates: u64,
    pub commits: u64,
    pub lost: u64,
    /// Left out when nothing was ever damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<DamageStatus>,
    /// Readings on disk that gave way to summaries, and the generations they are of.
    pub thinned: u64,
    pub thinned_generations: usize,
    pub devices: usize,
    pub generations: usize,
    pub bytes: u64,
    pub head: u64,
    pub quota: QuotaStatus,
    pub encryption: Encryption,
}

/// What was damaged and what became of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DamageStatus {
    /// Generations that wait to be salvaged.
    pub waiting: Vec<u32>,
    /// What was salvaged since the start.
    pub salvaged: Vec<Repaired>,
    /// What is kept of damaged generations, for a look.
    pub quarantine_bytes: u64,
}

impl Journal {
    /// Opens the spool below `state_dir`, takes stock of what the last run left, and starts a new generation.
    ///
    /// # Errors
    /// When the directory cannot be used or written. Damaged contents are no error: they are moved aside and told.
    pub fn open(
        settings: &config::Journal,
        state_dir: &Path,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Driver, Recovered), OpenError> {
        let dir = state_dir.join("spool");
        // Looked at before anything is touched: an open that is cut off by a full disk leaves things half done.
        quota::room_to_open(&dir).map_err(|trouble| OpenError::NoRoom { path: dir.clone(), trouble })?;
        let keys = KeySource::of(settings).load_or_make()?;
        let (journal, recovered, mark) =
            Self::take_stock(settings, keys, state_dir, Arc::clone(&clock), Arc::clone(&disk))?;
        journal.remember_newest();
        let size = journal.inner.keeper.limits().generation;
        let mut committer = Committer::new(Arc::clone(&journal.inner), disk, clock, mark, size);
        committer.start().map_err(|source| OpenError::Head { path: dir.clone(), source })?;
        // One order at a time: the driver waits for its end.
        let (orders, receiver) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("journal-commit".into())
            .spawn(move || committer.run(&receiver))
            .map_err(|source| OpenError::Directory { path: dir, source })?;
        let policy = Policy::new(settings.commit_interval, Instant::now());
        let driver = Driver { inner: Arc::clone(&journal.inner), policy, orders, thread };
        Ok((journal, driver, recovered))
    }

    /// Opens the spool to look at it, without a daemon: what was open is sealed, nothing is appended.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_offline(
        settings: &config::Journal,
        state_dir: &Path,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovered), OpenError> {
        // Without a key there is still something to see.
        let keys = KeySource::of(settings).load()?.unwrap_or_else(Keys::none);
        let (journal, recovered, _) = Self::take_stock(settings, keys, state_dir, clock, disk)?;
        Ok((journal, recovered))
    }

    fn take_stock(
        settings: &config::Journal,
        keys: Keys,
        state_dir: &Path,
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovered, Mark), OpenError> {
        let dir = state_dir.join("spool");
        let unusable = |source| OpenError::Directory { path: dir.clone(), source };
        std::fs::create_dir_all(&dir).map_err(unusable)?;
        let mark = Mark::open(&dir).map_err(unusable)?;
        let quota_disk = Arc::clone(&disk);
        let cursors = cursor::Cursors::open(&dir, Arc::clone(&disk))?;
        let mut known = spool::Known::default();
        mark.read().into_iter().chain(cursors.given()).for_each(|seq| known.given(seq));
        let (spool, recovered) = Spool::open(&dir, disk, clock, known, Keyring::new(keys))?;
        spool.tell_missing_keys();
        let end = spool.status(Seq(0)).last().map_or(Seq(0), |last| Seq::new(last.generation + 1, 0));
        let metrics = Arc::new(Metrics::default());
        metrics.lost.inc_by(recovered.lost);
        let keeper =
            Keeper::open(&dir, settings, &*quota_disk, Arc::clone(&metrics.quota)).map_err(unusable)?;
        let inner = Inner {
            intake: Intake::new(),
            devices: Devices::new(settings.max_devices),
            spool: Arc::new(spool),
            cursors,
            keeper,
            metrics,
            durable: AtomicU64::new(0),
            committed: Notify::new(),
            told: told::Told::new(),
            watermark: watch::Sender::new(end),
            close: watch::Sender::new(false),
            rolls: roll::Rolls::new(settings.generation_age),
            dedupe_window: settings.dedupe_window,
            quarantine: settings.quarantine.as_u64(),
            repair: Notify::new(),
            program: OnceLock::new(),
            live: OnceLock::new(),
            aliases: RwLock::default(),
            has_aliases: AtomicBool::new(false),
        };
        let journal = Self { inner: Arc::new(inner) };
        for cursor in journal.inner.cursors.list() {
            journal.begin_account(&cursor);
        }
        Ok((journal, recovered, mark))
    }

    /// Fills the windows of known stamps from what the last runs stored.
    fn remember_newest(&self) {
        let span = self.inner.dedupe_window.as_millis() as i64;
        self.inner.spool.newest(MOST_REMEMBERED, span, |reading, name| {
            if let Some(device) = name.and_then(|name| self.inner.devices.intern(&name)) {
                self.inner.intake.remember(&Reading { device, ..reading.clone() });
            }
        });
    }

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

    /// Thins one generation, if one can be thinned: readings give way to 10 s summaries, when there are no such readings
    /// any more, 10 s summaries to 1 min ones. Blocking, for seconds.
    ///
    /// # Errors
    /// [`ThinError`]; the generation is as it was.
    pub fn thin_one(&self) -> Result<Thinning, ThinError> {
        let inner = &self.inner;
        let go_on = || !*inner.close.borrow();
        let result = inner.spool.thin_one(&inner.cursors, &go_on);
        if let Ok(Thinning::Done(done)) = &result {
            inner.metrics.thinned(done.readings);
            tracing::info!(
                generation = done.generation,
                window_s = done.level.window_s(),
                readings = done.readings,
                summaries = done.summaries,
                bytes_before = done.before,
                bytes_after = done.after,
                "thinned: readings gave way to summaries because the journal's quota is reached"
            );
        }
        result
    }

    /// Loads the keys anew. A new one seals from the next commit on; what is stored stays as it is.
    ///
    /// # Errors
    /// When they cannot be had; those in force stay so.
    pub fn reload_keys(&self, settings: &config::Journal) -> Result<(), KeyError> {
        let keys = KeySource::of(settings).load_again()?;
        self.inner.spool.keyring().replace(keys);
        self.inner.spool.tell_missing_keys();
        self.inner.metrics.encryption(&self.inner.spool.encryption());
        Ok(())
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

    /// What became of every reading of this run.
    pub fn accounts(&self) -> Accounts {
        self.inner.intake.accounts(&self.inner.devices)
    }

    /// Counts what a source did not take.
    pub fn refuse(&self, refusals: &[Refusal]) {
        if !refusals.is_empty() {
            self.inner.intake.refuse(refusals);
        }
    }

    /// What the manifest and the cursor files say, for the proof.
    pub fn facts(&self) -> Facts {
        // The cursors first: what they have passed was durable before.
        let uplinks = self.inner.cursors.list().iter().map(UplinkCursor::place).collect();
        Facts { uplinks, ..self.inner.spool.facts(*self.inner.watermark.borrow()) }
    }

    /// What became of the numbers an uplink was to get.
    pub fn account(&self, uplink: &UplinkCursor) -> UplinkAccount {
        uplink.account(|cursor| self.inner.spool.around(cursor, *self.inner.watermark.borrow()))
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

    pub fn status(&self) -> JournalStatus {
        let metrics = &self.inner.metrics;
        let generations = self.generations();
        JournalStatus {
            spool: self.spool().to_owned(),
            commit: match metrics.commit_state() {
                CommitState::Working => "working".into(),
                CommitState::Failing(error) => error,
            },
            readings: metrics.readings.get(),
            duplicates: metrics.duplicates.get(),
            commits: metrics.commits(),
            lost: metrics.lost.get(),
            damage: self.damage(),
            thinned: generations.iter().map(|generation| generation.thinned).sum(),
            thinned_generations: generations.iter().filter(|g| g.window_s.is_some()).count(),
            devices: self.inner.devices.len(),
            generations: generations.len(),
            bytes: generations.iter().map(|generation| generation.bytes).sum(),
            head: self.inner.watermark.borrow().0,
            quota: self.quota(),
            encryption: self.inner.spool.encryption(),
        }
    }

    /// What was damaged, if anything was.
    pub fn damage(&self) -> Option<DamageStatus> {
        let spool = &self.inner.spool;
        let (waiting, salvaged) = (spool.damaged(), spool.repaired());
        let quarantine_bytes = spool.quarantine_bytes();
        let any = !waiting.is_empty() || !salvaged.is_empty() || quarantine_bytes > 0;
        any.then_some(DamageStatus { waiting, salvaged, quarantine_bytes })
    }

    /// How long the oldest reading that is not durable has waited: in the open group, or in one that is being written.
    pub fn waiting(&self) -> Option<Duration> {
        self.inner.intake.waiting_from().map(|first| first.elapsed())
    }

    /// Every generation on disk, oldest first.
    pub fn generations(&self) -> Vec<GenerationStatus> {
        self.inner.spool.status(*self.inner.watermark.borrow())
    }

    /// Checks every value of one generation. Blocking.
    ///
    /// # Errors
    /// When it cannot be opened or read at all.
    pub fn verify(&self, generation: &GenerationStatus) -> Result<Verified, ReadError> {
        self.inner.spool.verify(generation.generation, generation.readings)
    }

    /// The generations that wait to be salvaged, oldest first.
    pub fn damaged(&self) -> Vec<u32> {
        self.inner.spool.damaged()
    }

    /// Salvages one damaged generation; `look` is called now and then meanwhile. Blocking, seconds to minutes.
    ///
    /// # Errors
    /// When it cannot be done now; the generation waits on.
    pub fn salvage(&self, number: u32, look: &mut dyn FnMut()) -> Result<Repaired, SalvageError> {
        let inner = &self.inner;
        let repaired =
            inner.spool.salvage(number, &inner.cursors, inner.program.get_or_init(Program::default), look)?;
        inner.metrics.salvaged(&repaired);
        let Repaired { generation, count, salvaged, lost, unnamed, trouble } = &repaired;
        match trouble {
            None if *lost == 0 && *unnamed == 0 => {
                tracing::info!(generation, count, "a damaged generation was salvaged whole")
            }
            trouble => tracing::error!(
                generation,
                count,
                salvaged,
                lost,
                unnamed,
                trouble = trouble.as_deref(),
                "a damaged generation was salvaged; what is lost is delivered as gap lines, what has lost its device's name \
                 under a stand-in; check or replace the disk"
            ),
        }
        self.remember_newest();
        self.trim_quarantine();
        Ok(repaired)
    }

    /// What is kept for a look gives way before readings do.
    fn trim_quarantine(&self) {
        let most = self.inner.quarantine.min(self.inner.keeper.limits().quota / QUARANTINE_SHARE);
        if let Err(error) = self.inner.spool.trim_quarantine(most) {
            self.grumble("the quarantine", &error);
        }
    }

    /// The program that is started to salvage, in place of this very one.
    pub fn salvage_by(&self, program: Program) {
        // Once set it stays: everybody uses the same.
        let _ = self.inner.program.set(program);
    }

    /// Salvages whatever waits for it. Blocking.
    fn salvage_all(&self) {
        for number in self.damaged() {
            if let Err(error) = self.salvage(number, &mut || {}) {
                tracing::warn!(generation = number, %error, "a damaged generation is not salvaged yet; it is tried again");
            }
        }
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

    /// Removes what every uplink has confirmed, and writes cursors. Blocking.
    fn keep_house(&self) {
        let inner = &self.inner;
        let cursors = inner.cursors.list();
        for cursor in &cursors {
            if let Err(error) = cursor.sync() {
                self.grumble(cursor.name(), &error);
            }
        }
        if let Some(lowest) = inner.cursors.lowest()
            && let Err(error) = inner.spool.remove_delivered(lowest, inner.dedupe_window, KEPT_DELIVERED)
        {
            self.grumble("delivered generations", &error);
        }
        self.trim_quarantine();
        inner.keeper.turn(&inner.spool, &cursors, &|| self.thin_one());
        inner.spool.close_idle();
        if inner.rolls.aged() {
            inner.rolls.ask();
            inner.intake.changed.notify_one();
        }
        let generations = self.generations();
        inner.metrics.generations.set(generations.len() as i64);
        inner.metrics.encryption(&inner.spool.encryption());
        inner.metrics.spool_bytes.set(generations.iter().map(|g| g.bytes as i64).sum());
        inner.metrics.damaged.set(inner.spool.damaged().len() as i64);
        inner.metrics.quarantine_bytes.set(inner.spool.quarantine_bytes() as i64);
        let blobs = inner.spool.blobs();
        inner.metrics.blobs.set(blobs as i64);
        if blobs > 0 {
            tracing::error!(blobs, "sled has written unsynced blob files: a defect; please report it");
        }
    }
}

impl Journal {
    /// A small file could not be written: known and told already while the disk is in trouble.
    fn grumble(&self, what: &str, error: &dyn std::fmt::Display) {
        if self.inner.keeper.admission().borrow().trouble().is_some() {
            tracing::debug!(what, %error, "cannot be written now");
        } else {
            tracing::warn!(what, %error, "cannot be written; it is tried again");
        }
    }

    /// What the journal may take of its disk, and takes.
    pub fn quota(&self) -> QuotaStatus {
        self.inner.keeper.status()
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

// === impl Driver ===

impl Driver {
    /// Runs until [`Journal::close`] is carried out.
    pub async fn run(mut self) {
        // A set, because it ends its task when it is dropped: a driver that is cut off leaves nothing behind.
        let mut housekeeping = tokio::task::JoinSet::new();
        housekeeping.spawn(keep_house(Journal { inner: Arc::clone(&self.inner) }));
        housekeeping.spawn(attend(Journal { inner: Arc::clone(&self.inner) }));
        let closing = self.inner.close.subscribe();
        loop {
            if *closing.borrow() && self.inner.intake.group().count == 0 {
                break;
            }
            if let Some(number) = self.inner.spool.take_damaged_head()
                && !self.order(Order::Leave(number)).await
            {
                break;
            }
            if let Some(roll) = self.inner.rolls.due() {
                let rolled = self.order(Order::Roll).await;
                self.inner.rolls.done(roll);
                if !rolled {
                    break;
                }
            }
            let decision = self.policy.decide(self.inner.intake.group(), Instant::now());
            match decision {
                Decision::Rest => self.inner.intake.changed.notified().await,
                Decision::Until(at) => {
                    tokio::select! {
                        () = self.inner.intake.changed.notified() => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
                Decision::Close => {
                    if self.policy.interval().is_zero() {
                        for _ in 0..GATHERING_TURNS {
                            tokio::task::yield_now().await;
                        }
                    }
                    if !self.order(Order::Commit).await {
                        break;
                    }
                }
            }
        }
        self.order(Order::Seal).await;
        housekeeping.shutdown().await;
        let inner = Arc::clone(&self.inner);
        let _ = tokio::task::spawn_blocking(move || Journal { inner }.keep_house()).await;
        drop(self.orders);
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
        drop(closing);
    }

    /// Has an order carried out and tells everybody; `false` when the committer is gone.
    async fn order(&self, order: Order) -> bool {
        if self.orders.try_send(order).is_err() {
            return false;
        }
        self.inner.committed.notified().await;
        self.inner.told.tell(Ticket(self.inner.durable.load(Ordering::Acquire)));
        true
    }
}

async fn keep_house(journal: Journal) {
    let mut every = tokio::time::interval(HOUSEKEEPING);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let troubled = journal.inner.keeper.admission().borrow().trouble().is_some();
        tokio::select! {
            _ = every.tick() => {}
            () = journal.inner.keeper.wake.notified() => {}
            () = tokio::time::sleep(TROUBLED), if troubled => {}
        }
        let journal = journal.clone();
        if tokio::task::spawn_blocking(move || journal.keep_house()).await.is_err() {
            tracing::error!("housekeeping of the journal panicked");
        }
        tokio::time::sleep(HOUSE_PAUSE).await;
    }
}

/// Salvages what is found damaged, one generation at a time.
async fn attend(journal: Journal) {
    loop {
        let journal_there = journal.clone();
        // Cut off with the journal, it is begun anew at the next start; the child ends with us.
        if tokio::task::spawn_blocking(move || journal_there.salvage_all()).await.is_err() {
            tracing::error!("the salvage of a generation panicked");
        }
        let _ = tokio::time::timeout(SALVAGE_RETRY, journal.inner.repair.notified()).await;
    }
}
