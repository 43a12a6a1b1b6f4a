//! A site of two gateways: the real journal and the directory uplink of each, on a clock that stands still on
//! 2026-11-23, 19:05 UTC. What straps did that day is made up here, so that every answer can be worked out by hand.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fogbeat::clock::{BootId, Clock, Stamp, WallQuality};
use fogbeat::config::{self, Encoding};
use fogbeat::forward::{self, Drained, Metrics, Origin};
use fogbeat::journal::{Journal, RealDisk, Thinning};
use fogbeat::reading::validity::DeviceTimeWindow;
use fogbeat::reading::{Contact, Reading, Reason, RrIntervals, RrUnit, Source};
use serde_json::Value;
use tokio::time::Instant;

/// 2026-11-23 00:00:00 UTC
pub const MIDNIGHT_MS: i64 = 1_795_392_000_000;
const NOW_MS: i64 = MIDNIGHT_MS + (19 * 60 + 5) * 60_000;
/// The day on which the questions are asked.
pub const TODAY: &str = "2026-11-24";

struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Stamp {
        Stamp { uptime_ms: 90_000_000, wall_ms: NOW_MS, quality: WallQuality::Synced }
    }
    fn boot(&self) -> BootId {
        BootId([7; 16])
    }
}

/// What a strap said, and when.
#[derive(Debug, Clone)]
pub struct Said {
    pub device: &'static str,
    /// Since midnight.
    pub at_ms: i64,
    pub source: Source,
    pub bpm: Option<u16>,
    pub rr_ms: Vec<u32>,
    pub reason: Option<Reason>,
    pub gap_ms: Option<u32>,
    pub battery: Option<u8>,
    pub rssi: Option<i8>,
}

impl Said {
    pub fn new(device: &'static str, at_ms: i64, bpm: u16) -> Self {
        Self {
            device,
            at_ms,
            source: Source::Gatt,
            bpm: Some(bpm),
            rr_ms: Vec::new(),
            reason: None,
            gap_ms: None,
            battery: None,
            rssi: None,
        }
    }

    fn reading(&self, journal: &Journal) -> Reading {
        Reading {
            device: journal.devices().intern(self.device).unwrap(),
            source: self.source,
            arrival: Stamp {
                uptime_ms: 60_000 + u64::try_from(self.at_ms.max(0)).unwrap(),
                wall_ms: MIDNIGHT_MS + self.at_ms,
                quality: WallQuality::Synced,
            },
            device_time: None,
            bpm: self.bpm.and_then(NonZeroU16::new),
            rr: RrIntervals { unit: RrUnit::Millis, values: self.rr_ms.iter().copied().collect() },
            contact: Contact::Detected,
            energy_kj: None,
            battery_percent: self.battery,
            rssi_dbm: self.rssi,
            reason: self.reason,
            gap_ms: self.gap_ms,
        }
    }
}

/// Once a second from second `from` for `seconds`.
pub fn steady(device: &'static str, from: i64, seconds: i64, bpm: u16) -> Vec<Said> {
    (from..from + seconds).map(|second| Said::new(device, second * 1000, bpm)).collect()
}

pub struct Site {
    root: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub fn lake(&self, gateway: &str) -> PathBuf {
        self.root.path().join("lakes").join(gateway)
    }

    /// A gateway takes all this down, delivers it and stops.
    pub async fn gateway(&self, name: &'static str, said: &[Said]) {
        let (state, settings) = self.take_down(name, said).await;
        // Opened once more: the generation has ended, which a delivered line says.
        let (journal, driver, _) =
            Journal::open(&settings, &state, Arc::new(StillClock), Arc::new(RealDisk)).unwrap();
        let driver = tokio::spawn(driver.run());
        deliver(&journal, &state, &self.lake(name), name).await;
        journal.close().await;
        driver.await.unwrap();
    }

    async fn take_down(&self, name: &str, said: &[Said]) -> (PathBuf, config::Journal) {
        let state = self.root.path().join(name);
        std::fs::create_dir_all(&state).unwrap();
        let settings = config::Journal { commit_interval: Duration::ZERO, ..config::Journal::default() };
        let (journal, driver, _) =
            Journal::open(&settings, &state, Arc::new(StillClock), Arc::new(RealDisk)).unwrap();
        let driver = tokio::spawn(driver.run());
        let mut out = Vec::new();
        for some in said.chunks(500) {
            let mut readings: Vec<Reading> = some.iter().map(|said| said.reading(&journal)).collect();
            journal.append(&mut readings, &mut out).await;
        }
        journal.wait(out.last().unwrap().ticket).await;
        journal.close().await;
        driver.await.unwrap();
        (state, settings)
    }

    /// A gateway whose readings gave way to summaries before anybody had them.
    pub async fn thinned_gateway(&self, name: &'static str, said: &[Said]) {
        let (state, settings) = self.take_down(name, said).await;
        let (journal, driver, _) =
            Journal::open(&settings, &state, Arc::new(StillClock), Arc::new(RealDisk)).unwrap();
        let driver = tokio::spawn(driver.run());
        let thinner = journal.clone();
        let done = tokio::task::spawn_blocking(move || thinner.thin_one()).await.unwrap().unwrap();
        assert!(matches!(done, Thinning::Done(_)), "{done:?}");
        deliver(&journal, &state, &self.lake(name), name).await;
        journal.close().await;
        driver.await.unwrap();
    }

    /// Every delivered file of a gateway once more, as if a confirmation had been lost: under another name, in the
    /// folder of the next hour.
    pub fn deliver_again(&self, gateway: &str) {
        let day = self.lake(gateway).join("readings/dt=2026-11-23");
        let again = day.join("hour=20");
        std::fs::create_dir_all(&again).unwrap();
        for file in std::fs::read_dir(day.join("hour=19")).unwrap() {
            let file = file.unwrap();
            let name = format!("again-{}", file.file_name().to_str().unwrap());
            std::fs::copy(file.path(), again.join(name)).unwrap();
        }
    }

    /// Asks the questions (names of queries and views, each perhaps with `@day`) over the lakes of all gateways.
    pub fn ask(&self, questions: &[&str]) -> Value {
        ask(&self.root.path().join("lakes/*"), questions)
    }
}

async fn deliver(journal: &Journal, state: &Path, lake: &Path, gateway: &str) {
    let keep = Duration::from_secs(30 * 86_400);
    let uplink = config::Uplink {
        name: Some("lake".to_owned()),
        encoding: Encoding::Gzip,
        from: config::From::Oldest,
        required: true,
        pseudonyms: None,
        kind: config::UplinkKind::Directory(config::Directory {
            path: Some(lake.to_owned()),
            max_bytes: None,
            keep,
        }),
    };
    let origin = Origin {
        gateway: gateway.into(),
        site: Some("gym".into()),
        state_dir: state.to_owned(),
        window: DeviceTimeWindow::default(),
        pseudonyms: None,
    };
    let clock = Arc::new(StillClock);
    let batch = config::Batch::default();
    let handle = forward::spawn(&uplink, &batch, &origin, journal, clock, &Metrics::default()).unwrap();
    let drained = handle.drain(Instant::now() + Duration::from_secs(60)).await.unwrap();
    assert_eq!(drained, Drained::Empty);
}

/// The answers, by question.
pub fn ask(lake: &Path, questions: &[&str]) -> Value {
    let script = super::script("ask.py");
    let glob = format!("{}/readings/*/*/*.json.gz", lake.display());
    let mut arguments = vec!["--today", TODAY, &glob];
    arguments.extend(questions);
    serde_json::from_str(&super::run(&script, &arguments)).unwrap()
}
