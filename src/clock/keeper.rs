//! The gateway's own time line: monotonic time plus an offset that only an anchor moves.
//!
//! Promise: the stamps of one boot never step back once its clock is synchronised, and a step of the system clock moves
//! none of them by itself. What the system clock says counts when the operating system vouches for it: the first such
//! moment of a boot is its first [`Anchor`], and it holds for the whole boot, restarts of the daemon included. Later
//! ones that agree with it renew the certainty; one that contradicts it must be confirmed a minute later before it is
//! believed, because one of the two is wrong. A correction backward is made at half speed, one forward at once.
//!
//! Before the first anchor the wall clock is a guess: the system's, never below what has passed for certain.
//!
//! The driver ([`super::SystemClock`]) reads the clocks and asks the operating system; everything here is a function of
//! what it is given. Reading a stamp takes no lock.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::anchors::{self, Anchor, Anchors, SeenBoot};
use super::course::{Course, Line};
use super::{BootId, Stamp, WallQuality};

/// A renewal is worth a write when it makes the time more certain by this much: at 100 ppm, one in three hours.
const WORTH_MS: u64 = 1_000;
/// A difference this large is worth a write at once.
const MOVED_MS: u64 = 250;
/// A contradiction is believed when it still stands after this time.
const CONFIRM_MS: u64 = 60_000;
/// A guess follows the system clock when that has moved forward by this much.
const GUESS_MOVED_MS: i64 = 1_000;

/// What the operating system vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub uptime_ms: u64,
    /// What the system clock said at that uptime, ms since the epoch.
    pub wall_ms: i64,
    /// How far off it may be.
    pub error_ms: u64,
}

/// What came of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// The boot's first: the clock is synchronised from here on.
    First,
    /// It agrees with what is known; whether that was worth a new anchor.
    Agrees { renewed: bool },
    /// It contradicts what is known, or lies before what has passed already; waits for confirmation.
    Doubted,
    /// A contradiction that was confirmed.
    Corrected,
    /// Before this program was built: no correct clock says so.
    Impossible,
}

/// See the module's documentation.
pub struct Timekeeper {
    boot: BootId,
    /// The build of this program, ms since the epoch.
    built_ms: i64,
    line: Line,
    /// Somebody will say when the clock is synchronised.
    hopeful: AtomicBool,
    state: Mutex<State>,
    /// The table as it is on disk; a lock of its own, because `state` is held while a file is written.
    table: Mutex<Arc<Anchors>>,
    path: PathBuf,
}

struct State {
    /// The newest anchor of this boot, in the table or (if that cannot be written) not.
    anchor: Option<Anchor>,
    doubted: Option<Sample>,
    /// Wall time that had passed for certain when this process started, minus the uptime then.
    floor_ms: i64,
}

/// The state of the clock, for `status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Health {
    pub synced: bool,
    /// What stamps say now, ms since the epoch.
    pub time_ms: i64,
    /// How far off that may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertainty_s: Option<f64>,
    /// Since when the clock of this boot counts as synchronised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_for_s: Option<u64>,
    /// How long ago the operating system last vouched for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor_age_s: Option<u64>,
    /// Readings that were stamped with a guess are held back for so much longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience_left_s: Option<u64>,
    /// The system clock contradicts the anchor; which of the two is wrong shows within minutes.
    pub doubted: bool,
    /// Boots with stored readings whose time is not known yet.
    pub boots_waiting: usize,
    /// Revision of the table of anchors.
    pub revision: u32,
}

/// How a keeper starts.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub boot: BootId,
    pub uptime_ms: u64,
    /// What the system clock says.
    pub wall_ms: i64,
    /// The build of this program, ms since the epoch.
    pub built_ms: i64,
    /// A trusted time that was written down, ms since the epoch.
    pub written_ms: i64,
    pub faith: Faith,
}

/// When the wall clock is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faith {
    /// When the operating system vouches for it.
    Told,
    /// From the start.
    Blind,
    Never,
}

// === impl Timekeeper ===

