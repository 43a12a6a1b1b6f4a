//! The listener: ports, connections and their beginning, and the drain at the end.
//!
//! Promises: both ports are bound when [`Listener::bind`] returns; nothing that one peer does or leaves undone keeps
//! another from connecting (the handshake of TCP, TLS and MQTT runs in the connection's own task, under one
//! deadline; how many there may be, and of whom, the [`super::door`] knows); every refusal says why, as far as the
//! protocol can; anonymous clients come in on a loopback address only. Accepting goes on whatever happens, also when
//! descriptors have run out; connections are bounded below that limit.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::buffers::Buffers;
use super::descriptors::{self, Tight};
use super::door::{Door, Guest};
use super::handshake::{Came, begin};
use super::keeper::{self, Keeper};
use super::mapping::Mappings;
use super::metrics::Metrics;
use super::refused::{Refused, Ring};
use super::router::{Hub, HubLimits};
use super::session::Registry;
use super::shared::{Limits, Shared};
use super::sources::{Fault, Rules};
use super::tls::{self, TlsError};
use super::users::{Users, UsersError};
use crate::clock::Clock;
use crate::config;
use crate::health::Mark;
use crate::journal::Journal;
use crate::relayed::Shelf;

/// How often removed devices and expired sessions are looked for.
const SWEEP: Duration = Duration::from_secs(2);
/// Wait after a failed accept (out of descriptors): the failure would come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often that is told.
const ACCEPT_TOLD: Duration = Duration::from_secs(60);
/// Bytes that rustls encrypts ahead of what the socket takes.
const TLS_BUFFER: usize = 4 << 10;

/// What the listener needs.
pub struct Deps {
    pub journal: Journal,
    pub clock: Arc<dyn Clock>,
    pub mappings: Arc<Mappings>,
    /// Where the device store is.
    pub state_dir: PathBuf,
    /// The host's name in mDNS (without `.local`), where it is announced: the certificate is made for it as well.
    pub announced: Option<String>,
    /// Memory for what connections hold beyond their own shares, bytes ([`config::Account::buffers`]).
    pub buffers: u64,
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
    /// The encrypted port's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<keeper::Certificate>,
    pub connections: i64,
    /// Connections that have not said who they are yet.
    pub handshakes: i64,
    /// Connections turned away, by cause.
    pub refused_connects: BTreeMap<&'static str, u64>,
    pub auth_failures: u64,
    /// Addresses that were refused new connections within the last minute.
    pub throttled_addresses: i64,
    /// What is left of the memory for connections' buffers; while it is used up they are read from more slowly.
    pub buffers_left_bytes: i64,
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
    tls: Option<(TcpListener, watch::Receiver<TlsAcceptor>)>,
    keeper: Option<Keeper>,
    handle: Handle,
}

/// Answers questions about a listener that runs.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    mark: Mark,
    bind: Option<SocketAddr>,
    tls_bind: Option<SocketAddr>,
    certificate: Option<watch::Receiver<keeper::Certificate>>,
}

