//! What all connections of a listener share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::buffers::Buffers;
use super::door::Door;
use super::mapping::Mappings;
use super::metrics::Metrics;
use super::refused::Ring;
use super::router::Hub;
use super::session::Registry;
use super::users::Users;
use crate::clock::Clock;
use crate::journal::Journal;
use crate::relayed::Shelf;

/// The limits, in the units used here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub connections: usize,
    pub handshakes: usize,
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
    pub door: Arc<Door>,
    pub buffers: Arc<Buffers>,
    /// Where batches of other gateways are kept, if they are taken.
    pub members: OnceLock<Shelf>,
    /// One permit per connection that may still come.
    pub slots: Arc<Semaphore>,
}

impl Shared {
    /// Ends expired sessions, and the connections of devices that were removed; writes what has to be told of peers.
    pub(crate) fn sweep(&self) {
        self.door.sweep();
        self.registry.expire(std::time::Instant::now());
        let removed = self.users.take_removed();
        if !removed.is_empty() {
            self.registry.revoke(|name| removed.contains(name));
        }
    }
}
