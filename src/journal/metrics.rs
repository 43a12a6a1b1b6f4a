//! The journal's counters.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::spool::Repaired;

/// Whether groups reach the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitState {
    Working,
    /// The last error; the group is being tried again.
    Failing(String),
}

pub struct Metrics {
    pub readings: Counter,
    pub duplicates: Counter,
    commits: Counter,
    commit_seconds: Histogram,
    failures: Counter,
    head_bytes: Gauge,
    pub spool_bytes: Gauge,
    pub generations: Gauge,
    pub blobs: Gauge,
    pub lost: Counter,
    pub quota: Arc<super::quota::Metrics>,
    repaired: Counter,
    salvaged: Counter,
    unnamed: Counter,
    pub damaged: Gauge,
    pub quarantine_bytes: Gauge,
    thinned: Counter,
    thinnings: Counter,
    missing_keys: Gauge,
    withheld: Gauge,
    state: Mutex<CommitState>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            readings: Counter::default(),
            duplicates: Counter::default(),
            commits: Counter::default(),
            // 0.1 ms to 3.3 s: an SD card needs tens of milliseconds.
            commit_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
            failures: Counter::default(),
            head_bytes: Gauge::default(),
            spool_bytes: Gauge::default(),
            generations: Gauge::default(),
            blobs: Gauge::default(),
            lost: Counter::default(),
            quota: Arc::default(),
            repaired: Counter::default(),
            salvaged: Counter::default(),
            unnamed: Counter::default(),
            damaged: Gauge::default(),
            quarantine_bytes: Gauge::default(),
            thinned: Counter::default(),
            thinnings: Counter::default(),
            missing_keys: Gauge::default(),
            withheld: Gauge::default(),
            state: Mutex::new(CommitState::Working),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("journal");
        r.register("readings", "Readings made durable", self.readings.clone());
        r.register(
            "duplicates",
            "Readings that were stored already and not stored again",
            self.duplicates.clone(),
        );
        r.register("commits", "Groups made durable", self.commits.clone());
        r.register_with_unit(
            "commit",
            "Time from taking a group to its fdatasync",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        r.register("commit_failures", "Attempts to commit that failed", self.failures.clone());
        r.register_with_unit(
            "head",
            "Size of the head generation on disk",
            Unit::Bytes,
            self.head_bytes.clone(),
        );
        r.register_with_unit("spool", "Size of the spool on disk", Unit::Bytes, self.spool_bytes.clone());
        r.register("generations", "Generations on disk", self.generations.clone());
        r.register("blobs", "Files that sled does not sync; anything but 0 is a defect", self.blobs.clone());
        r.register("lost", "Numbers once durable that the storage has lost", self.lost.clone());
        r.register("repaired", "Damaged generations that were salvaged", self.repaired.clone());
        r.register("salvaged", "Readings kept from damaged generations", self.salvaged.clone());
        r.register(
            "unnamed",
            "Readings kept from damaged generations whose device's name is lost",
            self.unnamed.clone(),
        );
        r.register("damaged", "Damaged generations that wait to be salvaged", self.damaged.clone());
        r.register_with_unit(
            "quarantine",
            "Size of what is kept of damaged generations, for a look",
            Unit::Bytes,
            self.quarantine_bytes.clone(),
        );
        r.register("thinned", "Readings that gave way to summaries at the quota", self.thinned.clone());
        r.register("thinnings", "Generations thinned, to 10 s or to 1 min", self.thinnings.clone());
        r.register(
            "missing_keys",
            "Keys that stored readings are sealed with and that are not at hand",
            self.missing_keys.clone(),
        );
        r.register("withheld", "Readings that cannot be read for want of their key", self.withheld.clone());
        self.quota.register(r);
    }

    pub(super) fn encryption(&self, encryption: &super::Encryption) {
        self.missing_keys.set(encryption.missing_keys.len() as i64);
        self.withheld.set(encryption.withheld as i64);
    }

    pub(super) fn committed(&self, readings: usize, took: Duration) {
        self.readings.inc_by(readings as u64);
        self.commits.inc();
        self.commit_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn salvaged(&self, repaired: &Repaired) {
        self.repaired.inc();
        self.salvaged.inc_by(repaired.salvaged);
        self.lost.inc_by(repaired.lost);
        self.unnamed.inc_by(repaired.unnamed);
    }

    /// A generation was thinned; `readings` of it were readings until then.
    pub(super) fn thinned(&self, readings: u64) {
        self.thinned.inc_by(readings);
        self.thinnings.inc();
    }

    pub(super) fn head_bytes(&self, bytes: u64) {
        self.head_bytes.set(bytes as i64);
    }

    pub(super) fn state(&self, state: CommitState) {
        if matches!(state, CommitState::Failing(_)) {
            self.failures.inc();
        }
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != state {
            *current = state;
        }
    }

    pub fn commit_state(&self) -> CommitState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn commits(&self) -> u64 {
        self.commits.get()
    }
}
