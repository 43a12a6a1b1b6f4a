//! `kind = "iot_core"` and `kind = "mqtt"`: uplinks that publish members to an MQTT broker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum MqttVersion {
    #[serde(rename = "3.1.1")]
    V3,
    #[default]
    #[serde(rename = "5")]
    V5,
}

/// `[uplink.live]`: the newest reading per device, beside the batches.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Least time between two messages about one device.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub interval: Duration,
    /// `{gateway}` and `{device}` are put in; default: `fogbeat/live/{gateway}/{device}`.
    #[serde(default)]
    pub topic: Option<String>,
}

/// `kind = "iot_core"`: AWS IoT Core with the gateway's X.509 certificate.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IotCore {
    /// Host name of the account's data endpoint (`aws iot describe-endpoint --endpoint-type iot:Data-ATS`).
    pub endpoint: String,
    /// 8883, or 443 (then with the ALPN name `x-amzn-mqtt-ca`).
    #[serde(default = "mqtts")]
    pub port: u16,
    /// Name of the thing, and MQTT client id; default: `gateway.id`.
    #[serde(default)]
    pub thing: Option<String>,
    /// Rule that gets the batches by Basic Ingest: topic `$aws/rules/<rule>/<gateway>`.
    #[serde(default)]
    pub rule: Option<String>,
    /// In place of `rule`: any topic; `{gateway}` and `{thing}` are put in.
    #[serde(default)]
    pub topic: Option<String>,
    /// PEM files; default: `iot/certificate.pem` and `iot/private.key` below the state directory.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// CAs of the endpoint; default: the public CAs of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub version: MqttVersion,
    /// `http://host:port` (CONNECT) or `socks5://host:port`.
    #[serde(default)]
    pub proxy: Option<String>,
    /// One line `user:password` for the proxy.
    #[serde(default)]
    pub proxy_credentials_file: Option<PathBuf>,
    /// Longest wait for a connection, and for any sign of progress on one.
    #[serde(default = "thirty_seconds", with = "humantime_serde")]
    pub timeout: Duration,
    /// `false`: only what stands beside batches goes this way, live values and the shadow.
    #[serde(default = "yes")]
    pub batches: bool,
    /// Takes settings from the named shadow `fogbeat`.
    #[serde(default)]
    pub shadow: bool,
    #[serde(default)]
    pub live: Option<Live>,
}

/// `kind = "mqtt"`: any broker, such as a bigger fogbeat at the same site.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// `mqtt://host:port` or `mqtts://host:port`.
    pub url: String,
    /// Default: `gateway.id`.
    #[serde(default)]
    pub client_id: Option<String>,
    /// `{gateway}` is put in; default: `fogbeat/members/{gateway}`, which a receiving fogbeat knows.
    #[serde(default)]
    pub topic: Option<String>,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// CAs of the broker; default: the public CAs of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// PEM files of the gateway's own certificate, if the broker asks for one.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    #[serde(default)]
    pub version: MqttVersion,
    #[serde(default)]
    pub proxy: Option<String>,
    #[serde(default)]
    pub proxy_credentials_file: Option<PathBuf>,
    #[serde(default = "thirty_seconds", with = "humantime_serde")]
    pub timeout: Duration,
    /// Largest message.
    #[serde(default = "member")]
    pub max_member: ByteSize,
    /// Default: as fast as the broker acknowledges.
    #[serde(default)]
    pub publishes_per_second: Option<u32>,
    #[serde(default)]
    pub bytes_per_second: Option<ByteSize>,
    /// `false`: only live values go this way.
    #[serde(default = "yes")]
    pub batches: bool,
    #[serde(default)]
    pub live: Option<Live>,
}

/// `[aws]`
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Aws {
    /// Present: Firehose uplinks get temporary credentials for the gateway's certificate.
    pub iot_credentials: Option<IotCredentials>,
}

/// `[aws.iot_credentials]`: the AWS IoT credential provider.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IotCredentials {
    /// Host name (`aws iot describe-endpoint --endpoint-type iot:CredentialProvider`), with `:port` if it is not 443.
    pub endpoint: String,
    pub role_alias: String,
    /// Name of the thing; default: `gateway.id`.
    #[serde(default)]
    pub thing: Option<String>,
    /// PEM files; default: `iot/certificate.pem` and `iot/private.key` below the state directory.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// CAs of the endpoint; default: the public CAs of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    #[serde(default)]
    pub proxy: Option<String>,
    #[serde(default)]
    pub proxy_credentials_file: Option<PathBuf>,
}

/// Where `fogbeat enroll` puts the gateway's certificate, and where it is looked for.
pub fn iot_certificate(state_dir: &Path) -> PathBuf {
    state_dir.join("iot/certificate.pem")
}

/// The key of [`iot_certificate`].
pub fn iot_key(state_dir: &Path) -> PathBuf {
    state_dir.join("iot/private.key")
}

impl IotCore {
    pub(super) fn complete(&mut self, state_dir: &Path) {
        self.certificate.get_or_insert_with(|| iot_certificate(state_dir));
        self.key.get_or_insert_with(|| iot_key(state_dir));
    }
}

impl IotCredentials {
    pub(super) fn complete(&mut self, state_dir: &Path) {
        self.certificate.get_or_insert_with(|| iot_certificate(state_dir));
        self.key.get_or_insert_with(|| iot_key(state_dir));
    }
}

fn yes() -> bool {
    true
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn mqtts() -> u16 {
    8883
}

fn member() -> ByteSize {
    ByteSize::kib(128)
}
