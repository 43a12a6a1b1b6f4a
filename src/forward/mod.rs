//! From the journal to the uplinks.
//!
//! Each uplink has a task of its own: it reads the journal up to the durable watermark, makes batches
//! ([`batch`]), packs them ([`member`]), hands them to the uplink ([`Uplink`]) and moves the uplink's cursor when,
//! and only when, the other side has confirmed them.
//!
//! Promised: a batch's bounds are on disk before its first byte is sent; a batch that is sent again holds the same
//! readings, ids and values, and the same bytes within one build; only what failed is sent again; batches are
//! confirmed in order; a failing uplink is tried again without end, holds no other uplink back and loses nothing;
//! memory does not grow with the backlog (one batch under way and [`Limits::window`] batches sent).
//!
//! Not promised: exactly-once arrival. An answer that was lost on the way means a second copy on the other side;
//! the line's `id` tells the copies apart.

pub mod batch;
pub mod directory;
mod driver;
mod feed;
pub mod firehose;
mod hands;
mod hold;
mod jitter;
mod label;
pub mod member;
pub(crate) mod mqtt;
mod pace;
mod patience;
pub mod retry;
mod standing;
mod status;
mod verdict;
mod workshop;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

pub use driver::Drained;
pub use hold::Held;
pub use member::Member;
pub use mqtt::LinkStatus;
pub use status::{Metrics, State, Status, Watcher};

use crate::clock::{Clock, Stamp};
use crate::config;
use crate::journal::{CursorError, Journal, StartAt};
use crate::privacy::Pseudonyms;
use crate::reading::validity::DeviceTimeWindow;
use crate::relayed::Shelf;
use crate::remote::Remote;
use driver::Driver;
use feed::JournalFeed;
use status::{Board, Carries};

/// A worn card may need minutes for 64 MB and its fsync, and for a look at a lake of many days.
const LONGEST: Duration = Duration::from_secs(300);

/// What an uplink can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest member, bytes.
    pub member_bytes: usize,
    /// Most members in one delivery.
    pub members: usize,
    /// Most bytes in one delivery.
    pub delivery_bytes: usize,
    /// Most batches begun and not yet confirmed.
    pub window: usize,
}

/// What the other side said about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// It has it, as durably as it ever will.
    Confirmed,
    /// It may work later: throttling, a fault over there, a time-out, no connection.
    Retry(Failure),
    /// It cannot work until somebody changes something.
    Stuck(Failure),
}

/// Why something was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// Label of the metric: one of a small fixed set.
    pub cause: &'static str,
    /// What happened, for people.
    pub message: String,
    /// What the operator can do.
    pub remedy: Option<String>,
}

