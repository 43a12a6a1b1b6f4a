//! Removing a device from everything the journal keeps.
//!
//! The head is sealed first, so that everything that was received is in sealed generations. Each of those that knows the
//! device is replaced by one without it (`Spool::erase_in`): the device's numbers become `erased` gaps, all other
//! readings keep their numbers and values. A damaged generation is salvaged first. What then lies in quarantine is
//! the damaged original, and nobody can say whose it is: it goes whole. In the manifest the device's counts go, the sums they are part of stay.
//!
//! When it has succeeded no file of the spool holds the device's name or any of its readings; a crash in between leaves
//! each generation either as it was or without the device, and erasing again completes it. Files are unlinked, not
//! overwritten: a memory card may keep old blocks for a while. Against that only encryption helps.
//!
//! What arrives from the device while and after it is erased is new, and is stored.

use std::time::Duration;

use super::Journal;
use super::generation::GenerationError;
use super::manifest::State;
use super::types::ReadError;

/// How long the committer is waited for. It stands still only while the disk refuses.
const ROLL_PATIENCE: Duration = Duration::from_secs(60);
/// Ranges of missing numbers the manifest may hold (20 MB in memory).
const MOST_RANGES: usize = 500_000;
/// How long readers of replaced databases are waited for: a page takes milliseconds.
const READERS_PATIENCE: Duration = Duration::from_secs(10);

/// What was removed (or would be).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Erased {
    /// Generations that held the device.
    pub generations: usize,
    pub readings: u64,
    /// Damaged generations that were removed whole.
    pub quarantined: usize,
}

/// Why not everything was removed; what was done stays done, and erasing again goes on.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("the journal could not seal its head; check the disk, and erase again")]
    Head,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "generation {generation} holds a value that cannot be read here ({cause}); give its key, or use the \
             version of fogbeat that wrote it, and erase again"
    )]
    Unreadable { generation: u32, cause: super::BlockError },
    #[error("generation {generation} is damaged and waits to be salvaged; erase again in a minute")]
    Damaged { generation: u32 },
    #[error("generation {generation} could not be rewritten: {source}; check the disk, and erase again")]
    Write { generation: u32, source: GenerationError },
    #[error("{what}: {source}; check the disk, and erase again")]
    Io { what: &'static str, source: std::io::Error },
    #[error(
        "what waits in the journal is too much to keep an exact account of single readings: let the uplinks take \
         it (or forget those that are gone), and erase again"
    )]
    TooMany,
    #[error("an old generation is still being read; erase again")]
    Busy,
}

impl Journal {
    /// Removes a device, by the name it is stored under. With `dry_run` only counts. Blocking, for as long as rewriting
    /// takes. Readers must not hold pages of before: let uplinks go of them first.
    ///
    /// # Errors
    /// See [`EraseError`].
    pub fn erase(&self, device: &str, dry_run: bool) -> Result<Erased, EraseError> {
        let spool = &self.inner.spool;
        if !dry_run {
            self.seal_head()?;
            self.salvage_all();
        }
        let mut erased = Erased::default();
        let mut unreadable = None;
        for generation in self.generations() {
            let number = generation.generation;
            match generation.state {
                State::Sealed => {}
                State::Open if dry_run || generation.readings == 0 => {}
                State::Open => return Err(EraseError::Head),
                // Not salvaged yet: what comes out of it later would hold the device.
                State::Quarantined if !dry_run && self.damaged().contains(&number) => {
                    return Err(EraseError::Damaged { generation: number });
                }
                _ => continue,
            }
            if !dry_run && spool.ranges() > MOST_RANGES {
                return Err(EraseError::TooMany);
            }
            let mut result = spool.erase_in(number, device, dry_run);
            if !dry_run && matches!(result, Err(EraseError::Read(ReadError::Damaged { .. }))) {
                self.salvage_all();
                result = spool.erase_in(number, device, dry_run);
            }
            let readings = match result {
                // The others are not to wait for its key.
                Err(error @ EraseError::Unreadable { .. }) => {
                    unreadable.get_or_insert(error);
                    continue;
                }
                readings => readings?,
            };
            erased.generations += usize::from(readings > 0);
            erased.readings += readings;
        }
        erased.quarantined = spool.quarantined().len();
        if !dry_run {
            let failed = |what| move |source| EraseError::Io { what, source };
            spool.empty_quarantine().map_err(failed("quarantine cannot be emptied"))?;
            spool.forget_counts(device).map_err(failed("the manifest cannot be written"))?;
            let begun = std::time::Instant::now();
            while !spool.replaced_are_gone() {
                if begun.elapsed() >= READERS_PATIENCE {
                    return Err(EraseError::Busy);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        unreadable.map_or(Ok(erased), Err)
    }

    /// Everything that was appended up to now is in sealed generations when this returns.
    fn seal_head(&self) -> Result<(), EraseError> {
        if !self.inner.spool.has_head() {
            // Opened without a committer: all is sealed.
            return Ok(());
        }
        let roll = self.inner.rolls.ask();
        self.inner.intake.changed.notify_one();
        if self.inner.rolls.wait(roll, ROLL_PATIENCE) { Ok(()) } else { Err(EraseError::Head) }
    }
}

#[cfg(test)]
#[path = "erase_tests.rs"]
mod tests;
