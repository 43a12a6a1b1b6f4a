//! One client's connection, after its CONNECT was accepted: one task, one loop.
//!
//! Promises: everything of one socket read is appended at once; reading goes on while acknowledgements are pending
//! (up to the in-flight limit); all acknowledgements that a commit releases go out in one write, in the order of
//! their publishes; a PUBACK or PUBREC is written only for an [`Ack`]. What a client does not read is bounded, and a
//! client that takes nothing for [`WRITE_PATIENCE`] is closed. After the end, what was appended is still
//! committed, and passed on to local subscribers once it is.

mod control;
mod ending;
mod timer;
mod weight;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;

use ending::End;
pub(crate) use ending::last_words;

use super::ack::{self, Ack};
use super::buffers::Share;
use super::codec::{self, Control, Will};
use super::delivery::Client;
use super::door::Guest;
use super::intake::{Intake, Means, Pending, Places, Rejected};
use super::permission::Permissions;
use super::publish::{Malformed, Publish, Qos, Version, frame};
use super::router::HubError;
use super::session::{Order, Owner, Session, Wait};
use super::shared::Shared;
use crate::journal::{Durable, Ticket};

/// First size of the read buffer; it grows to `READ_MOST` when a read fills it.
const READ_FIRST: usize = 4 << 10;
const READ_MOST: usize = 32 << 10;
/// Bytes that may wait to be written before nothing more is read from a client.
const WRITE_MOST: usize = 16 << 10;
/// Publishes that may wait for their commit while the pool of buffers is used up.
const FEW: usize = 32;
/// Bytes that a connection may take in before the others of its thread have their turn; and what a packet that is
/// answered at once counts for, since such packets are small and come by the thousand.
const TURN: usize = 16 << 10;
const SMALL_PACKET: usize = 32;
/// How long a client may take nothing of what is written to it.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// A publisher whose next publish follows its acknowledgements within this time is proven to wait for them.
const PROVEN: Duration = Duration::from_millis(10);
/// Who the client is and what was agreed on.
pub(crate) struct Terms {
    pub owner: Owner,
    pub permissions: Permissions,
    pub client: Client,
    /// Zero: no limit.
    pub keep_alive: Duration,
    /// `None`: as long as there is room.
    pub keep_session: Option<Duration>,
    pub will: Option<Will>,
    pub orders: mpsc::Receiver<Order>,
    /// Its place among the connections of its address, and among all; given back with the task's end.
    pub guest: Guest,
    #[expect(dead_code, reason = "held, not read")]
    pub slot: OwnedSemaphorePermit,
}

pub(crate) struct Connection<R, W> {
    read: R,
    write: W,
    inbuf: BytesMut,
    /// Bytes a read may bring.
    read_size: usize,
    /// What the buffers for reading and writing have been allocated.
    allocated: (usize, usize),
    share: Share,
    /// Room is waited for.
    starved: bool,
    /// Since when a packet is incomplete, and its length.
    incomplete: Option<(Instant, usize)>,
    /// There is room for all of it.
    granted: bool,
    /// Bytes taken in since the others had their turn.
    turn: usize,
    out: BytesMut,
    shared: Arc<Shared>,
    terms: Terms,
    session: Session,
    intake: Intake,
    pending: VecDeque<Pending>,
    /// Publishes with QoS 1 or 2 among them.
    unanswered: usize,
    /// `inbuf` may hold complete packets.
    more: bool,
    last_read: Instant,
    last_write: Instant,
    /// When acknowledgements last went out.
    answered: Option<Instant>,
    proven: bool,
    /// The group for which the journal was told that this client waits.
    told: Option<Ticket>,
    /// Reused for what a commit releases.
    durable: Option<(Ticket, Durable)>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// `inbuf` holds what came behind the CONNECT, `out` the CONNACK.
    pub(crate) fn new(
        read: R,
        write: W,
        (inbuf, out): (BytesMut, BytesMut),
        shared: Arc<Shared>,
        terms: Terms,
        session: Session,
    ) -> Self {
        let now = Instant::now();
        Self {
            read,
            write,
            more: !inbuf.is_empty(),
            read_size: READ_FIRST,
            allocated: (inbuf.capacity(), 0),
            inbuf,
            share: Share::new(Arc::clone(&shared.buffers)),
            starved: false,
            incomplete: None,
            granted: false,
            turn: 0,
            out,
            shared,
            terms,
            session,
            intake: Intake::default(),
            pending: VecDeque::new(),
            unanswered: 0,
            last_read: now,
            last_write: now,
            answered: None,
            proven: false,
            told: None,
            durable: None,
        }
    }

