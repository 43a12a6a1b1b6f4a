use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{Stamp, WallQuality};
use crate::config;
use crate::journal::tests::{TestClock, reading_at};
use crate::journal::thin::Level;
use crate::journal::{
    Bounds, Disk, Entry, GapCause, GenerationState, Journal, RealDisk, Seq, StartAt, Thinning, UplinkCursor,
};
use crate::reading::{DeviceId, Reading};

/// 2026-09-21T13:46:40Z, the start of a minute.
const BEGAN: i64 = 1_790_000_000_000 / 60_000 * 60_000;

/// Who sends what into a journal.
#[derive(Clone, Copy)]
struct Fill {
    devices: u32,
    /// Seconds between two readings of a device.
    every: usize,
    seconds: i64,
    generation: u64,
}

/// Some small generations: 64,000 readings each.
const SMALL: Fill = Fill { devices: 10, every: 1, seconds: 17_000, generation: 2_000_000 };

fn settings(generation: u64) -> config::Journal {
    config::Journal {
        commit_interval: Duration::ZERO,
        generation_size: bytesize::ByteSize(generation),
        ..config::Journal::default()
    }
}

/// Every device's reading of one second; values that do not compress, so that generations fill.
fn second(ids: &[DeviceId], at: i64) -> Vec<Reading> {
    let one = |(index, id): (usize, &DeviceId)| {
        let noise = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(index as u32 * 7);
        let mut reading = reading_at(id.0, BEGAN + at * 1000, 50 + (noise >> 40) as u16 % 128);
        reading.arrival = Stamp {
            uptime_ms: 60_000 + at as u64 * 1000,
            wall_ms: BEGAN + at * 1000,
            quality: WallQuality::Synced,
        };
        reading.rr.values = (0..4).map(|i| (noise >> (8 * i)) as u32 & 0xffff).collect();
        // One device in two has no clock of its own.
        reading.device_time = reading.device_time.filter(|_| index % 2 == 0);
        reading
    };
    ids.iter().enumerate().map(one).collect()
}

impl Fill {
    /// A state directory whose journal has some generations of readings, the newest of them sealed as well.
    async fn make(self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(self.generation);
        let (journal, driver, _) =
            Journal::open(&settings, dir.path(), TestClock::new(), Arc::new(RealDisk)).unwrap();
        let driver = tokio::spawn(driver.run());
        let ids: Vec<_> =
            (0..self.devices).map(|d| journal.devices().intern(&format!("d{d}")).unwrap()).collect();
        let mut out = Vec::new();
        for start in (0..self.seconds).step_by(100) {
            let end = self.seconds.min(start + 100);
            let times = (start..end).step_by(self.every);
            let mut group: Vec<Reading> = times.flat_map(|at| second(&ids, at)).collect();
            journal.append(&mut group, &mut out).await;
            journal.wait(out.last().unwrap().ticket).await;
        }
        journal.close().await;
        driver.await.unwrap();
        dir
    }
}

fn open(dir: &Path, disk: Arc<dyn Disk>) -> Journal {
    Journal::open_offline(&settings(1 << 24), dir, TestClock::new(), disk).unwrap().0
}

fn everything(journal: &Journal) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut from = Seq(0);
    loop {
        let page = journal.read(from, 500).unwrap();
        if page.entries.is_empty() {
            return entries;
        }
        entries.extend(page.entries);
        from = page.next;
    }
}

/// What a consumer finds of one generation.
#[derive(Debug, Default, PartialEq)]
struct Found {
    readings: u64,
    summaries: u64,
    summarised: u64,
    window_s: u16,
    gaps: Vec<(u32, u32, GapCause)>,
    devices: BTreeMap<String, u64>,
    count: u64,
}

