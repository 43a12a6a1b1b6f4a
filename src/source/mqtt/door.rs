//! The door: every connection passes it, and gives its place back when it ends, however it ends.
//!
//! Keeps the table of [`Sources`] for the tasks of all connections, counts, and writes the log lines. The lock is held
//! for a look at the table only, and taken per connection, never per packet.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::metrics::Metrics;
use super::sources::{Arrival, Fault, Rules, Source, Sources, Told};

/// Handshakes wait for this to be dropped: then they are given up.
type Handle = oneshot::Sender<()>;

pub(crate) struct Door {
    sources: Mutex<Sources<Handle>>,
    metrics: Metrics,
    /// Numbers connections.
    numbers: AtomicU64,
}

impl Door {
    pub(crate) fn new(rules: Rules, metrics: Metrics) -> Self {
        Self { sources: Mutex::new(Sources::new(rules, Instant::now())), metrics, numbers: AtomicU64::new(0) }
    }

    /// Lets a connection in, or counts why not. The receiver resolves when its handshake is given up.
    pub(crate) fn arrive(self: &Arc<Self>, address: IpAddr) -> Option<(Guest, oneshot::Receiver<()>)> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (handle, given_up) = oneshot::channel();
        let now = Instant::now();
        let mut sources = self.sources();
        let (source, arrival) = sources.arrive(address, number, handle, now);
        self.metrics.handshakes.set(sources.handshakes() as i64);
        let told = match arrival {
            Arrival::Welcome => None,
            Arrival::InPlaceOf(victim) => {
                Metrics::count(&self.metrics.refused_connects, "handshake_given_up");
                sources.note(victim, Fault::Handshakes, now)
            }
            Arrival::Refused(fault) => {
                Metrics::count(&self.metrics.refused_connects, fault.cause());
                sources.note(source, fault, now)
            }
        };
        drop(sources);
        told.iter().for_each(tell);
        let welcome = !matches!(arrival, Arrival::Refused(_));
        welcome.then(|| {
            let guest = Guest { door: Arc::clone(self), source, number, stage: Stage::Handshake };
            (guest, given_up)
        })
    }

    /// More than half of the places for handshakes are taken.
    pub(crate) fn crowded(&self, places: usize) -> bool {
        self.metrics.handshakes.get() as usize > places / 2
    }

    /// Writes what has to be told and forgets who is gone.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut sources = self.sources();
        let lines = sources.sweep(now);
        self.metrics.throttled_addresses.set(sources.throttled(now) as i64);
        drop(sources);
        lines.iter().for_each(tell);
    }

    fn sources(&self) -> MutexGuard<'_, Sources<Handle>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(told: &Told) {
    let faults = told.faults;
    tracing::warn!(
        address = %told.source,
        wrong_secrets = faults.credentials,
        too_fast = faults.throttled,
        reconnecting_clients = faults.reconnects,
        unfinished_handshakes = faults.handshakes,
        beyond_share = faults.share,
        malformed = faults.malformed,
        "MQTT connections turned away since this address was last told about (at most once a minute)"
    );
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Handshake,
    Connection,
}

/// A connection's place; given back when dropped.
pub(crate) struct Guest {
    door: Arc<Door>,
    source: Source,
    number: u64,
    stage: Stage,
}

impl Guest {
    /// The connection's number in this run.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The handshake has ended well. `false`: its address has its share of connections.
    pub(crate) fn settle(&mut self) -> bool {
        let mut sources = self.door.sources();
        let settled = sources.settle(self.source, self.number);
        self.door.metrics.handshakes.set(sources.handshakes() as i64);
        if settled {
            self.stage = Stage::Connection;
        }
        settled
    }

    /// May a client of this name connect once more now?
    pub(crate) fn may_reconnect(&self, client: &str) -> bool {
        self.door.sources().reconnect(self.source, client, Instant::now())
    }

    /// A wrong secret was given. `true`: it may be answered.
    pub(crate) fn wrong_secret(&self) -> bool {
        self.door.metrics.auth_failures.inc();
        self.note(Fault::Credentials);
        self.door.sources().wrong_secret(self.source, Instant::now())
    }

    /// Notes what its address did wrong, for the log.
    pub(crate) fn note(&self, fault: Fault) {
        let told = self.door.sources().note(self.source, fault, Instant::now());
        told.iter().for_each(tell);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut sources = self.door.sources();
        match self.stage {
            Stage::Handshake => sources.finish(self.source, self.number),
            Stage::Connection => sources.leave(self.source),
        }
        self.door.metrics.handshakes.set(sources.handshakes() as i64);
    }
}