    pub(crate) async fn run(mut self, shutdown: watch::Receiver<bool>) {
        let end = match self.resume().await {
            Ok(()) => {
                let journal = self.shared.journal.clone();
                tokio::select! {
                    end = self.serve(shutdown) => end,
                    // Also while it waits for room in the open group.
                    () = journal.refused() => End::Refused,
                }
            }
            Err(HubError::Dead | HubError::Filters | HubError::Subscribers) => End::Router,
        };
        self.finish(end).await;
    }

    async fn resume(&mut self) -> Result<(), HubError> {
        let now = self.shared.clock.now().uptime_ms;
        self.session.subscriber.resume(&self.shared.hub, self.terms.client, &mut self.out, now).await
    }

    async fn serve(&mut self, mut shutdown: watch::Receiver<bool>) -> End {
        let mut durable = self.shared.journal.watch_durable();
        let mut generation = self.shared.hub.generation();
        generation.mark_unchanged();
        let mut draining = false;
        // Kept registered: made anew in every turn it would cost a lock each.
        let stop = async { drop(shutdown.wait_for(|stop| *stop).await) };
        tokio::pin!(stop);
        let timer = tokio::time::sleep_until(self.deadline());
        tokio::pin!(timer);
        loop {
            if self.more && !draining && self.may_take_in() {
                match self.take_in().await {
                    Ok(None) => {}
                    Ok(Some(end)) => return end,
                    Err(Rejected::Malformed(error)) => return End::Malformed(error),
                    Err(Rejected::NotAuthorized) => return End::NotAuthorized,
                }
                // Seen before the look at what is durable: a commit after it wakes the loop again.
                durable.mark_seen();
                self.release();
                self.give_way().await;
            }
            if draining && self.pending.is_empty() && self.out.is_empty() {
                return End::Shutdown;
            }
            if self.session.subscriber.owes() {
                let now = self.shared.clock.now().uptime_ms;
                self.session.subscriber.pay(self.terms.client, &mut self.out, WRITE_MOST, now);
            }
            let exhausted = self.account();
            let may_read = !draining && !self.more && self.may_take_in();
            let crowded = !self.granted && self.inbuf.len() >= READ_FIRST && !self.grant();
            self.starved = crowded || exhausted && self.more;
            let may_read = may_read && !crowded;
            let deadline = self.deadline();
            if deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            let may_deliver =
                !draining && self.out.len() < WRITE_MOST && self.session.subscriber.ready(self.terms.client);
            if may_read {
                // Moves what is left to the buffer's start when the rest of it is too short.
                self.inbuf.reserve(if exhausted { READ_FIRST } else { self.read_size });
                self.allocated.0 = self.allocated.0.max(self.inbuf.capacity());
            }
            let awaited = self.awaited();
            tokio::select! {
                read = self.read.read_buf(&mut self.inbuf), if may_read => match read {
                    Ok(0) | Err(_) => return End::Lost,
                    Ok(n) => {
                        self.last_read = Instant::now();
                        self.more = true;
                        if n >= self.read_size {
                            self.read_size = (self.read_size * 2).min(READ_MOST);
                        }
                    }
                },
                () = durable.changed(awaited), if !self.pending.is_empty() => {
                    durable.mark_seen();
                    self.release();
                    self.more |= !self.inbuf.is_empty();
                    if !self.out.is_empty() && self.write_some().await.is_err() {
                        return End::Lost;
                    }
                },
                written = self.write.write(&self.out), if !self.out.is_empty() => match written {
                    Ok(0) | Err(_) => return End::Lost,
                    Ok(n) => {
                        self.out.advance(n);
                        self.last_write = Instant::now();
                    }
                },
                message = self.session.subscriber.next(), if may_deliver => match message {
                    Ok(Some((topic, envelope))) => {
                        self.deliver(&topic, &envelope, exhausted);
                    }
                    Ok(None) => {}
                    Err(_) => return End::Router,
                },
                order = self.terms.orders.recv() => match order {
                    Some(Order::Yield(give)) => return End::TakenOver(give),
                    Some(Order::Revoked) | None => return End::Revoked,
                },
                _ = generation.changed(), if self.session.subscriber.linked() => {
                    if self.session.subscriber.orphaned() {
                        return End::Router;
                    }
                },
                () = &mut stop, if !draining => draining = true,
                () = &mut timer => {
                    if let Some(end) = self.on_timer() {
                        return end;
                    }
                    timer.as_mut().reset(self.deadline());
                },
            }
        }
    }