/// Adds up entries by generation and checks the order of their positions.
fn add_up(entries: &[Entry]) -> BTreeMap<u32, Found> {
    let mut found: BTreeMap<u32, Found> = BTreeMap::new();
    let mut position = Seq(0);
    for entry in entries {
        let (at, after) = entry.span();
        assert!(at >= position && after > at, "positions go up: {entry:?} at {position}");
        position = after;
        let found = found.entry(at.generation()).or_default();
        match entry {
            Entry::Reading { .. } => found.readings += 1,
            Entry::Summary { summary, .. } => {
                found.summaries += 1;
                found.summarised += u64::from(summary.n);
                found.window_s = summary.window_s;
            }
            Entry::Gap { first, last, cause, devices, .. } => {
                found.gaps.push((first.n(), last.n(), *cause));
                for (name, count) in devices.iter() {
                    *found.devices.entry(name.to_string()).or_default() += count;
                }
            }
            Entry::End { count, .. } => found.count = u64::from(*count),
        }
    }
    found
}

/// Readings by generation and device, before anything is thinned.
fn census(entries: &[Entry]) -> BTreeMap<u32, BTreeMap<String, u64>> {
    let mut census: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
    for entry in entries {
        if let Entry::Reading { seq, device, .. } = entry {
            *census.entry(seq.generation()).or_default().entry(device.to_string()).or_default() += 1;
        }
    }
    census
}

/// Thins until nothing more can be won; what was done, in order.
fn thin_all(journal: &Journal) -> Vec<(u32, u16)> {
    let mut done = Vec::new();
    for _ in 0..100 {
        match journal.thin_one().unwrap() {
            Thinning::Done(one) => done.push((one.generation, one.level.window_s())),
            Thinning::Spared { .. } => {}
            Thinning::Nothing => return done,
        }
    }
    panic!("it never ends: {done:?}");
}

/// Holds what is there now against what was stored; the exact n, whatever was thinned how often.
fn agrees(now: &[Entry], before: &BTreeMap<u32, BTreeMap<String, u64>>) {
    let found = add_up(now);
    assert_eq!(found.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (generation, found) in found {
        let devices = &before[&generation];
        let count: u64 = devices.values().sum();
        assert_eq!(found.count, count);
        if found.window_s == 0 {
            assert_eq!((found.readings, found.gaps.len()), (count, 0));
        } else {
            assert_eq!((found.readings, found.summarised), (0, count), "generation {generation}");
            assert_eq!(found.gaps, [(0, count as u32 - 1, GapCause::Thinned)]);
            assert_eq!(&found.devices, devices);
            assert!(found.summaries <= count / 2);
        }
    }
}

#[tokio::test]
async fn the_oldest_gives_way_first_and_every_reading_is_in_one_summary() {
    let dir = SMALL.make().await;
    let journal = open(dir.path(), Arc::new(RealDisk));
    let before = census(&everything(&journal));
    assert!(before.len() >= 3, "{before:?}");
    let used = |journal: &Journal| -> u64 { journal.generations().iter().map(|g| g.bytes).sum() };
    for &generation in before.keys() {
        let bytes = used(&journal);
        let Thinning::Done(done) = journal.thin_one().unwrap() else { panic!("nothing was done") };
        assert_eq!((done.generation, done.level), (generation, Level::TenSeconds));
        assert_eq!(done.readings, before[&generation].values().sum::<u64>());
        assert!(done.after * 3 <= done.before * 2 && used(&journal) < bytes);
        agrees(&everything(&journal), &before);
    }
    assert_eq!(journal.thin_one().unwrap(), Thinning::Nothing, "they are as small as a database gets");
    assert_eq!(journal.status().thinned, before.values().flat_map(BTreeMap::values).sum::<u64>());
    assert_eq!(journal.status().thinned_generations, before.len());
    drop(journal);
    let again = open(dir.path(), Arc::new(RealDisk));
    agrees(&everything(&again), &before);
}

#[tokio::test]
async fn when_all_is_thinned_to_ten_seconds_the_oldest_goes_to_a_minute_and_no_reading_is_lost_on_the_way() {
    let dir = Fill { devices: 90, every: 3, seconds: 15_000, generation: 1 << 24 }.make().await;
    let journal = open(dir.path(), Arc::new(RealDisk));
    let before = census(&everything(&journal));
    println!("{:?}", journal.generations());
    println!("{:?}", thin_all(&journal));
    println!("{:?}", journal.generations());
    agrees(&everything(&journal), &before);
}
