//! The machine's own clocks.
//!
//! Promise: `now()` costs two vDSO reads and no system call; uptime never steps; the wall clock's guess is never
//! below what is known to have passed already (the build of this program, or the time a trusted clock was last
//! written down), so that a Pi that boots into 1970 does not date readings there. Quality is `Synced` once the
//! operating system said so in this run and stays so: a clock that was right and is kept by the crystal is off by
//! a few parts in 10^5.
//! Not promised: repair of stamps taken before that moment.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{BootId, Clock, Stamp, WallQuality};
use crate::config::Trust;
use crate::files;

/// No correct clock is before the build of this program; ms since the epoch. See `build.rs`.
const BUILT_MS: i64 = decimal(env!("FOGBEAT_BUILT_S")) * 1000;

/// `str::parse` cannot run at compile time.
const fn decimal(text: &str) -> i64 {
    let mut digits = text.as_bytes();
    let mut value = 0;
    while let Some((digit, rest)) = digits.split_first() {
        value = value * 10 + (*digit - b'0') as i64;
        digits = rest;
    }
    value
}

/// How often the operating system is asked whether its clock is right, until it says yes.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// A child that has not answered by then never will.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a trusted time is written down: a lower bound for the next boot, so coarse is enough.
const WRITE_EVERY: Duration = Duration::from_secs(3600);

/// A wall clock that moved less than this against the uptime is taken to run with it: the two are read one after the
/// other, and a difference that flickers would only cost space in every stored reading.
const STEADY_MS: i64 = 3;

/// systemd-timesyncd's mark that it has set the clock in this boot.
const TIMESYNC_MARK: &str = "/run/systemd/timesync/synchronized";

/// File below the state directory with the last trusted wall time, ms since the epoch in decimal.
const FLOOR_FILE: &str = "clock-floor";

/// See the module's documentation.
pub struct SystemClock {
    boot: BootId,
    synced: AtomicBool,
    /// Wall time that had passed for certain when this process started, minus the uptime then.
    floor_at_boot_ms: i64,
    /// Wall time minus uptime, ms, as last taken over.
    offset_ms: AtomicI64,
    trust: Trust,
    floor_file: PathBuf,
}

impl SystemClock {
    /// Reads boot id and floor; writes nothing.
    pub fn new(trust: Trust, state_dir: &Path) -> Self {
        let floor_file = state_dir.join(FLOOR_FILE);
        let written =
            std::fs::read_to_string(&floor_file).ok().and_then(|text| text.trim().parse::<i64>().ok());
        let floor_ms = written.unwrap_or(0).max(BUILT_MS);
        Self {
            boot: boot_id(),
            synced: AtomicBool::new(trust == Trust::Always),
            floor_at_boot_ms: floor_ms - millis(clock_gettime(ClockId::Boottime)),
            offset_ms: AtomicI64::new(i64::MIN),
            trust,
            floor_file,
        }
    }

    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Relaxed)
    }

    /// Asks the operating system until its clock is right, and writes trusted times down. Runs until dropped.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            if self.synced() {
                self.write_floor().await;
                tokio::time::sleep(WRITE_EVERY).await;
            } else if self.trust == Trust::Auto && os_says_synced().await {
                self.synced.store(true, Ordering::Relaxed);
                tracing::info!("the wall clock is synchronised");
            } else {
                tokio::time::sleep(PROBE_EVERY).await;
            }
        }
    }

    async fn write_floor(&self) {
        let wall_ms = self.now().wall_ms;
        let path = self.floor_file.clone();
        let written =
            tokio::task::spawn_blocking(move || files::replace(&path, wall_ms.to_string().as_bytes())).await;
        if let Ok(Err(error)) = written {
            tracing::info!(%error, file = %self.floor_file.display(), "the time could not be written down");
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        let uptime_ms = millis(clock_gettime(ClockId::Boottime));
        let wall_ms = uptime_ms + self.offset(millis(clock_gettime(ClockId::Realtime)) - uptime_ms);
        let synced = self.synced();
        let floor_ms = self.floor_at_boot_ms + uptime_ms;
        Stamp {
            uptime_ms: uptime_ms.unsigned_abs(),
            wall_ms: if synced { wall_ms } else { wall_ms.max(floor_ms) },
            quality: if synced { WallQuality::Synced } else { WallQuality::Unsynced },
        }
    }

    fn boot(&self) -> BootId {
        self.boot
    }
}

