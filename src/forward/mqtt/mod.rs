//! The `iot_core` and `mqtt` uplinks: one member = one publish with QoS 1, confirmed by its PUBACK.
//!
//! [`link`] is the task that owns the connection; this is the driver's side of it. Pure beside it: [`pace`] (how fast),
//! [`flight`] (which packet id is which member), [`verdict`] (what an answer means). [`wire`] is the client library in
//! words of our own, [`relay`] the socket that it is given.
//!
//! Promised: what the journal's driver hands in is published in its order, each at most once per connection; an answer
//! of `Confirmed` means that the broker's PUBACK for it came, on the connection it was sent on; nothing is re-sent here,
//! that is the driver's. At most [`WINDOW`] publishes are unacknowledged; AWS IoT Core's quotas are kept ([`pace`]).
//! What is given to the socket and not yet written is little, so that urgent messages go first. A delivery ends within
//! the configured timeout after the last sign of progress.
//!
//! Not promised: that somebody has read what a broker took. With MQTT 5 a plain broker that says that nobody is
//! subscribed gets nothing confirmed; AWS IoT's rules show their errors in the rule's own error action only.

mod certificate;
mod flight;
mod link;
mod live;
mod pace;
mod relay;
mod session;
mod shadow;
mod status;
mod verdict;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Delivery, Failure, Limits, Member, Origin, Uplink};
use crate::clock::Clock;
use crate::config::{self, MqttVersion, host_and_port};
use crate::net::IdentityFiles;
use crate::remote::Remote;
use link::{Command, Link};
use pace::Rates;

pub(crate) use live::Source as LiveSource;
pub(crate) use relay::WireBytes;
pub(crate) use session::{Session, context as session_context};
pub use status::{LinkStatus, Metrics};
pub(crate) use verdict::{Context as VerdictContext, ended as ended_verdict};
pub(crate) use wire::Event;

/// Publishes without their PUBACK (AWS IoT Core quota per connection; a broker may say less).
const WINDOW: u16 = 100;
/// Largest payload that AWS IoT Core takes, bytes.
pub(super) const IOT_CORE_MEMBER: usize = 128 * 1024;
/// Pings are free at AWS from 30 s on; a dead broker is noticed after at most two.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// ALPN name of MQTT with client certificates on port 443 (AWS IoT Core Developer Guide, "Device communication
/// protocols").
const ALPN: &[u8] = b"x-amzn-mqtt-ca";
/// Members of one delivery: while they are acknowledged, as many again are ready.
const MEMBERS: usize = 16;
/// Batches begun and not confirmed. Packed they take little; see `config::limits`.
const BATCHES: usize = 16;
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What stands on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    IotCore { region: Option<String> },
    Broker,
}

/// Everything that does not change while the gateway runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) secure: bool,
    pub(crate) alpn: Option<&'static [u8]>,
    pub(crate) client_id: String,
    pub(crate) login: Option<(String, Option<PathBuf>)>,
    /// Of batches; empty where there are none.
    pub(crate) topic: String,
    pub(crate) version: MqttVersion,
    pub(crate) keep_alive: Duration,
    pub(crate) window: u16,
    pub(crate) member_bytes: usize,
    pub(crate) rates: Rates,
    pub(crate) timeout: Duration,
    pub(crate) files: IdentityFiles,
    pub(crate) proxy: Option<String>,
    pub(crate) proxy_credentials: Option<PathBuf>,
    /// What the operator has called address and client id.
    pub(crate) address_key: &'static str,
    pub(crate) id_key: &'static str,
}

impl Settings {
    pub(crate) fn has_certificate(&self) -> bool {
        self.files.pair.is_some()
    }

