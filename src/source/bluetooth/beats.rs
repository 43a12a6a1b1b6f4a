//! When the beats of a notification happened: pure, one [`Run`] per connection.
//!
//! A notification says how far apart beats were, not when; it arrives up to two seconds after the beat it tells of, and
//! unevenly. Within an unbroken run the sum of all RR intervals is exact, so the smallest difference between arrival
//! and sum is the anchor: beat time = anchor + sum. The anchor follows the drift of the two clocks slowly. Where the
//! arrival is further from it than jitter explains, notifications were lost: a new run begins, and no difference of
//! intervals may be taken across its beginning.

use std::collections::VecDeque;

/// Arrivals that the anchor is the smallest of.
const WINDOW: usize = 32;
/// The anchor moves by at most this per notification, microseconds: real clocks drift by 100 ppm, far less.
const SLEW_US: i64 = 1_000;
/// An arrival so much after the predicted beat: notifications were lost.
const LATE_US: i64 = 3_000_000;
/// An arrival so much before: the sum is wrong (a burst of old intervals). The first arrival of a run, which its anchor
/// comes from, may itself be late by the longest delay there is, 1.7 s.
const EARLY_US: i64 = 2_000_000;

/// Where the beats of one notification lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The last beat happened so long before the arrival, milliseconds.
    pub before_arrival_ms: u32,
    /// The first beats of a run: what came before is not adjacent to them.
    pub begins_run: bool,
}

#[derive(Debug, Default)]
pub struct Run {
    sum_us: i64,
    anchor_us: Option<i64>,
    offsets: VecDeque<i64>,
}

impl Run {
    /// `rr_us`: the intervals of one notification, oldest first, microseconds; `None` when it has none.
    pub fn place(&mut self, arrival_ms: u64, rr_us: impl Iterator<Item = u64>) -> Option<Placed> {
        let mut beats = 0;
        let passed: i64 = rr_us
            .map(|interval| {
                beats += 1;
                interval as i64
            })
            .sum();
        if beats == 0 {
            return None;
        }
        let arrival_us = (arrival_ms as i64).saturating_mul(1000);
        let sum_us = self.sum_us.saturating_add(passed);
        let offset = arrival_us.saturating_sub(sum_us);
        let fits = self.anchor_us.is_some_and(|anchor| (-EARLY_US..=LATE_US).contains(&(offset - anchor)));
        if !fits {
            *self = Self { sum_us: passed, anchor_us: Some(arrival_us - passed), offsets: VecDeque::new() };
            self.offsets.push_back(arrival_us - passed);
            return Some(Placed { before_arrival_ms: 0, begins_run: true });
        }
        self.sum_us = sum_us;
        if self.offsets.len() == WINDOW {
            self.offsets.pop_front();
        }
        self.offsets.push_back(offset);
        let smallest = self.offsets.iter().copied().min().unwrap_or(offset);
        let anchor = self.anchor_us.unwrap_or(smallest);
        // No beat is heard before it happens: an earlier arrival moves the anchor at once, drift only slowly.
        let anchor = if smallest < anchor { smallest } else { anchor + (smallest - anchor).min(SLEW_US) };
        self.anchor_us = Some(anchor);
        let before_us = (offset - anchor).max(0);
        Some(Placed {
            before_arrival_ms: u32::try_from(before_us / 1000).unwrap_or(u32::MAX),
            begins_run: false,
        })
    }

    /// Whether there is something that could be continued.
    pub fn is_going(&self) -> bool {
        self.anchor_us.is_some()
    }

    /// The connection was lost, or the sensor had no contact: what comes next is a new run.
    pub fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn beats_lie_at_even_distances_whatever_the_arrivals_do() {
        let mut run = Run::default();
        // 60 bpm, each notification with one beat, arrivals jittering by up to 900 ms.
        let mut worst = 0i64;
        for beat in 0..200i64 {
            let true_ms = 10_000 + beat * 1000;
            let jitter = (beat * 7919) % 900;
            let arrival = (true_ms + jitter) as u64;
            let placed = run.place(arrival, std::iter::once(1_000_000)).unwrap();
            assert_eq!(placed.begins_run, beat == 0);
            if beat >= 40 {
                let told = arrival as i64 - i64::from(placed.before_arrival_ms);
                worst = worst.max((told - true_ms).abs());
            }
        }
        assert!(worst <= 100, "{worst} ms");
    }

    #[test]
    fn a_loss_begins_a_new_run_and_a_pause_of_two_seconds_does_not() {
        let mut run = Run::default();
        let one = || std::iter::once(1_000_000u64);
        assert!(run.place(1_000, one()).unwrap().begins_run);
        assert!(!run.place(2_000, one()).unwrap().begins_run);
        assert!(!run.place(4_000, [1_000_000, 1_000_000].into_iter()).unwrap().begins_run);
        assert_eq!(run.place(4_500, std::iter::empty()), None);
        assert!(run.place(9_000, one()).unwrap().begins_run, "four seconds without their beats");
        run.end();
        assert!(run.place(10_000, one()).unwrap().begins_run);
    }

    #[test]
    fn a_first_notification_that_is_late_is_no_loss() {
        let mut run = Run::default();
        assert!(run.place(10_255, std::iter::once(917_000)).unwrap().begins_run);
        // 65 bpm: two beats within this second.
        let second = run.place(11_220, [882_000, 909_000].into_iter()).unwrap();
        assert_eq!(second, Placed { before_arrival_ms: 0, begins_run: false });
        assert!(!run.place(12_066, std::iter::once(865_000)).unwrap().begins_run);
    }

    #[test]
    fn a_burst_of_old_intervals_is_no_run() {
        let mut run = Run::default();
        run.place(1_000, std::iter::once(1_000_000));
        let burst = run.place(2_000, [18_000_000, 900_000].into_iter()).unwrap();
        assert!(burst.begins_run);
    }

    proptest! {
        #[test]
        fn never_after_the_arrival_and_never_a_panic(steps in proptest::collection::vec((0u64..5_000, 0u64..70_000_000), 0..200)) {
            let mut run = Run::default();
            let mut now = 0;
            for (wait, rr) in steps {
                now += wait;
                let placed = run.place(now, std::iter::once(rr)).unwrap();
                prop_assert!(u64::from(placed.before_arrival_ms) <= LATE_US as u64 / 1000 + EARLY_US as u64 / 1000);
            }
        }
    }
}
