//! A machine with a clock of its own, and what it lives through; around it the real journal, forwarder and lake.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fogbeat::clock::keeper::{Faith, Observed, Sample, Start, Timekeeper};
use fogbeat::clock::{Anchors, BootId, Clock, Stamp};
use fogbeat::config::{self, Encoding};
use fogbeat::forward::{self, Handle, Metrics, Origin};
use fogbeat::journal::{Journal, RealDisk};
use fogbeat::reading::validity::DeviceTimeWindow;
use fogbeat::reading::{Contact, DeviceId, Reading, RrIntervals, Source};
use tokio::time::Instant;

pub const SECOND: u64 = 1_000;
pub const PATIENCE_MS: u64 = 600_000;
/// A system clock that was never set.
pub const IN_1970: i64 = i64::MIN;

/// 2026-11-23 00:00:00 UTC
const START_MS: i64 = 1_795_392_000_000;
/// 2026-01-01 00:00:00 UTC
const BUILT_MS: i64 = 1_767_225_600_000;

/// The true time, and what survives a boot: the state directory.
pub struct World {
    state: tempfile::TempDir,
    truth_ms: Arc<AtomicI64>,
    truths: Truths,
    boots: u8,
}

/// When each reading was truly taken, by its number.
type Truths = Arc<Mutex<HashMap<u16, i64>>>;

impl World {
    pub fn new() -> Self {
        Self {
            state: tempfile::tempdir().unwrap(),
            truth_ms: Arc::new(AtomicI64::new(START_MS)),
            truths: Truths::default(),
            boots: 0,
        }
    }

    pub fn lake(&self) -> PathBuf {
        self.state.path().join("lake")
    }

    pub fn truths(&self) -> HashMap<u16, i64> {
        self.truths.lock().unwrap().clone()
    }

    pub fn switched_off(&self, ms: u64) {
        self.truth_ms.fetch_add(ms as i64, Ordering::SeqCst);
    }

    /// The machine starts: its system clock is `wrong_ms` off, its crystal `ppm`.
    pub async fn boot(&mut self, wrong_ms: i64, ppm: i64) -> Life {
        self.boots += 1;
        let machine = Power {
            boot: BootId([self.boots; 16]),
            ppm,
            truth_ms: Arc::clone(&self.truth_ms),
            uptime_us: AtomicU64::new(0),
            system_ms: AtomicI64::new(0),
        };
        // What is between the true time and zero of 1970, as an offset.
        let wrong = if wrong_ms == IN_1970 { -self.truth_ms.load(Ordering::SeqCst) } else { wrong_ms };
        machine.system_ms.store(wrong, Ordering::SeqCst);
        machine.pass(20 * SECOND);
        let resting = Resting {
            power: Arc::new(machine),
            state: self.state.path().to_owned(),
            truths: Arc::clone(&self.truths),
        };
        resting.start().await
    }

    pub fn cursor(&self) -> Option<Vec<u8>> {
        std::fs::read(self.cursor_file()).ok()
    }

    pub fn put_cursor(&self, bytes: &[u8]) {
        std::fs::write(self.cursor_file(), bytes).unwrap();
    }

    fn cursor_file(&self) -> PathBuf {
        self.state.path().join("spool/cursors/lake.json")
    }
}

/// The machine's hardware during one boot.
pub struct Power {
    boot: BootId,
    ppm: i64,
    truth_ms: Arc<AtomicI64>,
    uptime_us: AtomicU64,
    /// System clock minus true time.
    system_ms: AtomicI64,
}

impl Power {
    /// True time passes; the crystal counts it as well as it can.
    fn pass(&self, ms: u64) {
        self.truth_ms.fetch_add(ms as i64, Ordering::SeqCst);
        let counted = (ms as i64 * (1_000_000 + self.ppm)) / 1_000;
        self.uptime_us.fetch_add(u64::try_from(counted).unwrap(), Ordering::SeqCst);
    }

    fn uptime_ms(&self) -> u64 {
        self.uptime_us.load(Ordering::SeqCst) / 1_000
    }

    fn truth(&self) -> i64 {
        self.truth_ms.load(Ordering::SeqCst)
    }

    fn system(&self) -> i64 {
        self.truth() + self.system_ms.load(Ordering::SeqCst)
    }
}

/// The machine as the daemon sees it.
pub struct Machine {
    power: Arc<Power>,
    keeper: Timekeeper,
}

impl Clock for Machine {
    fn now(&self) -> Stamp {
        self.keeper.stamp(self.power.uptime_ms())
    }
    fn boot(&self) -> BootId {
        self.power.boot
    }
    fn anchors(&self) -> Arc<Anchors> {
        self.keeper.anchors()
    }
    fn patient_until(&self) -> Option<u64> {
        self.keeper.hopeful().then_some(PATIENCE_MS)
    }
}

impl Machine {
    pub fn pass(&self, ms: u64) {
        self.power.pass(ms);
    }

    /// The system clock is set to the true time, give or take `wrong_ms`.
    pub fn set_system(&self, wrong_ms: i64) {
        self.power.system_ms.store(wrong_ms, Ordering::SeqCst);
    }

