//! A thinned generation that is damaged: what is left of its summaries is delivered and told as thinned, what is not as
//! lost, for each device to the very number.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fogbeat::clock::{BootId, Clock, Stamp, WallQuality};
use fogbeat::config;
use fogbeat::journal::{Entry, GapCause, Journal, Program, ReadError, RealDisk, Seq, StartAt, Thinning};
use fogbeat::reading::{Contact, DeviceId, Reading, RrIntervals, RrUnit, Source};

use super::support::daemon::binary;
use super::support::env_number;
use super::support::rng::Rng;
use super::{PATIENCE, alone, copy_dir, flip, scratch, size, truncate, zero};

const BEGAN_MS: i64 = 1_790_000_000_000;
const DEVICES: u32 = 60;
const SECONDS: u64 = 3_000;

struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Stamp {
        Stamp { uptime_ms: 60_000, wall_ms: BEGAN_MS, quality: WallQuality::Synced }
    }
    fn boot(&self) -> BootId {
        BootId([7; 16])
    }
}

/// One device's readings are further apart the higher its number is.
fn reading(device: DeviceId, second: u64) -> Reading {
    let noise = (second + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(device.0);
    Reading {
        device,
        source: Source::Mqtt,
        arrival: Stamp {
            uptime_ms: 60_000 + second * 1000,
            wall_ms: BEGAN_MS + i64::try_from(second).unwrap() * 1000,
            quality: WallQuality::Synced,
        },
        device_time: None,
        bpm: NonZeroU16::new(60 + (noise % 90) as u16),
        rr: RrIntervals {
            unit: RrUnit::Millis,
            values: [8, 24, 40].map(|shift| (noise >> shift) as u32 & 0xffff).into_iter().collect(),
        },
        gap_ms: None,
        contact: Contact::Detected,
        energy_kj: None,
        battery_percent: None,
        rssi_dbm: None,
        reason: None,
    }
}

async fn open(state: &Path, work: impl AsyncFnOnce(&Journal)) {
    let settings = config::Journal { commit_interval: Duration::ZERO, ..config::Journal::default() };
    let (journal, driver, _) =
        Journal::open(&settings, state, Arc::new(StillClock), Arc::new(RealDisk)).unwrap();
    journal.salvage_by(Program::new(binary()));
    let driver = tokio::spawn(driver.run());
    work(&journal).await;
    journal.close().await;
    driver.await.unwrap();
}

/// A state directory whose first generation is thinned.
async fn make(state: &Path) {
    open(state, async |journal| {
        journal.uplink("cloud", StartAt::Oldest).unwrap();
        let devices: Vec<DeviceId> =
            (0..DEVICES).map(|d| journal.devices().intern(&format!("strap-{d}")).unwrap()).collect();
        let mut out = Vec::new();
        for start in (0..SECONDS).step_by(50) {
            let seconds = start..start + 50;
            let mut readings: Vec<Reading> = seconds
                .flat_map(|second| {
                    let due =
                        devices.iter().filter(move |device| second % (1 + u64::from(device.0 % 5)) == 0);
                    due.map(move |device| reading(*device, second))
                })
                .collect();
            journal.append(&mut readings, &mut out).await;
            journal.wait(out.last().unwrap().ticket).await;
        }
    })
    .await;
    open(state, async |journal| {
        let thinning = journal.clone();
        let done = tokio::task::spawn_blocking(move || thinning.thin_one()).await.unwrap().unwrap();
        assert!(matches!(done, Thinning::Done(_)), "{done:?}");
    })
    .await;
}

/// What a consumer finds of generation 1, by device.
#[derive(Debug, Default, PartialEq)]
struct Found {
    /// In summaries.
    held: BTreeMap<String, u64>,
    thinned: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    /// Numbers by cause, and the end's count.
    numbers: BTreeMap<GapCause, u64>,
    count: u64,
}

async fn find(state: &Path) -> Found {
    let mut found = Found::default();
    open(state, async |journal| {
        let reading = journal.clone();
        found = tokio::task::spawn_blocking(move || read(&reading)).await.unwrap();
        let uplink = journal.uplink("cloud", StartAt::Oldest).unwrap();
        let account = journal.account(&uplink);
        assert!(account.adds_up, "{account:?}");
    })
    .await;
    found
}

fn read(journal: &Journal) -> Found {
    let mut found = Found::default();
    let (mut from, started) = (Seq(0), Instant::now());
    let mut next = 0;
    while from.generation() < 2 {
        let page = match journal.read(from, 700) {
            Ok(page) => page,
            Err(ReadError::Damaged { .. }) => {
                assert!(started.elapsed() < PATIENCE, "it is never salvaged");
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        from = page.next;
        for entry in page.entries.iter().filter(|entry| entry.span().0.generation() == 1) {
            match entry {
                Entry::Summary { device, summary, .. } => {
                    *found.held.entry(device.to_string()).or_default() += u64::from(summary.n);
                }
                Entry::Gap { first, last, cause, devices, .. } => {
                    assert_eq!(first.0, (1 << 32) + next, "numbers follow each other");
                    next += last.0 - first.0 + 1;
                    *found.numbers.entry(*cause).or_default() += last.0 - first.0 + 1;
                    let told = match cause {
                        GapCause::Thinned => &mut found.thinned,
                        GapCause::Lost => &mut found.lost,
                        other => panic!("{other:?}"),
                    };
                    devices.iter().for_each(|(name, n)| *told.entry(name.to_string()).or_default() += n);
                }
                Entry::End { count, .. } => found.count = u64::from(*count),
                Entry::Reading { .. } => panic!("a reading in a thinned generation"),
            }
        }
    }
    found
}

#[test]
fn what_is_lost_of_the_summaries_is_told_as_lost_for_each_device() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(in_every_way());
}

async fn in_every_way() {
    let root = scratch("damage-summaries");
    let template = root.path().join("template");
    make(&template).await;
    let whole = find(&template).await;
    assert_eq!(whole.held, whole.thinned);
    assert_eq!(whole.numbers, [(GapCause::Thinned, whole.count)].into());
    let mut rng = Rng::from_env("damage, summaries");
    let (mut in_part, mut altogether) = (0, 0);
    for round in 0..env_number("FOGBEAT_ZEROS", 16) {
        let state = root.path().join("state");
        copy_dir(&template, &state);
        let db = state.join("spool/raw/gen-1.r1/db");
        let length = size(&db);
        let used = std::fs::read(&db).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
        let what = match round % 4 {
            0 => {
                let from = rng.between(0, used) / 4096 * 4096;
                let pages = rng.between(1, 30).min((length - from) / 4096);
                zero(&db, from, (pages * 4096) as usize);
                format!("{pages} pages zeroed at {from}")
            }
            1 => {
                let bits: Vec<u64> = (0..40).map(|_| rng.between(0, used * 8)).collect();
                bits.iter().for_each(|bit| flip(&db, *bit));
                format!("flipped {bits:?}")
            }
            2 => {
                let at = rng.between(0, used);
                truncate(&db, at);
                format!("cut at {at}")
            }
            _ => {
                truncate(&db, 100);
                "cut at 100".to_owned()
            }
        };
        let found = find(&state).await;
        assert_eq!(found.count, whole.count, "{what}");
        assert_eq!(found.held, found.thinned, "{what}");
        let mut sum = found.thinned.clone();
        found.lost.iter().for_each(|(device, count)| *sum.entry(device.clone()).or_default() += count);
        assert_eq!(sum, whole.thinned, "{what}");
        let (thinned, lost): (u64, u64) = (found.thinned.values().sum(), found.lost.values().sum());
        let numbers = |cause| found.numbers.get(&cause).copied().unwrap_or(0);
        assert_eq!((numbers(GapCause::Thinned), numbers(GapCause::Lost)), (thinned, lost), "{what}");
        println!("{what}: {lost} of {} readings lost with their summaries", whole.count);
        in_part += u32::from(lost > 0 && thinned > 0);
        altogether += u32::from(thinned == 0);
        std::fs::remove_dir_all(&state).unwrap();
    }
    assert!(in_part >= 3 && altogether >= 3, "{in_part} in part, {altogether} altogether");
}
