//! A broker that somebody else runs, as a source (`[[mqtt.external]]`).
//!
//! Promises: a message is acknowledged to that broker only when its readings are on disk, and only on the connection
//! that brought it (a packet id means something else on the next one); with a persistent session what is not
//! acknowledged comes again. So readings are as durable as that broker until fogbeat has them: what it loses
//! itself, fogbeat cannot bring back. Messages that come because of a subscription (retained) are old: they are no
//! readings. Reconnects for ever, with full jitter.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS, SubscribeReasonCode, TlsConfiguration,
    Transport,
};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::mapping::{DecodeContext, Mappings, Route};
use super::metrics::Metrics;
use super::refused::{Refused, Ring};
use super::tls::{self, TlsError};
use crate::clock::{Clock, Stamp};
use crate::config;
use crate::journal::{Appended, Journal, Refusal, Ticket};
use crate::reading::{DeviceId, Reading, Source};

/// Messages between the connection and the journal; the broker's own in-flight limit is far below it.
const QUEUE: usize = 1000;
/// Acknowledgements and subscriptions on their way out: as many as may come in.
const REQUESTS: usize = QUEUE + 16;
/// Topics remembered; beyond it the memory starts anew.
const TOPICS: usize = 1024;
const MAX_PACKET: usize = 256 << 10;
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Where Debian keeps the certificates of public CAs.
const PUBLIC_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    #[error("mqtt.external {name:?}: url {url:?} is not mqtt://host:port or mqtts://host:port")]
    Url { name: String, url: String },
    #[error("mqtt.external {name:?}: topics is empty: name at least one filter")]
    Topics { name: String },
    #[error("mqtt.external {name:?}: {path}: {source}")]
    Password { name: String, path: PathBuf, source: std::io::Error },
    #[error("mqtt.external {name:?}: {source}")]
    Tls { name: String, source: TlsError },
}

/// What `fogbeat status` shows.
#[derive(Debug, Clone, Serialize)]
pub struct ExternalStatus {
    pub name: String,
    pub connected: bool,
    pub messages: u64,
    pub readings: u64,
    /// The last messages that were not understood.
    pub refused: Vec<Refused>,
}

/// One external broker.
pub struct External {
    options: MqttOptions,
    topics: Vec<String>,
    journal: Journal,
    clock: Arc<dyn Clock>,
    mappings: Arc<Mappings>,
    metrics: Metrics,
    state: Arc<State>,
}

/// Answers questions about an external source that runs.
#[derive(Clone)]
pub struct ExternalHandle(Arc<State>);

struct State {
    name: String,
    connected: AtomicBool,
    messages: AtomicU64,
    readings: AtomicU64,
    ring: Ring,
}

impl ExternalHandle {
    pub fn status(&self) -> ExternalStatus {
        ExternalStatus {
            name: self.0.name.clone(),
            connected: self.0.connected.load(Ordering::Relaxed),
            messages: self.0.messages.load(Ordering::Relaxed),
            readings: self.0.readings.load(Ordering::Relaxed),
            refused: self.0.ring.snapshot(),
        }
    }
}

