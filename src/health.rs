//! Whether the gateway lives (`/health`) and whether it can be used (`/ready`).
//!
//! Promise: each stage says that it made progress by [`Health::beat`]; one that has not within its deadline is named.
//! Time is monotonic. A stage that was never announced cannot be late.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
struct Stage {
    deadline: Duration,
    last: Instant,
}

/// How far the gateway's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The journal is being opened, ports are being bound.
    #[default]
    Starting,
    Running,
    /// No new connections; what is there is being committed and delivered.
    Stopping,
}

/// The shared state; cheap, taken once per beat.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    phase: Phase,
    trouble: Option<String>,
    stages: BTreeMap<&'static str, Stage>,
}

impl Health {
    /// Announces a stage: from now on it must beat at least once per `deadline`.
    pub fn announce(&self, stage: &'static str, deadline: Duration, now: Instant) {
        self.lock().stages.insert(stage, Stage { deadline, last: now });
    }

    /// `stage` made progress.
    pub fn beat(&self, stage: &'static str, now: Instant) {
        if let Some(stage) = self.lock().stages.get_mut(stage) {
            stage.last = now;
        }
    }

    /// The stages that have not made progress in time.
    pub fn late(&self, now: Instant) -> Vec<&'static str> {
        let overdue = |stage: &Stage| now.saturating_duration_since(stage.last) > stage.deadline;
        self.lock().stages.iter().filter(|(_, stage)| overdue(stage)).map(|(name, _)| *name).collect()
    }

    /// What keeps readings from being taken, in words; `None`: nothing. Returns what it was before.
    pub fn trouble_is(&self, trouble: Option<String>) -> Option<String> {
        std::mem::replace(&mut self.lock().trouble, trouble)
    }

    pub fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// No code that holds this lock can panic half-way, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_late_after_its_deadline_and_well_again_after_a_beat() {
        let health = Health::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        health.announce("journal", Duration::from_secs(10), at(0));
        health.announce("runtime", Duration::from_secs(60), at(0));
        assert!(health.late(at(10)).is_empty());
        assert_eq!(health.late(at(11)), ["journal"]);
        health.beat("journal", at(12));
        assert!(health.late(at(13)).is_empty());
        assert_eq!(health.late(at(80)), ["journal", "runtime"]);
        health.beat("never announced", at(80));
        assert_eq!(health.late(at(80)).len(), 2);
    }
}
