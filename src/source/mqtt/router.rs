//! Local subscribers: rumqttd's router, fenced in.
//!
//! Promises: ingest never waits for a subscriber or for the router; memory is bounded whatever subscribers do; a
//! router that dies or hangs is replaced, its subscribers are closed (they connect again), and nothing else
//! notices. Does not promise that a slow subscriber gets every message: the oldest go first, counted where we drop
//! them, silently inside the router's log.
//!
//! Of rumqttd's router only matching and fan-out are used, through one local link per session and one that publishes.
//! Retained messages, wills, acknowledgements and persistent sessions are ours, because there the router is wrong
//! (it forgets the publisher's QoS, an empty payload clears a retained message without the flag), leaks (it keeps a
//! record of every client id it ever saw: link names are reused here), or can be stopped by a client (PUBACKs out
//! of order, `$` filters, subscription id 0). It starts with the first subscription: a gateway without subscribers
//! has none.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flume::TrySendError;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{
    Disconnect, DisconnectReasonCode, Filter, Packet, Publish, QoS, RetainForwardRule, Subscribe, Unsubscribe,
};
use rumqttd::{Notification, Router, RouterConfig};
use tokio::sync::watch;

use super::message::{Message, PREFIX};
use super::metrics::Metrics;
use super::topic;

/// Batches between connections and the relay thread; with `QUEUE_BYTES` the bound of what waits there.
const QUEUE: usize = 1024;
const QUEUE_BYTES: usize = 8 << 20;
/// The log of one filter, which bounds how far a slow subscriber may fall behind.
const SEGMENT: usize = 128 << 10;
const SEGMENTS: usize = 4;
/// Distinct filters of one router: each has a log.
const FILTERS: usize = 256;
/// Retained messages in bytes; their number is bounded by `limits.topics`.
const RETAINED_BYTES: usize = 16 << 20;
/// How often the router is asked whether it lives, and how long it may take to answer.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// Not below [`PREFIX`]: no client reaches it.
const PROBE_TOPIC: &str = "probe";

/// Why a session gets no link or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HubError {
    #[error("the router does not answer")]
    Dead,
    #[error("too many distinct filters")]
    Filters,
}

type Connect = Arc<dyn Fn(&str) -> Result<(LinkTx, LinkRx), HubError> + Send + Sync>;

/// The way to local subscribers; clones share it.
#[derive(Clone)]
pub(crate) struct Hub {
    shared: Arc<Shared>,
    queue: SyncSender<Vec<Message>>,
}

struct Shared {
    router: Mutex<Option<Running>>,
    generation: watch::Sender<u64>,
    suspect: AtomicBool,
    subscribers: AtomicUsize,
    queued_bytes: AtomicUsize,
    retained: Mutex<Retained>,
    links: Mutex<Links>,
    connections: usize,
    topics: usize,
    metrics: Metrics,
}

struct Running {
    connect: Connect,
    filters: HashSet<String>,
}

#[derive(Default)]
struct Links {
    free: Vec<u32>,
    next: u32,
    /// Links whose sessions have ended, on their way out of the router.
    left: Vec<(LinkTx, u32)>,
}

#[derive(Default)]
struct Retained {
    messages: HashMap<Bytes, Bytes>,
    bytes: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Starts the relay thread, which ends when the last `Hub` is gone.
    pub(crate) fn start(connections: usize, topics: usize, metrics: Metrics) -> std::io::Result<Self> {
        let (queue, batches) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            router: Mutex::new(None),
            generation: watch::Sender::new(0),
            suspect: AtomicBool::new(false),
            subscribers: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            retained: Mutex::default(),
            links: Mutex::default(),
            connections,
            topics,
            metrics,
        });
        let relay =
            Relay { shared: Arc::clone(&shared), link: None, topics: HashSet::new(), probed: Instant::now() };
        std::thread::Builder::new().name("mqtt-relay".to_owned()).spawn(move || relay.run(&batches))?;
        Ok(Self { shared, queue })
    }

    /// Does anybody want messages? If not, only retained ones need to be kept.
    pub(crate) fn wanted(&self) -> bool {
        self.shared.subscribers.load(Ordering::Relaxed) > 0
    }

    /// Passes messages on to subscribers; what does not fit the queue is dropped and counted.
    pub(crate) fn relay(&self, batch: Vec<Message>) {
        let (count, bytes) = (batch.len() as u64, batch.iter().map(Message::size).sum());
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued + bytes > QUEUE_BYTES || self.queue.try_send(batch).is_err() {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.metrics.relay_dropped.inc_by(count);
        }
    }

    /// Changes when a router was given up: links of an earlier generation are dead.
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// A link for a session that subscribes for the first time.
    pub(crate) async fn attach(&self) -> Result<Link, HubError> {
        let shared = Arc::clone(&self.shared);
        let attached = tokio::task::spawn_blocking(move || attach(&shared));
        match tokio::time::timeout(PROBE_WITHIN, attached).await {
            Ok(Ok(Ok((tx, rx, slot, generation)))) => {
                self.shared.subscribers.fetch_add(1, Ordering::Relaxed);
                self.shared.metrics.subscribers.inc();
                Ok(Link { tx: Some(tx), rx, slot, generation, shared: Arc::clone(&self.shared) })
            }
            _ => {
                self.shared.suspect.store(true, Ordering::Relaxed);
                Err(HubError::Dead)
            }
        }
    }

    /// What is retained below `filter`: topics (as inside the router) and envelopes.
    pub(crate) fn retained(&self, filter: &str) -> Vec<(Bytes, Bytes)> {
        let matching = |inside: &Bytes| {
            let name = inside.get(PREFIX.len()..).and_then(|name| std::str::from_utf8(name).ok());
            name.is_some_and(|name| topic::matches(filter, name))
        };
        let retained = locked(&self.shared.retained);
        retained.messages.iter().filter(|(t, _)| matching(t)).map(|(t, e)| (t.clone(), e.clone())).collect()
    }

    /// Stops the router the way a bad client could: it panics on this topic.
    #[cfg(test)]
    pub(crate) fn poison(&self) {
        let connect = locked(&self.shared.router).as_ref().map(|r| Arc::clone(&r.connect));
        let (mut tx, _rx) = connect.unwrap()("poison").unwrap();
        tx.publish("é", "x").unwrap();
    }
}

