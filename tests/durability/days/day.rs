//! One day: a gateway with its state on a disk of its own and two uplinks, clients that publish, and what happens to
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::band::Bands;
use super::fault::Fault;
use super::judge::{self, Evidence, Verdict};
use crate::kill::STOP;
use crate::support::daemon::{Daemon, Setup, binary};
use crate::support::env_number;
use crate::support::fleet::Fleet;
use crate::support::lake::Lake;
use crate::support::loopdev::LoopDisk;
use crate::support::rng::Rng;
use crate::support::world::World;

/// Straps with a clock of their own, and what they publish together.
const STRAPS: usize = 20;
const PER_SECOND: f64 = 1_500.0;
/// Beat-to-beat intervals in a reading on days with a small quota, which is to be reached.
const MANY_INTERVALS: usize = 120;
/// Bands without one, and what each of them publishes.
const BANDS: usize = 4;
const BAND_PER_SECOND: f64 = 20.0;
const DISK_MIB: u64 = 192;
/// Names of the uplinks; each has a lake of its own.
const UPLINKS: [&str; 2] = ["directory", "second"];
/// Longest without a delivery while there is something to deliver.
const DRAIN: Duration = Duration::from_secs(60);
/// How long readings may take to fill the quota.
const FILLING: Duration = Duration::from_secs(60);

/// What has struck so far: it decides which causes may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// Bytes of the journal were changed or cut off.
    Damage,
    /// A small file was: an uplink's place and tally may have begun anew.
    SmallFile,
    /// The manifest and its copy were: new readings may have got another spool's name.
    Manifest,
    DiskFull,
    /// The quota is small.
    Quota,
    /// The quota drops whole generations.
    Evicts,
    /// The quota replaces generations by summaries.
    Thins,
    /// The wall clock was wrong at times.
    Clock,
}

pub struct Day {
    pub rng: Rng,
    pub setup: Setup,
    pub disk: LoopDisk,
    pub world: World,
    pub hit: BTreeSet<Hit>,
    pub when_full: WhenFull,
    /// The second uplink is.
    required: bool,
    /// How often each fault struck.
    pub struck: BTreeMap<&'static str, u32>,
    daemon: Option<Daemon>,
    straps: Option<Fleet>,
    bands: Option<Bands>,
    /// Faults until each uplink works again.
    blocked: [u32; 2],
    /// Faults until the clock is set right.
    wrong_clock: u32,
    /// How often readings were found to be refused because the quota is reached.
    pub refused: u32,
    root: PathBuf,
}

impl Day {
    /// `None`, with the reason printed, where there are no loop devices and that is accepted.
    pub fn begin(root: &Path, mut rng: Rng) -> Option<Self> {
        let disk = LoopDisk::for_test(root, DISK_MIB, "days of faults")?;
        let mut setup = Setup::new(root);
        setup.state_dir = disk.mount.join("state");
        setup.max_age = "300ms".into();
        setup.clock = String::new();
        let when_full = WhenFull::draw(&mut rng);
        setup.journal = when_full.settings();
        // One that is not required loses first.
        let required = !rng.one_in(2);
        setup.extra = format!(
            "[[uplink]]\nkind = \"directory\"\nname = \"{}\"\npath = \"{}\"\nrequired = {required}\n",
            UPLINKS[1],
            root.join("lake-1").display()
        );
        for uplink in 0..UPLINKS.len() {
            fs::create_dir_all(root.join(format!("taken-{uplink}"))).expect("make a lake");
            aim(root, uplink, &format!("taken-{uplink}"));
        }
        fs::write(root.join("in-the-way"), b"not a directory\n").expect("write");
        setup.lake = root.join("lake-0");
        let world = World::new(&root.join("world"), &mut rng);
        let intervals = if when_full == WhenFull::Never { 1 } else { MANY_INTERVALS };
        let straps = Fleet::start_with(setup.mqtt, STRAPS, PER_SECOND, intervals, Rng::new(rng.next()));
        let bands = Bands::start(setup.mqtt, BANDS, BAND_PER_SECOND, Rng::new(rng.next()));
        let mut day = Self {
            rng,
            setup,
            disk,
            world,
            hit: when_full.hits().iter().copied().collect(),
            when_full,
            required,
            struck: BTreeMap::new(),
            daemon: None,
            straps: Some(straps),
            bands: Some(bands),
            blocked: [0; 2],
            wrong_clock: 0,
            refused: 0,
            root: root.to_owned(),
        };
        if when_full != WhenFull::Never {
            // The quota is reached in a long outage.
            day.block(0, 9);
            day.block(1, 7);
            day.start();
            // Each start opens a generation, and each generation takes its megabyte.
            for _ in 0..day.rng.between(8, 13) {
                day.load(100, 300);
                day.kill();
                day.start();
            }
            if when_full == WhenFull::RefuseNew {
                day.fill_up();
            }
        } else {
            day.start();
        }
        Some(day)
    }

