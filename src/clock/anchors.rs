//! What is known about the clocks of this boot and of earlier ones: a table that only grows, in revisions.
//!
//! An [`Anchor`] says what the time was at one uptime of a boot, and how far off that may be. A [`Between`] stands for
//! a boot that never saw a synchronised clock: it began after one known moment and was over before another. Every entry
//! has the revision that brought it, so that whoever remembers a revision sees for ever what was known then.
//!
//! One small file, `clock.json` in the state directory, replaced whole and with a sum, because a digit that flips is a
//! false time. Bounded: a boot goes when no stored generation
//! is of it any more, and beyond [`MOST_BOOTS`] the oldest; of a boot that runs for months the newest
//! [`MOST_ANCHORS`] anchors stay, and its first one.
//!
//! Pure but for [`Anchors::load`] and [`Anchors::store`].

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::BootId;
use crate::files;

const VERSION: u32 = 1;
/// A gateway that is switched off every night for two years without ever seeing a network.
const MOST_BOOTS: usize = 800;
/// With one every three hours, two months' worth.
const MOST_ANCHORS: usize = 512;
/// What a crystal is off by at most, as the part of a duration: 100 ppm.
const DRIFT: u64 = 10_000;

/// What the time was at one moment of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// ms since that boot.
    pub uptime_ms: u64,
    /// ms since the Unix epoch.
    pub wall_ms: i64,
    /// How far off that may be.
    pub error_ms: u64,
    /// How far the stamps that were given at that moment were ahead of it: they come back slowly, not at a step.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ahead_ms: u64,
}

/// When a boot without an anchor began, as far as its neighbours tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Between {
    /// The middle of what is possible, ms since the Unix epoch.
    pub start_ms: i64,
    /// Half of what is possible.
    pub error_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    Anchor(Anchor),
    Between(Between),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) revision: u32,
    #[serde(flatten)]
    pub(super) what: What,
}

/// One boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boot {
    #[serde(with = "boot_hex")]
    pub(super) id: BootId,
    /// It did not begin before this moment, ms since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) floor_ms: Option<i64>,
    /// Wall clock minus uptime as it was guessed without synchronisation: a guess does not step back at a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) guess_ms: Option<i64>,
    /// It is known to have lasted this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lasted_ms: Option<u64>,
    /// In the order of revisions.
    #[serde(default)]
    pub(super) known: Vec<Known>,
}

/// A boot of which readings are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenBoot {
    pub boot: BootId,
    /// Uptime of its last stored reading; `None`: not looked up.
    pub lasted_ms: Option<u64>,
}

/// The table. See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchors {
    version: u32,
    revision: u32,
    /// Oldest first.
    pub(super) boots: Vec<Boot>,
}

// === impl Anchor ===

impl Anchor {
    /// The time at another uptime of the same boot.
    pub const fn wall_at(&self, uptime_ms: u64) -> i64 {
        self.wall_ms.wrapping_add(uptime_ms.wrapping_sub(self.uptime_ms) as i64)
    }

    /// How far off that may be: what a crystal drifts comes on top.
    pub const fn error_at(&self, uptime_ms: u64) -> u64 {
        self.error_ms.saturating_add(drift(uptime_ms.abs_diff(self.uptime_ms)))
    }

    /// Whether the two cannot both be right.
    pub const fn contradicts(&self, other: &Self) -> bool {
        let apart = self.wall_at(other.uptime_ms).abs_diff(other.wall_ms);
        apart > self.error_at(other.uptime_ms).saturating_add(other.error_ms)
    }
}

/// What a crystal may have drifted in `ms`.
pub(super) const fn drift(ms: u64) -> u64 {
    ms / DRIFT
}

// === impl Boot ===

impl Boot {
    pub(super) const fn new(id: BootId) -> Self {
        Self { id, floor_ms: None, guess_ms: None, lasted_ms: None, known: Vec::new() }
    }

