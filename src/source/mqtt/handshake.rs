//! The beginning of a connection: its CONNECT, who it is, and the session it goes on with.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};

use super::codec::{self, BadConnect, Connect, Refusal, Welcome};
use super::connection::{Connection, Terms, last_words};
use super::delivery::Client;
use super::door::Guest;
use super::intake::ALIASES;
use super::metrics::Metrics;
use super::permission::{Permission, Permissions};
use super::publish::{Malformed, Version, frame};
use super::session::{Found, ORDERS, Owner, Session};
use super::shared::Shared;
use super::sources::Fault;
use super::topic;
use super::users::{User, valid_name};

/// How long a new connection waits for the session that an old one has.
const HANDOVER: Duration = Duration::from_secs(5);
/// Room for an ordinary CONNECT.
const CONNECT_FIRST: usize = 512;
/// Largest CONNECT: nothing bigger is held for a peer that has not shown who it is.
const CONNECT_MOST: usize = 16 << 10;

/// How long whoever gives a wrong secret, or reconnects without end, waits for the answer. Such waits take places of
/// handshakes, so an address has few of them at once.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);

/// How a connection came in.
pub(super) struct Came {
    pub anonymous: bool,
    /// The name in its certificate.
    pub certificate: Option<String>,
    pub guest: Guest,
    /// Resolves when its place is needed for somebody else.
    pub given_up: oneshot::Receiver<()>,
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
    let Came { anonymous, certificate, guest, given_up, deadline } = came;
    let mut stop = shutdown.clone();
    let known = Known { anonymous, certificate };
    let introduced = tokio::select! {
        introduced = introduce(&shared, (&mut read, &mut inbuf), known, guest, deadline) => introduced,
        // Counted where it was given up.
        _ = given_up => return,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match introduced {
        Introduced::Welcome(admitted) => {
            let _connected = Connected::new(&shared.metrics);
            let (terms, agreed, found) = *admitted;
            let (session, present) = claim(found, &agreed).await;
            let mut out = BytesMut::new();
            let connack = Welcome { session_present: present, ..agreed.connack };
            codec::write_connack(&mut out, terms.client.version, connack);
            Connection::new(read, write, (inbuf, out), shared, terms, session).run(shutdown).await;
        }
        Introduced::Refused(version, refusal, _guest) => {
            refuse(&shared, &mut read, &mut write, version, refusal).await;
        }
        Introduced::Gone => {}
    }
}

/// What came of a handshake.
enum Introduced {
    Welcome(Box<(Terms, Agreed, Found)>),
    /// The place is kept until the answer is out.
    Refused(Option<Version>, Refusal, Guest),
    /// Nothing is to be said.
    Gone,
}

/// What is known of a client beside its CONNECT.
struct Known {
    anonymous: bool,
    certificate: Option<String>,
}

/// Reads the CONNECT and decides on it.
async fn introduce<R: AsyncRead + Unpin>(
    shared: &Shared,
    (read, inbuf): (&mut R, &mut BytesMut),
    known: Known,
    guest: Guest,
    deadline: tokio::time::Instant,
) -> Introduced {
    let connect = match tokio::time::timeout_at(deadline, first_packet(read, inbuf, shared)).await {
        Err(_) => {
            guest.note(Fault::Unfinished);
            Metrics::count(&shared.metrics.refused_connects, Fault::Unfinished.cause());
            return Introduced::Gone;
        }
        Ok(Err(First::Closed)) => {
            Metrics::count(&shared.metrics.refused_connects, "closed");
            return Introduced::Gone;
        }
        Ok(Err(First::Bad(BadConnect::Malformed(error)))) => {
            guest.note(Fault::Malformed);
            Metrics::count(&shared.metrics.malformed, error.cause());
            return Introduced::Gone;
        }
        Ok(Err(First::Bad(BadConnect::Refused(refusal)))) => {
            return Introduced::Refused(None, refusal, guest);
        }
        Ok(Ok(connect)) => connect,
    };
    let version = connect.version;
    let (refusal, guest) = match admit(shared, connect, known, guest) {
        Ok(admitted) => return Introduced::Welcome(Box::new(admitted)),
        Err(refused) => refused,
    };
    let answered = match refusal {
        Refusal::Credentials | Refusal::NotAuthorized => guest.wrong_secret(),
        Refusal::Throttled => {
            guest.note(Fault::Reconnects);
            true
        }
        Refusal::Share => {
            guest.note(Fault::Share);
            return Introduced::Refused(Some(version), refusal, guest);
        }
        _ => return Introduced::Refused(Some(version), refusal, guest),
    };
    tokio::time::sleep_until(deadline.min(tokio::time::Instant::now() + REFUSAL_DELAY)).await;
    if !answered {
        Metrics::count(&shared.metrics.refused_connects, refusal.cause());
        return Introduced::Gone;
    }
    Introduced::Refused(Some(version), refusal, guest)
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
fn admit(
    shared: &Shared,
    connect: Connect,
    known: Known,
    mut guest: Guest,
) -> Result<(Terms, Agreed, Found), (Refusal, Guest)> {
    let permissions = match permitted(shared, &connect, &known) {
        Ok(permissions) => permissions,
        Err(refusal) => return Err((refusal, guest)),
    };
    if shared.journal.admission().borrow().is_refused() {
        return Err((Refusal::Busy, guest));
    }
    let number = guest.number();
    let assigned = connect.client_id.is_empty().then(|| assigned_id(number));
    let client_id = assigned.clone().unwrap_or(connect.client_id);
    if assigned.is_none() && !guest.may_reconnect(&client_id) {
        return Err((Refusal::Throttled, guest));
    }
    let Ok(slot) = Arc::clone(&shared.slots).try_acquire_owned() else {
        return Err((Refusal::TooMany, guest));
    };
    if !guest.settle() {
        return Err((Refusal::Share, guest));
    }
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
        guest,
        slot,
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

/// Who the client is and what it may do, if what its CONNECT asks for is possible at all.
fn permitted(shared: &Shared, connect: &Connect, known: &Known) -> Result<Permissions, Refusal> {
    if connect.authentication {
        return Err(Refusal::AuthMethod);
    }
    let permissions = authenticate(shared, connect, known)?;
    if let Some(will) = &connect.will {
        let topic = std::str::from_utf8(&will.topic).ok().filter(|topic| topic::valid_name(topic));
        if topic.is_none_or(|topic| permissions.publish(topic) == Permission::Denied) {
            return Err(Refusal::NotAuthorized);
        }
    }
    let unnamed = connect.client_id.is_empty() && connect.version == Version::V4 && !connect.clean;
    if unnamed || connect.client_id.len() > topic::MAX_TOPIC || connect.client_id.contains('\0') {
        return Err(Refusal::ClientId);
    }
    Ok(permissions)
}

/// A secret costs one SHA-256 to check: it has 128 random bits, so a slow hash would only give attackers a lever.
fn authenticate(shared: &Shared, connect: &Connect, known: &Known) -> Result<Permissions, Refusal> {
    match (&connect.login, &known.certificate) {
        (Some((name, secret)), _) if !secret.is_empty() => {
            shared.users.verify(name, secret).map(Permissions::Device).ok_or(Refusal::Credentials)
        }
        // The CA vouches for the name; a user name beside it must be the same.
        (login, Some(name)) if valid_name(name) && login.as_ref().is_none_or(|(user, _)| user == name) => {
            let granted = shared.users.get(name);
            Ok(Permissions::Device(granted.unwrap_or_else(|| Arc::new(User::plain(name)))))
        }
        (None, None) if known.anonymous => Ok(Permissions::Everything),
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
