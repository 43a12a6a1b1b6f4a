//! Wires the stages and watches their tasks.
//!
//! Start: journal, control socket and pages, uplinks, then the listener: nothing is acknowledged before it can be
//! kept. Stop (SIGTERM, SIGINT): the listener first, then the open group is committed, then the uplinks deliver what
//! they can within `shutdown_grace`; a second signal ends at once, and loses nothing that was acknowledged.
//!
//! Rule for a task that ends unasked: the gateway stops in good order and exits with an error, so that the service
//! manager starts it anew; half a gateway would look alive and lose readings.

mod accounted;
mod answer;
mod intake;
pub mod look;
mod members;
mod notify;
mod reload;
mod remote;
mod signals;
mod stages;
mod status;
mod waiting;
mod watchdog;
mod words;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::audit::{Act, Audit, AuditError, Outcome, Scribe, Who};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::control::Call;
use crate::forward::{self, Origin};
use crate::health::{Health, Phase};
use crate::journal::{self, Journal, Trouble};
use crate::privacy::{KeyError, Pseudonyms};
use crate::reading::validity::DeviceTimeWindow;
use crate::source::{bluetooth, mqtt};
use crate::state::{StateDir, StateError};
use crate::telemetry::{self, Logs};
use crate::web;
use intake::Intake;
use signals::{Signals, Wish};
use stages::{Ended, Stages};
use status::Sources;
use waiting::{Opened, Waiting};
use watchdog::{Commits, Watchdog};

/// Each is answered in milliseconds, by one task: a short queue is enough.
const MOST_CALLS: usize = 8;
/// How often liveness is looked at and the watchdog is told.
const PULSE: Duration = Duration::from_secs(1);
/// How often systemd is told in words what the gateway does.
const TELLING: Duration = Duration::from_secs(10);
/// How often the flight recorder notes down how much of everything there is.
const FIGURING: Duration = Duration::from_secs(300);

