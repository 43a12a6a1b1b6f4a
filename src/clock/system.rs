//! The machine's own clocks, and who vouches for them: the driver of the [`Timekeeper`].
//!
//! Promise: `now()` costs one vDSO read and no system call; uptime never steps; the wall clock's guess is never below
//! what is known to have passed already (the build of this program, the time a trusted clock was last written down, the
//! end of an earlier boot), so that a Pi that boots into 1970 does not date readings there.
//!
//! Who vouches: systemd-timesyncd touches a file at each success, and its time says how fresh that is. Others (chrony,
//! ntpd) set the kernel's flag, which timedated reads; it stays up for nine hours without them, and that is how
//! uncertain such a word is. Where neither can be asked nobody is waited for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::anchors::{Anchors, SeenBoot, drift};
use super::keeper::{Faith, Health, Observed, Sample, Start, Timekeeper};
use super::{BootId, Clock, Metrics, Stamp};
use crate::config::{self, Trust};
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
/// And afterwards: timesyncd's mark costs a look at a file; asking timedated starts a service.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(1800);

/// A child that has not answered by then never will.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a trusted time is written down: a lower bound for the next boot, so coarse is enough.
const WRITE_EVERY: Duration = Duration::from_secs(3600);

/// systemd-timesyncd's mark that it has set the clock in this boot.
const TIMESYNC_MARK: &str = "/run/systemd/timesync/synchronized";
/// What NTP is off by at most over the links gateways have.
const NTP_ERROR_MS: u64 = 500;
/// The kernel forgets that it was synchronised when its own estimate, which grows by 500 ppm, reaches 16 s.
const FLAG_LASTS_MS: u64 = 16_000 * 2_000;

/// File below the state directory with the last trusted wall time, ms since the epoch in decimal, and its sum: a time that
/// is too late by a flipped bit would never be undone.
const FLOOR_FILE: &str = "clock-floor";

/// See the module's documentation.
pub struct SystemClock {
    keeper: Timekeeper,
    trust: Trust,
    patience_ms: u64,
    floor_file: PathBuf,
    heard: Mutex<Heard>,
    metrics: Metrics,
}

/// The clock in `fogbeat status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Status {
    /// `[clock] trust`.
    pub trust: Trust,
    /// The kernel's id of this boot, as `/proc/sys/kernel/random/boot_id` has it, without dashes.
    pub boot: String,
    pub heard: Heard,
    #[serde(flatten)]
    pub health: Health,
}

/// What the operating system said last when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// It was not asked yet, or is not to be asked.
    #[default]
    Nothing,
    Synchronised,
    NotSynchronised,
    /// There is nobody who could be asked.
    NobodyThere,
}

/// What the operating system says of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// It is synchronised; how far off it may be, ms.
    Yes {
        error_ms: u64,
    },
    /// As at the last look: nothing has vouched for it since.
    Unchanged,
    NotYet,
    /// There is nobody to ask.
    Nobody,
}

