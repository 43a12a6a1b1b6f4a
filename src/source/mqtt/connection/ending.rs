//! The end of a connection: the reason that is told, the session that is handed on, and what is still owed.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Connection, Terms};
use crate::source::mqtt::ack::Reason;
use crate::source::mqtt::codec;
use crate::source::mqtt::message::Message;
use crate::source::mqtt::metrics::Metrics;
use crate::source::mqtt::publish::Malformed;
use crate::source::mqtt::session::{Order, Session, Wait};
use crate::source::mqtt::sources::Fault;

/// How long messages of a connection that is over wait to become durable for local subscribers.
const AFTERLIFE: Duration = Duration::from_secs(60);
/// How long a closing connection may take to write its last bytes, and to be read empty.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// DISCONNECT.
    Graceful {
        with_will: bool,
    },
    /// The socket is closed or broken.
    Lost,
    Malformed(Malformed),
    NotAuthorized,
    /// Silence beyond the keep alive, or nothing read.
    Timeout,
    TakenOver(oneshot::Sender<Session>),
    Revoked,
    Shutdown,
    /// The router for subscribers was replaced.
    Router,
    /// Readings are refused: what is not acknowledged stays with the client.
    Refused,
}

impl End {
    /// Reason code of the DISCONNECT that is sent, if one is.
    fn code(&self) -> Option<u8> {
        match self {
            Self::Graceful { .. } | Self::Lost => None,
            Self::Malformed(error) => Some(error.code()),
            Self::NotAuthorized => Some(0x87),
            Self::Timeout => Some(0x8D),
            Self::TakenOver(_) => Some(0x8E),
            Self::Revoked => Some(0x98),
            Self::Shutdown => Some(0x8B),
            Self::Router => Some(0x88),
            Self::Refused => Some(0x97),
        }
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    pub(super) async fn finish(mut self, end: End) {
        let metrics = self.shared.metrics.clone();
        match &end {
            End::Malformed(error) => {
                Metrics::count(&metrics.malformed, error.cause());
                self.terms.guest.note(Fault::Malformed);
            }
            End::Timeout => {
                metrics.timeouts.inc();
            }
            End::TakenOver(_) => {
                metrics.takeovers.inc();
            }
            End::Refused => {
                // What was not handed on was not taken: sent again it is new.
                let unknown = |wait: &Wait| matches!(wait, Wait::Refused(Reason::Repeated));
                self.session.awaiting_release.retain(|_, wait| !unknown(wait));
            }
            _ => {}
        }
        tracing::debug!(client = %self.terms.owner.client_id, ?end, "MQTT connection ends");
        let with_will = !matches!(end, End::Graceful { with_will: false });
        if let Some(code) = end.code() {
            codec::write_disconnect(&mut self.out, self.terms.client.version, code);
        }
        self.give_up_session(end);
        last_words(&mut self.read, &mut self.write, &mut self.out).await;
        drop(self.write);
        drop(self.read);

        let give_up = Instant::now() + AFTERLIFE;
        let mut messages: Vec<Message> = Vec::new();
        for pending in self.pending {
            let Some(message) = pending.message else { continue };
            if let Wait::Stored(ticket) = pending.wait {
                let stored = self.shared.journal.wait(ticket);
                if tokio::time::timeout_at(give_up, stored).await.is_err() {
                    self.shared.metrics.relay_dropped.inc();
                    continue;
                }
            }
            messages.push(*message);
        }
        if let Some(will) = self.terms.will.filter(|_| with_will) {
            let will = will.message(self.terms.client.origin, self.shared.clock.now().uptime_ms);
            messages.extend(self.shared.hub.admit(will));
        }
        if !messages.is_empty() && (self.shared.hub.wanted() || messages.iter().any(|m| m.retain)) {
            self.shared.hub.relay(messages);
        }
    }

    /// Hands the session to whom it belongs now.
    fn give_up_session(&mut self, end: End) {
        let session = std::mem::take(&mut self.session);
        let Terms { owner, client, keep_session, .. } = &self.terms;
        let claimed = match end {
            End::TakenOver(give) => {
                // If nobody takes it, a third connection has come, and starts anew.
                let _ = give.send(session);
                return;
            }
            End::Revoked => self.shared.registry.leave(owner, client.origin, session, Some(Duration::ZERO)),
            _ => self.shared.registry.leave(owner, client.origin, session, *keep_session),
        };
        if let Err(session) = claimed {
            while let Ok(order) = self.terms.orders.try_recv() {
                if let Order::Yield(give) = order {
                    let _ = give.send(*session);
                    return;
                }
            }
        }
    }
}

/// Writes what is left, and reads the client's last bytes away: unread ones would turn the close into a reset that
/// may overtake what was written.
pub(crate) async fn last_words<R, W>(read: &mut R, write: &mut W, out: &mut BytesMut)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let words = async {
        write.write_all_buf(out).await?;
        write.shutdown().await?;
        let mut sink = [0u8; 4096];
        for _ in 0..64 {
            if read.read(&mut sink).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    // The peer may be gone; nothing is owed to it any more.
    let _ = tokio::time::timeout(LAST_WORDS, words).await;
}