    pub(crate) fn iot_core(name: &str, iot: &config::IotCore, origin: &Origin) -> Self {
        let gateway = &origin.gateway;
        let thing = iot.thing.clone().unwrap_or_else(|| gateway.clone());
        let topic = match (&iot.rule, &iot.topic) {
            (None, None) => String::new(),
            (_, Some(topic)) => topic.replace("{gateway}", gateway).replace("{thing}", &thing),
            (rule, None) => format!("$aws/rules/{}/{gateway}", rule.as_deref().unwrap_or_default()),
        };
        let below = |path: &Option<PathBuf>, other: fn(&std::path::Path) -> PathBuf| {
            path.clone().unwrap_or_else(|| other(&origin.state_dir))
        };
        let pair = (below(&iot.certificate, config::iot_certificate), below(&iot.key, config::iot_key));
        let (host, _) = host_and_port(&iot.endpoint, iot.port).unwrap_or((iot.endpoint.clone(), iot.port));
        Self {
            name: name.to_owned(),
            place: Place::IotCore { region: region(&host) },
            port: iot.port,
            secure: true,
            alpn: (iot.port == 443).then_some(ALPN),
            client_id: thing,
            login: None,
            topic,
            version: iot.version,
            keep_alive: KEEP_ALIVE,
            window: WINDOW,
            member_bytes: IOT_CORE_MEMBER,
            rates: pace::IOT_CORE,
            timeout: iot.timeout,
            files: IdentityFiles { ca: iot.ca.clone(), pair: Some(pair) },
            proxy: iot.proxy.clone(),
            proxy_credentials: iot.proxy_credentials_file.clone(),
            address_key: "endpoint",
            id_key: "thing",
            host,
        }
    }

    pub(crate) fn broker(name: &str, broker: &config::Broker, origin: &Origin) -> Self {
        let gateway = &origin.gateway;
        let (secure, address) = match broker.url.split_once("://") {
            Some(("mqtts", address)) => (true, address),
            Some((_, address)) => (false, address),
            None => (false, broker.url.as_str()),
        };
        let default = if secure { 8883 } else { 1883 };
        let (host, port) = host_and_port(address, default).unwrap_or((address.to_owned(), default));
        let topic =
            broker.topic.as_deref().unwrap_or(if broker.batches { "fogbeat/members/{gateway}" } else { "" });
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Self {
            name: name.to_owned(),
            place: Place::Broker,
            host,
            port,
            secure,
            alpn: None,
            client_id: broker.client_id.clone().unwrap_or_else(|| gateway.clone()),
            login: broker.username.clone().map(|user| (user, broker.password_file.clone())),
            topic: topic.replace("{gateway}", gateway),
            version: broker.version,
            keep_alive: KEEP_ALIVE,
            window: WINDOW,
            member_bytes: bytes(broker.max_member),
            rates: Rates {
                publishes: broker.publishes_per_second.map(f64::from),
                bytes: broker.bytes_per_second.map(|size| size.as_u64() as f64),
            },
            timeout: broker.timeout,
            files: IdentityFiles {
                ca: broker.ca.clone(),
                pair: broker.certificate.clone().zip(broker.key.clone()),
            },
            proxy: broker.proxy.clone(),
            proxy_credentials: broker.proxy_credentials_file.clone(),
            address_key: "url",
            id_key: "client_id",
        }
    }
}

/// `abc-ats.iot.eu-west-1.amazonaws.com`: the region.
fn region(host: &str) -> Option<String> {
    let (_, rest) = host.split_once(".iot.")?;
    let (region, rest) = rest.split_once('.')?;
    rest.starts_with("amazonaws.com").then(|| region.to_owned())
}

/// What a connection carries beside batches, and by which clock.
pub(crate) struct Beside {
    pub(crate) live: Option<(config::Live, LiveSource)>,
    /// The thing's shadow is followed.
    pub(crate) shadow: bool,
    pub(crate) remote: Option<Remote>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// See the module's documentation.
pub struct Mqtt {
    kind: &'static str,
    member_bytes: usize,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<LinkStatus>,
    /// `None` once it was joined.
    task: Option<JoinHandle<()>>,
}

impl Mqtt {
    /// Starts the task. Without a live lane or a shadow nothing is asked of the network before the first delivery.
    pub(crate) fn start(settings: Settings, beside: Beside, gateway: &str, metrics: &Metrics) -> Self {
        let kind = match settings.place {
            Place::IotCore { .. } => "iot_core",
            Place::Broker => "mqtt",
        };
        let member_bytes = settings.member_bytes;
        // The driver gives one delivery at a time.
        let (commands, receiver) = mpsc::channel(1);
        let board = status::Board::new(&settings, metrics);
        let status = board.subscribe();
        let thing = settings.client_id.as_str();
        let changes = beside.remote.as_ref().map(Remote::watch);
        let live =
            beside.live.map(|(config, source)| live::Lane::new(&config, source, gateway, thing, changes));
        let shadow = beside.remote.filter(|_| beside.shadow).map(|remote| shadow::Shadow::new(thing, remote));
        let task = tokio::spawn(Link::new(settings, receiver, board, live, shadow, beside.clock).run());
        Self { kind, member_bytes, commands, status, task: Some(task) }
    }

