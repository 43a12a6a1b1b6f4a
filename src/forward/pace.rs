//! Whether readings come in so fast that packing them can wait. Pure.
//!
//! What is on disk is safe, and a batch is not late before its `max_age`; a sender that waits for its acknowledgement is
//! late at once. So while intake bursts, batches are not begun for being full, only for being due; and a burst that
//! lasts longer than `max_age` is no burst any more, it is the load.

use std::time::Duration;

use tokio::time::Instant;

use super::workshop::ahead;
use crate::journal::Seq;

/// Readings per second from which intake needs the machine for itself: thousands of times what straps send.
const BURST: f64 = 100_000.0;
/// Intake is measured over at least this long.
const WINDOW: Duration = Duration::from_millis(250);

pub(super) struct Pace {
    seen: Seq,
    at: Instant,
    burst_since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(watermark: Seq, now: Instant) -> Self {
        Self { seen: watermark, at: now, burst_since: None }
    }

    /// Takes note of how far the journal has come.
    pub(super) fn observe(&mut self, watermark: Seq, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        if passed < WINDOW {
            return;
        }
        let new = if self.seen.generation() == watermark.generation() {
            ahead(self.seen, watermark)
        } else {
            u64::from(watermark.n())
        };
        let bursts = new as f64 / passed.as_secs_f64() >= BURST;
        self.burst_since = if bursts { self.burst_since.or(Some(self.at)) } else { None };
        self.seen = watermark;
        self.at = now;
    }

    /// Until when to look again, if packing should wait now.
    pub(super) fn wait(&self, max_age: Duration, now: Instant) -> Option<Instant> {
        self.burst_since.filter(|since| now.saturating_duration_since(*since) < max_age).map(|_| now + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(60);

    /// Observes `per_second` readings a second for `seconds`, ten times a second.
    fn run(pace: &mut Pace, start: Instant, from: u32, per_second: u32, seconds: u32) -> (Instant, u32) {
        let mut at = (start, from);
        for step in 1..=seconds * 10 {
            at = (start + Duration::from_millis(u64::from(step) * 100), from + per_second / 10 * step);
            pace.observe(Seq::new(1, at.1), at.0);
        }
        at
    }

    #[test]
    fn a_gym_full_of_straps_is_no_burst() {
        let now = Instant::now();
        let mut pace = Pace::new(Seq::new(1, 0), now);
        let (now, _) = run(&mut pace, now, 0, 500, 5);
        assert_eq!(pace.wait(AGE, now), None);
    }

    #[test]
    fn packing_waits_for_the_end_of_a_burst() {
        let now = Instant::now();
        let mut pace = Pace::new(Seq::new(1, 0), now);
        let (now, n) = run(&mut pace, now, 0, 800_000, 5);
        assert!(pace.wait(AGE, now).is_some());
        let (now, _) = run(&mut pace, now, n, 0, 1);
        assert_eq!(pace.wait(AGE, now), None);
    }

    #[test]
    fn what_lasts_longer_than_a_batch_may_age_is_the_load() {
        let now = Instant::now();
        let mut pace = Pace::new(Seq::new(1, 0), now);
        let (now, _) = run(&mut pace, now, 0, 800_000, 61);
        assert_eq!(pace.wait(AGE, now), None);
    }

    #[test]
    fn a_new_generation_does_not_look_like_a_burst() {
        let now = Instant::now();
        let mut pace = Pace::new(Seq::new(1, 2_000_000), now);
        pace.observe(Seq::new(2, 40), now + Duration::from_secs(1));
        assert_eq!(pace.wait(AGE, now + Duration::from_secs(1)), None);
    }
}
