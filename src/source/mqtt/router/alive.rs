//! The bytes of messages for local subscribers, wherever they wait: between connections and the relay, in the router's
//! logs and queues, retained, in sessions. A message counts until the last of its copies is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

use crate::config;
use crate::source::mqtt::message::Message;

/// What a message costs beside its bytes: its buffers' heads, and a place in a queue.
const OVERHEAD: usize = 192;

/// How much is alive, at most [`config::MESSAGES`].
#[derive(Debug, Default)]
pub(super) struct Alive {
    bytes: AtomicUsize,
    /// A message was turned away since this was last asked.
    full: AtomicBool,
}

impl Alive {
    /// The message, counted from now on; `None` when there is no room.
    pub(super) fn admit(self: &Arc<Self>, message: Message) -> Option<Message> {
        let size = message.size() + OVERHEAD;
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        let counted = Counted { envelope: message.envelope.clone(), size, alive: Arc::clone(self) };
        if before + size > config::MESSAGES as usize {
            self.full.store(true, Ordering::Relaxed);
            return None;
        }
        Some(Message { envelope: Bytes::from_owner(counted), ..message })
    }

    /// Was a message turned away since the last call?
    pub(super) fn was_full(&self) -> bool {
        self.full.swap(false, Ordering::Relaxed)
    }
}

/// An envelope that is counted as long as it lives.
struct Counted {
    envelope: Bytes,
    size: usize,
    alive: Arc<Alive>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.envelope
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.bytes.fetch_sub(self.size, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mqtt::message::Head;
    use crate::source::mqtt::publish::Qos;

    #[test]
    fn a_message_counts_until_its_last_copy_is_gone() {
        let alive = Arc::new(Alive::default());
        let head = Head { qos: Qos::AtMostOnce, retain: false, origin: 1, expires: 0, properties: &[] };
        let message = || Message::new(b"a", &[b'x'; 100_000], head);
        let mut kept = Vec::new();
        while let Some(message) = alive.admit(message()) {
            kept.push((message.envelope.clone(), message.envelope.slice(10..20)));
        }
        assert_eq!(kept.len(), config::MESSAGES as usize / 100_300);
        assert!(alive.was_full() && !alive.was_full());
        let (first, part) = kept.remove(0);
        drop(first);
        assert!(alive.admit(message()).is_none(), "a part of it is still there");
        drop(part);
        assert!(alive.admit(message()).is_some());
        drop(kept);
        assert_eq!(alive.bytes.load(Ordering::Relaxed), 0);
    }
}