impl External {
    /// `gateway` is part of the client id, so that two gateways can use one broker.
    ///
    /// # Errors
    /// Settings that can never work.
    pub fn new(
        settings: &config::External,
        gateway: &str,
        journal: Journal,
        clock: Arc<dyn Clock>,
        mappings: Arc<Mappings>,
        metrics: Metrics,
    ) -> Result<Self, ExternalError> {
        let name = settings.name.clone();
        let (secure, host, port) = parse(&settings.url)
            .ok_or_else(|| ExternalError::Url { name: name.clone(), url: settings.url.clone() })?;
        if settings.topics.is_empty() {
            return Err(ExternalError::Topics { name });
        }
        let mut options = MqttOptions::new(format!("fogbeat-{gateway}-{name}"), host, port);
        options
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET);
        if let Some(user) = &settings.username {
            let password =
                match &settings.password_file {
                    Some(path) => std::fs::read_to_string(path).map_err(|source| {
                        ExternalError::Password { name: name.clone(), path: path.clone(), source }
                    })?,
                    None => String::new(),
                };
            options.set_credentials(user, password.trim_end_matches(['\r', '\n']));
        }
        if secure {
            let ca = settings.ca.as_deref().unwrap_or(Path::new(PUBLIC_CAS));
            let config =
                tls::client(ca).map_err(|source| ExternalError::Tls { name: name.clone(), source })?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
        }
        let state = Arc::new(State {
            name,
            connected: AtomicBool::new(false),
            messages: AtomicU64::new(0),
            readings: AtomicU64::new(0),
            ring: Ring::default(),
        });
        Ok(Self { options, topics: settings.topics.clone(), journal, clock, mappings, metrics, state })
    }

    pub fn handle(&self) -> ExternalHandle {
        ExternalHandle(Arc::clone(&self.state))
    }

    /// Collects until `shutdown` is true.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut failures = 0;
        let mut stopping = shutdown.clone();
        while !*shutdown.borrow_and_update() {
            // What is not taken stays with that broker.
            tokio::select! {
                () = self.journal.admitted() => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            let end = tokio::select! {
                end = self.connection() => end,
                () = self.journal.refused() => {
                    End { worked: true, reason: "nothing can be stored at present".to_owned() }
                }
                _ = stopping.wait_for(|stop| *stop) => return,
            };
            self.state.connected.store(false, Ordering::Relaxed);
            failures = if end.worked { 0 } else { failures + 1 };
            let delay = jitter(failures);
            tracing::info!(broker = %self.state.name, reason = %end.reason, ?delay, "external broker: connection lost");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn connection(&self) -> End {
        // A new event loop each time: an old one would go on with acknowledgements of the connection before.
        let (client, events) = AsyncClient::new(self.options.clone(), REQUESTS);
        let (publishes_in, mut publishes) = mpsc::channel(QUEUE);
        // Ended with this function, whatever ends it.
        let mut poll = JoinSet::new();
        let state = Arc::clone(&self.state);
        let metrics = self.metrics.clone();
        poll.spawn(poll_events(events, client.clone(), self.topics.clone(), publishes_in, state, metrics));
        let mut durable = self.journal.watch_durable();
        let mut collector = Collector::default();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                taken = publishes.recv_many(&mut batch, QUEUE) => {
                    if taken == 0 {
                        break;
                    }
                    collector.take(&mut batch, self).await;
                }
                () = durable.changed(None), if !collector.pending.is_empty() => {}
            }
            durable.mark_seen();
            collector.acknowledge(&self.journal, &client);
        }
        match poll.join_next().await {
            Some(Ok(end)) => end,
            _ => End { worked: false, reason: "the connection's task failed".to_owned() },
        }
    }
}

struct End {
    /// The broker had accepted the connection.
    worked: bool,
    reason: String,
}

/// Drives one connection and hands its publishes on; ends with it.
async fn poll_events(
    mut events: EventLoop,
    client: AsyncClient,
    topics: Vec<String>,
    publishes: mpsc::Sender<Publish>,
    state: Arc<State>,
    metrics: Metrics,
) -> End {
    let mut worked = false;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                worked = true;
                metrics.external_reconnects.inc();
                state.connected.store(true, Ordering::Relaxed);
                for topic in &topics {
                    if let Err(error) = client.try_subscribe(topic, QoS::AtLeastOnce) {
                        return End { worked, reason: error.to_string() };
                    }
                }
            }
            Ok(Event::Incoming(Packet::SubAck(suback))) => {
                if suback.return_codes.contains(&SubscribeReasonCode::Failure) {
                    tracing::warn!(broker = %state.name, "the external broker refuses a subscription: check its access rules");
                }
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                if publishes.send(publish).await.is_err() {
                    return End { worked, reason: "stopped".to_owned() };
                }
            }
            Ok(_) => {}
            Err(error) => return End { worked, reason: error.to_string() },
        }
    }
}

/// Makes readings of publishes and remembers what their acknowledgements wait for.
#[derive(Default)]
struct Collector {
    topics: HashMap<String, Option<(Route, Option<DeviceId>)>>,
    readings: Vec<Reading>,
    /// Payloads that were not taken, for the journal's accounts.
    refusals: Vec<Refusal>,
    appended: Vec<Appended>,
    pending: VecDeque<(Option<Ticket>, Publish)>,
}

