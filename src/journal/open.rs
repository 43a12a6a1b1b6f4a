//! Opening the journal: what the last run left is taken stock of, and a new generation begins.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::commit::Committer;
use super::intake::Intake;
use super::keys::Keyring;
use super::mark::Mark;
use super::policy::Policy;
use super::quota::{self, Keeper};
use super::spool::{self, Spool};
use super::{
    Devices, Disk, Driver, Inner, Journal, KeySource, Keys, Metrics, OpenError, Recovered, Seq, cursor, roll,
    told,
};
use crate::clock::Clock;
use crate::config;
use crate::reading::Reading;

/// Readings that are read back at start for that purpose.
const MOST_REMEMBERED: usize = 1 << 20;

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
    pub(super) fn remember_newest(&self) {
        let span = self.inner.dedupe_window.as_millis() as i64;
        self.inner.spool.newest(MOST_REMEMBERED, span, |reading, name| {
            if let Some(device) = name.and_then(|name| self.inner.devices.intern(&name)) {
                self.inner.intake.remember(&Reading { device, ..reading.clone() });
            }
        });
    }
}