fn attach(shared: &Shared) -> Result<(LinkTx, LinkRx, u32, u64), HubError> {
    let (connect, generation) = {
        let mut router = locked(&shared.router);
        let running = router.get_or_insert_with(|| spawn_router(shared.connections));
        (Arc::clone(&running.connect), *shared.generation.borrow())
    };
    let slot = {
        let mut links = locked(&shared.links);
        links.free.pop().unwrap_or_else(|| {
            links.next += 1;
            links.next
        })
    };
    match connect(&format!("link-{slot}")) {
        Ok((tx, rx)) => Ok((tx, rx, slot, generation)),
        Err(error) => {
            locked(&shared.links).free.push(slot);
            Err(error)
        }
    }
}

fn spawn_router(connections: usize) -> Running {
    let config = RouterConfig {
        // Links of sessions that just ended may still be there beside their successors, and the relay's own.
        max_connections: connections * 2 + 2,
        max_outgoing_packet_count: 100,
        max_segment_size: SEGMENT,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    let router = Router::new(0, config).spawn();
    let connect: Connect = Arc::new(move |name: &str| {
        LinkBuilder::new(name, router.clone()).build().map(|(tx, rx, _)| (tx, rx)).map_err(|_| HubError::Dead)
    });
    Running { connect, filters: HashSet::new() }
}

/// A session's link to the router.
pub(crate) struct Link {
    tx: Option<LinkTx>,
    rx: LinkRx,
    slot: u32,
    generation: u64,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("slot", &self.slot).field("generation", &self.generation).finish()
    }
}

impl Link {
    /// Does its router still run?
    pub(crate) fn alive(&self) -> bool {
        *self.shared.generation.borrow() == self.generation
    }

    /// `filter` is valid.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> Result<(), HubError> {
        let inside = format!("{PREFIX}{filter}");
        {
            let mut router = locked(&self.shared.router);
            let running = router.as_mut().ok_or(HubError::Dead)?;
            if running.filters.len() >= FILTERS && !running.filters.contains(&inside) {
                return Err(HubError::Filters);
            }
            running.filters.insert(inside.clone());
        }
        let filter = Filter {
            path: inside,
            qos: QoS::AtMostOnce,
            nolocal: false,
            preserve_retain: false,
            retain_forward_rule: RetainForwardRule::Never,
        };
        self.tell(Packet::Subscribe(Subscribe { pkid: 1, filters: vec![filter] }, None)).await
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> Result<(), HubError> {
        let filters = vec![format!("{PREFIX}{filter}")];
        self.tell(Packet::Unsubscribe(Unsubscribe { pkid: 1, filters }, None)).await
    }

    async fn tell(&mut self, packet: Packet) -> Result<(), HubError> {
        let tx = self.tx.as_mut().ok_or(HubError::Dead)?;
        tx.buffer().push_back(packet);
        let deadline = Instant::now() + PROBE_WITHIN;
        loop {
            match tx.try_unsubscribe(PROBE_TOPIC) {
                Ok(_) => return Ok(()),
                Err(LinkError::TrySend(TrySendError::Full(_))) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(_) => return Err(self.dead()),
            }
        }
    }

