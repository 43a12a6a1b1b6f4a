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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::codec::{self, BadConnect, Connect, Refusal, Welcome};
use super::connection::{Connection, Terms, last_words};
use super::delivery::Client;
use super::intake::ALIASES;
use super::mapping::Mappings;
use super::metrics::Metrics;
use super::permission::{Permission, Permissions};
use super::publish::{Malformed, Version, frame};
use super::refused::{Refused, Ring};
use super::router::Hub;
use super::session::{Found, ORDERS, Owner, Registry, Session};
use super::tls::{self, TlsError};
use super::topic;
use super::users::{User, Users, UsersError};
use crate::clock::Clock;
use crate::config;
use crate::journal::Journal;

/// How long a new connection waits for the session that an old one has.
const HANDOVER: Duration = Duration::from_secs(5);
/// How often removed devices and expired sessions are looked for.
const SWEEP: Duration = Duration::from_secs(2);
/// Wait after a failed accept (out of descriptors): the failure would come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest CONNECT: nothing bigger is held for a peer that has not shown who it is.
const CONNECT_MOST: usize = 16 << 10;

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

/// The limits, in the units used here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub connections: usize,
    pub packet_size: usize,
    pub in_flight: u16,
    pub handshake: Duration,
    pub subscriptions: usize,
}

