//! What the tests and benches that drive the real binary have in common.

pub mod bench;
pub mod blast;
pub mod daemon;
pub mod finding;
pub mod fleet;
pub mod hearts;
pub mod lake;
pub mod loopdev;
pub mod process;
pub mod rng;
pub mod straps;
pub mod wire;
pub mod world;

use std::time::{Duration, UNIX_EPOCH};

/// The wall clock, ms since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "a test has no clock seam")]
pub fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A number from the environment, else `default`.
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