impl SystemClock {
    /// Reads boot id, anchors and floor; writes nothing.
    pub fn new(settings: &config::Clock, state_dir: &Path) -> Self {
        let floor_file = state_dir.join(FLOOR_FILE);
        let written = read_floor(&floor_file);
        let (uptime_ms, wall_ms) = both();
        let faith = match settings.trust {
            Trust::Auto => Faith::Told,
            Trust::Always => Faith::Blind,
            Trust::Never => Faith::Never,
        };
        let start = Start {
            boot: boot_id(),
            uptime_ms,
            wall_ms,
            built_ms: BUILT_MS,
            written_ms: written.unwrap_or(0),
            faith,
        };
        Self {
            keeper: Timekeeper::new(state_dir, start),
            trust: settings.trust,
            patience_ms: u64::try_from(settings.patience.as_millis()).unwrap_or(u64::MAX),
            floor_file,
            heard: Mutex::default(),
            metrics: Metrics::default(),
        }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes in which boots have stored readings, oldest first. Blocking.
    pub fn learn(&self, seen: &[SeenBoot]) {
        self.tell(self.keeper.learn(seen));
    }

    pub fn status(&self) -> Status {
        let now = uptime();
        let left = self.patient_until().and_then(|until| until.checked_sub(now));
        let health = Health { patience_left_s: left.map(|ms| ms / 1000), ..self.keeper.health(now) };
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Status { trust: self.trust, boot: hex::encode(self.boot().0), heard, health }
    }

    /// Asks the operating system about its clock, notes anchors, and writes trusted times down. Runs until dropped.
    pub async fn supervise(self: Arc<Self>) {
        let mut asked = Asked::default();
        let mut written: Option<tokio::time::Instant> = None;
        loop {
            let word = match self.trust {
                Trust::Auto => asked.word().await,
                Trust::Always => Word::Yes { error_ms: NTP_ERROR_MS },
                Trust::Never => Word::NotYet,
            };
            let clock = Arc::clone(&self);
            // A panic in there is a defect that the next round shows again.
            let _ = tokio::task::spawn_blocking(move || clock.take(word)).await;
            let synced = self.keeper.synced();
            if synced && written.is_none_or(|at| at.elapsed() >= WRITE_EVERY) {
                self.write_floor().await;
                written = Some(tokio::time::Instant::now());
            }
            self.metrics.show(&self.keeper.health(uptime()));
            tokio::time::sleep(if synced { LOOK_EVERY } else { PROBE_EVERY }).await;
        }
    }

    /// Blocking.
    fn take(&self, word: Word) {
        let heard = match word {
            _ if self.trust != Trust::Auto => None,
            Word::Yes { .. } => Some(Heard::Synchronised),
            Word::NotYet => Some(Heard::NotSynchronised),
            Word::Nobody => Some(Heard::NobodyThere),
            Word::Unchanged => None,
        };
        if let Some(heard) = heard {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
        }
        let (uptime_ms, wall_ms) = both();
        self.keeper.set_hopeful(self.trust == Trust::Auto && word != Word::Nobody);
        let Word::Yes { error_ms } = word else {
            self.tell(self.keeper.guess(uptime_ms, wall_ms));
            return;
        };
        match self.keeper.observe(Sample { uptime_ms, wall_ms, error_ms }) {
            Ok(seen) => {
                self.metrics.observed(seen);
                match seen {
                    Observed::First => tracing::info!(error_ms, "the wall clock is synchronised"),
                    Observed::Corrected => tracing::info!(error_ms, "the wall clock was corrected"),
                    Observed::Doubted => {
                        tracing::info!(
                            "the system clock contradicts what is known; waiting for confirmation"
                        );
                    }
                    Observed::Impossible => tracing::warn!(
                        "the system clock is said to be synchronised and lies before the build of this program: set it"
                    ),
                    Observed::Agrees { .. } => {}
                }
            }
            Err(error) => self.tell(Err(error)),
        }
    }

    fn tell(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            tracing::info!(%error, "the clock's anchors could not be written down; tried again");
        }
    }

    async fn write_floor(&self) {
        let wall_ms = self.now().wall_ms;
        let path = self.floor_file.clone();
        let written = tokio::task::spawn_blocking(move || files::replace(&path, &floor_text(wall_ms))).await;
        if let Ok(Err(error)) = written {
            tracing::info!(%error, file = %self.floor_file.display(), "the time could not be written down");
        }
    }
}

fn floor_text(wall_ms: i64) -> Vec<u8> {
    files::with_sum(wall_ms.to_string().into_bytes())
}

/// The time that was written down last, if it can be believed.
fn read_floor(path: &Path) -> Option<i64> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, file = %path.display(), "the time that was written down cannot be read; let the daemon read the file");
            return None;
        }
        Ok(bytes) => bytes,
    };
    // Without its sum it is not what was written.
    let text = files::without_sum(&bytes).ok().filter(|text| text.len() < bytes.len());
    let time = text.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
    if time.is_none() {
        tracing::error!(file = %path.display(),
            "the time that was written down is damaged: until the clock is synchronised it is only known to be after the \
             build of this program; check the disk");
    }
    time
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        self.keeper.stamp(uptime())
    }

    fn boot(&self) -> BootId {
        self.keeper.boot()
    }

    fn anchors(&self) -> Arc<Anchors> {
        self.keeper.anchors()
    }

    fn patient_until(&self) -> Option<u64> {
        self.keeper.hopeful().then_some(self.patience_ms)
    }
}

