//! Making an uplink let go of the readings it holds, so that what the journal keeps can be changed.
//!
//! A held uplink begins nothing, ends what is under way, confirms what the other side has, and then holds no reading in
//! memory. When it is released it goes on as after a start: batches begun and not confirmed are made again from the
//! journal within their bounds.

use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How often a waiting caller looks.
const LOOK: Duration = Duration::from_millis(5);

/// The asking side; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    wanted: watch::Sender<usize>,
    held: watch::Receiver<bool>,
}

/// The driver's side.
pub(super) struct Hold {
    wanted: watch::Receiver<usize>,
    held: watch::Sender<bool>,
}

/// While this lives the uplink holds nothing and sends nothing.
#[derive(Debug)]
pub struct Held(watch::Sender<usize>);

pub(super) fn pair() -> (Holder, Hold) {
    let (wanted, wanting) = watch::channel(0);
    let (holding, held) = watch::channel(false);
    (Holder { wanted, held }, Hold { wanted: wanting, held: holding })
}

impl Holder {
    /// Waits until the uplink holds nothing. Blocking. `None`: not within `patience`; nothing has changed then.
    pub(super) fn hold(&self, patience: Duration) -> Option<Held> {
        let begun = Instant::now();
        self.wanted.send_modify(|wanted| *wanted += 1);
        let held = Held(self.wanted.clone());
        // An uplink whose task has ended holds nothing either.
        while !*self.held.borrow() && self.held.has_changed().is_ok() {
            if begun.elapsed() >= patience {
                return None;
            }
            std::thread::sleep(LOOK);
        }
        Some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_modify(|wanted| *wanted = wanted.saturating_sub(1));
    }
}

impl Hold {
    pub(super) fn wanted(&self) -> bool {
        *self.wanted.borrow() > 0
    }

    /// Waits for a change of mind; for ever when there will be none. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Says that nothing is held, until nobody wants that any more. Cancel safe.
    pub(super) async fn rest(&mut self) {
        self.held.send_replace(true);
        let release = Release(&self.held);
        // An error means that nobody is left who could want it.
        let _ = self.wanted.wait_for(|wanted| *wanted == 0).await;
        drop(release);
    }
}

/// However the rest ends, it is told.
struct Release<'a>(&'a watch::Sender<bool>);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
