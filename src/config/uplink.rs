use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::mqtt_uplink::{Broker, IotCore, IotCredentials};

/// How the lines of a batch are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Gzip,
    Zstd,
    /// Plain JSON lines.
    Json,
}

/// `[[uplink]]`: where batches go.
///
/// In the file the keys of a kind stand beside the common ones. Serde can either flatten or refuse unknown keys,
/// not both, so the loader moves them under `kind` first (see `config::load`): each struct then refuses what it
/// does not know, with the whole path of the key.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Unique; default: the kind.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub encoding: Encoding,
    /// `oldest` (default) or `now`.
    #[serde(default)]
    pub from: From,
    /// `false`: loses first at the quota.
    #[serde(default = "yes")]
    pub required: bool,
    /// Whether it is told pseudonyms in place of device names; default: `privacy.pseudonyms`.
    #[serde(default)]
    pub pseudonyms: Option<bool>,
    pub kind: UplinkKind,
}

impl Uplink {
    /// Keys every kind has; all others belong to the kind.
    pub(super) const COMMON: [&'static str; 5] = ["name", "encoding", "from", "required", "pseudonyms"];

    /// The name it goes by: in `status`, in its cursor file, in `uplink forget`.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.kind.label())
    }

    /// Whether batches go this way, so that it has a place in the journal.
    pub fn carries_batches(&self) -> bool {
        match &self.kind {
            UplinkKind::Directory(_) | UplinkKind::Firehose(_) => true,
            UplinkKind::IotCore(iot) => iot.batches,
            UplinkKind::Mqtt(broker) => broker.batches,
        }
    }

    /// Whether it is told pseudonyms in place of device names.
    pub fn pseudonymous(&self) -> bool {
        self.pseudonyms.unwrap_or(false)
    }
}

fn yes() -> bool {
    true
}

/// Where a new uplink starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    #[default]
    Oldest,
    Now,
}

/// What stands on the other side, and its own keys.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UplinkKind {
    Directory(Directory),
    Firehose(Firehose),
    IotCore(IotCore),
    Mqtt(Broker),
}

impl UplinkKind {
    /// What `kind = ".."` may say.
    pub const LABELS: [&'static str; 4] = ["directory", "firehose", "iot_core", "mqtt"];

    pub fn label(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::Firehose(_) => "firehose",
            Self::IotCore(_) => "iot_core",
            Self::Mqtt(_) => "mqtt",
        }
    }
}

/// `kind = "directory"`: files below a local directory.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Default: `lake` below the state directory.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Default: a quarter of the disk.
    #[serde(default)]
    pub max_bytes: Option<ByteSize>,
    #[serde(default = "thirty_days", with = "humantime_serde")]
    pub keep: Duration,
}

impl Default for Directory {
    fn default() -> Self {
        Self { path: None, max_bytes: None, keep: thirty_days() }
    }
}

impl Directory {
    /// Where the files go, given the state directory.
    pub(super) fn path_below(&self, state_dir: &Path) -> PathBuf {
        self.path.clone().unwrap_or_else(|| state_dir.join("lake"))
    }
}

fn thirty_days() -> Duration {
    Duration::from_secs(30 * 86_400)
}

/// `kind = "firehose"`: an Amazon Data Firehose stream.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Firehose {
    pub stream: String,
    #[serde(default)]
    pub region: Option<String>,
    /// For emulators, and for endpoints of one's own.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// CAs of the endpoint, for networks whose proxy looks into TLS; default: the public CAs of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Longest wait for one answer.
    #[serde(default = "thirty_seconds", with = "humantime_serde")]
    pub timeout: Duration,
    /// `http://host:port` (CONNECT) or `socks5://host:port`.
    #[serde(default)]
    pub proxy: Option<String>,
    /// One line `user:password` for the proxy.
    #[serde(default)]
    pub proxy_credentials_file: Option<PathBuf>,
    /// `[aws.iot_credentials]`, put in by the loader.
    #[serde(skip)]
    pub credentials: Option<IotCredentials>,
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}
