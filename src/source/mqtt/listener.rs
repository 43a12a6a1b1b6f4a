//! The listener: ports, connections and their beginning, and the drain at the end.
//!
//! Promises: both ports are bound when [`Listener::bind`] returns; nothing that one peer does or leaves undone keeps
//! another from connecting (the handshake of TCP, TLS and MQTT runs in the connection's own task, under one
//! deadline); every refusal says why, as far as the protocol can; anonymous clients come in on a loopback address
//! only.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::codec::Refusal;
use super::handshake::{Came, begin};
use super::mapping::Mappings;
use super::metrics::Metrics;
use super::refused::{Refused, Ring};
use super::router::Hub;
use super::session::Registry;
use super::shared::{Limits, Shared};
use super::tls::{self, TlsError};
use super::users::{Users, UsersError};
use crate::clock::Clock;
use crate::config;
use crate::journal::Journal;

/// How often removed devices and expired sessions are looked for.
const SWEEP: Duration = Duration::from_secs(2);
/// Wait after a failed accept (out of descriptors): the failure would come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the listener needs.
pub struct Deps {
    pub journal: Journal,
    pub clock: Arc<dyn Clock>,
    pub mappings: Arc<Mappings>,
    /// Where the device store is.
    pub state_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("mqtt.listener.{key} = {address}: {source}")]
    Port { key: &'static str, address: SocketAddr, source: io::Error },
    #[error(
        "mqtt.listener.anonymous = true is only allowed on a loopback address, and bind is {0}: add devices with `fogbeat device add` instead"
    )]
    Anonymous(SocketAddr),
    #[error("mqtt.listener.tls: {0}")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error("cannot start the relay thread: {0}")]
    Thread(io::Error),
}

/// What `fogbeat status` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub bind: Option<SocketAddr>,
    pub tls_bind: Option<SocketAddr>,
    pub connections: i64,
    pub subscribers: i64,
    pub publishes: u64,
    pub readings: u64,
    pub duplicates: u64,
    pub possible_duplicates: u64,
    pub unmapped: u64,
    pub denied: u64,
    pub router_restarts: u64,
    /// The last publishes that were not understood.
    pub refused: Vec<Refused>,
}

/// The ports, bound.
pub struct Listener {
    plain: TcpListener,
    tls: Option<(TcpListener, TlsAcceptor)>,
    handle: Handle,
}

/// Answers questions about a listener that runs.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    bind: Option<SocketAddr>,
    tls_bind: Option<SocketAddr>,
}

impl Handle {
    pub fn status(&self) -> Status {
        let metrics = &self.shared.metrics;
        Status {
            bind: self.bind,
            tls_bind: self.tls_bind,
            connections: metrics.connections.get(),
            subscribers: metrics.subscribers.get(),
            publishes: metrics.publishes.get(),
            readings: metrics.readings.get(),
            duplicates: metrics.duplicates.get(),
            possible_duplicates: metrics.possible_duplicates.get(),
            unmapped: metrics.unmapped.get(),
            denied: metrics.denied.get(),
            router_restarts: metrics.router_restarts.get(),
            refused: self.shared.ring.snapshot(),
        }
    }

    pub fn metrics(&self) -> Metrics {
        self.shared.metrics.clone()
    }

    /// The address that is really bound (port 0 asks for any).
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.bind
    }

    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_bind
    }
}

