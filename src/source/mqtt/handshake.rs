//! The beginning of a connection: its CONNECT, who it is, and the session it goes on with.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::codec::{self, BadConnect, Connect, Refusal, Welcome};
use super::connection::{Connection, Terms, last_words};
use super::delivery::Client;
use super::intake::ALIASES;
use super::metrics::Metrics;
use super::permission::{Permission, Permissions};
use super::publish::{Malformed, Version, frame};
use super::session::{Found, ORDERS, Owner, Session};
use super::shared::Shared;
use super::topic;
use super::users::{User, valid_name};

/// How long a new connection waits for the session that an old one has.
const HANDOVER: Duration = Duration::from_secs(5);
/// Room for an ordinary CONNECT.
const CONNECT_FIRST: usize = 512;
/// Largest CONNECT: nothing bigger is held for a peer that has not shown who it is.
const CONNECT_MOST: usize = 16 << 10;

/// How a connection came in.
pub(super) struct Came {
    pub anonymous: bool,
    /// The name in its certificate.
    pub certificate: Option<String>,
    /// `None`: the limit of connections is reached.
    pub slot: Option<OwnedSemaphorePermit>,
    pub deadline: tokio::time::Instant,
}

/// From the CONNECT to the end of the connection.
pub(super) async fn begin<R, W>(
    shared: Arc<Shared>,
    mut read: R,
    mut write: W,
    came: Came,
    shutdown: watch::Receiver<bool>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut inbuf = BytesMut::with_capacity(CONNECT_FIRST);
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
    if shared.journal.admission().borrow().is_refused() {
        return Err(Refusal::Busy);
    }
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
        (login, Some(name)) if valid_name(name) && login.as_ref().is_none_or(|(user, _)| user == name) => {
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
