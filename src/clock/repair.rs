//! The time of a reading, told on its way out: from what the reading was stamped with and what is known of its boot.
//!
//! Pure. [`Anchors::times`] cuts out of the table what was known of one boot at one revision; [`BootTimes::resolve`] is
//! then a function of the stamp alone, so that a batch that is sent again says the same.
//!
//! - A stamp of a synchronised clock stays as it is; what is told is how far off it may be.
//! - A stamp from before the boot's first anchor is moved to the line through that anchor. Only ever the first one: the
//!   clock itself goes on from it, so that the times of one boot rise from its first reading to its last, in whatever
//!   batches they leave.
//! - A stamp of a boot without an anchor gets the middle of what its neighbours leave possible.
//! - Where nothing is known the guess stays a guess.

use std::sync::Arc;

use super::anchors::{Anchor, Anchors, Between, What};
use super::{BootId, Stamp, WallQuality};

/// What a stamp came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// ms since the Unix epoch.
    pub wall_ms: i64,
    pub quality: TimeQuality,
    /// How far off the time may be; 0 where nothing can be said ([`TimeQuality::Unsynced`]).
    pub error_ms: u64,
}

/// What a delivered time rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeQuality {
    /// The clock was synchronised when the reading came.
    Synced,
    /// It became so later, or the boot lies between two known moments.
    Repaired,
    /// A guess.
    Unsynced,
}

/// What was known of one boot at one revision of the table; clones are cheap.
#[derive(Debug, Clone)]
pub struct BootTimes {
    boot: BootId,
    anchors: Arc<[Anchor]>,
    between: Option<Between>,
}

/// What a consumer needs to find the true times of lines that left with a guess: those of the boot, each
/// `wall_ms` + (its uptime - `uptime_ms`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction {
    pub boot: BootId,
    pub uptime_ms: u64,
    pub wall_ms: i64,
    /// At `uptime_ms`; 100 ppm of the distance come on top.
    pub error_ms: u64,
}

impl Anchors {
    /// What was known of `boot` at `revision`.
    pub fn times(&self, boot: BootId, revision: u32) -> BootTimes {
        let known = self.boot(boot).map_or(&[][..], |boot| &boot.known);
        let then = known.iter().filter(|known| known.revision <= revision);
        let mut anchors = Vec::new();
        let mut between = None;
        for known in then {
            match known.what {
                What::Anchor(anchor) => anchors.push(anchor),
                What::Between(place) => between = between.or(Some(place)),
            }
        }
        BootTimes { boot, anchors: anchors.into(), between }
    }
}

impl BootTimes {
    /// A boot of which nothing is known.
    pub fn unknown(boot: BootId) -> Self {
        Self { boot, anchors: Arc::default(), between: None }
    }

    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// The true time of a stamp of this boot, as far as it is known.
    pub fn resolve(&self, stamp: Stamp) -> Resolved {
        match stamp.quality {
            WallQuality::Synced => Resolved {
                wall_ms: stamp.wall_ms,
                quality: TimeQuality::Synced,
                error_ms: self.error_of(stamp.uptime_ms, stamp.wall_ms),
            },
            WallQuality::Unsynced => self.repair(stamp),
        }
    }

    fn repair(&self, stamp: Stamp) -> Resolved {
        let uptime_ms = stamp.uptime_ms;
        if let Some(first) = self.anchors.first() {
            let wall_ms = first.wall_at(uptime_ms);
            let error_ms = self.doubt(0, uptime_ms, wall_ms).max(first.error_at(uptime_ms));
            return Resolved { wall_ms, quality: TimeQuality::Repaired, error_ms };
        }
        match self.between {
            Some(between) => Resolved {
                wall_ms: between.start_ms.saturating_add(uptime_ms as i64),
                quality: TimeQuality::Repaired,
                error_ms: between.error_ms,
            },
            None => Resolved { wall_ms: stamp.wall_ms, quality: TimeQuality::Unsynced, error_ms: 0 },
        }
    }

    /// How far off a time that was told as `wall_ms` at `uptime_ms` may be.
    fn error_of(&self, uptime_ms: u64, wall_ms: i64) -> u64 {
        let before = self.anchors.partition_point(|anchor| anchor.uptime_ms <= uptime_ms).saturating_sub(1);
        let Some(anchor) = self.anchors.get(before) else { return 0 };
        let told = anchor.error_at(uptime_ms).saturating_add(anchor.wall_at(uptime_ms).abs_diff(wall_ms));
        told.max(self.doubt(before, uptime_ms, wall_ms))
    }

    /// Where the next anchor does not agree with the one at `index`, nobody knows when they parted.
    fn doubt(&self, index: usize, uptime_ms: u64, wall_ms: i64) -> u64 {
        match (self.anchors.get(index), self.anchors.get(index + 1)) {
            (Some(anchor), Some(next)) if anchor.contradicts(next) => {
                next.wall_at(uptime_ms).abs_diff(wall_ms).saturating_add(next.error_at(uptime_ms))
            }
            _ => 0,
        }
    }

    /// What lines that left with a guess are told by. `None` as long as nothing is known.
    pub fn correction(&self) -> Option<Correction> {
        let boot = self.boot;
        if let Some(first) = self.anchors.first() {
            let Anchor { uptime_ms, wall_ms, error_ms, .. } = *first;
            return Some(Correction { boot, uptime_ms, wall_ms, error_ms });
        }
        let Between { start_ms, error_ms } = self.between?;
        Some(Correction { boot, uptime_ms: 0, wall_ms: start_ms, error_ms })
    }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
