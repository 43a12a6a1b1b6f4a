//! The `directory` uplink: one member = one file of JSON lines that DuckDB, or any reader of gzip, can query.
//!
//! `readings/dt=YYYY-MM-DD/hour=HH/<gateway>-<spool>-<first>-<last>.json.gz`, `dt` and `hour` (UTC) being those of
//! delivery. A file appears whole or not at all: temporary file in the same directory, fsync, rename, fsync of the
//! directory. What is confirmed is on disk. A member that is sent again finds its file and is confirmed.
//!
//! The lake keeps to `max_bytes` and to `keep` by removing whole days, the oldest first, never the day that is being
//! written; it looks with every file and, when none comes, every hour of a synchronised clock. Days that were written to
//! while the clock was a guess count from the first day that was right since, and a guess removes nothing by its age. And
//! it leaves [`Store`]'s reserve of the disk free for the journal. When neither helps the uplink stops
//! and says so; the readings stay in the journal.

pub mod erase;
mod store;

use std::sync::{Arc, Mutex, PoisonError};

use super::{Delivery, Failure, Limits, Member, Origin, Uplink};
use crate::clock::{Stamp, WallQuality};
use crate::config;
use store::Store;
pub use store::{StoreError, StoreMetrics, reserve};

/// A member here has no limit but that of a file that is pleasant to handle. Two batches: one is written while the
/// next is made.
pub(super) const LIMITS: Limits =
    Limits { member_bytes: 64 << 20, members: 2, delivery_bytes: 64 << 20, window: 2 };

/// See the module's documentation.
pub struct Directory {
    store: Arc<Mutex<Store>>,
}

impl Directory {
    /// Touches nothing: the directory is made and read at the first delivery.
    pub fn new(name: &str, config: &config::Directory, origin: &Origin, metrics: StoreMetrics) -> Self {
        let path = config.path.clone().unwrap_or_else(|| origin.state_dir.join("lake"));
        let gateway = file_name_part(&origin.gateway);
        let max_bytes = config.max_bytes.map(|size| size.as_u64());
        let store = Store::new(name, path, gateway, max_bytes, config.keep, metrics);
        Self { store: Arc::new(Mutex::new(store)) }
    }
}

/// What a file name may carry of an identity that somebody chose.
fn file_name_part(identity: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    identity.chars().map(plain).collect()
}

impl Uplink for Directory {
    fn kind(&self) -> &'static str {
        "directory"
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn deliver(&mut self, members: &[Member]) -> Vec<Delivery> {
        let (store, members) = (Arc::clone(&self.store), members.to_vec());
        let count = members.len();
        let written = tokio::task::spawn_blocking(move || {
            // A poisoned lock holds a store whose ledger is read anew.
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.put(&members)
        });
        match written.await {
            Ok(results) => results
                .into_iter()
                .map(|result| result.map_or_else(answer, |()| Delivery::Confirmed))
                .collect(),
            Err(error) => {
                let failure = Failure::new("defect", format!("writing to the lake ended early: {error}"));
                vec![Delivery::Retry(failure); count]
            }
        }
    }

    async fn keep_house(&mut self, now: Stamp) {
        // Nothing is deleted on the word of a clock that nobody vouches for.
        if now.quality != WallQuality::Synced {
            return;
        }
        let store = Arc::clone(&self.store);
        let pruned = tokio::task::spawn_blocking(move || {
            store.lock().unwrap_or_else(PoisonError::into_inner).keep_house(now.wall_ms)
        });
        // What fails is tried again with the next delivery, which shows it.
        if let Ok(Err(error)) = pruned.await {
            tracing::debug!(%error, "the lake was not looked through");
        }
    }
}

/// All of these need somebody to act; a full disk may also mend itself, and is tried again the same way.
fn answer(error: StoreError) -> Delivery {
    let failure = Failure::new(error.cause(), error.to_string()).remedy(error.remedy());
    if error.needs_someone() { Delivery::Stuck(failure) } else { Delivery::Retry(failure) }
}

#[cfg(test)]
mod tests;
