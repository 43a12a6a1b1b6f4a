//! How much of the disk the journal takes, and what happens when that is reached or when the disk is full. Pure here;
//! the driver is [`keeper`].
//!
//! # What it promises
//! - Everything below the spool's directory, in real blocks, stays within the quota: generations, the one being prepared,
//!   quarantine, cursors, and the ballast as if it were always there. What gives way is stated by `when_full`.
//! - sled meets no full disk through our own doing: a group is written only when quota and free space have room for it.
//! - A disk that others fill, or that turns read-only, never makes the journal drop what no uplink has: new readings
//!   wait unacknowledged, and after [`PATIENCE`] their senders are told to keep them.
//!
//! # How
//! From the quota the ballast's full size is taken off; what remains is for data. Room is made from [`Limits::line`] on,
//! a reserve of one generation before the end, in which a generation can be rewritten smaller while the head goes on
//! growing. On the disk, less free than [`Limits::floor`] is full. The ballast is a file that is given up when there is
//! less than twice the floor, so that manifest and cursors can still be written and what is delivered can go; it is made
//! again when there is space.

mod ballast;
mod keeper;
mod metrics;

use std::fmt;
use std::time::Duration;

pub use ballast::Ballast;
pub use keeper::{Keeper, QuotaStatus, room_to_open};
pub use metrics::Metrics;

use crate::config::{LEAST_GENERATIONS, LEAST_QUOTA, WhenFull};

/// Largest default quota.
const DEFAULT_MOST: u64 = 2 << 30;
/// A generation is never made smaller than two of sled's segments are.
const LEAST_GENERATION: u64 = 1 << 20;
const BALLAST_MOST: u64 = 32 << 20;
const FLOOR_LEAST: u64 = 1 << 20;
const FLOOR_MOST: u64 = 16 << 20;
/// A group's share of the disk, generously: a reading with a dozen RR intervals that do not compress.
const READING: u64 = 48;
/// Least reserve, where the quota allows it.
const RESERVE_LEAST: u64 = 4 << 20;
/// What a commit may take beyond its group: sled grows its file by segments of 512 KiB.
const SEGMENT: u64 = 512 << 10;
/// What a new generation takes before it holds anything.
pub const FRESH: u64 = 2 * SEGMENT;
/// Trouble that lasts longer than this is told to the senders.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The journal has what it may have, and nothing of it can go.
    Quota,
    /// Others have filled the disk.
    DiskFull,
    ReadOnly,
    /// The disk refuses writes for another reason.
    Failing,
}

/// Whether readings are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Open,
    /// They are taken and not acknowledged yet; it may be over in a moment.
    Held(Trouble),
    /// They are to stay with who sends them.
    Refused(Trouble),
}

/// What the disk shows, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// Real blocks below the spool's directory, without the ballast.
    pub data: u64,
    pub ballast: u64,
    /// Free for this user.
    pub free: u64,
    pub read_only: bool,
}

/// Sizes that follow from the quota and the disk, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub quota: u64,
    /// What a generation is sealed at.
    pub generation: u64,
    pub ballast: u64,
    /// Free space below which nothing is written.
    pub floor: u64,
}

/// What is to be done about the ballast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BallastOrder {
    Leave,
    Release,
    Make,
}

/// What a look at the disk comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub ballast: BallastOrder,
    /// Bytes by which the data is over the line.
    pub over: u64,
    /// Whether what is delivered, and only kept to recognise re-sent readings, should go at once.
    pub delivered_goes: bool,
    pub trouble: Option<Trouble>,
}

/// The quota where none is configured.
pub fn default_quota(free: u64) -> u64 {
    (free / 2).clamp(LEAST_QUOTA, DEFAULT_MOST)
}

/// Free space below which nothing is written on a filesystem of `disk` bytes.
pub fn floor(disk: u64) -> u64 {
    (disk / 64).clamp(FLOOR_LEAST, FLOOR_MOST)
}

/// Bytes that a group of `readings` may take.
pub fn need(readings: usize) -> u64 {
    SEGMENT + READING * readings as u64
}

// === impl Limits ===

impl Limits {
    /// `generation` is the configured size of one, `disk` the whole size of the filesystem.
    pub fn new(quota: u64, generation: u64, disk: u64) -> Self {
        let ballast = BALLAST_MOST.min(quota / 8).min(disk / 16);
        // On a small disk smaller pieces, so that dropping one does not drop half of everything.
        let generation = generation.min(((quota - ballast) / LEAST_GENERATIONS).max(LEAST_GENERATION));
        Self { quota, generation, ballast, floor: floor(disk) }
    }