    pub(super) fn anchors(&self) -> impl DoubleEndedIterator<Item = &Anchor> {
        self.known.iter().filter_map(|known| match &known.what {
            What::Anchor(anchor) => Some(anchor),
            What::Between(_) => None,
        })
    }

    /// Where a boot without an anchor is taken to have ended.
    fn placed_end(&self) -> Option<i64> {
        self.known.iter().find_map(|known| match known.what {
            What::Between(place) => Some(place.start_ms.saturating_add(self.lasted_ms.unwrap_or(0) as i64)),
            What::Anchor(_) => None,
        })
    }

    /// The last moment that is known to lie in it.
    fn end(&self) -> Option<Span> {
        let last = self.anchors().next_back()?;
        let uptime = self.lasted_ms.unwrap_or(0).max(last.uptime_ms);
        Some(Span::around(last.wall_at(uptime), last.error_at(uptime)))
    }

    /// When it began.
    fn start(&self) -> Option<Span> {
        let first = self.anchors().next()?;
        Some(Span::around(first.wall_at(0), first.error_at(0)))
    }
}

/// The earliest and the latest a moment may have been.
struct Span {
    earliest: i64,
    latest: i64,
}

impl Span {
    const fn around(ms: i64, error_ms: u64) -> Self {
        let error = error_ms as i64;
        Self { earliest: ms.saturating_sub(error), latest: ms.saturating_add(error) }
    }
}

// === impl Anchors ===

impl Anchors {
    /// The newest revision; 0: nothing was ever known.
    pub const fn revision(&self) -> u32 {
        self.revision
    }

    /// Boots in which times were guessed at some time.
    pub fn guessed(&self) -> Vec<BootId> {
        self.boots.iter().filter(|boot| boot.guess_ms.is_some()).map(|boot| boot.id).collect()
    }

    /// Boots of which nothing is known yet.
    pub fn waiting(&self) -> usize {
        self.boots.iter().filter(|boot| boot.known.is_empty()).count()
    }

    /// Whether it is noted how long a boot lasted.
    pub fn length_known(&self, id: BootId) -> bool {
        self.boot(id).is_some_and(|boot| boot.lasted_ms.is_some())
    }

    pub(super) fn boot(&self, id: BootId) -> Option<&Boot> {
        self.boots.iter().rev().find(|boot| boot.id == id)
    }

    /// The boot's record, made as the newest one if there is none.
    pub(super) fn boot_mut(&mut self, id: BootId) -> Option<&mut Boot> {
        if self.boot(id).is_none() {
            self.boots.push(Boot::new(id));
        }
        self.boots.iter_mut().rev().find(|boot| boot.id == id)
    }

    /// Notes an anchor of the newest boot, and with it what it tells of the boots before.
    pub fn anchor(&mut self, id: BootId, anchor: Anchor) {
        self.revision = self.revision.saturating_add(1);
        let revision = self.revision;
        if let Some(boot) = self.boot_mut(id) {
            boot.known.push(Known { revision, what: What::Anchor(anchor) });
            if boot.known.len() > MOST_ANCHORS {
                boot.known.remove(1);
            }
        }
        self.settle();
    }

    /// Takes in which boots have stored readings, oldest first; `current` is kept in any case, as the newest. Returns
    /// whether anything has changed.
    pub fn learn(&mut self, seen: &[SeenBoot], current: BootId) -> bool {
        let before = self.clone();
        let old = std::mem::take(&mut self.boots);
        // What goes still tells that those after it began later.
        let mut ended = None;
        let mut gone = Vec::new();
        for boot in &old {
            let kept = boot.id == current || seen.iter().any(|seen| seen.boot == boot.id);
            if !kept {
                ended = boot.end().map(|end| end.earliest).or(ended);
            }
            gone.push(ended);
        }
        let take = |id: BootId| {
            let known = old.iter().zip(&gone).find(|(boot, _)| boot.id == id);
            known.map_or_else(
                || Boot::new(id),
                |(boot, gone)| Boot { floor_ms: boot.floor_ms.max(*gone), ..boot.clone() },
            )
        };
        for seen in seen.iter().filter(|seen| seen.boot != current) {
            let mut boot = take(seen.boot);
            boot.lasted_ms = boot.lasted_ms.max(seen.lasted_ms);
            self.boots.push(boot);
        }
        self.boots.push(take(current));
        let beyond = self.boots.len().saturating_sub(MOST_BOOTS);
        self.boots.drain(..beyond);
        self.settle();
        *self != before
    }