    /// The connection, as it is shown.
    pub(super) fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// Tries at once to connect, if there is no connection.
    pub(super) fn connect(&self) {
        // A task that has something else to do is connecting, or connected.
        let _ = self.commands.try_send(Command::Connect);
    }

    /// The task has ended unasked, by a panic: it goes on here.
    pub(super) async fn ended(&mut self) -> Failure {
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        Failure::new("defect", "the connection's task has ended")
    }
}

impl Uplink for Mqtt {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn limits(&self) -> Limits {
        Limits {
            member_bytes: self.member_bytes,
            members: MEMBERS,
            delivery_bytes: usize::MAX,
            window: BATCHES,
        }
    }

    async fn deliver(&mut self, members: &[Member]) -> Vec<Delivery> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Deliver { members: members.to_vec(), answer };
        if self.commands.send(command).await.is_ok()
            && let Ok(answers) = answered.await
        {
            return answers;
        }
        let failure = self.ended().await;
        vec![Delivery::Retry(failure); members.len()]
    }

    fn link(&self) -> Option<watch::Receiver<LinkStatus>> {
        Some(self.status())
    }

    async fn close(&mut self) {
        let (said, done) = oneshot::channel();
        let farewell = async {
            if self.commands.send(Command::Close(said)).await.is_ok() {
                // It has ended, whether it could say so or not.
                let _ = done.await;
            }
        };
        // What takes longer is cut off when this is dropped.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            gateway: "gw-1".to_owned(),
            site: None,
            state_dir: "/state".into(),
            pseudonyms: None,
            window: crate::reading::validity::DeviceTimeWindow::default(),
        }
    }

    pub(super) fn settings(text: &str) -> Settings {
        let config = config::from_toml(text).unwrap();
        match &config.uplinks[0].kind {
            config::UplinkKind::IotCore(iot) => Settings::iot_core("up", iot, &origin()),
            config::UplinkKind::Mqtt(broker) => Settings::broker("up", broker, &origin()),
            _ => panic!("no MQTT"),
        }
    }

    #[test]
    fn iot_core_by_its_defaults() {
        let host = "abc-ats.iot.eu-west-1.amazonaws.com";
        let made = settings(&format!(
            "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"{host}\"\nrule = \"fogbeat\"\n"
        ));
        assert_eq!(made.topic, "$aws/rules/fogbeat/gw-1");
        assert_eq!((made.client_id.as_str(), made.port, made.alpn), ("gw-1", 8883, None));
        assert_eq!(made.place, Place::IotCore { region: Some("eu-west-1".to_owned()) });
        let made = settings(&format!(
            "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"{host}\"\nport = 443\nthing = \"t\"\ntopic = \"hr/{{thing}}/{{gateway}}\"\n"
        ));
        assert_eq!((made.topic.as_str(), made.alpn), ("hr/t/gw-1", Some(ALPN)));
    }

    #[test]
    fn a_broker_by_its_url() {
        let made = settings("[[uplink]]\nkind = \"mqtt\"\nurl = \"mqtts://hall\"\n");
        assert_eq!((made.host.as_str(), made.port, made.secure), ("hall", 8883, true));
        assert_eq!(made.topic, "fogbeat/members/gw-1");
        let made = settings("[[uplink]]\nkind = \"mqtt\"\nurl = \"mqtt://[::1]:99\"\ntopic = \"x\"\n");
        assert_eq!((made.host.as_str(), made.port, made.secure), ("::1", 99, false));
    }
}
