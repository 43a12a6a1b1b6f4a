//! The start of what needs the disk: the state directory, the gateway's id, the control socket, the journal.
//!
//! A disk that is full or read-only is no reason to give up: the gateway waits, says so in the log, at `/health`, `/ready`
//! and `/status` and to `fogbeat status`, and goes on by itself. Until then no port for readings is open, so nothing can
//! be acknowledged. Anything else that is wrong ends the start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::stages::Stages;
use super::{GatewayError, Setup, notify};
use crate::clock::Clock;
use crate::control::{self, Call, Refusal, RefusalKind, Request};
use crate::health::Health;
use crate::journal::{self, Journal, RealDisk, Trouble};
use crate::telemetry;
use crate::web;

/// Time between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// What a start has got from the disk.
pub(super) struct Opened {
    pub id: String,
    pub journal: Journal,
    pub driver: journal::Driver,
    pub recovered: journal::Recovered,
}

/// What the waiting needs of the gateway that is being made.
pub(super) struct Waiting<'a> {
    pub setup: &'a mut Setup,
    pub clock: Arc<dyn Clock>,
    pub health: &'a Arc<Health>,
    pub http: Option<&'a Arc<std::net::TcpListener>>,
    pub stages: &'a mut Stages,
    pub asking: mpsc::Sender<Call>,
    pub calls: &'a mut mpsc::Receiver<Call>,
    pub stopped: &'a watch::Receiver<bool>,
}

impl Waiting<'_> {
    /// Opens everything, however long the disk needs.
    pub async fn open(mut self) -> Result<Opened, GatewayError> {
        let mut pages = JoinSet::new();
        let mut since = None;
        let mut bound = false;
        loop {
            let trouble = match self.attempt(&mut bound).await {
                Ok(opened) => {
                    self.health.trouble_is(None);
                    if let Some(since) = since.map(|since: Instant| since.elapsed()) {
                        tracing::info!(waited_s = since.as_secs(), "the disk is well: the gateway starts");
                    }
                    return Ok(opened);
                }
                Err(error) => match error.trouble() {
                    Some(trouble) => {
                        if since.is_none() {
                            tracing::error!(%error, "the gateway waits for its disk; {}", trouble.remedy());
                        }
                        trouble
                    }
                    None => return Err(error),
                },
            };
            self.health.trouble_is(Some(trouble.to_string()));
            if since.is_none() {
                since = Some(Instant::now());
                self.show(&mut pages);
            }
            // Not ready: no port is open. The start is given more time as long as it says so.
            notify::starting(&format!("waits for its disk: {trouble}; {}", trouble.remedy()));
            self.rest(trouble).await;
        }
    }

    async fn attempt(&mut self, bound: &mut bool) -> Result<Opened, GatewayError> {
        self.setup.state.claim()?;
        self.setup.logs.record(self.setup.state.path());
        let config = &self.setup.config;
        if !*bound {
            let path = control::socket_path(self.setup.state.path());
            let failed = |source| GatewayError::Control { path: path.clone(), source };
            let server = control::bind(&path).map_err(failed)?;
            self.setup.state.announce(Some(server.path())).map_err(failed)?;
            self.stages.start("control socket", server.serve(self.asking.clone(), self.stopped.clone()));
            *bound = true;
        }
        let id = self.setup.state.gateway_id(config.gateway.id.as_deref())?;
        let (settings, dir) = (config.journal.clone(), self.setup.state.path().to_owned());
        let clock = Arc::clone(&self.clock);
        let open = move || Journal::open(&settings, &dir, clock, Arc::new(RealDisk));
        match tokio::task::spawn_blocking(open).await {
            Ok(opened) => {
                let (journal, driver, recovered) = opened?;
                Ok(Opened { id, journal, driver, recovered })
            }
            Err(_) => Err(GatewayError::Ended { stage: "journal's opening".to_owned(), panicked: true }),
        }
    }

    /// The pages, as far as there is something to show.
    fn show(&self, pages: &mut JoinSet<()>) {
        let copy = self.http.and_then(|listener| listener.try_clone().ok());
        let Some(listener) = copy.and_then(|copy| TcpListener::from_std(copy).ok()) else { return };
        let mut registry = Registry::with_prefix("fogbeat");
        telemetry::process::register(&mut registry, self.clock.now().wall_ms);
        let health = Arc::clone(self.health);
        let shown = Arc::clone(self.health);
        let status = Box::new(move || status(&shown));
        let stopped = self.stopped.clone();
        pages.spawn(async move {
            if let Err(error) = web::serve(
                listener,
                Arc::new(web::Pages { health, registry: Arc::new(registry), status }),
                stopped,
            )
            .await
            {
                tracing::debug!(%error, "the pages cannot be served");
            }
        });
    }

    /// Until the next attempt; answers who asks.
    async fn rest(&mut self, trouble: Trouble) {
        let next = tokio::time::Instant::now() + RETRY;
        loop {
            let call = tokio::select! {
                () = tokio::time::sleep_until(next) => return,
                Some(call) = self.calls.recv() => call,
            };
            let answer = match call.request {
                Request::Status => Ok(status(self.health)),
                _ => {
                    let message = format!("the gateway waits: {trouble}; {}", trouble.remedy());
                    Err(Refusal::new(RefusalKind::Impossible, message))
                }
            };
            // Who asked may have gone away.
            let _ = call.answer.send(answer);
        }
    }
}

fn status(health: &Health) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "phase": health.phase(),
        "trouble": health.trouble(),
    })
}
