//! A running source in the hands of others: for `fogbeat status`, `fogbeat scan`, and the watchdog.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::core::{Sight, View};
use super::roster::{Key, Listed};
use crate::health::Mark;

/// A running Bluetooth source, for `fogbeat status` and `fogbeat scan`; clones share it.
#[derive(Clone)]
pub struct Handle {
    pub(super) view: Arc<Mutex<Shown>>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) mark: Mark,
}

/// What a command wants.
pub(super) enum Request {
    Allow(Listed),
    Forget(Key),
    Survey(oneshot::Sender<Vec<Sight>>),
}

/// What is shown.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Shown {
    /// Why there is no radio, if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    #[serde(flatten)]
    pub view: View,
}

/// The source has ended: the gateway stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Bluetooth source has ended; the gateway stops")]
pub struct Ended;

impl Handle {
    pub fn shown(&self) -> Shown {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Set by the driver's task at every turn.
    pub fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// One more wearable that is wanted. Blocking.
    ///
    /// # Errors
    /// The source has ended.
    pub fn allow(&self, listed: Listed) -> Result<(), Ended> {
        self.requests.blocking_send(Request::Allow(listed)).map_err(|_| Ended)
    }

    /// A wearable that is wanted no more. Blocking.
    ///
    /// # Errors
    /// The source has ended.
    pub fn forget(&self, key: Key) -> Result<(), Ended> {
        self.requests.blocking_send(Request::Forget(key)).map_err(|_| Ended)
    }

    /// Who is on the air. Blocking; not while there is no radio ([`Shown::unavailable`]).
    ///
    /// # Errors
    /// The source has ended.
    pub fn survey(&self) -> Result<Vec<Sight>, Ended> {
        let (answer, answered) = oneshot::channel();
        self.requests.blocking_send(Request::Survey(answer)).map_err(|_| Ended)?;
        answered.blocking_recv().map_err(|_| Ended)
    }
}
