//! The audit log, for commands that do things without the daemon.

use crate::audit::{Act, Audit, AuditError, Outcome, Scribe, Who};
use crate::clock::SystemClock;
use crate::config::Config;

/// # Errors
/// When the state directory cannot be used.
pub fn scribe(config: &Config) -> Result<Scribe, AuditError> {
    let dir = &config.gateway.state_dir;
    let clock = std::sync::Arc::new(SystemClock::new(&config.clock, dir));
    Ok(Scribe::new(Audit::open(dir)?, clock))
}

/// Puts on record what this process did; that it cannot be is told, and undoes nothing.
pub fn done(config: &Config, act: impl FnOnce(&Scribe) -> Act) {
    match scribe(config) {
        Ok(scribe) => {
            if let Err(error) = scribe.try_note(&Who::me(), &act(&scribe), Outcome::Done) {
                eprintln!("fogbeat: this is not in the audit log: {error}");
            }
        }
        Err(error) => eprintln!("fogbeat: this is not in the audit log: {error}"),
    }
}