impl Timekeeper {
    /// Reads the table of anchors; writes nothing.
    pub fn new(state_dir: &Path, start: Start) -> Self {
        let path = anchors::path(state_dir);
        let floor_ms = start.written_ms.max(start.built_ms);
        let table = Anchors::load(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, file = %path.display(),
                "the clock's anchors cannot be read: times are repaired without them; let the daemon read the file");
            None
        });
        let table = table.unwrap_or_else(|| {
            tracing::error!(file = %path.display(),
                "the clock's anchors are damaged and lost; stored readings of earlier boots keep their guesses");
            Anchors::after_loss(floor_ms)
        });
        let known = table.boot(start.boot);
        let anchor = known.and_then(|boot| boot.anchors().next_back().copied());
        let anchor = anchor.filter(|_| start.faith != Faith::Never);
        let system = start.wall_ms.wrapping_sub(start.uptime_ms as i64);
        let floor = floor_ms.wrapping_sub(start.uptime_ms as i64);
        let line = Line::default();
        match (anchor, start.faith) {
            (Some(anchor), _) => line.set(Course::through(anchor)),
            (None, Faith::Blind) => {
                let offset = system.max(start.built_ms.wrapping_sub(start.uptime_ms as i64));
                line.set(Course { offset, ahead_from: 0, ahead_ms: 0, synced: true });
            }
            (None, _) => {
                let guess = known.and_then(|boot| boot.guess_ms).unwrap_or(i64::MIN);
                let offset = system.max(floor).max(guess);
                line.set(Course { offset, ahead_from: 0, ahead_ms: 0, synced: false });
            }
        }
        let state = State { anchor, doubted: None, floor_ms: floor };
        Self {
            boot: start.boot,
            built_ms: start.built_ms,
            line,
            hopeful: AtomicBool::new(start.faith == Faith::Told),
            state: Mutex::new(state),
            table: Mutex::new(Arc::new(table)),
            path,
        }
    }

    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// The stamp of the moment `uptime_ms`. Takes no lock.
    pub fn stamp(&self, uptime_ms: u64) -> Stamp {
        let course = self.line.get();
        let quality = if course.synced { WallQuality::Synced } else { WallQuality::Unsynced };
        Stamp { uptime_ms, wall_ms: course.wall_at(uptime_ms), quality }
    }

    pub fn synced(&self) -> bool {
        self.line.get().synced
    }

    /// The table as it is on disk.
    pub fn anchors(&self) -> Arc<Anchors> {
        Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is worth waiting for the clock: it is not synchronised, and somebody will say when it is.
    pub fn hopeful(&self) -> bool {
        self.hopeful.load(Ordering::Relaxed) && !self.synced()
    }

    /// Nobody on this machine can say whether its clock is synchronised (`false`), or somebody can after all.
    pub fn set_hopeful(&self, hopeful: bool) {
        self.hopeful.store(hopeful, Ordering::Relaxed);
    }

    /// Takes in which boots have stored readings, oldest first, and notes this one. Blocking.
    ///
    /// # Errors
    /// When the table cannot be written; the old one stays in force.
    pub fn learn(&self, seen: &[SeenBoot]) -> io::Result<()> {
        let state = self.state();
        let mut table = Anchors::clone(&self.anchors());
        let changed = table.learn(seen, self.boot);
        let course = self.line.get();
        let floor_ms = state.floor_ms;
        let mut noted = false;
        if let Some(boot) = table.boot_mut(self.boot) {
            let before = (boot.floor_ms, boot.guess_ms);
            boot.floor_ms = boot.floor_ms.or(Some(floor_ms));
            if !course.synced {
                boot.guess_ms = boot.guess_ms.max(Some(course.offset));
            }
            noted = before != (boot.floor_ms, boot.guess_ms);
        }
        if changed || noted { self.publish(table) } else { Ok(()) }
    }

    /// The system clock as it stands, without anybody vouching for it: a guess that has moved forward is followed.
    /// Blocking.
    ///
    /// # Errors
    /// When the table cannot be written; the guess has moved all the same.
    pub fn guess(&self, uptime_ms: u64, wall_ms: i64) -> io::Result<()> {
        let _state = self.state();
        let course = self.line.get();
        let offset = wall_ms.wrapping_sub(uptime_ms as i64);
        if course.synced || offset.saturating_sub(course.offset) < GUESS_MOVED_MS {
            return Ok(());
        }
        self.line.set(Course { offset, ..course });
        let mut table = Anchors::clone(&self.anchors());
        if let Some(boot) = table.boot_mut(self.boot) {
            boot.guess_ms = Some(offset);
        }
        self.publish(table)
    }

    /// Takes in what the operating system vouches for. Blocking.
    ///
    /// # Errors
    /// When an anchor cannot be written. Stamps follow it all the same; what is stored is repaired once it can.
    pub fn observe(&self, sample: Sample) -> io::Result<Observed> {
        let mut state = self.state();
        if sample.wall_ms < self.built_ms {
            return Ok(Observed::Impossible);
        }
        let Some(known) = state.anchor else {
            let passed = state.floor_ms.wrapping_add(sample.uptime_ms as i64);
            let behind = sample.wall_ms.saturating_add(sample.error_ms as i64) < passed;
            if behind && !confirmed(state.doubted, sample) {
                return Ok(state.doubt(sample));
            }
            return self.adopt(&mut state, sample, Observed::First);
        };
        let anchor = Anchor {
            uptime_ms: sample.uptime_ms,
            wall_ms: sample.wall_ms,
            error_ms: sample.error_ms,
            ahead_ms: 0,
        };
        if known.contradicts(&anchor) {
            if confirmed(state.doubted, sample) {
                return self.adopt(&mut state, sample, Observed::Corrected);
            }
            return Ok(state.doubt(sample));
        }
        state.doubted = None;
        let saved = self.anchors().boot(self.boot).is_some_and(|boot| boot.anchors().next().is_some());
        let moved = known.wall_at(sample.uptime_ms).abs_diff(sample.wall_ms) >= MOVED_MS;
        let certainty = known.error_at(sample.uptime_ms);
        let better = certainty >= sample.error_ms.saturating_add(WORTH_MS);
        if !saved || better || (moved && sample.error_ms <= certainty) {
            return self.adopt(&mut state, sample, Observed::Agrees { renewed: true });
        }
        Ok(Observed::Agrees { renewed: false })
    }

    /// Makes the sample the anchor that stamps follow from now on.
    fn adopt(&self, state: &mut State, sample: Sample, seen: Observed) -> io::Result<Observed> {
        let Sample { uptime_ms, wall_ms, error_ms } = sample;
        let offset = wall_ms.wrapping_sub(uptime_ms as i64);
        let before = self.line.get();
        let course = if before.synced {
            before.turn_to(offset, uptime_ms)
        } else {
            // A guess binds nobody: what was stamped with it is repaired on its way out.
            Course { offset, ahead_from: uptime_ms, ahead_ms: 0, synced: true }
        };
        self.line.set(course);
        let anchor = Anchor { uptime_ms, wall_ms, error_ms, ahead_ms: course.ahead_at(uptime_ms) };
        state.anchor = Some(anchor);
        state.doubted = None;
        let mut table = Anchors::clone(&self.anchors());
        table.anchor(self.boot, anchor);
        self.publish(table)?;
        Ok(seen)
    }

    /// Nobody sees a table that is not on disk: a batch remembers what it was told by.
    fn publish(&self, table: Anchors) -> io::Result<()> {
        table.store(&self.path)?;
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        Ok(())
    }

    /// How things stand at `uptime_ms`.
    pub fn health(&self, uptime_ms: u64) -> Health {
        let stamp = self.stamp(uptime_ms);
        let table = self.anchors();
        let boot = table.boot(self.boot);
        let state = self.state();
        let first = boot.and_then(|boot| boot.anchors().next());
        let age = |anchor: &Anchor| uptime_ms.saturating_sub(anchor.uptime_ms) / 1000;
        let anchor = state.anchor.filter(|_| stamp.quality == WallQuality::Synced);
        let error = anchor.map(|anchor| {
            anchor.error_at(uptime_ms).saturating_add(anchor.wall_at(uptime_ms).abs_diff(stamp.wall_ms))
        });
        Health {
            synced: stamp.quality == WallQuality::Synced,
            time_ms: stamp.wall_ms,
            uncertainty_s: error.map(|ms| ms as f64 / 1000.0),
            synced_for_s: first.or(anchor.as_ref()).filter(|_| anchor.is_some()).map(age),
            anchor_age_s: anchor.as_ref().map(age),
            patience_left_s: None,
            doubted: state.doubted.is_some(),
            boots_waiting: table.waiting(),
            revision: table.revision(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers a contradiction until it is confirmed; another one takes its place.
    fn doubt(&mut self, sample: Sample) -> Observed {
        if !self.doubted.is_some_and(|doubted| agree(doubted, sample)) {
            self.doubted = Some(sample);
        }
        Observed::Doubted
    }
}

/// Whether two samples say the same.
const fn agree(one: Sample, other: Sample) -> bool {
    let there = one.wall_ms.wrapping_add(other.uptime_ms.wrapping_sub(one.uptime_ms) as i64);
    let drifted = anchors::drift(other.uptime_ms.saturating_sub(one.uptime_ms));
    there.abs_diff(other.wall_ms) <= one.error_ms.saturating_add(other.error_ms).saturating_add(drifted)
}

fn confirmed(doubted: Option<Sample>, sample: Sample) -> bool {
    doubted.is_some_and(|doubted| {
        sample.uptime_ms.saturating_sub(doubted.uptime_ms) >= CONFIRM_MS && agree(doubted, sample)
    })
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
