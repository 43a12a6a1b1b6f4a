//! What a connection holds, and how it makes do with less while the pool of buffers is used up.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, READ_FIRST, READ_MOST, WRITE_MOST};
use crate::source::mqtt::buffers::OWN;
use crate::source::mqtt::codec::Will;
use crate::source::mqtt::intake::Pending;
use crate::source::mqtt::publish::announced;
use crate::source::mqtt::session::Wait;

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Tells the pool what this connection holds. `true`: the pool is used up.
    pub(super) fn account(&mut self) -> bool {
        if self.out.is_empty() && self.allocated.1 > WRITE_MOST {
            self.out = BytesMut::new();
            self.allocated.1 = 0;
        }
        // One large packet is no reason to keep its buffer.
        if self.inbuf.is_empty() && self.allocated.0 > 2 * READ_MOST {
            self.inbuf = BytesMut::new();
            self.allocated.0 = 0;
        }
        self.allocated.1 = self.allocated.1.max(self.out.capacity());
        self.share.hold(self.weight());
        let exhausted = self.shared.buffers.exhausted();
        if exhausted && self.weight() > OWN {
            self.intake.shrink();
            self.pending.shrink_to_fit();
            if self.inbuf.is_empty() {
                self.inbuf = BytesMut::new();
                self.allocated.0 = 0;
                self.read_size = READ_FIRST;
            }
            self.share.hold(self.weight());
        }
        exhausted
    }

    /// A packet has begun that is not complete.
    pub(super) fn await_rest(&mut self) {
        if self.inbuf.is_empty() {
            self.incomplete = None;
            self.granted = false;
        } else if self.incomplete.is_none_or(|(_, length)| length == 0) {
            let since = self.incomplete.map_or(self.last_read, |(since, _)| since);
            self.incomplete = Some((since, announced(&self.inbuf).unwrap_or(0)));
        }
    }

    /// Asks for room for all of the packet that is incomplete.
    pub(super) fn grant(&mut self) -> bool {
        let length = self.incomplete.map_or(0, |(_, length)| length);
        let more = length.saturating_sub(self.allocated.0);
        self.granted = self.share.fits(self.weight() + more);
        if self.granted {
            self.share.hold(self.weight());
        }
        self.granted
    }

    fn weight(&self) -> usize {
        let reserved = self.incomplete.filter(|_| self.granted).map_or(0, |(_, length)| length);
        self.allocated.0.max(reserved)
            + self.allocated.1
            + self.pending.capacity() * size_of::<Pending>()
            + self.session.awaiting_release.capacity() * size_of::<(u16, Wait)>()
            + self.session.subscriber.weight()
            + self.intake.weight()
            + self.terms.will.as_ref().map_or(0, Will::size)
    }

    /// Writes a message from the router. A large one is not worth memory that is needed for taking in.
    pub(super) fn deliver(&mut self, topic: &Bytes, envelope: &Bytes, exhausted: bool) {
        if exhausted && envelope.len() > WRITE_MOST {
            self.shared.metrics.relay_dropped.inc();
            return;
        }
        let now = self.shared.clock.now().uptime_ms;
        self.session.subscriber.deliver(topic, envelope, self.terms.client, &mut self.out, now);
    }
}
