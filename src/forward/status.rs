//! What an uplink shows: its state for `fogbeat status`, its counters for `/metrics`, its log lines.
//!
//! In normal operation nothing is logged above debug. A failing uplink gives one warning: at once when somebody must
//! act, after [`PATIENCE`] failures in a row when it may mend itself; and one info line when it is back.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::directory::StoreMetrics;
use super::feed::Backlog;
use super::hold::{Held, Holder};
use super::label::UplinkLabel;
use super::mqtt::{self, LinkStatus};
use super::{Failure, Member};
use crate::health::Mark;

/// Beyond the longest delivery: the journal's part, and a busy machine.
const GRACE: Duration = Duration::from_secs(60);
/// Failures in a row before one that may mend itself is worth a warning.
const PATIENCE: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabel {
    uplink: String,
    cause: String,
}

/// Counters of all uplinks.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    readings: Family<UplinkLabel, Counter>,
    bytes: Family<UplinkLabel, Counter>,
    text_bytes: Family<UplinkLabel, Counter>,
    batches: Family<UplinkLabel, Counter>,
    retries: Family<RetryLabel, Counter>,
    up: Family<UplinkLabel, Gauge>,
    open: Family<UplinkLabel, Gauge>,
    held: Family<UplinkLabel, Gauge>,
    pub(super) lake: StoreMetrics,
    pub(super) mqtt: mqtt::Metrics,
}

impl Metrics {
    /// Names get their prefix from the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("uplink_readings", "Readings confirmed by the uplink", self.readings.clone());
        registry.register("uplink_bytes", "Packed bytes confirmed by the uplink", self.bytes.clone());
        registry.register(
            "uplink_text_bytes",
            "Bytes of JSON lines confirmed by the uplink, before compression",
            self.text_bytes.clone(),
        );
        registry.register("uplink_batches", "Batches confirmed by the uplink", self.batches.clone());
        registry.register(
            "uplink_retries",
            "Members not taken at an attempt, by cause",
            self.retries.clone(),
        );
        registry.register("uplink_up", "1 while the uplink takes what it is given", self.up.clone());
        registry.register("uplink_open_batches", "Batches begun and not yet confirmed", self.open.clone());
        registry.register(
            "uplink_waits_for_clock",
            "1 while readings are held back because the clock may still be set",
            self.held.clone(),
        );
        self.lake.register(registry);
        self.mqtt.register(registry);
    }
}

/// What an uplink is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// Everything durable is confirmed, or waits for its batch to be closed.
    #[default]
    Idle,
    Sending,
    /// It may mend itself; the next attempt comes by itself.
    Retrying {
        since: Instant,
        failures: u32,
        failure: Failure,
    },
    /// Somebody must act; tried again slowly all the same.
    Stuck {
        since: Instant,
        failure: Failure,
    },
}

/// What an uplink is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    Batches,
    /// Only what else a connection can carry: live values, settings from afar.
    NoBatches,
}

