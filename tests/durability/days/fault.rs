//! What can strike a gateway in the field. A fault is one variant here: its weight, its name, and what it does.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::damage;
use super::day::{Day, Hit, WhenFull};
use crate::support::rng::Rng;

/// How long the gateway may take to acknowledge again once a fault is over.
const RESUME: Duration = Duration::from_secs(10);
/// How long it may take to start, whatever it finds.
const START: Duration = Duration::from_secs(10);

const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One of the uplinks refuses, for the length of some further faults.
    Outage,
    /// SIGKILL while readings come in.
    Kill,
    /// SIGKILL again and again while it starts.
    KillInStart,
    /// The state directory's disk loses power.
    PowerCut,
    /// A clean stop and a start, as for an update.
    Restart,
    /// The machine starts anew: another boot, another uptime.
    Reboot,
    /// A start with a wrong clock (1970, the next century, an hour or some seconds off) that is set right later.
    WrongClock,
    /// The wall clock is stepped while the gateway works, and set right later.
    ClockStep,
    /// Somebody else fills the disk, and makes room again.
    DiskFull,
    /// A generation that was finished is damaged while the gateway is down.
    SealedDamage,
    /// The one that was being written.
    HeadDamage,
    /// A cursor, the manifest, its copy, both, or the mark.
    SmallFileDamage,
}

impl Fault {
    /// Every fault and its weight.
    pub const ALL: [(Self, u64); 12] = [
        (Self::Outage, 4),
        (Self::Kill, 4),
        (Self::KillInStart, 2),
        (Self::PowerCut, 3),
        (Self::Restart, 2),
        (Self::Reboot, 2),
        (Self::WrongClock, 2),
        (Self::ClockStep, 2),
        (Self::DiskFull, 2),
        (Self::SealedDamage, 2),
        (Self::HeadDamage, 2),
        (Self::SmallFileDamage, 2),
    ];

    pub fn draw(day: &mut Day) -> Self {
        // FOGBEAT_DAY_ONLY="kills,full disks" narrows a search down.
        let only = std::env::var("FOGBEAT_DAY_ONLY").unwrap_or_default();
        let wanted = |fault: Self| only.is_empty() || only.split(',').any(|name| name == fault.name());
        let faults = || Self::ALL.into_iter().filter(|(fault, _)| wanted(*fault));
        let all: u64 = faults().map(|(_, weight)| weight).sum();
        let mut at = day.rng.between(0, all);
        for (fault, weight) in faults() {
            if at < weight {
                return fault;
            }
            at -= weight;
        }
        Self::Kill
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Outage => "outages",
            Self::Kill => "kills",
            Self::KillInStart => "kills in start",
            Self::PowerCut => "power cuts",
            Self::Restart => "restarts",
            Self::Reboot => "reboots",
            Self::WrongClock => "wrong clocks",
            Self::ClockStep => "clock steps",
            Self::DiskFull => "full disks",
            Self::SealedDamage => "damaged generations",
            Self::HeadDamage => "damaged heads",
            Self::SmallFileDamage => "damaged small files",
        }
    }

    /// Strikes. The gateway is ready before, and again afterwards.
    pub fn strike(self, day: &mut Day) {
        match self {
            Self::Outage => {
                let uplink = day.rng.between(0, 2) as usize;
                let faults = day.rng.between(1, 4) as u32;
                day.block(uplink, faults);
                day.load(300, 1_500);
            }
            Self::Kill => {
                day.load(20, 900);
                day.kill();
                day.start();
            }
            Self::KillInStart => {
                day.kill();
                for _ in 0..day.rng.between(1, 4) {
                    day.spawn();
                    day.pause(0, 300_000);
                    day.kill();
                }
                day.start();
            }
            Self::PowerCut => {
                day.load(100, 1_200);
                day.power_cut();
                day.start();
            }
            Self::Restart => {
                day.load(100, 600);
                day.stop();
                day.start();
            }
            Self::Reboot => {
                day.load(100, 600);
                if day.rng.one_in(2) {
                    day.stop()
                } else {
                    day.power_cut()
                }
                let Day { world, rng, .. } = day;
                world.reboot(rng);
                day.start();
            }
            Self::WrongClock => {
                let wrong =
                    [-56 * YEAR_MS, 56 * YEAR_MS, -HOUR_MS, HOUR_MS, -3_000][day.rng.between(0, 5) as usize];
                day.load(100, 600);
                if day.rng.one_in(2) {
                    day.stop()
                } else {
                    day.power_cut()
                }
                day.set_clock(wrong);
                let Day { world, rng, .. } = day;
                world.reboot(rng);
                day.start();
            }
            Self::ClockStep => {
                let step = [-HOUR_MS, HOUR_MS, -3_000, 3_000, -56 * YEAR_MS][day.rng.between(0, 5) as usize];
                day.load(100, 600);
                day.set_clock(step);
                day.load(100, 600);
            }
            Self::DiskFull => disk_full(day),
            Self::SealedDamage => damaged(day, damage::sealed),
            Self::HeadDamage => damaged(day, damage::head),
            Self::SmallFileDamage => {
                day.hit.insert(Hit::SmallFile);
                // What a small quota dropped is told by the manifest alone: with both copies gone at once it is gone.
                if day.when_full == WhenFull::Never && day.rng.one_in(4) {
                    day.hit.insert(Hit::Manifest);
                    damaged(day, damage::manifests);
                } else {
                    damaged(day, damage::small_file);
                }
            }
        }
    }
}

/// The process ends, a file is damaged, and the gateway starts within its time. Not after a power cut: the mark of the
/// head's last number may then be older than its last group, and what is cut off behind it could not be told.
fn damaged(day: &mut Day, strike: fn(&Path, &mut Rng) -> Option<String>) {
    day.load(100, 900);
    if day.rng.one_in(2) {
        day.kill()
    } else {
        day.stop()
    }
    let (state, rng) = (&day.setup.state_dir, &mut day.rng);
    if let Some(what) = strike(state, rng) {
        day.note(&what);
        day.hit.insert(Hit::Damage);
    }
    let since = Instant::now();
    day.start();
    let took = since.elapsed();
    assert!(took < START, "the gateway started only after {took:?}\n{}", day.setup.log_tail());
}

/// Fills the disk to the last block while readings come in; nothing may be acknowledged that is not durable, and
/// everything resumes by itself.
fn disk_full(day: &mut Day) {
    day.load(100, 500);
    let filler = day.disk.mount.join("somebody-elses");
    day.hit.insert(Hit::DiskFull);
    fill(&filler);
    day.load(500, 2_000);
    fs::remove_file(&filler).expect("make room again");
    // For good: a power cut does not bring it back.
    fs::File::open(&day.disk.mount).and_then(|dir| dir.sync_all()).expect("sync the directory");
    if day.when_full == WhenFull::RefuseNew {
        // It may have reached its quota besides.
        return;
    }
    let before = day.durable();
    let since = Instant::now();
    while day.durable() == before {
        assert!(
            since.elapsed() < RESUME,
            "nothing became durable within {RESUME:?} of the disk's return\n{}",
            day.setup.log_tail()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).expect("create the filler");
    for size in [1 << 20, 4096, 512] {
        let block = vec![0x5a; size];
        while file.write_all(&block).is_ok() {}
    }
    // What cannot be synced is not there either.
    let _ = file.sync_all();
}
