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
//! of order, `$` filters, subscription id 0). It never forgets a filter or a topic: when its tables are full of what
//! nobody needs any more, it is replaced as well, at most once a minute. It starts with the first subscription: a
//! gateway without subscribers has none.

mod alive;
mod relay;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flume::TrySendError;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Filter, Packet, QoS, RetainForwardRule, Subscribe, Unsubscribe};
use rumqttd::{Notification, Router, RouterConfig};
use tokio::sync::watch;

use alive::Alive;
use relay::Relay;

use super::message::{Message, PREFIX};
use super::metrics::Metrics;
use super::topic;

/// Batches between connections and the relay thread; with `QUEUE_BYTES` the bound of what waits there.
const QUEUE: usize = 1024;
const QUEUE_BYTES: usize = 2 << 20;
/// The log of one filter, which bounds how far a slow subscriber may fall behind.
const SEGMENT: usize = 32 << 10;
const SEGMENTS: usize = 4;
/// Retained messages in bytes; their number is bounded by `limits.topics`.
const RETAINED_BYTES: usize = 4 << 20;
/// A router is replaced at most this often to get rid of filters, topics and messages that nobody needs any more.
const RENEW_EVERY: Duration = Duration::from_secs(60);
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
    #[error("too many sessions with subscriptions")]
    Subscribers,
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
    alive: Arc<Alive>,
    /// The router's tables are full of what nobody needs.
    stale: AtomicBool,
    limits: HubLimits,
    metrics: Metrics,
}

/// The limits that concern local subscribers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HubLimits {
    /// Sessions with subscriptions.
    pub subscribers: usize,
    /// Distinct filters: each has a log.
    pub filters: usize,
    /// Distinct topics, and retained messages.
    pub topics: usize,
}

struct Running {
    connect: Connect,
    /// Every filter the router has ever had, and how many sessions have it now.
    filters: HashMap<String, usize>,
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
    pub(crate) fn start(limits: HubLimits, metrics: Metrics) -> std::io::Result<Self> {
        let (queue, batches) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            router: Mutex::new(None),
            generation: watch::Sender::new(0),
            suspect: AtomicBool::new(false),
            subscribers: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            retained: Mutex::default(),
            links: Mutex::default(),
            alive: Arc::default(),
            stale: AtomicBool::new(false),
            limits,
            metrics,
        });
        let relay = Relay::new(Arc::clone(&shared));
        std::thread::Builder::new().name("mqtt-relay".to_owned()).spawn(move || relay.run(&batches))?;
        Ok(Self { shared, queue })
    }

    /// Does anybody want messages? If not, only retained ones need to be kept.
    pub(crate) fn wanted(&self) -> bool {
        self.shared.subscribers.load(Ordering::Relaxed) > 0
    }

    /// Counts a message from now on as long as it lives; `None` (and counted) when there is no room for it.
    pub(crate) fn admit(&self, message: Message) -> Option<Message> {
        let admitted = self.shared.alive.admit(message);
        if admitted.is_none() {
            self.shared.metrics.relay_dropped.inc();
        }
        admitted
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
        // Two that ask at the same time may both get the last place.
        if self.shared.subscribers.load(Ordering::Relaxed) >= self.shared.limits.subscribers {
            return Err(HubError::Subscribers);
        }
        let shared = Arc::clone(&self.shared);
        let attached = tokio::task::spawn_blocking(move || attach(&shared));
        match tokio::time::timeout(PROBE_WITHIN, attached).await {
            Ok(Ok(Ok((tx, rx, slot, generation)))) => {
                self.shared.subscribers.fetch_add(1, Ordering::Relaxed);
                self.shared.metrics.subscribers.inc();
                let (filters, shared) = (Vec::new(), Arc::clone(&self.shared));
                Ok(Link { tx: Some(tx), rx, slot, generation, filters, shared })
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
        let running = router.get_or_insert_with(|| spawn_router(shared.limits.subscribers));
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

fn spawn_router(subscribers: usize) -> Running {
    let config = RouterConfig {
        // Links of sessions that just ended may still be there beside their successors, and the relay's own.
        max_connections: subscribers * 2 + 16,
        max_outgoing_packet_count: 100,
        max_segment_size: SEGMENT,
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    };
    let router = Router::new(0, config).spawn();
    let connect: Connect = Arc::new(move |name: &str| {
        LinkBuilder::new(name, router.clone()).build().map(|(tx, rx, _)| (tx, rx)).map_err(|_| HubError::Dead)
    });
    Running { connect, filters: HashMap::new() }
}

/// A session's link to the router.
pub(crate) struct Link {
    tx: Option<LinkTx>,
    rx: LinkRx,
    slot: u32,
    generation: u64,
    /// As the router has them.
    filters: Vec<String>,
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
            let known = running.filters.contains_key(&inside);
            if !known && running.filters.len() >= self.shared.limits.filters {
                if running.filters.values().any(|sessions| *sessions == 0) {
                    self.shared.stale.store(true, Ordering::Relaxed);
                }
                return Err(HubError::Filters);
            }
            *running.filters.entry(inside.clone()).or_default() += 1;
            self.filters.push(inside.clone());
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
        let inside = format!("{PREFIX}{filter}");
        if let Some(at) = self.filters.iter().position(|known| *known == inside) {
            self.filters.swap_remove(at);
            self.shared.release(self.generation, std::slice::from_ref(&inside));
        }
        let filters = vec![inside];
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

impl Shared {
    /// A session of `generation` has no use for these filters any more.
    fn release(&self, generation: u64, filters: &[String]) {
        let mut router = locked(&self.router);
        let current = *self.generation.borrow() == generation;
        let Some(running) = router.as_mut().filter(|_| current) else { return };
        for filter in filters {
            if let Some(sessions) = running.filters.get_mut(filter) {
                *sessions = sessions.saturating_sub(1);
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.release(self.generation, &self.filters);
        self.shared.subscribers.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.subscribers.dec();
        let mut links = locked(&self.shared.links);
        match self.tx.take() {
            Some(tx) if self.alive() => links.left.push((tx, self.slot)),
            _ => links.free.push(self.slot),
        }
    }
}

#[cfg(test)]
mod tests;