    /// `FOGBEAT_DAY_FAULTS` faults (14).
    pub fn live(&mut self) {
        for _ in 0..env_number("FOGBEAT_DAY_FAULTS", 14) {
            let fault = Fault::draw(self);
            *self.struck.entry(fault.name()).or_default() += 1;
            self.note(fault.name());
            fault.strike(self);
            self.account();
            if self.wrong_clock > 0 {
                self.wrong_clock -= 1;
                if self.wrong_clock == 0 {
                    self.right_clock();
                }
            }
            for uplink in 0..UPLINKS.len() {
                if self.blocked[uplink] > 0 {
                    self.blocked[uplink] -= 1;
                    if self.blocked[uplink] == 0 {
                        aim(&self.root, uplink, &format!("taken-{uplink}"));
                    }
                }
            }
        }
    }

    /// Until the quota is reached and new readings are refused.
    fn fill_up(&mut self) {
        let since = Instant::now();
        while self.refused == 0 {
            assert!(since.elapsed() < FILLING, "the quota is not reached\n{}", self.setup.log_tail());
            self.load(100, 300);
            self.account();
        }
        self.note("new readings are refused");
    }

    /// Writes into the gateway's log what was done to it, for whoever has to find out why a day failed.
    pub fn note(&self, what: &str) {
        use std::io::Write as _;
        let log = fs::OpenOptions::new().append(true).open(&self.setup.log);
        let _ = log.and_then(|mut log| writeln!(log, "-- {what}"));
    }

    /// Readings come in for a while.
    pub fn load(&mut self, least_ms: u64, most_ms: u64) {
        self.pause(least_ms * 1000, most_ms * 1000);
        if let Some(status) = self.daemon.as_mut().and_then(Daemon::ended) {
            panic!("fogbeat ended by itself with {status}\n{}", self.setup.log_tail());
        }
    }

    pub fn pause(&mut self, least_us: u64, most_us: u64) {
        std::thread::sleep(Duration::from_micros(self.rng.between(least_us, most_us)));
    }

    /// Makes an uplink refuse for the length of some faults.
    pub fn block(&mut self, uplink: usize, faults: u32) {
        self.blocked[uplink] = self.blocked[uplink].max(faults);
        aim(&self.root, uplink, "in-the-way");
    }

    /// Sets the wall clock off by so many ms for the length of some faults; meanwhile it does not count as synchronised.
    pub fn set_clock(&mut self, off_ms: i64) {
        self.hit.insert(Hit::Clock);
        self.note(&format!("the wall clock is off by {off_ms} ms"));
        self.world.synchronise(false);
        self.world.step(off_ms);
        self.wrong_clock = self.rng.between(1, 4) as u32;
    }

    fn right_clock(&self) {
        self.note("the wall clock is right");
        self.world.step(0);
        self.world.synchronise(true);
    }

    pub fn spawn(&mut self) {
        // Groups that are committed at once, and groups that stay open for a while.
        self.setup.commit_interval = ["0ms", "0ms", "100ms", "500ms"][self.rng.between(0, 4) as usize].into();
        let under = self.world.under();
        let mut command = self.setup.command(&under.iter().map(String::as_str).collect::<Vec<_>>());
        self.world.around(&mut command);
        self.daemon = Some(Daemon::spawn(command, &self.setup));
    }

    pub fn start(&mut self) {
        self.spawn();
        if let Some(daemon) = &mut self.daemon {
            daemon.wait_ready();
        }
    }

    pub fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// The disk loses power; what is not on it by then is gone. The process ends a moment later.
    pub fn power_cut(&mut self) {
        self.disk.cut().expect("cut the power");
        self.pause(0, 150_000);
        self.kill();
        // Other tests' namespaces may have seen the mount: until they are gone the disk stays as it was cut.
        self.disk.repair().expect("bring the disk back");
    }

