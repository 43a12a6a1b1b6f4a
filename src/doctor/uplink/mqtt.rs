//! A broker: name, TLS with the gateway's certificate, and, where that can put nobody out, CONNECT.
//!
//! A broker ends the connection of whoever goes by the same client id, and AWS IoT's policies let a certificate connect
//! under its thing's name alone. So a CONNECT is sent only while no gateway can run: when the state directory is ours.

use super::{ANSWER, origin, outcome, unreachable, within};
use crate::config;
use crate::doctor::Finding;
use crate::doctor::scene::{Daemon, Scene};
use crate::forward::Failure;
use crate::forward::mqtt::{Session, Settings, WireBytes};
use crate::forward::verdict;

pub(super) fn iot_core(scene: &Scene, name: &str, iot: &config::IotCore) -> Settings {
    Settings::iot_core(name, iot, &origin(scene))
}

pub(super) fn broker(scene: &Scene, name: &str, broker: &config::Broker) -> Settings {
    Settings::broker(name, broker, &origin(scene))
}

pub(super) fn finding(scene: &Scene, check: &str, settings: Settings) -> Finding {
    if let Some(finding) = unreachable(check, &settings.host, settings.proxy.as_deref()) {
        return finding;
    }
    let settings = Settings { timeout: settings.timeout.min(ANSWER), ..settings };
    let alone = matches!(scene.daemon, Daemon::Dead(Ok(_)));
    outcome(check, within(scene, attempt(&settings, alone)))
}

async fn attempt(settings: &Settings, alone: bool) -> Result<String, Failure> {
    let Settings { host, port, .. } = settings;
    let identity = match settings.secure {
        true => Some(settings.files.read(settings.alpn).map_err(|error| verdict::identity(&error).failure)?),
        false => None,
    };
    let identity = identity.as_ref();
    let secure = if settings.secure { ", TLS is fine" } else { ", without TLS" };
    if alone {
        let session = Session::open(settings, identity, WireBytes::default()).await;
        session.map_err(|none| none.verdict.failure)?.close().await;
        return Ok(format!("{host}:{port} can be reached{secure}, and takes us as {}", settings.client_id));
    }
    Session::knock(settings, identity).await.map_err(|none| none.verdict.failure)?;
    Ok(format!(
        "{host}:{port} can be reached{secure}; no CONNECT was tried, it would put a running gateway out"
    ))
}
