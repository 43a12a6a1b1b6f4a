//! One connection to a broker, from the name's look-up to CONNACK: made anew each time, in steps whose failures are
//! told apart.

use std::time::Duration;

use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Settings;
use super::relay::{Counted, Relay, RelayEnd, WireBytes};
use super::verdict;
use super::wire::{self, Client, Ended, Event};
use crate::forward::verdict::{Verdict, dial};
use crate::net::{DialError, Identity, Way};

/// Events that wait for the link, which never waits itself: what one read of the library brings.
const EVENTS: usize = 64;
/// Once one side of a connection has ended the other one follows; if it does not, it is cut off.
const ENDING: Duration = Duration::from_secs(2);

/// How long a server may take to refuse a certificate after the handshake: a round trip of a mobile network.
const AFTERTHOUGHT: Duration = Duration::from_secs(1);

enum Part {
    Library(Ended),
    Relay(RelayEnd),
}

/// A connection that the broker has accepted. Dropped, it is cut off.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) events: mpsc::Receiver<Event>,
    /// Plain bytes that have passed towards the broker.
    pub(crate) passed: watch::Receiver<u64>,
    /// Of these, before the first publish.
    pub(crate) passed_before: u64,
    /// Publishes that may be unacknowledged.
    pub(crate) window: u16,
    /// Largest packet that the broker takes.
    pub(crate) largest: Option<usize>,
    parts: JoinSet<Part>,
}

/// A connection did not come about.
pub(crate) struct NoSession {
    pub(crate) verdict: Verdict,
    /// It was reached, and did not want us.
    pub(crate) refused: bool,
}

impl Session {
    /// Ends within the configured timeout.
    pub(crate) async fn open(
        settings: &Settings,
        identity: Option<&Identity>,
        bytes: WireBytes,
    ) -> Result<Self, NoSession> {
        let context = context(settings, identity);
        match tokio::time::timeout(settings.timeout, Self::reach(settings, identity, bytes)).await {
            Ok(result) => result,
            Err(_) => Err(NoSession { verdict: verdict::no_answer(&context), refused: false }),
        }
    }

    /// Name, TCP and TLS alone: nothing of MQTT is said, so nobody is put out. Ends within the configured timeout.
    pub(crate) async fn knock(settings: &Settings, identity: Option<&Identity>) -> Result<(), NoSession> {
        let context = context(settings, identity);
        let knocked = async {
            let Line::Secure(mut tls) = line(settings, identity, WireBytes::default()).await? else {
                return Ok(());
            };
            // In TLS 1.3 what a server thinks of our certificate comes after the handshake; a broker then waits for us.
            match tokio::time::timeout(AFTERTHOUGHT, tls.read_u8()).await {
                Ok(Err(error)) if crate::net::tls_error(&error).is_some() => {
                    Err(NoSession { verdict: verdict::handshake(&error, &context), refused: true })
                }
                _ => Ok(()),
            }
        };
        match tokio::time::timeout(settings.timeout, knocked).await {
            Ok(result) => result,
            Err(_) => Err(NoSession { verdict: verdict::no_answer(&context), refused: false }),
        }
    }