impl Carries {
    /// What is the matter while it fails.
    fn trouble(self) -> &'static str {
        match self {
            Self::Batches => "the uplink does not take its batches, they stay in the journal",
            Self::NoBatches => "the uplink has no connection for live values and settings from afar",
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Ages {
    /// Since when the oldest unconfirmed entry has been waiting.
    waiting: Option<Instant>,
    confirmed: Option<Instant>,
}

/// One uplink in `fogbeat status`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Status {
    pub name: String,
    pub kind: &'static str,
    /// `idle`, `sending`, `retrying` or `stuck`.
    pub state: &'static str,
    /// How long it has been failing.
    pub failing_s: Option<u64>,
    pub failure: Option<Failure>,
    /// Readings durable and not confirmed.
    pub queued_readings: u64,
    /// How long the oldest of them has been waiting in this run of the daemon.
    pub oldest_s: Option<u64>,
    /// How long ago the uplink last confirmed a batch in this run.
    pub confirmed_s: Option<u64>,
    pub delivered_readings: u64,
    pub delivered_bytes: u64,
    pub delivered_batches: u64,
    pub cursor: u64,
    /// Readings are held back because the clock may still be set.
    pub waits_for_clock: bool,
    /// Batches of other gateways not yet confirmed; left out where none are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_members: Option<usize>,
    /// Of an uplink that keeps a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkStatus>,
}

/// The driver's side: it alone writes.
pub(super) struct Board {
    name: Arc<str>,
    kind: &'static str,
    carries: Carries,
    longest: Duration,
    mark: Mark,
    metrics: Metrics,
    state: watch::Sender<State>,
    ages: watch::Sender<Ages>,
    retry: Arc<Notify>,
    link: Option<watch::Receiver<LinkStatus>>,
    warned: Option<&'static str>,
}

impl Board {
    pub(super) fn new(
        name: &str,
        kind: &'static str,
        carries: Carries,
        longest: Duration,
        link: Option<watch::Receiver<LinkStatus>>,
        metrics: &Metrics,
    ) -> Self {
        let board = Self {
            name: name.into(),
            kind,
            carries,
            longest,
            mark: Mark::new(Instant::now().into_std()),
            metrics: metrics.clone(),
            state: watch::Sender::new(State::Idle),
            ages: watch::Sender::new(Ages::default()),
            retry: Arc::new(Notify::new()),
            link,
            warned: None,
        };
        board.metrics.up.get_or_create(&board.label()).set(1);
        board
    }

    pub(super) fn watcher(&self, backlog: Arc<dyn Backlog>, holder: Holder) -> Watcher {
        Watcher {
            name: Arc::clone(&self.name),
            kind: self.kind,
            carries: self.carries,
            deadline: self.longest + GRACE,
            mark: self.mark.clone(),
            metrics: self.metrics.clone(),
            state: self.state.subscribe(),
            ages: self.ages.subscribe(),
            retry: Arc::clone(&self.retry),
            link: self.link.clone(),
            backlog,
            holder,
        }
    }

    fn label(&self) -> UplinkLabel {
        UplinkLabel { uplink: self.name.to_string() }
    }

    /// The task got further.
    pub(super) fn alive(&self, now: Instant) {
        self.mark.set(now.into_std());
    }

    pub(super) fn waiting_since(&self, waiting: Option<Instant>) {
        self.ages.send_if_modified(|ages| std::mem::replace(&mut ages.waiting, waiting) != waiting);
    }