    /// Most data.
    pub const fn data(&self) -> u64 {
        self.quota.saturating_sub(self.ballast)
    }

    /// Data beyond this makes something give way.
    pub fn line(&self) -> u64 {
        self.data().saturating_sub(self.reserve())
    }

    /// What is kept between the line and the end: one generation, and room for a few groups at least. A commit may use
    /// half of it; the rest is for databases that grow by a segment when they are opened to be read.
    pub fn reserve(&self) -> u64 {
        self.generation.max(RESERVE_LEAST).min(self.data() / 4)
    }

    /// Data that commits may reach.
    fn shut(&self) -> u64 {
        self.data().saturating_sub(self.reserve() / 2)
    }

    /// Whether `need` more bytes may be written.
    ///
    /// # Errors
    /// What is in the way.
    pub fn room(&self, measured: &Measured, need: u64) -> Result<(), Trouble> {
        if measured.read_only {
            Err(Trouble::ReadOnly)
        } else if measured.free < self.floor.saturating_add(need) {
            Err(Trouble::DiskFull)
        } else if measured.data.saturating_add(need.min(self.reserve() / 4)) > self.shut() {
            Err(Trouble::Quota)
        } else {
            Ok(())
        }
    }

    /// Decides what a look at the disk calls for. `before` is the trouble that was found last: it ends only when there
    /// is clearly room again.
    pub fn plan(&self, measured: &Measured, when_full: WhenFull, before: Option<Trouble>) -> Plan {
        let Measured { data, ballast, free, read_only } = *measured;
        let whole = ballast >= self.ballast;
        let order = if read_only {
            BallastOrder::Leave
        } else if ballast > 0 && free < 2 * self.floor {
            BallastOrder::Release
        } else if !whole && free >= self.ballast + 4 * self.floor {
            BallastOrder::Make
        } else {
            BallastOrder::Leave
        };
        let soon = if order == BallastOrder::Release { free + ballast } else { free };
        let enough = if before == Some(Trouble::DiskFull) { self.floor / 2 * 3 } else { self.floor };
        let most =
            if before == Some(Trouble::Quota) { self.line() } else { self.shut() - self.reserve() / 4 };
        let trouble = if read_only {
            Some(Trouble::ReadOnly)
        } else if soon < enough {
            Some(Trouble::DiskFull)
        } else if when_full == WhenFull::RefuseNew && data > most {
            Some(Trouble::Quota)
        } else {
            None
        };
        let over = data.saturating_sub(self.line());
        Plan {
            ballast: order,
            over,
            delivered_goes: !read_only && (over > 0 || free < 2 * self.floor),
            trouble,
        }
    }
}

// === impl Admission ===

impl Admission {
    /// What `trouble` means for new readings after it has lasted for `since`.
    pub fn of(trouble: Option<(Trouble, Duration)>, when_full: WhenFull) -> Self {
        match trouble {
            None => Self::Open,
            Some((Trouble::Quota, _)) if when_full == WhenFull::RefuseNew => Self::Refused(Trouble::Quota),
            Some((trouble, since)) if since >= PATIENCE => Self::Refused(trouble),
            Some((trouble, _)) => Self::Held(trouble),
        }
    }

    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Refused(_))
    }

    pub const fn trouble(self) -> Option<Trouble> {
        match self {
            Self::Open => None,
            Self::Held(trouble) | Self::Refused(trouble) => Some(trouble),
        }
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Held(trouble) => write!(f, "held: {trouble}"),
            Self::Refused(trouble) => write!(f, "refused: {trouble}"),
        }
    }
}

// === impl Trouble ===

impl Trouble {
    /// What kind of trouble an error of the filesystem is; `None`: it is no matter of the disk's state.
    pub fn of(error: &std::io::Error) -> Option<Self> {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Some(Self::DiskFull),
            std::io::ErrorKind::ReadOnlyFilesystem => Some(Self::ReadOnly),
            _ => None,
        }
    }

    /// What an operator can do.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Quota => {
                "let the uplinks deliver, raise journal.quota, or choose another journal.when_full"
            }
            Self::DiskFull => "free space on the journal's disk",
            Self::ReadOnly => "check the disk (dmesg) and mount it read-write",
            Self::Failing => "check the disk (dmesg); replace it if its errors stay",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quota => "the journal's quota is reached",
            Self::DiskFull => "the journal's disk is full",
            Self::ReadOnly => "the journal's disk is read-only",
            Self::Failing => "the journal's disk refuses writes",
        })
    }
}

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod tests;
