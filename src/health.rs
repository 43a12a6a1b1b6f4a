//! Whether the gateway lives (`/health`) and whether it can be used (`/ready`).
//!
//! Promise: each stage says that it made progress, by [`Health::beat`] or by the [`Mark`] it carries; one that has not
//! within its own deadline is named. Time is monotonic. A stage that was never announced cannot be late.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A task's sign of life: the task sets it whenever it has got further, somebody else asks when that was. Clones share
/// it; setting it is one store.
#[derive(Debug, Clone)]
pub struct Mark {
    made: Instant,
    /// Milliseconds after `made`.
    last: Arc<AtomicU64>,
}

impl Mark {
    pub fn new(now: Instant) -> Self {
        Self { made: now, last: Arc::default() }
    }

    /// The task got further.
    pub fn set(&self, now: Instant) {
        let since = now.saturating_duration_since(self.made).as_millis();
        self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long ago that was, to the millisecond.
    pub fn age(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        now.saturating_duration_since(self.made).saturating_sub(last)
    }
}

#[derive(Debug)]
struct Stage {
    deadline: Duration,
    mark: Mark,
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
    stages: BTreeMap<String, Stage>,
}

impl Health {
    /// Announces a stage: from now on it must beat at least once per `deadline`.
    pub fn announce(&self, stage: &str, deadline: Duration, now: Instant) {
        self.watch(stage, deadline, Mark::new(now));
    }

    /// Announces a stage that sets its own mark, at least once per `deadline`.
    pub fn watch(&self, stage: &str, deadline: Duration, mark: Mark) {
        self.lock().stages.insert(stage.to_owned(), Stage { deadline, mark });
    }

    /// `stage` made progress.
    pub fn beat(&self, stage: &str, now: Instant) {
        if let Some(stage) = self.lock().stages.get(stage) {
            stage.mark.set(now);
        }
    }

    /// The stages that have not made progress in time.
    pub fn late(&self, now: Instant) -> Vec<String> {
        let overdue = |stage: &Stage| stage.mark.age(now) > stage.deadline;
        self.lock().stages.iter().filter(|(_, stage)| overdue(stage)).map(|(name, _)| name.clone()).collect()
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
        tracing::info!(target: "flight::life", ?phase, "phase");
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

    #[test]
    fn a_stage_that_carries_its_mark_has_a_deadline_of_its_own() {
        let health = Health::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (listener, uplink) = (Mark::new(at(0)), Mark::new(at(0)));
        health.watch("listener", Duration::from_secs(30), listener.clone());
        health.watch("uplink cloud", Duration::from_secs(90), uplink.clone());
        assert_eq!(health.late(at(31)), ["listener"]);
        listener.set(at(31));
        assert!(health.late(at(61)).is_empty(), "a minute without an answer is no fault of an uplink");
        assert_eq!(health.late(at(91)), ["listener", "uplink cloud"]);
        uplink.set(at(91));
        assert_eq!(health.late(at(100)), ["listener"]);
        assert_eq!(uplink.age(at(100)), Duration::from_secs(9));
    }
}
