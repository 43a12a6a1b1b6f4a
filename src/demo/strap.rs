//! One strap: measures its heart and publishes over MQTT with QoS 1 until everything is acknowledged. The driver of
//! [`Outbox`].
//!
//! Promises: a sample counts as published when it was on the wire, as acknowledged when its PUBACK was read. Each
//! connection gets an event loop of its own: what the MQTT client was given and lost stays in the outbox.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::hearts::Hearts;
use super::ledger::StrapAccount;
use super::outbox::Outbox;
use super::sample::{Encoding, Sample};
use crate::config::Speed;

/// Unacknowledged publishes of one strap. At 60 readings a second and one commit a second a smaller window would hold
/// the strap up.
const IN_FLIGHT: u16 = 200;
/// Payloads between the outbox and the event loop; they count as not yet sent.
const HANDED_OVER: usize = 16;
/// Between a lost connection and the next try.
const RECONNECT: Duration = Duration::from_millis(250);
/// A dead gateway is noticed by its reset connections; this is for one that says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// For the last words of a connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// What one strap does in the show.
#[derive(Debug, Clone)]
pub struct Plan {
    pub device: String,
    /// Which heart it hears.
    pub heart: usize,
    pub encoding: Encoding,
    pub speed: Speed,
    /// When it is switched on, and for how long it measures from then.
    pub start: Instant,
    pub measure_for: Duration,
    /// Its clock at the start of its recording, ms since 1970.
    pub clock_ms: i64,
    /// When it is out of range, since the start.
    pub radio_gap: Option<Range<Duration>>,
    /// When it hangs loose, in ms of its recording.
    pub loose: Option<Range<u64>>,
    /// How long after its last measurement it waits for acknowledgements.
    pub patience: Duration,
}

/// Running figures of all straps.
#[derive(Debug, Default)]
pub struct Live {
    pub connected: AtomicU64,
    pub published: AtomicU64,
    pub acknowledged: AtomicU64,
    pub resent: AtomicU64,
}

/// How a connection ended.
enum Ended {
    Finished,
    Lost,
}

/// Runs one strap to its end and gives its account.
pub async fn wear(plan: Plan, hearts: Arc<Hearts>, gateway: SocketAddr, live: Arc<Live>) -> StrapAccount {
    let strap = Strap { plan, gateway, live, outbox: Mutex::default(), changed: Notify::new() };
    let deadline = strap.plan.start + strap.plan.measure_for + strap.plan.patience;
    tokio::select! {
        _ = async { tokio::join!(strap.measure(&hearts), strap.publish()) } => {}
        () = sleep_until(deadline) => {}
    }
    let outbox = strap.outbox.into_inner().unwrap_or_else(PoisonError::into_inner);
    StrapAccount { device: strap.plan.device, sent: outbox.into_samples() }
}

struct Strap {
    plan: Plan,
    gateway: SocketAddr,
    live: Arc<Live>,
    outbox: Mutex<Outbox>,
    /// The outbox has something new to say.
    changed: Notify,
}

impl Strap {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn measure(&self, hearts: &Hearts) {
        let plan = &self.plan;
        for frame in hearts.of_strap(plan.heart) {
            let due = plan.speed.due(frame.offset_ms);
            if due > plan.measure_for {
                break;
            }
            sleep_until(plan.start + due).await;
            let worn = !plan.loose.as_ref().is_some_and(|loose| loose.contains(&frame.offset_ms));
            let time_ms = plan.clock_ms.saturating_add_unsigned(frame.offset_ms);
            self.outbox().measured(Sample::new(&frame, plan.encoding, time_ms, worn));
            self.changed.notify_one();
        }
        self.outbox().close();
        self.changed.notify_one();
    }

    async fn publish(&self) {
        loop {
            if let Some(gap) =
                self.plan.radio_gap.as_ref().filter(|gap| gap.contains(&self.plan.start.elapsed()))
            {
                sleep_until(self.plan.start + gap.end).await;
            }
            if let Ended::Finished = self.connect().await {
                return;
            }
            self.outbox().connection_lost();
            sleep(RECONNECT).await;
        }
    }

    /// One connection from beginning to end.
    async fn connect(&self) -> Ended {
        let mut options =
            MqttOptions::new(&self.plan.device, self.gateway.ip().to_string(), self.gateway.port());
        options.set_keep_alive(KEEP_ALIVE).set_inflight(IN_FLIGHT);
        let (client, mut events) = AsyncClient::new(options, HANDED_OVER);
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {}
            Ok(_) | Err(_) => return Ended::Lost,
        }
        let _connected = Connected::new(&self.live.connected);
        let finished = tokio::select! {
            () = self.receive(&mut events) => false,
            finished = self.send(&client) => finished,
            () = self.walk_out_of_range() => false,
        };
        if !finished {
            // Dropping the event loop cuts the connection without a word, as a radio does.
            return Ended::Lost;
        }
        if client.disconnect().await.is_ok() {
            // Until the DISCONNECT is out; nothing depends on it.
            let _ = timeout(FAREWELL, async { while events.poll().await.is_ok() {} }).await;
        }
        Ended::Finished
    }

    /// Reads until the connection breaks.
    async fn receive(&self, events: &mut EventLoop) {
        loop {
            match events.poll().await {
                Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => {
                    let first_time = self.outbox().on_wire(packet_id);
                    let counter = if first_time { &self.live.published } else { &self.live.resent };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Event::Incoming(Packet::PubAck(ack))) => {
                    if self.outbox().acknowledged(ack.pkid) {
                        self.live.acknowledged.fetch_add(1, Ordering::Relaxed);
                        self.changed.notify_one();
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(device = %self.plan.device, %error, "a strap lost its connection");
                    return;
                }
            }
        }
    }

    /// Sends until everything is acknowledged (true) or the client takes nothing any more (false).
    async fn send(&self, client: &AsyncClient) -> bool {
        let topic = format!("hr/{}", self.plan.device);
        loop {
            let next = self.outbox().hand_over();
            match next {
                Some(payload) => {
                    if client.publish(&topic, QoS::AtLeastOnce, false, payload).await.is_err() {
                        return false;
                    }
                }
                None if self.outbox().finished() => return true,
                None => self.changed.notified().await,
            }
        }
    }

    async fn walk_out_of_range(&self) {
        match &self.plan.radio_gap {
            Some(gap) if self.plan.start.elapsed() < gap.start => {
                sleep_until(self.plan.start + gap.start).await
            }
            _ => std::future::pending().await,
        }
    }
}

/// Counts a connection while it lives, however it ends.
struct Connected<'a>(&'a AtomicU64);

impl<'a> Connected<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
