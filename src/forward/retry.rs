//! When to try again: full-jitter exponential back-off, without end.
//!
//! Pure: the caller brings the randomness and sleeps. The delay before attempt n is drawn evenly from
//! `min ..= min(max, min * 2^n)`, so that gateways cut off by the same outage do not come back in step. There is
//! no last attempt: the journal keeps the readings, and giving up would lose them. Delays are durations of the
//! monotonic clock; the wall clock plays no part.

use std::time::Duration;

/// The bounds of the delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Shortest delay.
    pub min: Duration,
    /// Longest delay.
    pub max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { min: Duration::from_millis(500), max: Duration::from_secs(60) }
    }
}

/// Back-off of one uplink: how many attempts failed since the last success.
#[derive(Debug, Clone)]
pub struct Backoff {
    limits: Limits,
    failures: u32,
}

impl Backoff {
    pub const fn new(limits: Limits) -> Self {
        Self { limits, failures: 0 }
    }

    /// Attempts that failed since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and says how long to wait. `random` is evenly drawn from 0.0 ..= 1.0; what lies outside is
    /// taken as the nearer end.
    pub fn failed(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let ceiling = 2u32
            .checked_pow(self.failures)
            .and_then(|factor| self.limits.min.checked_mul(factor))
            .unwrap_or(self.limits.max)
            .min(self.limits.max)
            .max(self.limits.min);
        let share = if random.is_nan() { 1.0 } else { random.clamp(0.0, 1.0) };
        self.limits.min + (ceiling - self.limits.min).mul_f64(share)
    }

    /// Something got through: the next delay starts small again.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { min: Duration::from_millis(500), max: Duration::from_secs(60) };

    #[test]
    fn grows_to_the_ceiling_and_stays_there_for_ever() {
        let mut backoff = Backoff::new(LIMITS);
        let delays: Vec<u64> = (0..10).map(|_| backoff.failed(1.0).as_millis() as u64).collect();
        assert_eq!(delays, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000, 60_000]);
        for _ in 0..100_000 {
            assert_eq!(backoff.failed(1.0), LIMITS.max);
        }
    }

    #[test]
    fn jitter_spans_from_min_to_the_ceiling() {
        let mut backoff = Backoff::new(LIMITS);
        for _ in 0..7 {
            backoff.failed(0.0);
        }
        assert_eq!(backoff.clone().failed(0.0), LIMITS.min);
        assert_eq!(backoff.clone().failed(0.5), Duration::from_millis(30_250));
        assert_eq!(backoff.clone().failed(f64::NAN), LIMITS.max);
        assert_eq!(backoff.failed(-3.0), LIMITS.min);
    }

    #[test]
    fn a_success_starts_anew() {
        let mut backoff = Backoff::new(LIMITS);
        for _ in 0..9 {
            backoff.failed(1.0);
        }
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        assert_eq!(backoff.failed(1.0), Duration::from_secs(1));
    }
}