/// Why a gateway could not start, or did not stop in good order.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the journal cannot be opened: {0}")]
    Journal(#[from] journal::OpenError),
    #[error(
        "{key} = \"{address}\" cannot be bound ({source}); is another program there? Stop it or choose another port"
    )]
    Bind { key: &'static str, address: SocketAddr, source: io::Error },
    #[error("the control socket {path} cannot be bound ({source}); a shorter gateway.state_dir may help")]
    Control { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Listener(#[from] mqtt::BindError),
    #[error(transparent)]
    External(#[from] mqtt::ExternalError),
    #[error("the mapping table: {0}")]
    Mapping(String),
    #[error(transparent)]
    Uplink(#[from] forward::SpawnError),
    #[error("batches of other gateways cannot be kept in {path}: {source}")]
    Members { path: PathBuf, source: io::Error },
    #[error("uplinks are to be told pseudonyms in place of names: {0}")]
    Pseudonyms(#[from] KeyError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("signals cannot be heard: {0}")]
    Signals(io::Error),
    #[error("the {stage} ended unasked{}", if *.panicked { ", by a panic" } else { "" })]
    Ended { stage: String, panicked: bool },
}

impl GatewayError {
    /// Whether it is fogbeat that is at fault, not its surroundings.
    pub fn is_defect(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Signals(_))
    }

    /// What is wrong with the disk, if that is the cause.
    fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Journal(error) => error.trouble(),
            Self::Control { source, .. }
            | Self::State(StateError::Id { source, .. } | StateError::Unusable { source, .. }) => {
                Trouble::of(source)
            }
            _ => None,
        }
    }
}

/// What a gateway is made from.
pub struct Setup {
    pub config: Config,
    pub state: StateDir,
    pub logs: Logs,
    /// Reads the configuration anew, with the log level that then holds.
    pub reread: Box<dyn Fn() -> Result<(Config, String), config::Problems> + Send + Sync>,
}

/// Runs a gateway until it is told to stop.
///
/// # Errors
/// When it cannot start, or when a task ended unasked.
pub async fn run(setup: Setup) -> Result<(), GatewayError> {
    let mut signals = Signals::listen().map_err(GatewayError::Signals)?;
    let started = tokio::select! {
        started = Gateway::start(setup) => started?,
        () = signals.stop() => {
            tracing::info!("told to stop while starting");
            return Ok(());
        }
    };
    started.live(&mut signals).await
}

/// A gateway that works.
struct Gateway {
    setup: Setup,
    health: Arc<Health>,
    journal: Journal,
    uplinks: Vec<forward::Handle>,
    sources: Arc<Sources>,
    calls: mpsc::Receiver<Call>,
    /// The stages that bring readings, and the word for them to end.
    intake: Intake,
    /// Tells the stages beside the way of a reading (pages, control socket) to end.
    stop: watch::Sender<bool>,
    stages: Stages,
}

impl Gateway {
    async fn start(mut setup: Setup) -> Result<Self, GatewayError> {
        let begun = Instant::now();
        let config = setup.config.clone();
        let clock = Arc::new(SystemClock::new(&config.clock, setup.state.path()));
        let health = Arc::new(Health::default());
        let mut registry = Registry::with_prefix("fogbeat");
        clock.metrics().register(&mut registry);
        telemetry::process::register(&mut registry, clock.now().wall_ms);
        let mut stages = Stages::default();
        let (stop, stopped) = watch::channel(false);

        let http = match config.http.enabled {
            true => Some(bind("http.bind", config.http.bind).await?),
            false => None,
        };
        let (asking, mut calls) = mpsc::channel(MOST_CALLS);
        let waiting = Waiting {
            setup: &mut setup,
            clock: clock.clone(),
            health: &health,
            http: http.as_ref().map(|(listener, _)| listener),
            stages: &mut stages,
            asking,
            calls: &mut calls,
            stopped: &stopped,
        };
        let Opened { id, journal, driver, recovered } = waiting.open().await?;
        if recovered.lost > 0 {
            tracing::error!(
                lost = recovered.lost,
                "the storage has lost readings that were durable; check or replace the disk"
            );
        }
        tracing::info!(
            generations = recovered.generations,
            readings = recovered.readings,
            took_ms = begun.elapsed().as_millis(),
            "journal open"
        );
        learn_boots(&clock, &journal).await;
        journal.metrics().register(&mut registry);
        accounted::register(&mut registry, &journal, config.http.device_metrics);

        let pseudonyms = setup_pseudonyms(&config).await?;
        let audit = Audit::open(setup.state.path())?;
        let scribe = Scribe::new(audit, clock.clone());
        scribe.note(
            &Who::me(),
            &Act::Start {
                version: env!("CARGO_PKG_VERSION"),
                configuration: fingerprint(&config),
                pseudonym_key: pseudonyms.as_ref().map(|pseudonyms| pseudonyms.key_id()),
            },
            Outcome::Done,
        );
        tell_head(&scribe);
        let origin = Origin {
            gateway: id.clone(),
            site: config.gateway.site.clone(),
            state_dir: setup.state.path().to_owned(),
            pseudonyms: pseudonyms.clone(),
            window: DeviceTimeWindow::new(config.clock.device_past, config.clock.device_future),
        };
        let metrics = forward::Metrics::default();
        metrics.register(&mut registry);
        let members = members::open(&config, setup.state.path()).await?;
        if let Some(members) = &members {
            members.metrics().register(&mut registry);
            stages.start("members", members::supervise(members.clone(), stopped.clone()));
        }
        let remote = remote::open(&config, setup.state.path()).await?;
        if let Some(remote) = &remote {
            stages.start(
                "settings from afar",
                remote::supervise(remote.clone(), journal.clone(), stopped.clone()),
            );
        }
        let beside = forward::Beside { members: members.clone(), remote: remote.clone() };
        let mut uplinks = Vec::new();
        let placed = journal.uplinks();
        for uplink in &config.uplinks {
            let clock = clock.clone();
            if uplink.carries_batches() && !placed.iter().any(|place| place.name() == uplink.name()) {
                let act = Act::UplinkAdd {
                    uplink: uplink.name().to_owned(),
                    kind: uplink.kind.label(),
                    pseudonyms: uplink.pseudonymous(),
                };
                scribe.note(&Who::me(), &act, Outcome::Done);
            }
            let batch = &config.batch;
            uplinks.push(forward::spawn_beside(uplink, batch, &origin, &journal, &beside, clock, &metrics)?);
        }
        // Its housekeeping removes what every uplink has: not before each has its place, also one whose place was lost.
        stages.start("journal", driver.run());

        let shelf = members.as_ref();
        let intake =
            Intake::start(&config, &id, &setup.state, &journal, shelf, &clock, &mut registry).await?;

        let registry = Arc::new(registry);
        let sources = Arc::new(Sources {
            registry: registry.clone(),
            gateway: id,
            site: config.gateway.site.clone(),
            timezone: config.site.timezone.clone(),
            started: begun,
            health: health.clone(),
            clock: clock.clone(),
            window: origin.window,
            journal: journal.clone(),
            listener: intake.listener(),
            externals: intake.externals(),
            bluetooth: bluetooth::Commands::new(
                intake.bluetooth(),
                bluetooth::Allowed::new(setup.state.path()),
                config.ble.devices.clone(),
            ),
            uplinks: uplinks.iter().map(forward::Handle::watcher).collect(),
            members,
            remote,
            scribe,
            state_dir: setup.state.path().to_owned(),
            lakes: config.lakes(),
            pseudonyms,
            erasing: Mutex::new(()),
        });
        stages.start("clock", until(clock.supervise(), stopped.clone()));
        if let Some((listener, address)) = http {
            let listener = serving(listener)?;
            tracing::info!(%address, "health, metrics and status");
            let sources = sources.clone();
            let status = Box::new(move || {
                serde_json::to_value(sources.status().without_payloads()).unwrap_or_default()
            });
            let pages = Arc::new(web::Pages { health: health.clone(), registry, status });
            stages.start("pages", async move {
                if let Err(error) = web::serve(listener, pages, stopped).await {
                    tracing::error!(%error, "the pages cannot be served");
                }
            });
        }
        Ok(Self { setup, health, journal, uplinks, sources, calls, intake, stop, stages })
    }

    /// From ready to the end.
    async fn live(mut self, signals: &mut Signals) -> Result<(), GatewayError> {
        let interval = self.setup.config.journal.commit_interval;
        let watchdog = Watchdog::new(self.health.clone(), interval, Instant::now());
        self.sources.listener.iter().for_each(|listener| watchdog.listener(listener));
        self.sources.bluetooth.handle().into_iter().for_each(|source| watchdog.bluetooth(source));
        self.sources.uplinks.iter().for_each(|uplink| watchdog.uplink(uplink));
        self.health.enter(Phase::Running);
        notify::ready();
        tracing::info!(gateway = %self.sources.gateway, "ready");
        let ended = self.watch(signals, watchdog).await;
        if let Some(Ended { stage, panicked }) = &ended {
            tracing::error!(stage, panicked, "a stage ended unasked; the gateway stops");
        }
        let panicked = tokio::select! {
            panicked = self.stop() => panicked,
            () = signals.stop() => {
                tracing::info!("told to stop once more: ending at once; what was acknowledged is on disk");
                Vec::new()
            }
        };
        match (ended, panicked.first()) {
            (Some(Ended { stage, panicked }), _) => {
                Err(GatewayError::Ended { stage: stage.to_owned(), panicked })
            }
            (None, Some(stage)) => Err(GatewayError::Ended { stage: (*stage).to_owned(), panicked: true }),
            (None, None) => Ok(()),
        }
    }

    /// Until a signal asks to stop (`None`) or a task ended unasked.
    async fn watch(&mut self, signals: &mut Signals, mut watchdog: Watchdog) -> Option<Ended> {
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut telling = tokio::time::interval(TELLING);
        telling.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = None;
        let mut figuring = tokio::time::interval(FIGURING);
        figuring.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut figured = None;
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop => return None,
                    Wish::Reload => self.reload().await,
                },
                Some(call) = self.calls.recv() => {
                    let sources = self.sources.clone();
                    // Looks at files; who asked waits for it, the gateway does not.
                    tokio::task::spawn_blocking(move || {
                        // Who asked may have gone away.
                        let _ = call.answer.send(answer::answer(&call.request, call.peer, &sources));
                    });
                }
                ended = self.stages.ended() => return Some(ended),
                ended = self.intake.ended() => return Some(ended),
                ended = uplink_ended(&mut self.uplinks) => return Some(ended),
                _ = pulse.tick() => self.pulse(&mut watchdog),
                _ = telling.tick(), if notify::heard() => self.tell(&mut told),
                _ = figuring.tick() => self.figure(&mut figured),
            }
        }
    }

    fn pulse(&self, watchdog: &mut Watchdog) {
        let trouble = self.journal.admission().borrow().trouble();
        let before = self.health.trouble_is(trouble.map(|trouble| trouble.to_string()));
        if before.is_some() && trouble.is_none() {
            // Uplinks that met the full disk would look again in a minute only.
            self.sources.uplinks.iter().for_each(forward::Watcher::retry_now);
        }
        let commits = Commits { waiting: self.journal.waiting(), trouble: trouble.is_some() };
        match watchdog.judge(commits, Instant::now()) {
            [] => notify::alive(),
            // At once, and without a look at a disk that may be what hangs.
            late => notify::status(&words::stuck(late)),
        }
    }

    /// Tells systemd in words what the gateway does; not while the last round still hangs at the disk.
    fn tell(&self, last: &mut Option<tokio::task::JoinHandle<()>>) {
        if last.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let sources = self.sources.clone();
            let tell = move || notify::status(&words::sentence(&sources.facts()));
            *last = Some(tokio::task::spawn_blocking(tell));
        }
    }

    /// Notes down for the flight recorder how much of everything there is; not while the last round hangs at the disk.
    fn figure(&self, last: &mut Option<tokio::task::JoinHandle<()>>) {
        if last.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let sources = self.sources.clone();
            *last = Some(tokio::task::spawn_blocking(move || sources.figures()));
        }
    }

    async fn reload(&mut self) {
        notify::reloading();
        match (self.setup.reread)() {
            Ok((fresh, level)) => {
                if let Err(error) = self.setup.logs.set(&level) {
                    tracing::error!(%error, "the log level stays as it is");
                }
                if let Err(error) = self.journal.reload_keys(&fresh.journal) {
                    tracing::error!(%error, "the journal's keys stay as they are");
                }
                match reload::changes(&self.setup.config, &fresh) {
                    Ok(changes) => {
                        tracing::info!(
                            taken = %changes.taken.join(", "),
                            needs_restart = %changes.restart.join(", "),
                            level,
                            "configuration read again; users are always read at once"
                        );
                        let configuration = fingerprint(&fresh);
                        self.note(Act::Reload {
                            configuration,
                            taken: changes.taken,
                            needs_restart: changes.restart,
                        })
                        .await;
                    }
                    Err(error) => tracing::error!(%error, "the configurations cannot be compared"),
                }
                self.setup.config.log = fresh.log;
                self.setup.config.journal.key_file = fresh.journal.key_file;
            }
            Err(problems) => tracing::error!("nothing is reloaded: {problems}"),
        }
        self.sources.uplinks.iter().for_each(forward::Watcher::retry_now);
        notify::ready();
    }

    /// Adds an entry to the audit log.
    async fn note(&self, act: Act) {
        let scribe = self.sources.scribe.clone();
        let noted = move || {
            scribe.note(&Who::me(), &act, Outcome::Done);
            if act == Act::Stop {
                tell_head(&scribe);
            }
        };
        // What went wrong was told.
        let _ = tokio::task::spawn_blocking(noted).await;
    }

    /// Stops in good order; tells which tasks panicked on the way.
    async fn stop(&mut self) -> Vec<&'static str> {
        let grace = self.setup.config.gateway.shutdown_grace;
        let deadline = tokio::time::Instant::now() + grace;
        notify::stopping(grace);
        self.health.enter(Phase::Stopping);
        tracing::info!(grace = %humantime::format_duration(grace), "stopping");
        let mut panicked = Vec::new();
        let ingest = async {
            panicked.extend(self.intake.stop(&self.journal).await);
            self.journal.close().await;
        };
        if tokio::time::timeout_at(deadline, ingest).await.is_err() {
            tracing::error!("the last group could not be committed in time; it was not acknowledged");
        }
        let drains: Vec<_> =
            self.uplinks.drain(..).map(|uplink| tokio::spawn(uplink.drain(deadline))).collect();
        for drain in drains {
            if !matches!(drain.await, Ok(Ok(_))) {
                panicked.push("uplink");
            }
        }
        self.stop.send_replace(true);
        self.calls.close();
        match tokio::time::timeout_at(
            deadline.max(tokio::time::Instant::now() + PULSE),
            self.stages.all_ended(),
        )
        .await
        {
            Ok(ended) => panicked.extend(ended),
            Err(_) => tracing::error!(left = self.stages.count(), "not every task ended in time"),
        }
        self.note(Act::Stop).await;
        tracing::info!("stopped");
        panicked
    }
}

