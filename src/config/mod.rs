//! Typed settings: one file per section, [`load`] to read them, [`validate`] to judge them.
//!
//! Promise: a configuration that came out of [`load`] can be run, as far as this module and the [`Judge`] it was given
//! can tell; what is wrong with one is told completely, every
//! problem with its key, its value and the remedy, before a port is bound or the disk is touched. Secrets are never
//! in it, only paths to them, so it may be shown.

mod address;
mod ble;
mod check;
mod clock;
mod gateway;
mod http;
mod journal;
mod limits;
mod load;
mod log;
pub mod mapping;
mod mqtt;
mod mqtt_uplink;
mod privacy;
mod problem;
mod replay;
mod site;
mod speed;
pub mod timezone;
mod uplink;
mod validate;
mod validate_uplink;

pub use address::{Proxy, host_and_port};
pub use ble::{Ble, BleDevice};
pub use clock::{Clock, Trust};
pub use gateway::Gateway;
pub use http::Http;
pub use journal::{Batch, Journal, LEAST_GENERATIONS, LEAST_QUOTA, WhenFull};
pub use limits::{Account, Line, MESSAGES, Memory, SESSIONS, TOPIC_NAMES};
pub use load::{DEFAULT_FILE, Judge, from_toml, load, look, parse};
pub use log::Log;
pub use mqtt::{External, Limits, Listener, Mqtt, Tls, own_certificate};
pub use mqtt_uplink::{Aws, Broker, IotCore, IotCredentials, Live, MqttVersion, iot_certificate, iot_key};
pub use privacy::Privacy;
pub use problem::{Problem, Problems};
pub use replay::Replay;
pub use site::Site;
pub use speed::{Speed, SpeedError};
pub use uplink::{Directory, Encoding, Firehose, From, Uplink, UplinkKind};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole configuration.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub gateway: Gateway,
    pub site: Site,
    pub clock: Clock,
    pub log: Log,
    pub limits: Memory,
    pub mqtt: Mqtt,
    pub ble: Ble,
    pub journal: Journal,
    pub batch: Batch,
    pub http: Http,
    pub privacy: Privacy,
    pub aws: Aws,
    pub replay: Vec<Replay>,
    /// Empty: one `directory` uplink below the state directory.
    #[serde(rename = "uplink")]
    pub uplinks: Vec<Uplink>,
}

impl Config {
    /// Puts in what follows from other keys, so that nobody below has to know these rules: the default uplink, the
    /// uplinks' names, the lake's place.
    fn complete(&mut self) {
        if self.uplinks.is_empty() {
            self.uplinks.push(Uplink {
                name: None,
                encoding: Encoding::default(),
                from: From::default(),
                required: true,
                pseudonyms: None,
                kind: UplinkKind::Directory(Directory::default()),
            });
        }
        if let Some(tls) = &mut self.mqtt.listener.tls {
            tls.complete(&self.gateway.state_dir);
        }
        if let Some(credentials) = &mut self.aws.iot_credentials {
            credentials.complete(&self.gateway.state_dir);
        }
        for uplink in &mut self.uplinks {
            uplink.name = Some(uplink.name().to_owned());
            uplink.pseudonyms.get_or_insert(self.privacy.pseudonyms);
            match &mut uplink.kind {
                UplinkKind::Directory(directory) => {
                    directory.path = Some(directory.path_below(&self.gateway.state_dir));
                }
                UplinkKind::IotCore(iot) => iot.complete(&self.gateway.state_dir),
                UplinkKind::Firehose(firehose) => firehose.credentials.clone_from(&self.aws.iot_credentials),
                UplinkKind::Mqtt(_) => {}
            }
        }
    }

    /// The directory uplinks' lakes, by the uplinks' names.
    pub fn lakes(&self) -> Vec<(String, PathBuf)> {
        let lakes = self.uplinks.iter().filter_map(|uplink| match &uplink.kind {
            UplinkKind::Directory(lake) => {
                Some((uplink.name().to_owned(), lake.path_below(&self.gateway.state_dir)))
            }
            UplinkKind::Firehose(_) | UplinkKind::IotCore(_) | UplinkKind::Mqtt(_) => None,
        });
        lakes.collect()
    }

    /// The settings in force, as TOML in the form the file has. Holds no secret: the file has none.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let mut tree = toml::Table::try_from(self)?;
        if let Some(toml::Value::Array(uplinks)) = tree.get_mut("uplink") {
            for uplink in uplinks.iter_mut().filter_map(toml::Value::as_table_mut) {
                let Some(toml::Value::Table(kind)) = uplink.remove("kind") else { continue };
                for (label, keys) in kind {
                    uplink.insert("kind".to_owned(), label.into());
                    uplink.extend(keys.as_table().cloned().unwrap_or_default());
                }
            }
        }
        toml::to_string_pretty(&tree)
    }
}