impl Handle {
    pub fn status(&self) -> Status {
        let metrics = &self.shared.metrics;
        Status {
            bind: self.bind,
            tls_bind: self.tls_bind,
            certificate: self.certificate.as_ref().map(|certificate| certificate.borrow().clone()),
            connections: metrics.connections.get(),
            handshakes: metrics.handshakes.get(),
            refused_connects: metrics.refusals(),
            auth_failures: metrics.auth_failures.get(),
            throttled_addresses: metrics.throttled_addresses.get(),
            buffers_left_bytes: self.shared.buffers.left(),
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

    /// Set by the task that accepts, at every turn: at rest every two seconds.
    pub fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// Batches of other gateways are taken from now on, and kept there.
    pub fn take_members(&self, shelf: Shelf) {
        // A second shelf would be a second truth: the first one stays.
        let _ = self.shared.members.set(shelf);
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
        let certificate = match &settings.tls {
            Some(tls) => {
                let keeper = Keeper::new(tls, &deps.state_dir, deps.announced, deps.clock.clone());
                Some((tls.bind, keeper.open().await?))
            }
            None => None,
        };
        let users = Users::open(&deps.state_dir)?;
        let plain = listen("bind", settings.bind).await?;
        let (tls, keeper) = match certificate {
            Some((address, (keeper, acceptor))) => {
                (Some((listen("tls.bind", address).await?, acceptor)), Some(keeper))
            }
            None => (None, None),
        };
        let mut limits = Limits {
            connections: settings.limits.connections,
            handshakes: settings.limits.handshakes,
            packet_size: usize::try_from(settings.limits.packet_size.as_u64()).unwrap_or(usize::MAX),
            in_flight: settings.limits.in_flight.max(1),
            handshake: settings.limits.handshake,
            subscriptions: settings.limits.subscriptions,
        };
        if let Err(Tight { limit, connections, handshakes }) =
            descriptors::room(limits.connections, limits.handshakes)
        {
            tracing::warn!(
                limit,
                connections,
                "the limit of open files is too low for the configured connections: raise LimitNOFILE"
            );
            (limits.connections, limits.handshakes) = (connections, handshakes);
        }
        let metrics = Metrics::default();
        let rules = Rules {
            connections: config::Limits { connections: limits.connections, ..settings.limits.clone() }
                .share()
                .min(limits.connections),
            new_per_second: settings.limits.new_per_second,
            reconnects_per_minute: settings.limits.reconnects_per_minute,
            failures_per_minute: settings.limits.auth_failures_per_minute,
            handshakes: limits.handshakes,
        };
        let hub_limits = HubLimits {
            subscribers: settings.limits.subscribers,
            filters: settings.limits.filters,
            topics: settings.limits.topics,
        };
        let hub = Hub::start(hub_limits, metrics.clone()).map_err(BindError::Thread)?;
        let handle = Handle {
            mark: Mark::new(Instant::now()),
            bind: plain.local_addr().ok(),
            certificate: keeper.as_ref().map(Keeper::watch),
            tls_bind: tls.as_ref().and_then(|(listener, _)| listener.local_addr().ok()),
            shared: Arc::new(Shared {
                journal: deps.journal,
                clock: deps.clock,
                mappings: deps.mappings,
                hub,
                registry: Registry::new(limits.connections),
                users,
                buffers: Arc::new(Buffers::new(deps.buffers)),
                door: Arc::new(Door::new(rules, metrics.clone())),
                slots: Arc::new(Semaphore::new(limits.connections)),
                metrics,
                ring: Ring::default(),
                limits,
                anonymous: settings.anonymous,
                members: std::sync::OnceLock::new(),
            }),
        };
        Ok(Self { plain, tls, keeper, handle })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` is true; then no connection is taken, nothing more is read, and what was taken is
    /// acknowledged as it becomes durable, at most for `grace`.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>, grace: Duration) {
        let Handle { shared, mark, .. } = self.handle;
        let mut connections = JoinSet::new();
        let mut keeping = std::pin::pin!(keep(self.keeper));
        let mut sweep = tokio::time::interval(SWEEP);
        let mut told: Option<Instant> = None;
        while !*shutdown.borrow_and_update() {
            mark.set(Instant::now());
            let (accepted, acceptor) = tokio::select! {
                accepted = self.plain.accept() => (accepted, None),
                accepted = accept_tls(self.tls.as_ref()) => accepted,
                changed = shutdown.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
                Some(_) = connections.join_next() => continue,
                never = &mut keeping => match never {},
                _ = sweep.tick() => {
                    shared.sweep();
                    continue;
                }
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    Metrics::count(&shared.metrics.refused_connects, "accept");
                    if told.is_none_or(|at| at.elapsed() >= ACCEPT_TOLD) {
                        tracing::warn!(%error, "cannot take connections: check the limit of open files");
                        told = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            shared.metrics.accepted.inc();
            if let Some((guest, given_up)) = shared.door.arrive(peer.ip()) {
                let arrived = Arrived { stream, acceptor, guest, given_up };
                connections.spawn(welcome(Arc::clone(&shared), arrived, shutdown.clone()));
            }
            if shared.door.crowded(shared.limits.handshakes) {
                // Those whose CONNECT is here already have their turn before more are taken.
                tokio::task::yield_now().await;
            }
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

/// Keeps the certificate good, if there is one.
async fn keep(keeper: Option<Keeper>) -> Infallible {
    match keeper {
        Some(keeper) => keeper.run().await,
        None => std::future::pending().await,
    }
}

async fn accept_tls(
    tls: Option<&(TcpListener, watch::Receiver<TlsAcceptor>)>,
) -> (io::Result<(TcpStream, SocketAddr)>, Option<TlsAcceptor>) {
    match tls {
        Some((listener, acceptor)) => (listener.accept().await, Some(acceptor.borrow().clone())),
        None => std::future::pending().await,
    }
}

/// A connection that has just come in.
struct Arrived {
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    guest: Guest,
    given_up: oneshot::Receiver<()>,
}

/// The whole life of one connection.
async fn welcome(shared: Arc<Shared>, arrived: Arrived, shutdown: watch::Receiver<bool>) {
    let Arrived { stream, acceptor, guest, mut given_up } = arrived;
    // Answers are small and go out together already.
    let _ = stream.set_nodelay(true);
    let deadline = tokio::time::Instant::now() + shared.limits.handshake;
    match acceptor {
        None => {
            let came = Came { anonymous: shared.anonymous, certificate: None, guest, given_up, deadline };
            let (read, write) = stream.into_split();
            begin(shared, read, write, came, shutdown).await;
        }
        Some(acceptor) => {
            let accepted = tokio::select! {
                accepted = tokio::time::timeout_at(deadline, acceptor.accept(stream)) => accepted,
                _ = &mut given_up => return,
            };
            let mut stream = match accepted {
                Ok(Ok(stream)) => stream,
                Ok(Err(_)) => return Metrics::count(&shared.metrics.refused_connects, "tls"),
                Err(_) => {
                    guest.note(Fault::Unfinished);
                    return Metrics::count(&shared.metrics.refused_connects, "handshake_timeout");
                }
            };
            stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(|c| c.first()).and_then(tls::certificate_name);
            let came = Came { anonymous: false, certificate, guest, given_up, deadline };
            let (read, write) = tokio::io::split(stream);
            begin(shared, read, write, came, shutdown).await;
        }
    }
}