    pub fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            let status = daemon.terminate(STOP);
            assert!(status.success(), "a clean stop ended with {status}\n{}", self.setup.log_tail());
        }
    }

    /// Asks the running gateway, by the command people use.
    pub fn status(&self) -> Value {
        let answer = self.ask(&["status", "--json"]);
        assert!(answer.1, "fogbeat status failed: {}\n{}", answer.2, self.setup.log_tail());
        answer.0
    }

    fn ask(&self, words: &[&str]) -> (Value, bool, String) {
        let out = Command::new(binary())
            .args(words)
            .arg("--config")
            .arg(&self.setup.config)
            .output()
            .expect("run fogbeat");
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        (serde_json::from_slice(&out.stdout).unwrap_or_default(), out.status.success(), told)
    }

    /// Readings made durable in this run.
    pub fn durable(&self) -> u64 {
        self.status()["accounts"]["run"]["total"]["durable"].as_u64().expect("a count")
    }

    /// At any moment the gateway's own sums hold, readings on their way included.
    fn account(&mut self) {
        let status = self.status();
        let admission = status["journal"]["quota"]["admission"].as_str().expect("a word");
        self.refused += u32::from(admission == "refused: the journal's quota is reached");
        let accounts = &status["accounts"];
        assert_eq!(accounts["adds_up"], true, "the gateway's accounts do not add up: {accounts:#}");
    }

    /// The last act: everything works again, everything is acknowledged and delivered, and all parties are asked.
    pub fn end(mut self) -> Verdict {
        for uplink in 0..UPLINKS.len() {
            aim(&self.root, uplink, &format!("taken-{uplink}"));
        }
        self.right_clock();
        // Waits of the last outage and an open generation end with a restart.
        self.stop();
        self.start();
        std::thread::sleep(Duration::from_millis(500));
        let straps = self.straps.take().expect("the straps").settle();
        let bands = self.bands.take().expect("the bands").settle();
        self.drain();
        self.account();
        self.stop();
        // A short life ends the generation that was the head.
        self.start();
        self.drain();
        self.stop();
        let (proof, sound, told) = self.ask(&["journal", "verify", "--json"]);
        let mut verdict = Verdict::default();
        for (uplink, name) in UPLINKS.iter().enumerate() {
            let lake = Lake::read(&self.root.join(format!("taken-{uplink}")));
            let account =
                proof["uplinks"].as_array().and_then(|all| all.iter().find(|p| p["uplink"] == *name));
            let optional = uplink > 0 && !self.required;
            let evidence = Evidence { optional, straps: &straps, bands: &bands, hit: &self.hit };
            let judged = judge::judge(&evidence, &lake, account.unwrap_or(&Value::Null));
            verdict.add(name, judged);
        }
        if !sound && !self.hit.contains(&Hit::Damage) {
            verdict.faults.push(format!("journal verify failed: {told}"));
        }
        verdict
    }

    /// Waits until every uplink has confirmed everything.
    fn drain(&self) {
        let mut since = Instant::now();
        let mut before = u64::MAX;
        loop {
            let status = self.status();
            let uplinks = status["accounts"]["uplinks"].as_array().expect("the uplinks");
            let queued: u64 = uplinks.iter().map(|u| u["queued"].as_u64().expect("a number")).sum();
            if uplinks.len() == UPLINKS.len() && queued == 0 {
                return;
            }
            if queued != before {
                (since, before) = (Instant::now(), queued);
            }
            assert!(
                since.elapsed() < DRAIN,
                "nothing delivered for {DRAIN:?}: {:#}\n{}",
                status["accounts"]["uplinks"],
                self.setup.log_tail()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Points an uplink's lake somewhere else, in one step.
fn aim(root: &Path, uplink: usize, target: &str) {
    let fresh = root.join(format!("lake-{uplink}.new"));
    // A leftover of an earlier attempt.
    let _ = fs::remove_file(&fresh);
    symlink(root.join(target), &fresh).expect("make a link");
    fs::rename(&fresh, root.join(format!("lake-{uplink}"))).expect("turn the link");
}

/// What gives way on this day when the quota is reached, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The default quota, which a day does not reach.
    Never,
    DropOldest,
    Thin,
    RefuseNew,
}

impl WhenFull {
    fn draw(rng: &mut Rng) -> Self {
        match rng.between(0, 5) {
            0 | 1 => Self::Never,
            2 => Self::DropOldest,
            3 => Self::Thin,
            _ => Self::RefuseNew,
        }
    }

    /// Lines of `[journal]`.
    fn settings(self) -> String {
        let policy = match self {
            Self::Never => return "generation_size = \"1MiB\"".to_owned(),
            Self::DropOldest => "drop-oldest",
            Self::Thin => "thin",
            Self::RefuseNew => "refuse-new",
        };
        format!("generation_size = \"1MiB\"\nquota = \"16MiB\"\nwhen_full = \"{policy}\"")
    }

    /// Causes that may be told for it.
    fn hits(self) -> &'static [Hit] {
        match self {
            Self::Never => &[],
            Self::RefuseNew => &[Hit::Quota],
            Self::DropOldest => &[Hit::Quota, Hit::Evicts],
            // When everything is thinned, the oldest summaries go.
            Self::Thin => &[Hit::Quota, Hit::Evicts, Hit::Thins],
        }
    }
}
