//! The relay thread: what goes into the router, and whether the router still lives.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flume::TrySendError;
use rumqttd::Notification;
use rumqttd::local::{LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet, Publish};

use super::{Connect, PROBE_EVERY, PROBE_TOPIC, PROBE_WITHIN, RENEW_EVERY, RETAINED_BYTES, Shared, locked};
use crate::config;
use crate::source::mqtt::message::Message;

/// The thread that talks to the router: nobody else ever waits for it.
pub(super) struct Relay {
    shared: Arc<Shared>,
    link: Option<(LinkTx, LinkRx)>,
    /// Topics this router has seen: it never forgets one.
    topics: HashSet<Bytes>,
    topic_bytes: usize,
    probed: Instant,
    renewed: Instant,
    /// Since when messages are turned away for want of room.
    full: Option<Instant>,
}

impl Relay {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            link: None,
            topics: HashSet::new(),
            topic_bytes: 0,
            probed: now,
            renewed: now,
            full: None,
        }
    }

    /// Until the last sender of batches is gone.
    pub(super) fn run(mut self, batches: &Receiver<Vec<Message>>) {
        loop {
            let busy = locked(&self.shared.router).is_some();
            let patience = if busy { Duration::from_millis(500) } else { PROBE_EVERY };
            match batches.recv_timeout(patience) {
                Ok(batch) => self.batch(batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.let_go();
            let suspect = self.shared.suspect.swap(false, Ordering::Relaxed);
            if busy && (suspect || self.probed.elapsed() >= PROBE_EVERY) && !self.probe() {
                self.replace();
            } else if busy && self.stale() {
                self.renew();
            }
        }
    }

    /// Are the router's tables or the room for messages full, and for so long that it will not pass by itself?
    fn stale(&mut self) -> bool {
        if self.shared.alive.was_full() {
            self.full.get_or_insert_with(Instant::now);
        } else if self.full.is_some_and(|since| since.elapsed() > 2 * PROBE_EVERY) {
            self.full = None;
        }
        let stuck = self.full.is_some_and(|since| since.elapsed() >= PROBE_EVERY);
        let unneeded = self.shared.stale.load(Ordering::Relaxed);
        (stuck || unneeded) && self.renewed.elapsed() >= RENEW_EVERY
    }

    fn batch(&mut self, batch: Vec<Message>) {
        let bytes = batch.iter().map(Message::size).sum();
        let wanted = self.shared.subscribers.load(Ordering::Relaxed) > 0;
        let mut sent = 0;
        for message in batch {
            if message.retain {
                self.retain(&message);
            }
            if wanted && self.publish(message) {
                sent += 1;
            }
        }
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.shared.metrics.relayed.inc_by(sent);
        if let Some((tx, _)) = self.link.as_mut().filter(|_| sent > 0)
            && !nudge(tx)
        {
            self.replace();
        }
    }

    fn retain(&self, message: &Message) {
        let mut retained = locked(&self.shared.retained);
        if let Some(old) = retained.messages.remove(&message.topic) {
            retained.bytes = retained.bytes.saturating_sub(old.len() + message.topic.len());
        }
        if message.empty {
            return;
        }
        if retained.messages.len() >= self.shared.limits.topics
            || retained.bytes + message.size() > RETAINED_BYTES
        {
            self.shared.metrics.relay_dropped.inc();
            return;
        }
        retained.bytes += message.size();
        retained.messages.insert(message.topic.clone(), message.envelope.clone());
    }

    /// Puts a message where the router finds it when it is nudged.
    fn publish(&mut self, message: Message) -> bool {
        if self.link.is_none() {
            let connect = locked(&self.shared.router).as_ref().map(|r| Arc::clone(&r.connect));
            self.link = connect.and_then(|connect| patiently(connect, "relay"));
        }
        let Some((tx, _)) = self.link.as_mut() else { return false };
        if !self.topics.contains(&message.topic) {
            let names = self.topic_bytes + message.topic.len();
            if self.topics.len() >= self.shared.limits.topics || names > config::TOPIC_NAMES as usize {
                self.shared.stale.store(true, Ordering::Relaxed);
                self.shared.metrics.relay_dropped.inc();
                return false;
            }
            self.topic_bytes = names;
            self.topics.insert(message.topic.clone());
        }
        tx.buffer().push_back(Packet::Publish(Publish::new(message.topic, message.envelope, false), None));
        true
    }

    /// Takes ended sessions out of the router.
    fn let_go(&mut self) {
        let left = std::mem::take(&mut locked(&self.shared.links).left);
        for (mut tx, slot) in left {
            if leave(&mut tx) {
                locked(&self.shared.links).free.push(slot);
            }
        }
    }

    /// Sends a message around and waits for it.
    fn probe(&mut self) -> bool {
        self.probed = Instant::now();
        let connect = locked(&self.shared.router).as_ref().map(|r| Arc::clone(&r.connect));
        let Some(connect) = connect else { return true };
        let Some((mut tx, mut rx)) = patiently(connect, "probe") else { return false };
        let sent = tx.try_subscribe(PROBE_TOPIC).is_ok() && tx.try_publish(PROBE_TOPIC, "?").is_ok();
        let deadline = Instant::now() + PROBE_WITHIN;
        let mut answered = false;
        while sent && !answered {
            match rx.recv_deadline(deadline) {
                Ok(Some(Notification::Forward(_))) => answered = true,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        answered && leave(&mut tx)
    }

    /// Gives the router up because it is dead.
    fn replace(&mut self) {
        self.give_up();
        self.shared.metrics.router_restarts.inc();
        tracing::warn!(
            "the MQTT router for local subscribers died and was replaced; they have to connect again"
        );
    }

    /// Gives the router up because it is full of what nobody needs.
    fn renew(&mut self) {
        self.renewed = Instant::now();
        self.give_up();
        tracing::info!(
            "the tables for local MQTT subscribers were full and are made anew; they connect again"
        );
    }

    /// The next subscription starts another router.
    fn give_up(&mut self) {
        *locked(&self.shared.router) = None;
        self.link = None;
        self.topics.clear();
        self.topic_bytes = 0;
        self.full = None;
        self.shared.stale.store(false, Ordering::Relaxed);
        locked(&self.shared.links).left.clear();
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

/// Makes a link, in a thread of its own: against a router that hangs it would wait for ever.
fn patiently(connect: Connect, name: &'static str) -> Option<(LinkTx, LinkRx)> {
    let (give, take) = sync_channel(1);
    let thread = std::thread::Builder::new().name("mqtt-link".to_owned()).spawn(move || {
        // Nobody takes it when it comes too late; the router it belongs to is gone by then.
        let _ = give.send(connect(name));
    });
    thread.ok()?;
    take.recv_timeout(PROBE_WITHIN).ok()?.ok()
}

/// Takes a link out of the router.
fn leave(tx: &mut LinkTx) -> bool {
    let goodbye = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
    tx.buffer().push_back(Packet::Disconnect(goodbye, None));
    nudge(tx)
}

/// Makes the router look at a link's buffer; `false` if it is gone or takes nothing for [`PROBE_WITHIN`].
fn nudge(tx: &mut LinkTx) -> bool {
    let deadline = Instant::now() + PROBE_WITHIN;
    loop {
        // An unsubscription of nothing does nothing but wake the router.
        match tx.try_unsubscribe(PROBE_TOPIC) {
            Ok(_) => return true,
            Err(LinkError::TrySend(TrySendError::Full(_))) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return false,
        }
    }
}
