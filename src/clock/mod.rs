//! Time as the gateway knows it: boot id, monotonic time, and the wall clock's guess with its quality.

mod system;

pub use system::SystemClock;

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
}
