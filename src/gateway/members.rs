//! Batches of other gateways: where they are kept, and their housekeeping.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::GatewayError;
use crate::config::Config;
use crate::relayed::Shelf;

/// How often delivered ones are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// The shelf, if such batches are taken.
pub(super) async fn open(config: &Config, state_dir: &Path) -> Result<Option<Shelf>, GatewayError> {
    let listener = &config.mqtt.listener;
    let Some(most) = listener.members.filter(|_| listener.enabled) else { return Ok(None) };
    let (dir, window) = (state_dir.to_owned(), config.journal.dedupe_window);
    let opened = tokio::task::spawn_blocking(move || Shelf::open(&dir, most.as_u64(), window)).await;
    let failed = |source| GatewayError::Members { path: state_dir.join("relayed"), source };
    match opened {
        Ok(shelf) => shelf.map(Some).map_err(failed),
        Err(_) => Err(GatewayError::Ended { stage: "opening of the members".to_owned(), panicked: true }),
    }
}

/// Until the gateway stops.
pub(super) async fn supervise(shelf: Shelf, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let shelf = shelf.clone();
        if tokio::task::spawn_blocking(move || shelf.sweep()).await.is_err() {
            tracing::error!("delivered members could not be removed: a defect; please report it");
        }
    }
}
