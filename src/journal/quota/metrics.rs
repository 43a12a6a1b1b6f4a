//! Counters of the quota.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Admission, Measured};
use crate::journal::spool::Evicted;
use crate::journal::types::GapCause;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Debug, Default)]
pub struct Metrics {
    quota: Gauge,
    used: Gauge,
    free: Gauge,
    ballast: Gauge,
    refusing: Gauge,
    evicted: Family<Cause, Counter>,
    generations: Family<Cause, Counter>,
}

impl Metrics {
    /// `registry` is the journal's.
    pub fn register(&self, registry: &mut Registry) {
        let mut bytes = |name, help, gauge: &Gauge| {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        };
        bytes("quota", "Most that the spool may take on its disk", &self.quota);
        bytes("quota_used", "What the spool takes on its disk, the ballast included", &self.used);
        bytes("disk_free", "Free space of the spool's disk", &self.free);
        bytes("ballast", "Size of the ballast; 0 while it is given up", &self.ballast);
        registry.register(
            "admission",
            "0: readings are taken, 1: they wait unacknowledged, 2: they are refused",
            self.refusing.clone(),
        );
        registry.register(
            "evicted",
            "Readings dropped at the quota before every uplink had them",
            self.evicted.clone(),
        );
        registry.register(
            "evicted_generations",
            "Generations dropped at the quota",
            self.generations.clone(),
        );
    }

    pub(super) fn quota(&self, bytes: u64) {
        self.quota.set(gauge(bytes));
    }

    pub(super) fn measured(&self, measured: &Measured) {
        self.used.set(gauge(measured.data.saturating_add(measured.ballast)));
        self.free.set(gauge(measured.free));
        self.ballast.set(gauge(measured.ballast));
    }

    pub(super) fn admission(&self, admission: Admission) {
        self.refusing.set(match admission {
            Admission::Open => 0,
            Admission::Held(_) => 1,
            Admission::Refused(_) => 2,
        });
    }

    pub(super) fn dropped(&self, evicted: &Evicted) {
        let cause = label(evicted.cause);
        self.evicted.get_or_create(&cause).inc_by(evicted.readings);
        self.generations.get_or_create(&cause).inc();
    }

    /// Readings of this run dropped for `cause`.
    pub(super) fn evicted(&self, cause: GapCause) -> u64 {
        self.evicted.get_or_create(&label(cause)).get()
    }
}

fn label(cause: GapCause) -> Cause {
    Cause {
        cause: match cause {
            GapCause::Lost => "lost",
            GapCause::Evicted => "evicted",
            GapCause::Thinned => "thinned",
            GapCause::Withheld => "withheld",
            GapCause::Erased => "erased",
        },
    }
}

fn gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