/// A listener for the pages; another one may have been served from it before.
fn serving(listener: Arc<std::net::TcpListener>) -> Result<TcpListener, GatewayError> {
    let address = listener.local_addr();
    let own = match Arc::try_unwrap(listener) {
        Ok(own) => Ok(own),
        Err(shared) => shared.try_clone(),
    };
    own.and_then(TcpListener::from_std).map_err(|source| {
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        GatewayError::Bind { key: "http.bind", address, source }
    })
}

async fn setup_pseudonyms(config: &Config) -> Result<Option<Arc<Pseudonyms>>, GatewayError> {
    let config = config.clone();
    match tokio::task::spawn_blocking(move || Pseudonyms::configured(&config)).await {
        Ok(pseudonyms) => Ok(pseudonyms?.map(Arc::new)),
        Err(_) => Err(GatewayError::Ended { stage: "key's reading".to_owned(), panicked: true }),
    }
}

/// Logs where the audit log ends, so that somebody else's copy of the log is a witness.
fn tell_head(scribe: &Scribe) {
    if let Some(head) = scribe.head() {
        tracing::info!(entries = head.n, hash = head.hash, "audit log");
    }
}

/// SHA-256 of the settings in force, as `fogbeat check` prints them.
pub fn fingerprint(config: &Config) -> String {
    hex::encode(Sha256::digest(config.to_toml().unwrap_or_default()))
}