    /// The next message, or `None` after something else happened. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, HubError> {
        match self.rx.next().await {
            Ok(Some(Notification::Forward(forward))) => {
                Ok(Some((forward.publish.topic, forward.publish.payload)))
            }
            Ok(Some(Notification::Unschedule)) => {
                // Without this the router never sends anything again.
                match tokio::time::timeout(PROBE_WITHIN, self.rx.wake()).await {
                    Ok(Ok(())) => Ok(None),
                    _ => Err(self.dead()),
                }
            }
            Ok(Some(Notification::Disconnect(..))) | Err(_) => Err(self.dead()),
            Ok(_) => Ok(None),
        }
    }

    fn dead(&self) -> HubError {
        self.shared.suspect.store(true, Ordering::Relaxed);
        HubError::Dead
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.subscribers.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.subscribers.dec();
        let mut links = locked(&self.shared.links);
        match self.tx.take() {
            Some(tx) if self.alive() => links.left.push((tx, self.slot)),
            _ => links.free.push(self.slot),
        }
    }
}

/// The thread that talks to the router: nobody else ever waits for it.
struct Relay {
    shared: Arc<Shared>,
    link: Option<(LinkTx, LinkRx)>,
    /// Topics this router has seen: it never forgets one.
    topics: HashSet<Bytes>,
    probed: Instant,
}

impl Relay {
    fn run(mut self, batches: &Receiver<Vec<Message>>) {
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
            }
        }
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
            retained.bytes -= old.len() + message.topic.len();
        }
        if message.empty {
            return;
        }
        if retained.messages.len() >= self.shared.topics || retained.bytes + message.size() > RETAINED_BYTES {
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
            if self.topics.len() >= self.shared.topics {
                self.shared.metrics.relay_dropped.inc();
                return false;
            }
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

    /// Gives the router up. The next subscription starts another.
    fn replace(&mut self) {
        *locked(&self.shared.router) = None;
        self.link = None;
        self.topics.clear();
        locked(&self.shared.links).left.clear();
        self.shared.generation.send_modify(|generation| *generation += 1);
        self.shared.metrics.router_restarts.inc();
        tracing::warn!(
            "the MQTT router for local subscribers died and was replaced; they have to connect again"
        );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mqtt::message::{Head, client_topic};
    use crate::source::mqtt::publish::Qos;

    fn message(topic: &str, payload: &[u8], retain: bool) -> Message {
        let head = Head { qos: Qos::AtLeastOnce, retain, origin: 1, expires: 0, properties: &[] };
        Message::new(topic.as_bytes(), payload, head)
    }

    async fn next(link: &mut Link) -> Result<Bytes, HubError> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(10), link.next()).await.unwrap();
            if let Some((topic, _)) = next? {
                return Ok(client_topic(&topic));
            }
        }
    }

    #[tokio::test]
    async fn without_subscribers_there_is_no_router() {
        let hub = Hub::start(10, 10, Metrics::default()).unwrap();
        assert!(!hub.wanted());
        hub.relay(vec![message("a", b"1", true)]);
        let deadline = Instant::now() + Duration::from_secs(5);
        while hub.retained("#").is_empty() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(locked(&hub.shared.router).is_none());
    }

    #[tokio::test]
    async fn a_dead_router_is_replaced_and_retained_messages_stay() {
        let metrics = Metrics::default();
        let hub = Hub::start(10, 10, metrics.clone()).unwrap();
        let mut link = hub.attach().await.unwrap();
        link.subscribe("#").await.unwrap();
        hub.relay(vec![message("a", b"1", true)]);
        assert_eq!(next(&mut link).await.unwrap(), "a");

        let mut generation = hub.generation();
        hub.poison();
        assert_eq!(next(&mut link).await, Err(HubError::Dead));
        let replaced = tokio::time::timeout(Duration::from_secs(10), generation.changed());
        replaced.await.unwrap().unwrap();
        assert!(!link.alive());
        drop(link);

        let mut link = hub.attach().await.unwrap();
        link.subscribe("b/+").await.unwrap();
        hub.relay(vec![message("b/c", b"1", false)]);
        assert_eq!(next(&mut link).await.unwrap(), "b/c");
        assert_eq!(hub.retained("a").len(), 1);
        assert_eq!(metrics.router_restarts.get(), 1);
    }

    #[tokio::test]
    async fn links_come_and_go_under_load() {
        let hub = Hub::start(10, 10, Metrics::default()).unwrap();
        for _ in 0..300 {
            let mut link = hub.attach().await.unwrap();
            link.subscribe("#").await.unwrap();
            hub.relay((0..300).map(|_| message("a", b"1", false)).collect());
            assert_eq!(next(&mut link).await.unwrap(), "a");
        }
        assert!(locked(&hub.shared.links).next <= 12, "names are used again");
    }

    #[tokio::test]
    async fn retained_messages_are_bounded() {
        let metrics = Metrics::default();
        let hub = Hub::start(10, 3, metrics.clone()).unwrap();
        hub.relay((0..10).map(|n| message(&format!("t{n}"), b"1", true)).collect());
        let deadline = Instant::now() + Duration::from_secs(5);
        while metrics.relay_dropped.get() < 7 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(hub.retained("#").len(), 3);
    }
}
