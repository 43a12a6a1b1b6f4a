//! Size, and what a running gateway takes.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Options;
use crate::gym::Gym;
use crate::support::blast::Blast;
use crate::support::daemon::{Daemon, Setup, binary, http_get};
use crate::support::finding::{Bound, Finding, mb};
use crate::support::{process, wall_ms};

pub const STRAPS: usize = 40;
/// Until everybody is connected and the first commits are made.
const WARM_UP: Duration = Duration::from_secs(15);
/// Longer than a batch's age: its compression and delivery are in it.
const LENGTH: Duration = Duration::from_secs(70);
/// As often as Prometheus asks by default.
const SCRAPED_EVERY: Duration = Duration::from_secs(15);

/// A directory on a real disk, removed when dropped.
pub fn scratch(name: &str) -> tempfile::TempDir {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(root).expect("make the scratch directory");
    tempfile::Builder::new()
        .prefix(&format!("footprint-{name}-"))
        .tempdir_in(root)
        .expect("make a scratch directory")
}

/// A gateway with default settings.
pub fn setup(root: &Path) -> Setup {
    let mut setup = Setup::new(root);
    setup.commit_interval = "1s".into();
    setup.max_age = "60s".into();
    setup.clock = String::new();
    setup
}

pub fn size(options: &Options) -> Finding {
    let mega = |path: &Path| std::fs::metadata(path).expect("look at the file").len() as f64 / 1e6;
    let finding = Finding::new("Size").bound("binary, MB", mega(&binary()), Bound::AtMost(12.0));
    match &options.package {
        Some(package) => finding.bound("Debian package, MB", mega(package), Bound::AtMost(4.0)),
        None => finding,
    }
}

/// A daemon nobody talks to.
pub fn idle(options: &Options) -> Finding {
    let (mut resident, mut peak, mut cpu, mut threads) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 0..options.rounds {
        let root = scratch("idle");
        let daemon = setup(root.path()).start();
        sleep(Duration::from_secs(10));
        cpu.push(share(&daemon, || sleep(Duration::from_secs(20))));
        let memory = process::memory(daemon.pid());
        resident.push(mb(memory.rss_kib));
        peak.push(mb(memory.peak_kib));
        threads = process::threads(daemon.pid());
        eprintln!("idle round {round}: {:.2} MB, {:.2} % of a core", resident[round], cpu[round]);
    }
    Finding::new("Idle")
        .runs("RSS, MB", resident, Some(Bound::AtMost(12.0)))
        .runs("peak RSS, MB", peak, None)
        .runs("CPU, % of one core", cpu, None)
        .row("threads", threads as f64)
}

/// Forty devices that publish once a second, each over a connection of its own.
pub fn mqtt(options: &Options) -> Finding {
    let mut loaded = Loaded::default();
    for round in 0..options.rounds {
        let root = scratch("mqtt");
        let setup = setup(root.path());
        let daemon = setup.start();
        let mut blast = Blast::connect(setup.mqtt, "strap", STRAPS, 20, wall_ms() - 1000).expect("connect");
        loaded.look(&daemon, &setup, |length| {
            blast.run_paced(STRAPS as f64, length, |_, _, _, _| {}).expect("publish");
        });
        loaded.tell("mqtt", round);
    }
    loaded.finding("40 devices at 1 Hz over MQTT, QoS 1; journal, gzip, pages asked every 15 s")
}

/// Forty straps on the air, as BlueZ tells of them: to the gateway nothing is different from the real one.
pub fn bluetooth(options: &Options) -> Finding {
    let mut loaded = Loaded::default();
    for round in 0..options.rounds {
        let root = scratch("bluetooth");
        let gym = match Gym::open(root.path(), STRAPS) {
            Ok(gym) => gym,
            Err(why) => return Finding::new(&format!("40 straps over Bluetooth: SKIPPED, {why}")),
        };
        let mut setup = setup(root.path());
        setup.extra = gym.settings();
        let mut command = setup.command(&[]);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", gym.address());
        let mut daemon = Daemon::spawn(command, &setup);
        daemon.wait_ready();
        let begun = Instant::now();
        while daemon.metric("fogbeat_ble_connections") != Some(STRAPS as f64) {
            assert!(begun.elapsed() < Duration::from_secs(120), "not all connect\n{}", setup.log_tail());
            sleep(Duration::from_millis(500));
        }
        loaded.look(&daemon, &setup, sleep);
        loaded.tell("bluetooth", round);
    }
    loaded
        .finding("40 straps at 1 Hz, connected over a simulated BlueZ; journal, gzip, pages asked every 15 s")
}

/// What a gateway took under load, run by run.
#[derive(Default)]
struct Loaded {
    resident: Vec<f64>,
    peak: Vec<f64>,
    cpu: Vec<f64>,
    per_second: Vec<f64>,
}

impl Loaded {
    /// Watches `daemon` while `load` is on.
    fn look(&mut self, daemon: &Daemon, setup: &Setup, mut load: impl FnMut(Duration)) {
        load(WARM_UP);
        let stored = || daemon.metric("fogbeat_journal_readings_total").expect("a metric");
        let before = stored();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let pages = setup.http;
        let scraper = std::thread::spawn(move || {
            while stopped.recv_timeout(SCRAPED_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                http_get(pages, "/metrics").expect("the pages answer");
            }
        });
        self.cpu.push(share(daemon, || load(LENGTH)));
        drop(stop);
        scraper.join().expect("the pages answered");
        let per_second = (stored() - before) / LENGTH.as_secs_f64();
        assert!(per_second > STRAPS as f64 * 0.95, "only {per_second} readings/s were stored");
        assert!(daemon.metric("fogbeat_uplink_batches_total") > Some(0.0), "no batch was delivered");
        self.per_second.push(per_second);
        let memory = process::memory(daemon.pid());
        self.resident.push(mb(memory.rss_kib));
        self.peak.push(mb(memory.peak_kib));
    }

    fn tell(&self, name: &str, round: usize) {
        eprintln!(
            "{name} round {round}: {:.2} MB, {:.2} % of a core, {:.1} readings/s",
            self.resident[round], self.cpu[round], self.per_second[round]
        );
    }

    fn finding(self, title: &str) -> Finding {
        Finding::new(title)
            .runs("RSS, MB", self.resident, Some(Bound::AtMost(24.0)))
            .runs("peak RSS, MB", self.peak, None)
            .runs("CPU, % of one core", self.cpu, Some(Bound::AtMost(2.0)))
            .runs("readings stored, per second", self.per_second, None)
    }
}

/// Percent of one core that the daemon takes meanwhile.
fn share(daemon: &Daemon, meanwhile: impl FnOnce()) -> f64 {
    let (before, begun) = (process::cpu(daemon.pid()), Instant::now());
    meanwhile();
    (process::cpu(daemon.pid()) - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0
}