/// ms since boot, suspend included.
fn uptime() -> u64 {
    millis(clock_gettime(ClockId::Boottime)).unsigned_abs()
}

/// Uptime and system clock of one moment.
pub(crate) fn both() -> (u64, i64) {
    (uptime(), millis(clock_gettime(ClockId::Realtime)))
}

fn millis(time: Timespec) -> i64 {
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// The kernel's boot id; where a sandbox hides it, a random one: it then stands for this run, and stamps of two runs
/// in one boot are merely not compared.
pub(crate) fn boot_id() -> BootId {
    let mut id = [0; 16];
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    if hex::decode_to_slice(&digits, &mut id).is_err() && getrandom::fill(&mut id).is_err() {
        id = [0; 16];
    }
    BootId(id)
}

/// What was asked so far. `adjtimex` has no safe wrapper, so those are asked who have.
#[derive(Default)]
struct Asked {
    /// Time of timesyncd's mark at the last look, ms since the epoch.
    mark_ms: Option<i64>,
    timedated: Timedated,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Timedated {
    #[default]
    NotAsked,
    SaidNo,
    SaidYes(tokio::time::Instant),
    Silent(tokio::time::Instant),
}

impl Asked {
    async fn word(&mut self) -> Word {
        match modified_ms(Path::new(TIMESYNC_MARK)).await {
            Some(mark_ms) => self.mark(mark_ms, both().1),
            None => self.ask().await,
        }
    }

    /// timesyncd's word: as good as NTP when it was given, and a crystal's drift since.
    fn mark(&mut self, mark_ms: i64, now_ms: i64) -> Word {
        if self.mark_ms.replace(mark_ms) == Some(mark_ms) {
            return Word::Unchanged;
        }
        match u64::try_from(now_ms.saturating_sub(mark_ms)) {
            Ok(age) => Word::Yes { error_ms: NTP_ERROR_MS + drift(age) },
            // The mark lies in the future: the clock was set back by somebody else since.
            Err(_) => Word::Unchanged,
        }
    }

    async fn ask(&mut self) -> Word {
        let before = self.timedated;
        match before {
            Timedated::SaidYes(at) if at.elapsed() < ASK_EVERY => return Word::Unchanged,
            Timedated::Silent(at) if at.elapsed() < ASK_EVERY => return Word::Nobody,
            _ => {}
        }
        let now = tokio::time::Instant::now();
        match timedated_says().await {
            Some(true) => {
                self.timedated = Timedated::SaidYes(now);
                // A no a moment ago means that it was set just now; else it may be as old as the flag lasts.
                let age =
                    if before == Timedated::SaidNo { PROBE_EVERY.as_millis() as u64 } else { FLAG_LASTS_MS };
                Word::Yes { error_ms: NTP_ERROR_MS + drift(age) }
            }
            Some(false) => {
                self.timedated = Timedated::SaidNo;
                Word::NotYet
            }
            None => {
                self.timedated = Timedated::Silent(now);
                Word::Nobody
            }
        }
    }
}

/// What the operating system says of its clock at this moment. Blocking, for at most [`PROBE_TIMEOUT`].
pub fn heard_now() -> Heard {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Heard::Nothing };
    match runtime.block_on(Asked::default().word()) {
        Word::Yes { .. } => Heard::Synchronised,
        Word::NotYet => Heard::NotSynchronised,
        Word::Nobody => Heard::NobodyThere,
        Word::Unchanged => Heard::Nothing,
    }
}

/// Whether the system's clock lies before the build of this program, so that it cannot be right.
pub fn is_before_build() -> bool {
    both().1 < BUILT_MS
}

async fn modified_ms(path: &Path) -> Option<i64> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = tokio::fs::metadata(path).await.ok()?;
    Some(meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000)
}

/// `None`: it cannot be asked.
async fn timedated_says() -> Option<bool> {
    let mut command = tokio::process::Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true);
    command.stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(PROBE_TIMEOUT, command.output()).await.ok()?.ok()?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[path = "system_tests.rs"]
mod tests;
