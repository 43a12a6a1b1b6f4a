//! Thinning: one whole sealed generation's readings give way to summaries, so that time is kept when room is not.
//!
//! # What it promises
//! - Every reading of the generation enters exactly one summary: the sum of `n` over the summaries is the number of
//!   readings, after a second pass too. It is read back from the disk and compared before the readings go.
//! - What stood in the generation stands in its record: the thinned ranges with their counts per device, and what was
//!   missing before, each number once.
//! - Memory does not grow with the generation: at most [`MOST_WINDOWS`] windows are open, one page of blocks is read and
//!   one batch of blocks is written at a time.
//! - A generation is thinned only where it wins a good part of its room ([`pays`]), and only from readings that this build
//!   can read: a value of a newer version, or sealed with a key that is not at hand, keeps its generation as it is.
//!
//! # What it does not
//! - One summary per device and window is the rule, not a promise: a device that hands in stamps of a window long past
//!   gets a second summary for it. Their counts add up.
//! - It does not choose the generation and does not put the summaries in its place: see [`super::spool`].
//!
//! [`fold`] gathers, [`store`] writes, [`pass`] goes through one generation.

mod fold;
mod pass;
mod store;
#[cfg(test)]
mod tests;

pub use pass::{Source, Thinned, thin};

/// Most windows that are open at a time: some 6 MB. 3,000 straps at one reading a second keep theirs open for ten of them.
const MOST_WINDOWS: usize = 1 << 16;

/// Bytes of an empty database: sled's first segment of 512 KiB and what is beside it.
pub const LEAST_DATABASE: u64 = 520 * 1024;

/// How far a generation is thinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    TenSeconds,
    Minute,
}

/// Why a generation could not be thinned; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ThinError {
    #[error("generation {generation} cannot be read ({cause}); run `fogbeat journal verify`")]
    Read { generation: u32, cause: String },
    #[error("the summaries of generation {generation} cannot be written: {cause}; is the disk full?")]
    Write { generation: u32, cause: String },
    #[error(
        "the summaries of generation {generation} speak of {found} readings in place of {expected}: a defect; please report it"
    )]
    Count { generation: u32, expected: u64, found: u64 },
}

/// Whether a generation is worth thinning from `before` to `after` bytes: at least a third of its room must be won.
pub const fn pays(before: u64, after: u64) -> bool {
    after.saturating_mul(3) <= before.saturating_mul(2)
}

// === impl Level ===

impl Level {
    /// Length of its windows.
    pub const fn window_s(self) -> u16 {
        match self {
            Self::TenSeconds => 10,
            Self::Minute => 60,
        }
    }
}