impl Collector {
    async fn take(&mut self, batch: &mut Vec<Publish>, source: &External) {
        let now = source.clock.now();
        source.metrics.external_messages.inc_by(batch.len() as u64);
        source.state.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut staged = Vec::with_capacity(batch.len());
        for mut publish in batch.drain(..) {
            let before = self.readings.len();
            if !publish.retain {
                self.decode(&publish, now, source);
            }
            // The acknowledgement needs the packet id and the QoS only.
            publish.payload = Bytes::new();
            publish.topic = String::new();
            staged.push((self.readings.len() - before, publish));
        }
        self.appended.clear();
        source.journal.refuse(&self.refusals);
        self.refusals.clear();
        if !self.readings.is_empty() {
            source.metrics.readings.inc_by(self.readings.len() as u64);
            source.state.readings.fetch_add(self.readings.len() as u64, Ordering::Relaxed);
            source.journal.append(&mut self.readings, &mut self.appended).await;
            self.readings.clear();
        }
        source.metrics.duplicates.inc_by(self.appended.iter().filter(|a| a.duplicate).count() as u64);
        let mut appended = self.appended.iter();
        for (count, publish) in staged {
            let ticket = appended.by_ref().take(count).map(|a| a.ticket).max();
            if publish.qos != QoS::AtMostOnce {
                self.pending.push_back((ticket, publish));
            }
        }
    }

    fn decode(&mut self, publish: &Publish, now: Stamp, source: &External) {
        let Self { topics, readings, refusals, .. } = self;
        if topics.len() >= TOPICS && !topics.contains_key(&publish.topic) {
            topics.clear();
        }
        let devices = source.journal.devices();
        let known = match topics.get(&publish.topic) {
            Some(known) => known,
            None => {
                let route = source.mappings.route(&publish.topic);
                let known = route.map(|route| {
                    let device = route.topic_device().and_then(|device| devices.intern(device));
                    (route, device)
                });
                topics.entry(publish.topic.clone()).or_insert(known)
            }
        };
        let (ring, name) = (&source.state.ring, source.state.name.as_str());
        let Some((route, device)) = known else {
            source.metrics.unmapped.inc();
            ring.unmapped(now.wall_ms, name, publish.topic.as_bytes(), &publish.payload);
            return;
        };
        let before = readings.len();
        let intern = |device: &str| devices.intern(device);
        let context =
            DecodeContext { arrival: now, topic_device: *device, devices: &intern, source: Source::Mqtt };
        match route.decode(&publish.payload, &context, readings) {
            Ok(()) if publish.dup => {
                let new = readings.iter().skip(before);
                let unstamped = new.filter(|r| r.device_time.is_none()).count();
                source.metrics.possible_duplicates.inc_by(unstamped as u64);
            }
            Ok(()) => {}
            Err(error) => {
                refusals.push((*device, 1));
                let cause = error.cause.as_str();
                Metrics::count(&source.metrics.unreadable, cause);
                ring.push(now.wall_ms, name, publish.topic.as_bytes(), &publish.payload, cause);
            }
        }
    }

    /// Acknowledges what is durable, in order.
    fn acknowledge(&mut self, journal: &Journal, client: &AsyncClient) {
        while let Some((ticket, publish)) = self.pending.front() {
            let stored = ticket.is_none_or(|ticket| journal.durable(ticket).is_some());
            // A full queue empties as the connection writes; the next commit tries again.
            if !stored || client.try_ack(publish).is_err() {
                return;
            }
            self.pending.pop_front();
        }
    }
}

/// Scheme, host and port.
fn parse(url: &str) -> Option<(bool, String, u16)> {
    let (secure, rest) = match url.split_once("://")? {
        ("mqtt", rest) => (false, rest),
        ("mqtts", rest) => (true, rest),
        _ => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let port = if secure { 8883 } else { 1883 };
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            match after.strip_prefix(':') {
                Some(port) => (host, port.parse().ok()?),
                None if after.is_empty() => (host, port),
                None => return None,
            }
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (rest, port),
        },
    };
    let fine = !host.is_empty() && !host.contains(['/', '@', '?']);
    fine.then(|| (secure, host.to_owned(), port))
}

/// Full jitter: any time up to a bound that doubles with each failure.
fn jitter(failures: u32) -> Duration {
    let bound = FIRST_DELAY.saturating_mul(1 << failures.min(10)).min(LONGEST_DELAY);
    let mut random = [0u8; 4];
    // Without random numbers the middle will do.
    let share = match getrandom::fill(&mut random) {
        Ok(()) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    };
    bound.mul_f64(share)
}

#[cfg(test)]
mod tests;
