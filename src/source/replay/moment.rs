//! One reading of a recording, and what a frame of beats makes of it. Pure.

use std::num::NonZeroU16;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::reading::{Contact, RrIntervals, RrUnit};

/// One reading of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// ms since the start of the recording.
    pub offset_ms: u64,
    /// The wearable that the recording names, if it does.
    pub device: Option<Arc<str>>,
    /// As the wearable said it; 0: no clean signal.
    pub bpm: Option<u16>,
    pub rr: RrIntervals,
    pub contact: Contact,
    pub energy_kj: Option<u16>,
    pub battery_percent: Option<u8>,
}

impl From<super::beats::Frame> for Moment {
    fn from(frame: super::beats::Frame) -> Self {
        Self {
            offset_ms: frame.offset_ms,
            device: None,
            bpm: frame.bpm.map(NonZeroU16::get),
            rr: exact_rr(frame.rr_us),
            contact: Contact::Unsupported,
            energy_kj: None,
            battery_percent: None,
        }
    }
}

/// Intervals in the coarsest unit that keeps them exactly.
pub(super) fn exact_rr(rr_us: SmallVec<[u32; 4]>) -> RrIntervals {
    if rr_us.iter().all(|us| us % 1000 == 0) {
        RrIntervals { unit: RrUnit::Millis, values: rr_us.into_iter().map(|us| us / 1000).collect() }
    } else {
        RrIntervals { unit: RrUnit::Micros, values: rr_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fraction_keeps_the_whole_reading_in_microseconds() {
        assert_eq!(exact_rr(SmallVec::from_slice(&[800_000, 813_889])).unit, RrUnit::Micros);
        assert_eq!(exact_rr(SmallVec::from_slice(&[800_000])).values.as_slice(), [800]);
    }
}
