//! Heart rate notifications: BlueZ tells them as changes of a characteristic's `Value`, among all other signals. Pure.
//!
//! Told apart by the characteristic's whole UUID (makers reuse the short one for other things), so our own reads, which
//! change values as well, are never taken for notifications. Whoever takes a wearable's values takes them from all its
//! connections: BlueZ restores notifications by itself, before a connect call is back.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::source::bluetooth::radio::Peer;

/// Notifications of one wearable on their way: several seconds.
const WAITING: usize = 16;
/// Characteristics 0x2A37 that are kept in mind: one for each wearable that was ever connected to.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub struct Values {
    /// Whose the characteristics 0x2A37 are, by their paths.
    heart_rates: HashMap<String, Peer>,
    takers: HashMap<Peer, mpsc::Sender<Bytes>>,
}

impl Values {
    /// The object at `path` is the 0x2A37 of `peer`.
    pub fn learn(&mut self, path: &str, peer: Peer) {
        if self.heart_rates.len() < MOST {
            self.heart_rates.insert(path.to_owned(), peer);
        }
    }

    /// Where the 0x2A37 of `peer` is, if BlueZ has told.
    pub fn place(&self, peer: &Peer) -> Option<String> {
        self.heart_rates.iter().find(|(_, owner)| *owner == peer).map(|(path, _)| path.clone())
    }

    /// The object is gone.
    pub fn forget(&mut self, path: &str) {
        self.heart_rates.remove(path);
    }

    /// Everything is gone.
    pub fn clear(&mut self) {
        self.heart_rates.clear();
    }

    /// The wearable's values from now on; whoever took them before gets none any more.
    pub fn take(&mut self, peer: &Peer) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.takers.retain(|_, taker| !taker.is_closed());
        self.takers.insert(peer.clone(), sender);
        receiver
    }

    /// A new value of the characteristic at `path`. One that nobody takes in time is dropped; the intervals of the next
    /// show that it is missing.
    pub fn value(&self, path: &str, value: &[u8]) {
        if let Some(taker) = self.heart_rates.get(path).and_then(|peer| self.takers.get(peer)) {
            let _ = taker.try_send(Bytes::copy_from_slice(value));
        }
    }
}
