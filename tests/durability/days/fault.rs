//! What can strike a gateway in the field. A fault is one variant here: its weight, its name, and what it does.

use std::fs;
use std::time::{Duration, Instant};

use super::day::{Day, Hit};

/// How long the gateway may take to acknowledge again once a fault is over.
const RESUME: Duration = Duration::from_secs(10);

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
    /// Somebody else fills the disk, and makes room again.
    DiskFull,
}

impl Fault {
    /// Every fault and its weight.
    pub const ALL: [(Self, u64); 7] = [
        (Self::Outage, 4),
        (Self::Kill, 4),
        (Self::KillInStart, 2),
        (Self::PowerCut, 3),
        (Self::Restart, 2),
        (Self::Reboot, 2),
        (Self::DiskFull, 2),
    ];

    pub fn draw(day: &mut Day) -> Self {
        let all: u64 = Self::ALL.iter().map(|(_, weight)| weight).sum();
        let mut at = day.rng.between(0, all);
        for (fault, weight) in Self::ALL {
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
            Self::DiskFull => "full disks",
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
            Self::DiskFull => disk_full(day),
        }
    }
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