    /// Gives every boot without an anchor that lies between two known moments its place there. Boots keep their order
    /// and do not overlap: the time each is known to have lasted is left to it, the rest is shared.
    fn settle(&mut self) {
        let revision = self.revision.saturating_add(1);
        let mut settled = false;
        let mut after: Option<i64> = None;
        let mut open: Vec<usize> = Vec::new();
        for index in 0..self.boots.len() {
            let Some(boot) = self.boots.get(index) else { break };
            match (boot.start(), boot.known.is_empty()) {
                (Some(start), _) => {
                    let end = boot.end().map(|end| end.earliest);
                    settled |= self.place(&open, after, start.latest, revision);
                    open.clear();
                    after = end;
                }
                (None, true) => open.push(index),
                (None, false) => after = after.max(boot.placed_end()),
            }
        }
        if settled {
            self.revision = revision;
        }
    }

    /// Places the boots at `open`, all of them after `after` and before `before`.
    fn place(&mut self, open: &[usize], after: Option<i64>, before: i64, revision: u32) -> bool {
        let mut latest = before;
        let mut latests = Vec::with_capacity(open.len());
        for boot in open.iter().rev().filter_map(|&index| self.boots.get(index)) {
            latest = latest.saturating_sub(boot.lasted_ms.unwrap_or(0) as i64);
            latests.push(latest);
        }
        let mut earliest = after;
        let mut placed = false;
        for (&index, latest) in open.iter().zip(latests.into_iter().rev()) {
            let Some(boot) = self.boots.get_mut(index) else { continue };
            earliest = earliest.max(boot.floor_ms);
            // Without a moment before it nothing honest can be said.
            let Some(from) = earliest else { continue };
            let lasted = boot.lasted_ms.unwrap_or(0);
            let half = latest.abs_diff(from).div_ceil(2);
            let start_ms = from.midpoint(latest);
            let error_ms = half.saturating_add(drift(lasted)).saturating_add(1);
            boot.known.push(Known { revision, what: What::Between(Between { start_ms, error_ms }) });
            earliest = Some(from.saturating_add(lasted as i64));
            placed = true;
        }
        placed
    }

    /// Reads the file. `None` stands for one that is there and cannot be understood.
    ///
    /// # Errors
    /// Whatever keeps an existing file from being read.
    pub(super) fn load(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Self::default())),
            Err(error) => return Err(error),
        };
        let Ok(text) = files::without_sum(&bytes) else { return Ok(None) };
        Ok(serde_json::from_slice::<Self>(text).ok().filter(|table| table.version == VERSION))
    }

    /// A table after one that was lost: its revisions are above all those that batches may have been given.
    pub(super) fn after_loss(floor_ms: i64) -> Self {
        Self { revision: u32::try_from(floor_ms / 1000).unwrap_or(0), ..Self::default() }
    }

    /// # Errors
    /// When the file cannot be replaced; the old one is still whole then.
    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        let table = Self { version: VERSION, ..self.clone() };
        files::replace(path, &files::with_sum(serde_json::to_vec(&table).map_err(io::Error::other)?))
    }
}

/// The file's place.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("clock.json")
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

mod boot_hex {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::BootId;

    pub fn serialize<S: Serializer>(boot: &BootId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(boot.0))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BootId, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut id = [0; 16];
        hex::decode_to_slice(&text, &mut id).map_err(D::Error::custom)?;
        Ok(BootId(id))
    }
}