impl Failure {
    pub fn new(cause: &'static str, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), remedy: None }
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// The seam to the outside: one place that takes members.
pub trait Uplink: Send + 'static {
    /// `firehose`, `directory`, ...
    fn kind(&self) -> &'static str;
    fn limits(&self) -> Limits;
    /// Delivers members and says what became of each, in the same order. Ends by itself within a bounded time. May
    /// be dropped half-way (at shutdown): what was not answered counts as not delivered.
    fn deliver(&mut self, members: &[Member]) -> impl Future<Output = Vec<Delivery>> + Send;
    /// The longest that one delivery may take: a task that is in one for longer is stuck.
    fn longest(&self) -> Duration {
        LONGEST
    }
    /// Keeps its own bounds on what it holds, also while nothing is delivered; called now and then while it rests.
    fn keep_house(&mut self, _now: Stamp) -> impl Future<Output = ()> + Send {
        async {}
    }
    /// What there is to be told of a connection that it keeps.
    fn link(&self) -> Option<tokio::sync::watch::Receiver<LinkStatus>> {
        None
    }
    /// Nothing more will be delivered: says goodbye where that is polite, within a second.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Who this gateway is, as far as uplinks need it.
#[derive(Debug, Clone)]
pub struct Origin {
    pub gateway: String,
    pub site: Option<String>,
    pub state_dir: PathBuf,
    /// Where an uplink is to be told pseudonyms.
    pub pseudonyms: Option<Arc<Pseudonyms>>,
    /// How far a wearable's stamp may lie from arrival, where that is judged on the way out.
    pub window: DeviceTimeWindow,
}

/// An uplink could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("uplink {name}: {source}")]
    Cursor { name: String, source: CursorError },
    #[error("uplink {name}: {source}")]
    Setup { name: String, source: SetupError },
}

/// What an uplink's task needs of the system and did not get.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot set up the encoder: {0}")]
    Encoder(#[from] member::EncodeError),
    #[error("cannot start the thread that packs batches: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running uplink. Dropped, it stops at once, as a deadline that is reached; [`Handle::drain`] is the orderly way.
#[derive(Debug)]
pub struct Handle {
    watcher: Watcher,
    drain: tokio::sync::watch::Sender<Option<tokio::time::Instant>>,
    task: JoinHandle<Drained>,
}

impl Handle {
    pub fn name(&self) -> &str {
        self.watcher.name()
    }

    /// What `fogbeat status` shows; may read the journal's manifest.
    pub fn status(&self) -> Status {
        self.watcher.status()
    }

    /// A view on the uplink that outlives the handle; clones share it.
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    /// Waits for the task's end, which never comes unasked: an `Err` is a defect (a panic). Cancel safe.
    ///
    /// # Errors
    /// The task panicked.
    pub async fn ended(&mut self) -> Result<Drained, tokio::task::JoinError> {
        (&mut self.task).await
    }

    /// Closes the batch under way at once, delivers what can be delivered until `deadline`, writes the cursor and
    /// ends the task. Call it when nothing is appended to the journal any more.
    ///
    /// # Errors
    /// The task panicked.
    pub async fn drain(self, deadline: tokio::time::Instant) -> Result<Drained, tokio::task::JoinError> {
        self.drain.send_replace(Some(deadline));
        self.task.await
    }
}

/// Starts the task of one configured uplink.
///
/// # Errors
/// [`SpawnError`]: its cursor cannot be made, or the compressor has no memory. That the other side cannot be reached
/// is no error here.
pub fn spawn(
    config: &config::Uplink,
    batch: &config::Batch,
    origin: &Origin,
    journal: &Journal,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Handle, SpawnError> {
    spawn_beside(config, batch, origin, journal, &Beside::default(), clock, metrics)
}

/// What an uplink may have beside its own readings.
#[derive(Default)]
pub struct Beside {
    /// Batches of other gateways.
    pub members: Option<Shelf>,
    /// Settings from afar.
    pub remote: Option<Remote>,
}

/// As [`spawn`], for a gateway that takes batches of others, or settings from afar.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_beside(
    config: &config::Uplink,
    batch: &config::Batch,
    origin: &Origin,
    journal: &Journal,
    beside: &Beside,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Handle, SpawnError> {
    let name = config.name().to_owned();
    let pseudonyms = origin.pseudonyms.clone().filter(|_| config.pseudonymous());
    let start_mqtt = |connection, live: &Option<config::Live>, shadow| {
        let source = mqtt::LiveSource {
            live: journal.live(),
            journal: journal.clone(),
            pseudonyms: pseudonyms.clone(),
        };
        let live = live.clone().map(|config| (config, source));
        let beside = mqtt::Beside { live, shadow, remote: beside.remote.clone(), clock: Arc::clone(&clock) };
        Outside::Mqtt(mqtt::Mqtt::start(connection, beside, &origin.gateway, &metrics.mqtt))
    };
    let outside = match &config.kind {
        config::UplinkKind::Directory(directory) => {
            Outside::Directory(directory::Directory::new(&name, directory, origin, metrics.lake.clone()))
        }
        config::UplinkKind::Firehose(firehose) => {
            Outside::Firehose(Box::new(firehose::Firehose::configured(firehose, &origin.gateway)))
        }
        config::UplinkKind::IotCore(iot) => {
            start_mqtt(mqtt::Settings::iot_core(&name, iot, origin), &iot.live, iot.shadow)
        }
        config::UplinkKind::Mqtt(broker) => {
            start_mqtt(mqtt::Settings::broker(&name, broker, origin), &broker.live, false)
        }
    };
    let outside = match outside {
        Outside::Mqtt(uplink) if !config.carries_batches() => {
            return Ok(standing::start(&name, uplink, metrics));
        }
        outside => outside,
    };
    let start = match config.from {
        config::From::Oldest => StartAt::Oldest,
        config::From::Now => StartAt::Now,
    };
    let cursor =
        journal.uplink(&name, start).map_err(|source| SpawnError::Cursor { name: name.clone(), source })?;
    cursor.set_required(config.required);
    let members = beside.members.as_ref().map(|shelf| shelf.lane(&name, config.from, largest_member(config)));
    let feed = Arc::new(JournalFeed::new(journal.clone(), cursor, pseudonyms.clone(), members));
    let settings = driver::Settings {
        name: name.clone(),
        encoding: config.encoding,
        remote: beside.remote.as_ref().map(Remote::watch),
        policy: batch::Policy {
            max_age: batch.max_age,
            max_bytes: usize::try_from(batch.max_bytes.as_u64()).unwrap_or(usize::MAX),
        },
        origin: origin.clone(),
        retry: retry::Limits::default(),
        stuck_interval: driver::STUCK_INTERVAL,
        housekeeping: driver::HOUSEKEEPING,
        turn: driver::TURN,
    };
    match outside {
        Outside::Directory(uplink) => start_task(uplink, feed, settings, clock, metrics),
        Outside::Firehose(uplink) => start_task(*uplink, feed, settings, clock, metrics),
        Outside::Mqtt(uplink) => start_task(uplink, feed, settings, clock, metrics),
    }
    .map_err(|source| SpawnError::Setup { name, source })
}

/// The other side of an uplink, by its kind.
enum Outside {
    Directory(directory::Directory),
    Firehose(Box<firehose::Firehose>),
    Mqtt(mqtt::Mqtt),
}

/// Largest member that an uplink takes, bytes.
fn largest_member(config: &config::Uplink) -> usize {
    match &config.kind {
        config::UplinkKind::Directory(_) => directory::LIMITS.member_bytes,
        config::UplinkKind::Firehose(_) => firehose::LIMITS.member_bytes,
        config::UplinkKind::IotCore(_) => mqtt::IOT_CORE_MEMBER,
        config::UplinkKind::Mqtt(broker) => usize::try_from(broker.max_member.as_u64()).unwrap_or(usize::MAX),
    }
}

fn start_task<U: Uplink, F: feed::Feed>(
    uplink: U,
    feed: Arc<F>,
    settings: driver::Settings,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Handle, SetupError> {
    let board =
        Board::new(&settings.name, uplink.kind(), Carries::Batches, uplink.longest(), uplink.link(), metrics);
    let (drain, draining) = tokio::sync::watch::channel(None);
    let (holder, hold) = hold::pair();
    let watcher = board.watcher(Arc::clone(&feed) as Arc<dyn feed::Backlog>, holder);
    let signals = driver::Signals { draining, retry_now: watcher.retry_signal(), hold };
    let driver = Driver::new(uplink, feed, settings, clock, board, signals)?;
    Ok(Handle { watcher, drain, task: tokio::spawn(driver.run()) })
}
