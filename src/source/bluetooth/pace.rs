//! How fast time goes by: as it does, or many times faster, so that a test sees an hour of a gym in seconds.

use std::time::{Duration, Instant};

/// A source of time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    begun: Instant,
    factor: u32,
}

impl Pace {
    /// As it does.
    pub fn real() -> Self {
        Self::times(1)
    }

    /// `factor` times as fast, from now on.
    pub fn times(factor: u32) -> Self {
        Self { begun: Instant::now(), factor: factor.max(1) }
    }

    pub fn now(&self) -> Instant {
        self.begun + self.begun.elapsed() * self.factor
    }

    /// How long `time` really takes.
    pub fn real_time(&self, time: Duration) -> Duration {
        time / self.factor
    }
}
