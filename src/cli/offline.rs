//! The journal without a daemon, for the commands that look at it.

use std::sync::Arc;

use super::Failure;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::journal::{Journal, OpenError, RealDisk};
use crate::state::StateDir;

/// Locks the state directory and opens its journal; the lock is held as long as the first value lives.
pub fn journal(config: &Config) -> Result<(StateDir, Journal), Failure> {
    let dir = &config.gateway.state_dir;
    if !dir.join("spool").is_dir() {
        return Err(Failure::unavailable(anyhow::anyhow!(
            "there is no journal in {}; name the right configuration with --config FILE",
            dir.display()
        )));
    }
    let state = StateDir::open(dir)?;
    let clock = Arc::new(SystemClock::new(&config.clock, dir));
    let (journal, recovered) = Journal::open_offline(&config.journal, dir, clock, Arc::new(RealDisk))?;
    if recovered.lost > 0 {
        eprintln!("fogbeat: the storage has lost {} readings that were durable", recovered.lost);
    }
    Ok((state, journal))
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Keys(error) => error.into(),
            error => Self::unavailable(error),
        }
    }
}
