//! Settings that may be changed from afar: validated like the file, applied whole or refused whole, the last good ones
//! kept through restarts.
//!
//! [`document`] judges a desired document; [`Remote`] keeps what is in force and tells those whom it concerns;
//! [`report`] says in the shadow's form what became of it. How documents come here is not told here.

pub mod document;
pub mod report;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

pub use document::{Desired, Refused};

use crate::files;

/// What became of the last document, for `fogbeat status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    /// What is in force beside the file.
    pub applied: Desired,
    /// Why the last document was refused.
    #[serde(skip_serializing_if = "Refused::is_empty")]
    pub refused: Refused,
}

impl Status {
    /// For those whom it does not concern who wears what.
    pub fn forget_devices(&mut self) {
        self.applied.devices.clear();
        self.refused.forget_devices();
    }
}

/// The settings in force; clones share them.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Names of the configured uplinks.
    uplinks: Vec<String>,
    current: watch::Sender<Arc<Desired>>,
    status: Mutex<Status>,
}

impl Remote {
    /// Takes up what was good last time. Blocking.
    pub fn open(state_dir: &Path, uplinks: Vec<String>) -> Self {
        let path = state_dir.join("remote.json");
        let desired = match std::fs::read(&path) {
            Ok(bytes) => read(&bytes, &uplinks).unwrap_or_else(|why| {
                tracing::warn!(file = %path.display(),
                    "the settings from afar are not taken up, the file's hold: {why}; they come again by the shadow");
                Desired::default()
            }),
            Err(_) => Desired::default(),
        };
        let status = Mutex::new(Status { applied: desired.clone(), refused: Refused::default() });
        let current = watch::Sender::new(Arc::new(desired));
        Self(Arc::new(Inner { path, uplinks, current, status }))
    }

    /// What is in force, now and later.
    pub fn watch(&self) -> watch::Receiver<Arc<Desired>> {
        self.0.current.subscribe()
    }

    pub fn status(&self) -> Status {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges a document, and puts it in force, on disk first. Refused or not kept: everything stays as it was. Blocking.
    pub fn apply(&self, desired: &Value) -> Status {
        let judged = Desired::judge(desired, &self.0.uplinks).and_then(|desired| {
            if **self.0.current.borrow() != desired {
                self.keep(&desired).map_err(|why| Refused::one("", format!("it cannot be kept: {why}")))?;
            }
            Ok(desired)
        });
        let mut status = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        match judged {
            Ok(desired) => {
                *status = Status { applied: desired.clone(), refused: Refused::default() };
                let desired = Arc::new(desired);
                let changed = |old: &mut Arc<Desired>| {
                    *old != desired && {
                        *old = Arc::clone(&desired);
                        true
                    }
                };
                if self.0.current.send_if_modified(changed) {
                    // Without the devices' names.
                    tracing::info!("settings from afar are in force");
                }
            }
            Err(refused) => {
                if status.refused != refused {
                    let keys = refused.outside_devices();
                    tracing::warn!(
                        ?keys,
                        "settings from afar are refused, the last good ones hold; correct the shadow: `fogbeat status` tells why"
                    );
                }
                status.refused = refused;
            }
        }
        status.clone()
    }

    fn keep(&self, desired: &Desired) -> std::io::Result<()> {
        let text = serde_json::to_vec(desired).map_err(std::io::Error::other)?;
        files::replace(&self.0.path, &files::with_sum(text))
    }
}

fn read(bytes: &[u8], uplinks: &[String]) -> Result<Desired, String> {
    let text = files::without_sum(bytes).map_err(|error| error.to_string())?;
    let value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Desired::judge(&value, uplinks).map_err(|refused| refused.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_good_ones_hold_through_refusals_and_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Remote::open(dir.path(), vec!["iot".to_owned()]);
        let remote = open();
        let mut seen = remote.watch();
        let good = json!({"batch": {"max_age": "5s"}, "uplinks": {"iot": {"paused": true}}});
        assert!(remote.apply(&good).refused.is_empty());
        assert!(seen.has_changed().unwrap());
        assert!(seen.borrow_and_update().paused("iot"));
        remote.apply(&good);
        assert!(!seen.has_changed().unwrap(), "the same again changes nothing");
        let bad = json!({"batch": {"max_age": "1ms"}, "uplinks": {"moon": {"paused": true}}});
        let status = remote.apply(&bad);
        assert_eq!(status.refused.keys(), ["batch.max_age", "uplinks.moon"]);
        assert_eq!(serde_json::to_value(&status.applied).unwrap(), good);
        let again = open();
        assert!(again.watch().borrow().paused("iot"));
        std::fs::write(dir.path().join("remote.json"), b"{\"batch\":{\"max_age\":\"1ms\"}}").unwrap();
        assert_eq!(**open().watch().borrow(), Desired::default());
    }
}
