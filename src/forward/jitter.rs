//! The randomness of back-offs.

/// Evenly from 0 to 1; the middle when the system has no randomness to give.
pub(super) fn share() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}
