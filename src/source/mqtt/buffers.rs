//! The pool from which connections take what exceeds their own share of memory.
//!
//! Promises: what all connections hold in buffers, queues and tables stays within their own shares and the pool, but
//! for one socket read of each worker thread. Nobody is refused for want of memory: while the pool is empty a
//! connection reads no more at once than its own share holds. A packet that is larger is read only when there is room
//! for all of it, so that no two wait for each other's half.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// What every connection may hold without asking, bytes.
pub(crate) const OWN: usize = 8 << 10;
/// Shares change in steps, so that a busy connection seldom touches what all share.
const STEP: usize = 4 << 10;

/// What is left for all connections together.
#[derive(Debug)]
pub(crate) struct Buffers {
    left: AtomicI64,
}

impl Buffers {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { left: AtomicI64::new(i64::try_from(bytes).unwrap_or(i64::MAX)) }
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.left() <= 0
    }

    /// Below 0: more is held than there should be.
    pub(crate) fn left(&self) -> i64 {
        self.left.load(Ordering::Relaxed)
    }
}

/// One connection's part; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    buffers: Arc<Buffers>,
    taken: usize,
}

impl Share {
    pub(crate) fn new(buffers: Arc<Buffers>) -> Self {
        Self { buffers, taken: 0 }
    }

    /// Is there room for this connection to hold so many bytes?
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(OWN).saturating_sub(self.taken);
        more as i64 <= self.buffers.left().max(0)
    }

    /// The connection now holds so many bytes.
    pub(crate) fn hold(&mut self, bytes: usize) {
        let wanted = bytes.saturating_sub(OWN).div_ceil(STEP) * STEP;
        if wanted != self.taken {
            let change = wanted as i64 - self.taken as i64;
            self.buffers.left.fetch_sub(change, Ordering::Relaxed);
            self.taken = wanted;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_what_exceeds_its_own_and_gives_it_back() {
        let buffers = Arc::new(Buffers::new(10_000));
        let mut one = Share::new(Arc::clone(&buffers));
        one.hold(OWN);
        assert_eq!(buffers.left(), 10_000);
        one.hold(OWN + 1);
        assert_eq!(buffers.left(), 10_000 - 4096);
        let mut two = Share::new(Arc::clone(&buffers));
        two.hold(OWN + 8000);
        assert!(buffers.exhausted());
        one.hold(100);
        assert!(!buffers.exhausted());
        drop((one, two));
        assert_eq!(buffers.left(), 10_000);
    }
}
