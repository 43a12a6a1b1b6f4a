//! What a connection does not wait for any longer: its deadlines, and what happens at each.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::ending::End;
use super::{Connection, WRITE_PATIENCE};
use crate::source::mqtt::session::Wait;

/// A publisher that sent nothing for this long while its acknowledgements are pending waits for them.
const STALL: Duration = Duration::from_millis(50);
/// Longest time between two looks at the clock of a quiet connection.
const QUIET: Duration = Duration::from_secs(3600);
/// How soon a connection that waits for room in the pool or the journal looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a packet may take from its first byte to its last.
const PACKET_PATIENCE: Duration = Duration::from_secs(30);

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// When the timer has something to look at. Busy connections reach their deadlines never: the timer is only
    /// ever moved nearer here, and further when it fires.
    pub(super) fn deadline(&self) -> Instant {
        let mut at = self.last_read + QUIET;
        if !self.terms.keep_alive.is_zero() {
            at = at.min(self.last_read + self.terms.keep_alive);
        }
        if self.unanswered > 0 && self.told.is_none() {
            at = at.min(self.last_read + STALL);
        }
        if self.starved {
            at = at.min(Instant::now() + LOOK_AGAIN);
        }
        if let Some((since, _)) = self.incomplete {
            at = at.min(since + PACKET_PATIENCE);
        }
        if !self.out.is_empty() {
            at = at.min(self.last_write.max(self.last_read) + WRITE_PATIENCE);
        }
        at
    }

    pub(super) fn on_timer(&mut self) -> Option<End> {
        let now = Instant::now();
        let silent = now.duration_since(self.last_read);
        // A client that is not read from (its limit is reached) cannot show that it lives.
        if !self.terms.keep_alive.is_zero() && silent >= self.terms.keep_alive && self.may_take_in() {
            return Some(End::Timeout);
        }
        if !self.out.is_empty() && now.duration_since(self.last_write.max(self.last_read)) >= WRITE_PATIENCE {
            return Some(End::Timeout);
        }
        if self.incomplete.is_some_and(|(since, _)| now.duration_since(since) >= PACKET_PATIENCE)
            && !self.more
        {
            return Some(End::Timeout);
        }
        if self.unanswered > 0 && self.told.is_none() && silent >= STALL {
            let newest = self.pending.iter().rev().find_map(|p| match p.wait {
                Wait::Stored(ticket) => Some(ticket),
                Wait::Kept(_) | Wait::Refused(_) | Wait::Never => None,
            });
            if let Some(ticket) = newest {
                self.shared.journal.publisher_waits(ticket, self.proven);
                self.told = Some(ticket);
            }
        }
        if silent >= QUIET {
            self.last_read = now;
        }
        None
    }
}
