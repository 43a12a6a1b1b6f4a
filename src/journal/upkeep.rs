//! What is done to what is stored: delivered generations go, damaged ones are salvaged, readings are thinned, keys
//! loaded anew. All of it blocks.

use super::{Journal, KeyError, KeySource, Program, Repaired, SalvageError, ThinError, Thinning};
use crate::config;

/// The quarantine takes at most this share of the quota, whatever is configured.
const QUARANTINE_SHARE: u64 = 8;
/// Delivered generations that are kept to recognise re-sent readings after a restart.
pub(super) const KEPT_DELIVERED: usize = 2;

impl Journal {
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

    /// Salvages whatever waits for it. Blocking.
    pub(super) fn salvage_all(&self) {
        for number in self.damaged() {
            if let Err(error) = self.salvage(number, &mut || {}) {
                tracing::warn!(generation = number, %error, "a damaged generation is not salvaged yet; it is tried again");
            }
        }
    }

    /// The program that is started to salvage, in place of this very one.
    pub fn salvage_by(&self, program: Program) {
        // Once set it stays: everybody uses the same.
        let _ = self.inner.program.set(program);
    }

    /// What is kept for a look gives way before readings do.
    fn trim_quarantine(&self) {
        let most = self.inner.quarantine.min(self.inner.keeper.limits().quota / QUARANTINE_SHARE);
        if let Err(error) = self.inner.spool.trim_quarantine(most) {
            self.grumble("the quarantine", &error);
        }
    }

    /// Removes what every uplink has confirmed, and writes cursors. Blocking.
    pub(super) fn keep_house(&self) {
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

    /// A small file could not be written: known and told already while the disk is in trouble.
    fn grumble(&self, what: &str, error: &dyn std::fmt::Display) {
        if self.inner.keeper.admission().borrow().trouble().is_some() {
            tracing::debug!(what, %error, "cannot be written now");
        } else {
            tracing::warn!(what, %error, "cannot be written; it is tried again");
        }
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
}