    async fn reach(
        settings: &Settings,
        identity: Option<&Identity>,
        bytes: WireBytes,
    ) -> Result<Self, NoSession> {
        let context = context(settings, identity);
        let unreached = |verdict| NoSession { verdict, refused: false };
        let login = login(settings).map_err(unreached)?;
        let line = line(settings, identity, bytes).await?;
        let (relay, socket, passed) = Relay::bind().map_err(|error| unreached(verdict::local(&error)))?;
        let mut parts = JoinSet::new();
        match line {
            Line::Plain(tcp) => parts.spawn(async { Part::Relay(relay.run(tcp).await) }),
            Line::Secure(tls) => parts.spawn(async { Part::Relay(relay.run(*tls).await) }),
        };
        let (client, connection) = wire::open(settings, &socket, login);
        let (teller, mut events) = mpsc::channel(EVENTS);
        parts.spawn(async { Part::Library(connection.run(teller).await) });
        let mut session = match events.recv().await {
            Some(Event::Connected { window, largest }) => Self {
                client,
                events,
                passed_before: 0,
                passed,
                window: window.map_or(settings.window, |window| window.min(settings.window)),
                largest: largest.and_then(|largest| usize::try_from(largest).ok()),
                parts,
            },
            _ => {
                let (ended, relay) = join(&mut parts).await;
                let verdict = verdict::ended(&ended, &relay, 0, &context);
                return Err(NoSession { verdict, refused: true });
            }
        };
        session.passed_before = *session.passed.borrow_and_update();
        Ok(session)
    }

    /// The connection has ended: how.
    pub(crate) async fn ended(mut self) -> (Ended, RelayEnd) {
        join(&mut self.parts).await
    }

    /// As [`Session::ended`], for somebody who keeps it.
    pub(crate) async fn joined(&mut self) -> (Ended, RelayEnd) {
        join(&mut self.parts).await
    }

    /// Says goodbye, as far as that works at once.
    pub(crate) async fn close(mut self) {
        self.client.disconnect();
        self.events.close();
        // The library ends once the farewell is written.
        join(&mut self.parts).await;
    }
}

/// A line to the broker on which nothing was said yet.
enum Line {
    Plain(Counted),
    Secure(Box<TlsStream<Counted>>),
}

async fn line(settings: &Settings, identity: Option<&Identity>, bytes: WireBytes) -> Result<Line, NoSession> {
    let context = context(settings, identity);
    let dialled = |error: DialError| NoSession { verdict: dial(&error, &context.peer()), refused: false };
    let way = Way::new(settings.proxy.as_deref(), settings.proxy_credentials.as_deref()).map_err(dialled)?;
    let tcp = way.dial(&settings.host, settings.port).await.map_err(dialled)?;
    let tcp = Counted::new(tcp, bytes);
    let Some(identity) = identity.filter(|_| settings.secure) else { return Ok(Line::Plain(tcp)) };
    let name = ServerName::try_from(settings.host.clone())
        .map_err(|_| dialled(DialError::Address(settings.host.clone())))?;
    match TlsConnector::from(identity.tls.clone()).connect(name, tcp).await {
        Ok(tls) => Ok(Line::Secure(Box::new(tls))),
        Err(error) => Err(NoSession { verdict: verdict::handshake(&error, &context), refused: true }),
    }
}

async fn join(parts: &mut JoinSet<Part>) -> (Ended, RelayEnd) {
    let mut library = None;
    let mut relay = None;
    let all = async {
        while let Some(part) = parts.join_next().await {
            match part {
                Ok(Part::Library(ended)) => library = Some(ended),
                Ok(Part::Relay(ended)) => relay = Some(ended),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
    };
    // What is still there is cut off with the set.
    let _ = tokio::time::timeout(ENDING, all).await;
    let library = library.unwrap_or_else(|| Ended::Broken("it was cut off".to_owned()));
    (library, relay.unwrap_or(RelayEnd::Ours))
}

/// User and password; the file is read for each connection.
fn login(settings: &Settings) -> Result<Option<(String, String)>, Verdict> {
    let Some((user, file)) = &settings.login else { return Ok(None) };
    let password = match file {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path).map_err(|error| verdict::password(path, &error))?,
    };
    Ok(Some((user.clone(), password.trim_end_matches(['\r', '\n']).to_owned())))
}

/// What people are told about `settings` at present.
pub(crate) fn context<'a>(settings: &'a Settings, identity: Option<&Identity>) -> verdict::Context<'a> {
    let expires = identity.and_then(|identity| identity.expires);
    // By this clock TLS judges certificates.
    verdict::Context { settings, expires, now: OffsetDateTime::now_utc() }
}