impl Listener {
    /// Binds the ports and reads certificates and the device store.
    ///
    /// # Errors
    /// Whatever keeps the listener from serving as configured.
    pub async fn bind(settings: &config::Listener, deps: Deps) -> Result<Self, BindError> {
        if settings.anonymous && !settings.bind.ip().is_loopback() {
            return Err(BindError::Anonymous(settings.bind));
        }
        let acceptor =
            settings.tls.as_ref().map(|tls| tls::acceptor(tls).map(|a| (tls.bind, a))).transpose()?;
        let users = Users::open(&deps.state_dir)?;
        let plain = listen("bind", settings.bind).await?;
        let tls = match acceptor {
            Some((address, acceptor)) => Some((listen("tls.bind", address).await?, acceptor)),
            None => None,
        };
        let limits = Limits {
            connections: settings.limits.connections,
            packet_size: usize::try_from(settings.limits.packet_size.as_u64()).unwrap_or(usize::MAX),
            in_flight: settings.limits.in_flight.max(1),
            handshake: settings.limits.handshake,
            subscriptions: settings.limits.subscriptions,
        };
        let metrics = Metrics::default();
        let hub = Hub::start(limits.connections, settings.limits.topics, metrics.clone())
            .map_err(BindError::Thread)?;
        let handle = Handle {
            bind: plain.local_addr().ok(),
            tls_bind: tls.as_ref().and_then(|(listener, _)| listener.local_addr().ok()),
            shared: Arc::new(Shared {
                journal: deps.journal,
                clock: deps.clock,
                mappings: deps.mappings,
                hub,
                registry: Registry::new(limits.connections),
                users,
                metrics,
                ring: Ring::default(),
                limits,
                anonymous: settings.anonymous,
                numbers: AtomicU64::new(0),
            }),
        };
        Ok(Self { plain, tls, handle })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` is true; then no connection is taken, nothing more is read, and what was taken is
    /// acknowledged as it becomes durable, at most for `grace`.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>, grace: Duration) {
        let shared = self.handle.shared;
        let slots = Arc::new(Semaphore::new(shared.limits.connections));
        let mut connections = JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP);
        while !*shutdown.borrow_and_update() {
            let (accepted, acceptor) = tokio::select! {
                accepted = self.plain.accept() => (accepted, None),
                accepted = accept_tls(self.tls.as_ref()) => accepted,
                changed = shutdown.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
                Some(_) = connections.join_next() => continue,
                _ = sweep.tick() => {
                    shared.sweep();
                    continue;
                }
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection: check the limit of open files");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            shared.metrics.accepted.inc();
            let slot = Arc::clone(&slots).try_acquire_owned().ok();
            // Those beyond the limit are told so, but only as many as there may be connections.
            if slot.is_none() && connections.len() >= shared.limits.connections * 2 {
                Metrics::count(&shared.metrics.refused_connects, Refusal::TooMany.cause());
                continue;
            }
            connections.spawn(welcome(Arc::clone(&shared), stream, acceptor, slot, shutdown.clone()));
        }
        drop((self.plain, self.tls));
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, drained).await.is_err() {
            connections.shutdown().await;
        }
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError::Port { key, address, source })
}

async fn accept_tls(
    tls: Option<&(TcpListener, TlsAcceptor)>,
) -> (io::Result<(TcpStream, SocketAddr)>, Option<TlsAcceptor>) {
    match tls {
        Some((listener, acceptor)) => (listener.accept().await, Some(acceptor.clone())),
        None => std::future::pending().await,
    }
}

/// The whole life of one connection.
async fn welcome(
    shared: Arc<Shared>,
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    slot: Option<OwnedSemaphorePermit>,
    shutdown: watch::Receiver<bool>,
) {
    // Answers are small and go out together already.
    let _ = stream.set_nodelay(true);
    let deadline = tokio::time::Instant::now() + shared.limits.handshake;
    match acceptor {
        None => {
            let anonymous = shared.anonymous;
            let (read, write) = stream.into_split();
            begin(shared, read, write, Came { anonymous, certificate: None, slot, deadline }, shutdown).await;
        }
        Some(acceptor) => {
            let Ok(Ok(stream)) = tokio::time::timeout_at(deadline, acceptor.accept(stream)).await else {
                Metrics::count(&shared.metrics.refused_connects, "tls");
                return;
            };
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(|c| c.first()).and_then(tls::certificate_name);
            let (read, write) = tokio::io::split(stream);
            begin(shared, read, write, Came { anonymous: false, certificate, slot, deadline }, shutdown)
                .await;
        }
    }
}