    /// May more publishes be taken in? The limits are back-pressure: the client's next bytes stay in its socket.
    fn may_take_in(&self) -> bool {
        let in_flight = usize::from(self.shared.limits.in_flight);
        // MQTT 5 was told the limit, so exceeding it is an error that has to be seen.
        let answers = self.terms.client.version == Version::V5 || self.unanswered < in_flight;
        if self.shared.buffers.exhausted() && (self.pending.len() >= FEW || self.shared.journal.full()) {
            return false;
        }
        answers && self.pending.len() <= in_flight.max(super::intake::STAGED) && self.out.len() < WRITE_MOST
    }

    /// Lets the other connections have their turn, if this one has had its own.
    async fn give_way(&mut self) {
        if self.turn >= TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Takes in the complete packets of the buffer; what they stage is appended at once.
    async fn take_in(&mut self) -> Result<Option<End>, Rejected> {
        loop {
            let scanned = self.scan();
            // Also before an error: what came before it is taken.
            if !self.intake.is_empty() {
                // What is staged is counted before it may have to wait for room in the journal.
                self.account();
                let before = self.pending.len();
                let exchanges = &mut self.session.awaiting_release;
                let metrics = &self.shared.metrics;
                let places = Places {
                    journal: &self.shared.journal,
                    members: self.shared.members.get(),
                    wall_ms: self.shared.clock.now().wall_ms,
                    version: self.terms.client.version,
                };
                self.intake.append(&places, exchanges, metrics, &mut self.pending).await;
                let new = self.pending.iter().skip(before);
                self.unanswered += new.filter(|p| p.qos != Qos::AtMostOnce).count();
            }
            match scanned? {
                Scanned::Empty => {
                    self.more = false;
                    self.await_rest();
                    return Ok(None);
                }
                Scanned::Full if self.may_take_in() => self.give_way().await,
                Scanned::Full => return Ok(None),
                Scanned::Control(control) => {
                    if let Some(end) = self.control(control).await {
                        return Ok(Some(end));
                    }
                }
            }
        }
    }

    /// Reads packets up to one that needs more than staging.
    fn scan(&mut self) -> Result<Scanned, Rejected> {
        let version = self.terms.client.version;
        let in_flight = usize::from(self.shared.limits.in_flight);
        let means = Means {
            journal: &self.shared.journal,
            takes_members: self.shared.members.get().is_some(),
            mappings: &self.shared.mappings,
            hub: &self.shared.hub,
            metrics: &self.shared.metrics,
            ring: &self.shared.ring,
            permissions: &self.terms.permissions,
            client_id: &self.terms.owner.client_id,
            version,
            origin: self.terms.client.origin,
            now: self.shared.clock.now(),
            exchanges: in_flight,
        };
        let mut at = 0;
        let mut answers = self.unanswered;
        let scanned = loop {
            let Some(rest) = self.inbuf.get(at..).filter(|rest| !rest.is_empty()) else {
                break Ok(Scanned::Empty);
            };
            let packet = match frame(rest, self.shared.limits.packet_size) {
                Ok(Some(packet)) => packet,
                Ok(None) => break Ok(Scanned::Empty),
                Err(error) => break Err(error.into()),
            };
            if packet.first >> 4 != 3 {
                let whole = rest.get(..packet.total).unwrap_or(rest);
                let control = codec::read_control(packet, whole, version);
                at += packet.total;
                match control {
                    Ok(Control::Ping) => codec::write_pingresp(&mut self.out),
                    Ok(Control::PubAck(pkid)) => self.session.subscriber.acknowledged(pkid),
                    Ok(Control::PubRel(pkid)) => {
                        let known = self.session.awaiting_release.remove(&pkid).is_some();
                        ack::pubcomp(&mut self.out, version, pkid, known);
                    }
                    Ok(control) => break Ok(Scanned::Control(control)),
                    Err(error) => break Err(error.into()),
                }
                self.turn += SMALL_PACKET;
                if self.turn >= TURN {
                    break Ok(Scanned::Full);
                }
                continue;
            }
            if answers >= in_flight || self.intake.full() {
                if version == Version::V5 && answers >= in_flight {
                    break Err(Malformed::ReceiveMaximum.into());
                }
                break Ok(Scanned::Full);
            }
            let staged = Publish::read(packet, version).map_err(Rejected::from).and_then(|publish| {
                self.intake.stage(&publish, &mut self.session.awaiting_release, &means)?;
                Ok(usize::from(publish.qos != Qos::AtMostOnce))
            });
            match staged {
                Ok(answer) => answers += answer,
                Err(error) => break Err(error),
            }
            at += packet.total;
        };
        self.inbuf.advance(at);
        self.turn += at;
        if at > 0 {
            self.incomplete = None;
            self.granted = false;
        }
        if self.unanswered == 0 && answers > 0 {
            self.proven = self.answered.is_some_and(|at| self.last_read.duration_since(at) <= PROVEN);
        }
        scanned
    }

    /// The group that the next answer waits for.
    fn awaited(&self) -> Option<Ticket> {
        self.pending.front().and_then(|pending| match pending.wait {
            Wait::Stored(ticket) => Some(ticket),
            Wait::Kept(_) | Wait::Refused(_) | Wait::Never => None,
        })
    }

    /// Writes every answer whose publish is durable or refused, up to the first that is neither.
    fn release(&mut self) {
        let version = self.terms.client.version;
        let mut messages = Vec::new();
        let before = self.unanswered;
        while let Some(front) = self.pending.front() {
            let ack = match front.wait {
                Wait::Refused(reason) => Ack::Refused(reason),
                Wait::Kept(kept) => Ack::Kept(kept),
                Wait::Never => break,
                Wait::Stored(ticket) => {
                    if self.durable.is_none_or(|(known, _)| known != ticket) {
                        let Some(proof) = self.shared.journal.durable(ticket) else { break };
                        self.durable = Some((ticket, proof));
                    }
                    let Some((_, proof)) = self.durable else { break };
                    Ack::Stored(proof)
                }
            };
            let Some(Pending { qos, pkid, message, .. }) = self.pending.pop_front() else { break };
            match qos {
                Qos::AtMostOnce => {}
                Qos::AtLeastOnce => ack::puback(&mut self.out, version, pkid, ack),
                Qos::ExactlyOnce => {
                    if ack.ends_qos2(version) {
                        self.session.awaiting_release.remove(&pkid);
                    }
                    ack::pubrec(&mut self.out, version, pkid, ack);
                }
            }
            self.unanswered -= usize::from(qos != Qos::AtMostOnce);
            if let Some(message) = message {
                self.intake.released(message.size());
                messages.push(*message);
            }
        }
        if !messages.is_empty() {
            self.shared.hub.relay(messages);
        }
        if self.unanswered < before {
            self.answered = Some(Instant::now());
            self.told = None;
        }
    }

    /// Writes what the socket takes at once, without waiting.
    async fn write_some(&mut self) -> std::io::Result<()> {
        let write = &mut self.write;
        let out = &self.out;
        let written = std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *write).poll_write(context, out) {
                std::task::Poll::Ready(result) => result,
                std::task::Poll::Pending => Ok(0),
            })
        })
        .await?;
        if written > 0 {
            self.out.advance(written);
            self.last_write = Instant::now();
        }
        Ok(())
    }
}

/// Where a scan of the buffer stopped.
enum Scanned {
    /// No complete packet is left.
    Empty,
    /// A limit is reached.
    Full,
    Control(Control),
}