/// Tells the clock which boots have stored readings.
async fn learn_boots(clock: &Arc<SystemClock>, journal: &Journal) {
    let (clock, journal) = (Arc::clone(clock), journal.clone());
    let learnt = tokio::task::spawn_blocking(move || {
        let anchors = clock.anchors();
        let current = clock.boot();
        clock.learn(&journal.boots(|boot| boot == current || anchors.length_known(boot)));
    });
    if learnt.await.is_err() {
        tracing::error!("the boots of stored readings could not be looked up: a defect; please report it");
    }
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
) -> Result<(Arc<std::net::TcpListener>, SocketAddr), GatewayError> {
    let failed = |source| GatewayError::Bind { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((Arc::new(listener.into_std().map_err(failed)?), bound))
}

/// `task` until the gateway stops.
async fn until(task: impl Future<Output = ()>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = task => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// The first uplink whose task ends. Cancel safe.
async fn uplink_ended(uplinks: &mut [forward::Handle]) -> Ended {
    std::future::poll_fn(|context| {
        for uplink in &mut *uplinks {
            let ended = std::pin::pin!(uplink.ended()).poll(context);
            if let std::task::Poll::Ready(ended) = ended {
                let panicked = ended.is_err_and(|error| error.is_panic());
                return std::task::Poll::Ready(Ended { stage: "uplink", panicked });
            }
        }
        std::task::Poll::Pending
    })
    .await
}