    pub(super) fn open_batches(&self, open: usize) {
        self.metrics.open.get_or_create(&self.label()).set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    pub(super) fn waits_for_clock(&self, waits: bool) {
        self.metrics.held.get_or_create(&self.label()).set(i64::from(waits));
    }

    /// A whole batch is confirmed.
    pub(super) fn confirmed(&self, members: &[Member], now: Instant) {
        let label = self.label();
        let sum = |part: fn(&Member) -> u64| members.iter().map(part).sum::<u64>();
        self.metrics.readings.get_or_create(&label).inc_by(sum(|m| u64::from(m.readings)));
        self.metrics.bytes.get_or_create(&label).inc_by(sum(|m| m.bytes.len() as u64));
        self.metrics.text_bytes.get_or_create(&label).inc_by(sum(|m| m.text_bytes));
        self.metrics.batches.get_or_create(&label).inc();
        self.ages.send_modify(|ages| ages.confirmed = Some(now));
    }

    /// A member was not taken at this attempt.
    pub(super) fn refused(&self, failure: &Failure) {
        let label = RetryLabel { uplink: self.name.to_string(), cause: failure.cause.to_owned() };
        self.metrics.retries.get_or_create(&label).inc();
    }

    /// Everything that was asked of the uplink worked.
    pub(super) fn working(&mut self, state: State) {
        if matches!(*self.state.borrow(), State::Retrying { .. } | State::Stuck { .. }) {
            tracing::info!(target: "flight::uplink", uplink = %self.name, kind = self.kind, "an uplink works again");
        }
        if self.warned.take().is_some() {
            tracing::info!(uplink = %self.name, "the uplink is back");
        }
        self.metrics.up.get_or_create(&self.label()).set(1);
        self.state.send_if_modified(|old| std::mem::replace(old, state.clone()) != state);
    }

    /// It failed again, for the `failures`th time in a row.
    pub(super) fn failing(&mut self, failure: Failure, stuck: bool, failures: u32, now: Instant) {
        self.metrics.up.get_or_create(&self.label()).set(0);
        let severity = if stuck { "stuck" } else { "retrying" };
        if failures == 1 {
            tracing::info!(target: "flight::uplink", uplink = %self.name, kind = self.kind, cause = failure.cause, severity,
                "an uplink fails");
        }
        if self.warned != Some(severity) && (stuck || failures == PATIENCE) {
            self.warned = Some(severity);
            let remedy = failure.remedy.as_deref().unwrap_or("none: it is tried again by itself");
            tracing::warn!(uplink = %self.name, kind = self.kind, cause = failure.cause, remedy,
                "{}: {}", self.carries.trouble(), failure.message);
        }
        self.state.send_modify(|state| {
            let since = match state {
                State::Retrying { since, .. } | State::Stuck { since, .. } => *since,
                State::Idle | State::Sending => now,
            };
            *state = if stuck {
                State::Stuck { since, failure }
            } else {
                State::Retrying { since, failures, failure }
            };
        });
    }
}

/// The reader's side; clones share it.
#[derive(Clone)]
pub struct Watcher {
    name: Arc<str>,
    kind: &'static str,
    carries: Carries,
    deadline: Duration,
    mark: Mark,
    metrics: Metrics,
    state: watch::Receiver<State>,
    ages: watch::Receiver<Ages>,
    retry: Arc<Notify>,
    link: Option<watch::Receiver<LinkStatus>>,
    backlog: Arc<dyn Backlog>,
    holder: Holder,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Watcher {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// It has a place in the journal.
    pub fn carries_batches(&self) -> bool {
        self.carries == Carries::Batches
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Set whenever the task has got further: at rest every few seconds, else when a delivery has ended, well or not.
    pub fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// A task whose mark is older than this is stuck.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Tries a failing uplink again now: after a reload, or when the operator has mended something.
    pub fn retry_now(&self) {
        self.retry.notify_one();
    }

    /// Makes the uplink let go of every reading it holds, until the returned value is dropped; see [`Held`]. Blocking.
    /// `None`: a delivery was still under way after `patience`.
    pub fn hold(&self, patience: Duration) -> Option<Held> {
        self.holder.hold(patience)
    }

    pub(super) fn retry_signal(&self) -> Arc<Notify> {
        Arc::clone(&self.retry)
    }

    /// The uplink as `fogbeat status` shows it.
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        let (state, failing_s, failure) = match self.state() {
            State::Idle => ("idle", None, None),
            State::Sending => ("sending", None, None),
            State::Retrying { since, failure, .. } => ("retrying", Some(seconds(since)), Some(failure)),
            State::Stuck { since, failure } => ("stuck", Some(seconds(since)), Some(failure)),
        };
        let ages = *self.ages.borrow();
        let label = UplinkLabel { uplink: self.name.to_string() };
        Status {
            name: self.name.to_string(),
            kind: self.kind,
            state,
            failing_s,
            failure,
            queued_readings: self.backlog.queued(),
            oldest_s: ages.waiting.map(seconds),
            confirmed_s: ages.confirmed.map(seconds),
            delivered_readings: self.metrics.readings.get_or_create(&label).get(),
            delivered_bytes: self.metrics.bytes.get_or_create(&label).get(),
            delivered_batches: self.metrics.batches.get_or_create(&label).get(),
            cursor: self.backlog.cursor().0,
            waits_for_clock: self.metrics.held.get_or_create(&label).get() == 1,
            queued_members: self.backlog.members(),
            link: self.link.as_ref().map(|link| link.borrow().clone()),
        }
    }
}
