//! Time as the gateway knows it: boot id, monotonic time, and the wall clock's guess with its quality.
//!
//! A reading is stamped at once with the uptime of its boot and with a wall time ([`Stamp`]). When the wall clock of a
//! boot becomes synchronised, that moment is its anchor ([`anchors`]); the clock then runs on from it ([`keeper`]), and
//! what was stamped before gets its true time on the way out ([`repair`]). [`system`] reads the machine's clocks.

pub mod anchors;
mod course;
pub mod keeper;
mod metrics;
pub mod repair;
mod system;

use std::sync::Arc;

pub use anchors::{Anchor, Anchors, SeenBoot};
pub use metrics::Metrics;
pub use repair::{BootTimes, Correction, Resolved, TimeQuality};
pub use system::{Heard, Status, SystemClock, heard_now, is_before_build};
pub(crate) use system::{boot_id, both};

/// Identity of one boot of the machine (`/proc/sys/kernel/random/boot_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);

/// What the wall clock's guess is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum WallQuality {
    #[default]
    Unsynced = 0,
    Synced = 1,
}

/// A moment within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Milliseconds since boot, suspend included (CLOCK_BOOTTIME); never steps.
    pub uptime_ms: u64,
    /// The wall clock's guess, ms since the Unix epoch.
    pub wall_ms: i64,
    pub quality: WallQuality,
}

/// The seam for time. Durations and time-outs never use the wall clock.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Stamp;
    fn boot(&self) -> BootId;
    /// What is known about the clocks of all boots, as it is on disk. By default nothing.
    fn anchors(&self) -> Arc<Anchors> {
        Arc::default()
    }
    /// The uptime in ms until which it is worth holding back readings whose time is a guess, because the clock may
    /// still be set. `None`, the default: nothing is to be waited for.
    fn patient_until(&self) -> Option<u64> {
        None
    }
}