    pub fn step_system(&self, by_ms: i64) {
        self.power.system_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// The time of day repeats a second, the system clock with it.
    pub fn leap(&self) {
        self.power.truth_ms.fetch_sub(1_000, Ordering::SeqCst);
    }

    /// The daemon looks at a clock that nobody vouches for.
    pub fn look(&self) {
        self.keeper.guess(self.power.uptime_ms(), self.power.system()).unwrap();
    }

    /// The operating system vouches for its clock.
    pub fn vouch(&self, error_ms: u64) -> Observed {
        let sample = Sample { uptime_ms: self.power.uptime_ms(), wall_ms: self.power.system(), error_ms };
        self.keeper.observe(sample).unwrap()
    }
}

/// A machine that runs, without its daemon.
pub struct Resting {
    power: Arc<Power>,
    state: PathBuf,
    truths: Truths,
}

/// The daemon at work.
pub struct Life {
    pub machine: Arc<Machine>,
    journal: Journal,
    driver: tokio::task::JoinHandle<()>,
    uplink: Option<Handle>,
    device: DeviceId,
    state: PathBuf,
    truths: Truths,
}

impl Resting {
    pub async fn start(self) -> Life {
        let keeper = Timekeeper::new(
            &self.state,
            Start {
                boot: self.power.boot,
                uptime_ms: self.power.uptime_ms(),
                wall_ms: self.power.system(),
                built_ms: BUILT_MS,
                written_ms: 0,
                faith: Faith::Told,
            },
        );
        let machine = Arc::new(Machine { power: self.power, keeper });
        let settings = config::Journal { commit_interval: Duration::ZERO, ..config::Journal::default() };
        let (journal, driver, _) =
            Journal::open(&settings, &self.state, machine.clone(), Arc::new(RealDisk)).unwrap();
        machine.keeper.learn(&journal.boots(|_| false)).unwrap();
        let device = journal.devices().intern("strap").unwrap();
        let driver = tokio::spawn(driver.run());
        Life { machine, journal, driver, uplink: None, device, state: self.state, truths: self.truths }
    }
}

impl Life {
    /// Starts the directory uplink.
    pub fn uplink(&mut self) {
        self.uplink = Some(self.spawn(&self.state.join("lake")));
    }

    fn spawn(&self, path: &Path) -> Handle {
        let keep = Duration::from_secs(30 * 86_400);
        let directory = config::Directory { path: Some(path.to_owned()), max_bytes: None, keep };
        let uplink = config::Uplink {
            name: Some("lake".to_owned()),
            encoding: Encoding::Gzip,
            from: config::From::Oldest,
            required: true,
            pseudonyms: None,
            kind: config::UplinkKind::Directory(directory),
        };
        let batch =
            config::Batch { max_age: Duration::from_millis(20), max_bytes: bytesize::ByteSize::kib(256) };
        let origin = Origin {
            pseudonyms: None,
            gateway: "gym-12".into(),
            site: None,
            state_dir: self.state.clone(),
            window: DeviceTimeWindow::default(),
        };
        forward::spawn(&uplink, &batch, &origin, &self.journal, self.machine.clone(), &Metrics::default())
            .unwrap()
    }

    /// A strap sends `count` readings, one every `every_ms`; each is durable before the next.
    pub async fn read(&mut self, count: u16, every_ms: u64) {
        let mut out = Vec::new();
        for _ in 0..count {
            self.machine.pass(every_ms);
            let number = {
                let mut truths = self.truths.lock().unwrap();
                let number = u16::try_from(truths.len()).unwrap();
                truths.insert(number, self.machine.power.truth());
                number
            };
            let reading = Reading {
                device: self.device,
                source: Source::Mqtt,
                arrival: self.machine.now(),
                device_time: None,
                bpm: NonZeroU16::new(60 + number % 40),
                rr: RrIntervals::default(),
                contact: Contact::Detected,
                energy_kj: Some(number),
                battery_percent: None,
                rssi_dbm: None,
                reason: None,
                gap_ms: None,
            };
            self.journal.append(&mut vec![reading], &mut out).await;
        }
        self.journal.wait(out.last().unwrap().ticket).await;
    }

    /// Time for the forwarder to look at what there is.
    pub async fn settle(&self) {
        for _ in 0..200 {
            if self.waits_for_clock() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn waits_for_clock(&self) -> bool {
        self.uplink.as_ref().unwrap().status().waits_for_clock
    }

    /// Waits until the lake holds so many readings.
    pub async fn delivered(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = super::reader::Lake::read(&self.state.join("lake")).readings.len();
            let settled = self.uplink.as_ref().unwrap().status().queued_readings == 0;
            if found >= count && settled {
                return;
            }
            assert!(Instant::now() < deadline, "{found} of {count} readings are delivered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops in good order.
    pub async fn stop(mut self) -> Resting {
        self.journal.close().await;
        if let Some(uplink) = self.uplink.take() {
            uplink.drain(Instant::now() + Duration::from_secs(20)).await.unwrap();
        }
        self.driver.await.unwrap();
        Resting { power: Arc::clone(&self.machine.power), state: self.state, truths: self.truths }
    }

    pub async fn restart(self) -> Self {
        self.stop().await.start().await
    }

    /// Stops, and the machine is switched off.
    pub async fn end(self) {
        drop(self.stop().await);
    }

    /// As [`Self::end`], with an uplink that never got round to anything.
    pub async fn end_without_delivery(mut self) {
        drop(self.uplink.take());
        self.journal.close().await;
        self.driver.await.unwrap();
    }

    /// Ends without any farewell, as far as one process allows.
    pub async fn crash(mut self) -> Resting {
        drop(self.uplink.take());
        self.driver.abort();
        let _ = self.driver.await;
        drop(self.journal);
        // The forwarder's last look at the journal may still be under way.
        tokio::time::sleep(Duration::from_millis(200)).await;
        Resting { power: Arc::clone(&self.machine.power), state: self.state, truths: self.truths }
    }
}
