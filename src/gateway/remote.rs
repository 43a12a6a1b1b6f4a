//! Settings from afar: what was good last time, and the names that devices go by.

use std::path::Path;

use tokio::sync::watch;

use super::GatewayError;
use crate::config::{Config, UplinkKind};
use crate::journal::Journal;
use crate::remote::Remote;

/// The settings, if an uplink follows its thing's shadow.
pub(super) async fn open(config: &Config, state_dir: &Path) -> Result<Option<Remote>, GatewayError> {
    let follows = |kind: &UplinkKind| matches!(kind, UplinkKind::IotCore(iot) if iot.shadow);
    if !config.uplinks.iter().any(|uplink| follows(&uplink.kind)) {
        return Ok(None);
    }
    let carrying = config.uplinks.iter().filter(|uplink| uplink.carries_batches());
    let uplinks = carrying.map(|uplink| uplink.name().to_owned()).collect();
    let state_dir = state_dir.to_owned();
    match tokio::task::spawn_blocking(move || Remote::open(&state_dir, uplinks)).await {
        Ok(remote) => Ok(Some(remote)),
        Err(_) => {
            Err(GatewayError::Ended { stage: "reading of settings from afar".to_owned(), panicked: true })
        }
    }
}

/// Gives devices their names, until the gateway stops.
pub(super) async fn supervise(remote: Remote, journal: Journal, mut stop: watch::Receiver<bool>) {
    let mut changes = remote.watch();
    loop {
        let desired = changes.borrow_and_update().clone();
        journal.set_aliases(desired.aliases());
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
