//! From beats to what a chest strap notifies. Pure.
//!
//! Promises: one [`Frame`] per second of the recording, holding the RR intervals that ended in that second; `bpm` is
//! 60000 / mean of the last five intervals, rounded, as straps do it. When no beat ended for [`SILENCE_MS`] the strap
//! has lost the signal: no frame until the next beat, and the mean starts anew, because a repeated last value would be
//! an invented one. Intervals are kept exactly, in microseconds.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use smallvec::SmallVec;

/// One heart beat of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// When the interval ended, counted from the start of the recording.
    pub end_us: u64,
    /// The interval that ended with this beat.
    pub rr_us: u32,
}

/// One notification of a strap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When it is sent, counted from the start of the recording.
    pub offset_ms: u64,
    /// `None` when the rate does not fit into a reading (no heart beats like that).
    pub bpm: Option<NonZeroU16>,
    /// RR intervals in microseconds, oldest first.
    pub rr_us: SmallVec<[u32; 4]>,
}

/// Straps notify once a second.
pub const PERIOD_MS: u64 = 1000;
/// Without a beat for this long a strap has no signal. At 20 beats a minute there is still one beat in 3 s.
pub const SILENCE_MS: u64 = 3000;
/// Intervals in the mean that gives the rate.
const MEAN_OF: usize = 5;

/// Chains intervals into beats: each one begins where the one before it ended.
pub fn chained(rr_us: impl IntoIterator<Item = u32>) -> impl Iterator<Item = Beat> {
    rr_us.into_iter().scan(0u64, |now, rr_us| {
        *now = now.saturating_add(u64::from(rr_us));
        Some(Beat { end_us: *now, rr_us })
    })
}

/// The notifications of a strap that hears `beats` (in order of time).
pub fn notifications<I>(beats: I) -> Notifications<I::IntoIter>
where
    I: IntoIterator<Item = Beat>,
{
    Notifications {
        beats: beats.into_iter().peekable(),
        recent: VecDeque::with_capacity(MEAN_OF),
        last_beat_us: 0,
        next_ms: PERIOD_MS,
    }
}

/// See [`notifications`].
#[derive(Debug)]
pub struct Notifications<I: Iterator<Item = Beat>> {
    beats: std::iter::Peekable<I>,
    recent: VecDeque<u32>,
    last_beat_us: u64,
    next_ms: u64,
}

impl<I: Iterator<Item = Beat>> Notifications<I> {
    fn hear(&mut self, rr_us: u32) {
        if self.recent.len() == MEAN_OF {
            self.recent.pop_front();
        }
        self.recent.push_back(rr_us);
    }

    fn bpm(&self) -> Option<NonZeroU16> {
        let sum: u64 = self.recent.iter().map(|rr| u64::from(*rr)).sum();
        let count = self.recent.len() as u64;
        // 60 s / mean, rounded half up, in whole numbers: (60e6 * count) / sum.
        let doubled = (120_000_000 * count).checked_div(sum)?;
        u16::try_from(doubled.div_ceil(2)).ok().and_then(NonZeroU16::new)
    }
}

impl<I: Iterator<Item = Beat>> Iterator for Notifications<I> {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let upcoming_us = self.beats.peek()?.end_us;
        if upcoming_us > self.last_beat_us.saturating_add(SILENCE_MS * 1000)
            && self.next_ms > (self.last_beat_us / 1000).saturating_add(SILENCE_MS)
        {
            self.recent.clear();
        }
        if self.recent.is_empty() {
            // No signal: go on in the second in which the next beat ends.
            self.next_ms = self.next_ms.max(upcoming_us.div_ceil(PERIOD_MS * 1000).saturating_mul(PERIOD_MS));
        }
        let until_us = self.next_ms.saturating_mul(1000);
        let mut rr_us = SmallVec::new();
        while let Some(beat) = self.beats.next_if(|beat| beat.end_us <= until_us) {
            self.hear(beat.rr_us);
            self.last_beat_us = beat.end_us;
            rr_us.push(beat.rr_us);
        }
        let frame = Frame { offset_ms: self.next_ms, bpm: self.bpm(), rr_us };
        self.next_ms = self.next_ms.saturating_add(PERIOD_MS);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bpm(frame: &Frame) -> Option<u16> {
        frame.bpm.map(NonZeroU16::get)
    }

    #[test]
    fn a_steady_heart_at_75_gives_one_or_two_beats_a_second() {
        let frames: Vec<_> = notifications(chained(std::iter::repeat_n(800_000, 10))).collect();
        assert_eq!(frames.len(), 8);
        assert!(frames.iter().all(|frame| bpm(frame) == Some(75)));
        let beats: Vec<_> = frames.iter().map(|frame| frame.rr_us.len()).collect();
        assert_eq!(beats, [1, 1, 1, 2, 1, 1, 1, 2]);
        assert_eq!(frames[3].offset_ms, 4000);
    }

    #[test]
    fn the_rate_is_the_mean_of_the_last_five() {
        let frames: Vec<_> = notifications(chained([1_000_000; 5].into_iter().chain([500_000; 4]))).collect();
        assert_eq!(bpm(&frames[4]), Some(60));
        // Two of 500 ms among five: mean 800 ms.
        assert_eq!(bpm(&frames[5]), Some(75));
        // 120 bpm would need five of them; four and one of 1,000 ms make 600 ms.
        assert_eq!(bpm(&frames[6]), Some(100));
    }

    #[test]
    fn a_second_without_a_beat_is_notified_without_intervals() {
        let frames: Vec<_> = notifications(chained([2_000_000, 1_500_000])).collect();
        let shape: Vec<_> = frames.iter().map(|frame| (frame.offset_ms, frame.rr_us.len())).collect();
        assert_eq!(shape, [(2000, 1), (3000, 0), (4000, 1)], "nothing before the first beat");
        assert_eq!(bpm(&frames[1]), Some(30));
    }

    #[test]
    fn silence_repeats_nothing() {
        let beats =
            [(1_000_000, 900_000), (60_500_000, 700_000)].map(|(end_us, rr_us)| Beat { end_us, rr_us });
        let frames: Vec<_> = notifications(beats).collect();
        let offsets: Vec<_> = frames.iter().map(|frame| frame.offset_ms).collect();
        assert_eq!(offsets, [1000, 2000, 3000, 4000, 61_000]);
        assert_eq!(bpm(&frames[4]), Some(86), "the mean starts anew after the silence");
    }

    proptest! {
        #[test]
        fn every_interval_comes_out_once_and_in_order(rr in prop::collection::vec(1u32..60_000_000, 1..200)) {
            let frames: Vec<_> = notifications(chained(rr.clone())).collect();
            let out: Vec<u32> = frames.iter().flat_map(|frame| frame.rr_us.iter().copied()).collect();
            prop_assert_eq!(out, rr);
            prop_assert!(frames.windows(2).all(|pair| pair[0].offset_ms < pair[1].offset_ms));
        }

        #[test]
        fn no_interval_is_notified_before_it_ended(rr in prop::collection::vec(1u32..5_000_000, 1..100)) {
            let mut beats = chained(rr.clone());
            for frame in notifications(chained(rr)) {
                for _ in &frame.rr_us {
                    prop_assert!(beats.next().unwrap().end_us <= frame.offset_ms * 1000);
                }
            }
        }
    }
}
