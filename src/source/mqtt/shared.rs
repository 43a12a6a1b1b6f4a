//! What all connections of a listener share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::mapping::Mappings;
use super::metrics::Metrics;
use super::refused::Ring;
use super::router::Hub;
use super::session::Registry;
use super::users::Users;
use crate::clock::Clock;
use crate::journal::Journal;

/// The limits, in the units used here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub connections: usize,
    pub packet_size: usize,
    pub in_flight: u16,
    pub handshake: Duration,
    pub subscriptions: usize,
}

/// What all connections share.
pub(crate) struct Shared {
    pub journal: Journal,
    pub clock: Arc<dyn Clock>,
    pub mappings: Arc<Mappings>,
    pub hub: Hub,
    pub registry: Registry,
    pub users: Users,
    pub metrics: Metrics,
    pub ring: Ring,
    pub limits: Limits,
    pub anonymous: bool,
    /// Numbers connections.
    pub numbers: AtomicU64,
}

impl Shared {
    /// Ends expired sessions, and the connections of devices that were removed.
    pub(crate) fn sweep(&self) {
        self.registry.expire(std::time::Instant::now());
        let removed = self.users.take_removed();
        if !removed.is_empty() {
            self.registry.revoke(|name| removed.contains(name));
        }
    }
}