impl SystemClock {
    fn offset(&self, seen_ms: i64) -> i64 {
        let known_ms = self.offset_ms.load(Ordering::Relaxed);
        if seen_ms.abs_diff(known_ms) < STEADY_MS.unsigned_abs() {
            return known_ms;
        }
        self.offset_ms.store(seen_ms, Ordering::Relaxed);
        seen_ms
    }
}

fn millis(time: Timespec) -> i64 {
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// The kernel's boot id; where a sandbox hides it, a random one: it then stands for this run, and stamps of two runs
/// in one boot are merely not compared.
fn boot_id() -> BootId {
    let mut id = [0; 16];
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    if hex::decode_to_slice(&digits, &mut id).is_err() && getrandom::fill(&mut id).is_err() {
        id = [0; 16];
    }
    BootId(id)
}

/// `adjtimex` has no safe wrapper, so those are asked who have: timesyncd by its mark, else (chrony, ntpd) timedated,
/// which reads the kernel's flag.
async fn os_says_synced() -> bool {
    if tokio::fs::try_exists(TIMESYNC_MARK).await.unwrap_or(false) {
        return true;
    }
    let mut command = tokio::process::Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true);
    command.stdin(std::process::Stdio::null());
    match tokio::time::timeout(PROBE_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output.stdout.starts_with(b"yes"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsynced_clock_is_never_before_the_last_time_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let far = 4_000_000_000_000_i64;
        std::fs::write(dir.path().join(FLOOR_FILE), far.to_string()).unwrap();
        let clock = SystemClock::new(Trust::Never, dir.path());
        let first = clock.now();
        assert_eq!(first.quality, WallQuality::Unsynced);
        assert!((far..far + 60_000).contains(&first.wall_ms), "{first:?}");
        std::thread::sleep(Duration::from_millis(5));
        assert!(clock.now().wall_ms > first.wall_ms, "time stands still at the floor");
    }

    #[test]
    fn a_synced_clock_is_believed_also_below_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FLOOR_FILE), "4000000000000").unwrap();
        let clock = SystemClock::new(Trust::Always, dir.path());
        assert_eq!(clock.now().quality, WallQuality::Synced);
        assert!(clock.now().wall_ms < 4_000_000_000_000);
    }

    #[test]
    fn the_wall_clock_runs_with_the_uptime_until_it_really_moves() {
        let dir = tempfile::tempdir().unwrap();
        let clock = SystemClock::new(Trust::Always, dir.path());
        assert_eq!(clock.offset(1_000), 1_000);
        assert_eq!([1_001, 999, 1_002].map(|seen| clock.offset(seen)), [1_000; 3]);
        assert_eq!(clock.offset(1_003), 1_003);
        assert_eq!(clock.offset(-2_000), -2_000);
    }

    #[test]
    fn a_floor_file_of_rubbish_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FLOOR_FILE), b"\xff\x00 12").unwrap();
        let clock = SystemClock::new(Trust::Never, dir.path());
        assert!(clock.now().wall_ms >= BUILT_MS);
        assert_eq!(clock.boot(), SystemClock::new(Trust::Auto, dir.path()).boot());
    }

    #[tokio::test]
    async fn a_trusted_time_is_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::new(Trust::Always, dir.path()));
        let before = clock.now().wall_ms;
        clock.write_floor().await;
        let text = std::fs::read_to_string(dir.path().join(FLOOR_FILE)).unwrap();
        assert!(text.parse::<i64>().unwrap() >= before);
    }
}