/// What all connections share.
pub(crate) struct Shared {
    pub journal: Journal,
    pub clock: Arc<dyn Clock>,
    pub mappings: Arc<Mappings>,
    pub hub: Hub,
    pub registry: Registry,
    pub users: Users,
    pub metrics: Metrics,
    pub ring: Ring,
    pub limits: Limits,
    anonymous: bool,
    numbers: AtomicU64,
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

impl Shared {
    fn sweep(&self) {
        self.registry.expire(std::time::Instant::now());
        let removed = self.users.take_removed();
        if !removed.is_empty() {
            self.registry.revoke(|name| removed.contains(name));
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

/// How a connection came in.
struct Came {
    anonymous: bool,
    /// The name in its certificate.
    certificate: Option<String>,
    /// `None`: the limit of connections is reached.
    slot: Option<OwnedSemaphorePermit>,
    deadline: tokio::time::Instant,
}

async fn begin<R, W>(
    shared: Arc<Shared>,
    mut read: R,
    mut write: W,
    came: Came,
    shutdown: watch::Receiver<bool>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut inbuf = BytesMut::new();
    let first = tokio::time::timeout_at(came.deadline, first_packet(&mut read, &mut inbuf, &shared)).await;
    let mut out = BytesMut::new();
    let connect = match first {
        Err(_) => {
            Metrics::count(&shared.metrics.refused_connects, "handshake_timeout");
            return;
        }
        Ok(Err(First::Closed)) => {
            Metrics::count(&shared.metrics.refused_connects, "closed");
            return;
        }
        Ok(Err(First::Bad(BadConnect::Malformed(error)))) => {
            Metrics::count(&shared.metrics.malformed, error.cause());
            return;
        }
        Ok(Err(First::Bad(BadConnect::Refused(refusal)))) => {
            return refuse(&shared, &mut read, &mut write, None, refusal).await;
        }
        Ok(Ok(connect)) => connect,
    };
    let version = connect.version;
    match admit(&shared, connect, &came) {
        Ok(admitted) => {
            let _connected = Connected::new(&shared.metrics);
            let (terms, welcome, found) = admitted;
            let (session, present) = claim(found, &welcome).await;
            codec::write_connack(&mut out, version, Welcome { session_present: present, ..welcome.connack });
            let connection = Connection::new(read, write, (inbuf, out), shared, terms, session);
            connection.run(shutdown).await;
        }
        Err(refusal) => refuse(&shared, &mut read, &mut write, Some(version), refusal).await,
    }
    drop(came.slot);
}

/// Counts an open connection.
struct Connected(prometheus_client::metrics::gauge::Gauge);

impl Connected {
    fn new(metrics: &Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics.connections.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

enum First {
    Closed,
    Bad(BadConnect),
}

/// Reads the CONNECT; what follows it stays in `inbuf`.
async fn first_packet<R: AsyncRead + Unpin>(
    read: &mut R,
    inbuf: &mut BytesMut,
    shared: &Shared,
) -> Result<Connect, First> {
    let most = shared.limits.packet_size.min(CONNECT_MOST);
    loop {
        let packet = frame(inbuf, most).map_err(|e| First::Bad(BadConnect::Malformed(e)))?;
        // Not a CONNECT: there is no reason to wait for the rest.
        if inbuf.first().is_some_and(|first| *first != 0x10) {
            return Err(First::Bad(BadConnect::Malformed(Malformed::Unexpected)));
        }
        if let Some(packet) = packet {
            let total = packet.total;
            let connect = codec::read_connect(packet, inbuf.get(..total).unwrap_or_default());
            inbuf.advance(total);
            return connect.map_err(First::Bad);
        }
        match read.read_buf(inbuf).await {
            Ok(0) | Err(_) => return Err(First::Closed),
            Ok(_) => {}
        }
    }
}

async fn refuse<R, W>(
    shared: &Shared,
    read: &mut R,
    write: &mut W,
    version: Option<Version>,
    refusal: Refusal,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    Metrics::count(&shared.metrics.refused_connects, refusal.cause());
    tracing::debug!(%refusal, "MQTT client turned away");
    let mut out = BytesMut::new();
    codec::write_refusal(&mut out, version, refusal);
    last_words(read, write, &mut out).await;
}

struct Agreed {
    clean: bool,
    connack: Welcome,
}

/// Decides on a CONNECT and claims its session.
fn admit(shared: &Shared, connect: Connect, came: &Came) -> Result<(Terms, Agreed, Found), Refusal> {
    if came.slot.is_none() {
        return Err(Refusal::TooMany);
    }
    if connect.authentication {
        return Err(Refusal::AuthMethod);
    }
    let permissions = authenticate(shared, &connect, came)?;
    if let Some(will) = &connect.will {
        let topic = std::str::from_utf8(&will.topic).ok().filter(|topic| topic::valid_name(topic));
        if topic.is_none_or(|topic| permissions.publish(topic) == Permission::Denied) {
            return Err(Refusal::NotAuthorized);
        }
    }
    let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
    let assigned = if connect.client_id.is_empty() {
        if connect.version == Version::V4 && !connect.clean {
            return Err(Refusal::ClientId);
        }
        Some(assigned_id(number))
    } else if connect.client_id.len() > topic::MAX_TOPIC || connect.client_id.contains('\0') {
        return Err(Refusal::ClientId);
    } else {
        None
    };
    let client_id = assigned.clone().unwrap_or(connect.client_id);
    let owner = Owner { user: permissions.name().map(str::to_owned), client_id };
    let (orders_in, orders) = mpsc::channel(ORDERS);
    let found = shared.registry.claim(&owner, number, orders_in);
    let keep_session = match connect.session_expiry {
        u32::MAX => None,
        seconds => Some(Duration::from_secs(u64::from(seconds))),
    };
    let terms = Terms {
        owner,
        permissions,
        client: Client {
            version: connect.version,
            origin: number,
            receive_maximum: connect.receive_maximum,
            max_packet: connect.max_packet as usize,
        },
        keep_alive: Duration::from_millis(u64::from(connect.keep_alive) * 1500),
        keep_session,
        will: connect.will,
        orders,
    };
    let connack = Welcome {
        session_present: false,
        assigned_client_id: assigned,
        receive_maximum: shared.limits.in_flight,
        max_packet: u32::try_from(shared.limits.packet_size).unwrap_or(u32::MAX),
        topic_alias_maximum: ALIASES,
        session_expiry: None,
    };
    Ok((terms, Agreed { clean: connect.clean, connack }, found))
}

fn authenticate(shared: &Shared, connect: &Connect, came: &Came) -> Result<Permissions, Refusal> {
    match (&connect.login, &came.certificate) {
        (Some((name, secret)), _) if !secret.is_empty() => {
            shared.users.verify(name, secret).map(Permissions::Device).ok_or(Refusal::Credentials)
        }
        // The CA vouches for the name; a user name beside it must be the same.
        (login, Some(name)) if login.as_ref().is_none_or(|(user, _)| user == name) => {
            let granted = shared.users.get(name);
            Ok(Permissions::Device(granted.unwrap_or_else(|| Arc::new(User::plain(name)))))
        }
        (None, None) if came.anonymous => Ok(Permissions::Everything),
        (None, None) => Err(Refusal::NotAuthorized),
        _ => Err(Refusal::Credentials),
    }
}

/// Unique in this run and not to be guessed, so that nobody takes the session over.
fn assigned_id(number: u64) -> String {
    let mut random = [0u8; 8];
    // Without random numbers it is still unique.
    let _ = getrandom::fill(&mut random);
    format!("auto-{number}-{}", hex::encode(random))
}

/// The session to go on with, and whether it is an earlier one.
async fn claim(found: Found, agreed: &Agreed) -> (Session, bool) {
    let earlier = match found {
        Found::Nothing => None,
        Found::Session(session) => Some(*session),
        Found::Elsewhere(take) => tokio::time::timeout(HANDOVER, take).await.ok().and_then(Result::ok),
    };
    match earlier {
        Some(session) if !agreed.clean => (session, true),
        _ => (Session::default(), false),
    }
}
