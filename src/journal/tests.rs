mod accounts;
mod keyed;
mod model;

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use super::upkeep::KEPT_DELIVERED;
use super::*;
use crate::clock::{BootId, Stamp, WallQuality};
use crate::config;
use crate::reading::{Contact, DeviceId, DeviceTime, RrIntervals, Source};

/// A clock that stands where it is put.
pub struct TestClock(pub Mutex<Stamp>);

impl TestClock {
    pub fn new() -> Arc<Self> {
        let wall_ms = 1_790_000_000_000;
        Arc::new(Self(Mutex::new(Stamp { uptime_ms: 60_000, wall_ms, quality: WallQuality::Synced })))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Stamp {
        *self.0.lock().unwrap()
    }
    fn boot(&self) -> BootId {
        BootId([7; 16])
    }
}

pub fn reading_at(device: u32, stamp_ms: i64, bpm: u16) -> Reading {
    Reading {
        device: DeviceId(device),
        source: Source::Mqtt,
        arrival: Stamp { uptime_ms: 60_000, wall_ms: 1_790_000_000_000, quality: WallQuality::Synced },
        device_time: Some(DeviceTime::Accepted(stamp_ms)),
        bpm: NonZeroU16::new(bpm),
        rr: RrIntervals::default(),
        contact: Contact::Unsupported,
        energy_kj: None,
        battery_percent: None,
        rssi_dbm: None,
        reason: None,
        gap_ms: None,
    }
}

fn settings(size: u64) -> config::Journal {
    config::Journal {
        commit_interval: Duration::ZERO,
        generation_size: bytesize::ByteSize(size),
        ..config::Journal::default()
    }
}

struct Rig {
    dir: tempfile::TempDir,
    size: u64,
    disk: Arc<dyn Disk>,
    key_file: Option<std::path::PathBuf>,
    dedupe_window: Duration,
}

struct Running {
    journal: Journal,
    driver: tokio::task::JoinHandle<()>,
    recovered: Recovered,
}

impl Rig {
    fn new(size: u64) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            size,
            disk: Arc::new(RealDisk),
            key_file: None,
            dedupe_window: config::Journal::default().dedupe_window,
        }
    }

    fn start(&self) -> Running {
        let settings = config::Journal {
            key_file: self.key_file.clone(),
            dedupe_window: self.dedupe_window,
            ..settings(self.size)
        };
        let (journal, driver, recovered) =
            Journal::open(&settings, self.dir.path(), TestClock::new(), Arc::clone(&self.disk)).unwrap();
        Running { journal, driver: tokio::spawn(driver.run()), recovered }
    }
}

impl Running {
    async fn store(&self, device: &str, stamps: impl Iterator<Item = i64>) -> Vec<Appended> {
        let id = self.journal.devices().intern(device).unwrap();
        // Values that do not compress, so that generations fill.
        let noisy = |stamp: i64| {
            let mut reading = reading_at(id.0, stamp, 72);
            let noise = (stamp as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            reading.rr.values = (0..4).map(|i| (noise >> (8 * i)) as u32 & 0xffff).collect();
            reading
        };
        let mut readings: Vec<Reading> = stamps.map(noisy).collect();
        let mut out = Vec::new();
        self.journal.append(&mut readings, &mut out).await;
        if let Some(last) = out.iter().map(|appended| appended.ticket).max() {
            self.journal.wait(last).await;
        }
        out
    }

    async fn stop(self) {
        self.journal.close().await;
        self.driver.await.unwrap();
    }

    /// Ends without any farewell, as far as one process allows.
    async fn crash(self) {
        self.driver.abort();
        let _ = self.driver.await;
        drop(self.journal);
    }
}

fn everything(journal: &Journal, mut from: Seq) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let page = journal.read(from, 100).unwrap();
        if page.entries.is_empty() {
            return entries;
        }
        entries.extend(page.entries);
        from = page.next;
    }
}

fn stamps(entries: &[Entry]) -> Vec<(String, i64)> {
    entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Reading { device, reading, .. } => match reading.device_time {
                Some(DeviceTime::Accepted(at)) => Some((device.to_string(), at)),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn what_was_proven_durable_is_there_after_a_restart_under_the_same_number() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..2500).await;
    let before = everything(&running.journal, Seq(0));
    running.crash().await;

    let running = rig.start();
    assert_eq!(running.recovered.readings, 2500);
    assert_eq!(running.recovered.lost, 0);
    let after = everything(&running.journal, Seq(0));
    assert_eq!(stamps(&before), stamps(&after));
    assert!(matches!(after.last(), Some(Entry::End { generation: 1, count: 2500 })));
    let numbers = |entries: &[Entry]| -> Vec<Seq> {
        entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Reading { seq, .. } => Some(*seq),
                _ => None,
            })
            .collect()
    };
    assert_eq!(numbers(&before), numbers(&after));
    running.stop().await;
}

#[tokio::test]
async fn a_stamped_reading_sent_twice_is_stored_once_even_after_a_restart() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    assert!(running.store("bike-1", 0..10).await.iter().all(|appended| !appended.duplicate));
    assert!(running.store("bike-1", 0..10).await.iter().all(|appended| appended.duplicate));
    running.crash().await;

    let running = rig.start();
    let again = running.store("bike-1", 5..15).await;
    assert_eq!(again.iter().filter(|appended| appended.duplicate).count(), 5);
    assert_eq!(stamps(&everything(&running.journal, Seq(0))).len(), 15);
    running.stop().await;
}

#[tokio::test]
async fn a_copy_in_the_open_group_waits_for_that_group() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    let id = running.journal.devices().intern("bike-1").unwrap();
    let mut out = Vec::new();
    let mut twice = vec![reading_at(id.0, 1, 72), reading_at(id.0, 1, 72)];
    running.journal.append(&mut twice, &mut out).await;
    assert_eq!(out[0].ticket, out[1].ticket);
    assert!(!out[0].duplicate && out[1].duplicate);
    running.journal.wait(out[1].ticket).await;
    running.stop().await;
}

#[tokio::test]
async fn generations_are_sealed_and_every_number_is_accounted_for() {
    let rig = Rig::new(300_000);
    let running = rig.start();
    for round in 0..150i64 {
        running.store("bike-1", round * 100..(round + 1) * 100).await;
        running.store("bike-2", round * 100..(round + 1) * 100).await;
    }
    running.journal.close().await;
    let entries = everything(&running.journal, Seq(0));
    let ends: Vec<(u32, u32)> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::End { generation, count } => Some((*generation, *count)),
            _ => None,
        })
        .collect();
    assert!(ends.len() >= 2, "{ends:?}");
    assert_eq!(ends.iter().map(|(_, count)| *count).sum::<u32>(), 30_000);
    assert!(!entries.iter().any(|entry| matches!(entry, Entry::Gap { .. })));
    let mut found = stamps(&entries);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 30_000);
    running.driver.await.unwrap();
}

#[tokio::test]
async fn a_delivered_generation_is_deleted_and_an_undelivered_one_is_not() {
    let rig = Rig::new(300_000);
    let running = rig.start();
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    let idle = running.journal.uplink("b", StartAt::Oldest).unwrap();
    for round in 0..400i64 {
        running.store("bike-1", round * 100..(round + 1) * 100).await;
    }
    let generations = running.journal.generations();
    assert!(generations.len() >= 4, "{}", generations.len());
    let head = *running.journal.watch_watermark().borrow();
    let everything = Bounds { from: cursor.cursor(), to: head, fixed_ms: 0, clock: 0, guessed: false };
    cursor.begin(everything).unwrap();
    cursor.confirm(everything, Tally { delivered: 40_000, ..Tally::default() }).unwrap();
    running.journal.keep_house();
    assert_eq!(running.journal.generations().len(), generations.len(), "uplink b still needs them");
    drop(idle);
    assert!(running.journal.forget_uplink("b").unwrap());
    let started = Instant::now();
    // The next one is made in advance.
    let made = |generation: &&GenerationStatus| generation.state != manifest::State::Creating;
    while running.journal.generations().iter().filter(made).count() != KEPT_DELIVERED + 1 {
        // One that is just being closed goes with the next round.
        running.journal.keep_house();
        let left = running.journal.generations();
        assert!(started.elapsed() < Duration::from_secs(10), "{left:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn bounds_that_were_begun_survive_a_crash() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..100).await;
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    let bounds = Bounds { from: Seq::new(1, 0), to: Seq::new(1, 60), fixed_ms: 5, clock: 0, guessed: false };
    cursor.begin(bounds).unwrap();
    running.crash().await;
    let running = rig.start();
    let cursor = running.journal.uplink("a", StartAt::Now).unwrap();
    assert_eq!(cursor.open(), vec![bounds]);
    assert_eq!(cursor.cursor(), Seq::new(1, 0));
    assert_eq!(running.journal.backlog(cursor.cursor()), 100);
    running.stop().await;
}

#[tokio::test]
async fn confirmations_out_of_order_move_the_cursor_only_past_what_is_whole() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    let first = Bounds { from: Seq::new(1, 0), to: Seq::new(1, 10), fixed_ms: 0, clock: 0, guessed: false };
    let second = Bounds { from: Seq::new(1, 10), to: Seq::new(1, 20), fixed_ms: 0, clock: 0, guessed: false };
    cursor.begin(first).unwrap();
    cursor.begin(second).unwrap();
    cursor.confirm(second, Tally::default()).unwrap();
    assert_eq!(cursor.cursor(), Seq::new(1, 0));
    cursor.confirm(first, Tally::default()).unwrap();
    assert_eq!(cursor.cursor(), Seq::new(1, 20));
    running.stop().await;
}

/// A disk that fails its next few fdatasyncs.
struct FailingDisk {
    failures: std::sync::atomic::AtomicU32,
}

impl Disk for FailingDisk {
    fn sync_data(&self, file: &std::fs::File) -> std::io::Result<()> {
        let left = &self.failures;
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(std::io::Error::other("fdatasync refused"));
        }
        RealDisk.sync_data(file)
    }
    fn sync_path(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.sync_path(path)
    }
    fn replace(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        RealDisk.replace(path, bytes)
    }
}

#[tokio::test]
async fn a_failed_commit_acknowledges_nobody_until_a_new_generation_holds_the_group() {
    let disk = Arc::new(FailingDisk { failures: 0.into() });
    let rig = Rig { disk: Arc::clone(&disk) as Arc<dyn Disk>, ..Rig::new(1 << 24) };
    let running = rig.start();
    running.store("bike-1", 0..10).await;
    disk.failures.store(2, Ordering::SeqCst);
    let id = running.journal.devices().intern("bike-1").unwrap();
    let mut out = Vec::new();
    running.journal.append(&mut (10..20).map(|s| reading_at(id.0, s, 72)).collect(), &mut out).await;
    let ticket = out[0].ticket;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(running.journal.durable(ticket).is_none());
    assert!(matches!(running.journal.metrics().commit_state(), CommitState::Failing(_)));
    running.journal.wait(ticket).await;
    assert_eq!(running.journal.metrics().commit_state(), CommitState::Working);
    running.journal.close().await;
    let entries = everything(&running.journal, Seq(0));
    assert_eq!(stamps(&entries).len(), 20, "each reading once, in the copy that became durable");
    assert!(entries.iter().any(|entry| matches!(entry, Entry::End { generation: 1, count: 10 })));
    running.driver.await.unwrap();
}

/// A disk whose fdatasync does not return until it is let go.
#[derive(Default)]
struct HangingDisk {
    hangs: std::sync::atomic::AtomicBool,
}

impl Disk for HangingDisk {
    fn sync_data(&self, file: &std::fs::File) -> std::io::Result<()> {
        while self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        RealDisk.sync_data(file)
    }
    fn sync_path(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.sync_path(path)
    }
    fn replace(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        RealDisk.replace(path, bytes)
    }
}

#[tokio::test]
async fn a_commit_that_hangs_is_seen_although_nothing_more_comes() {
    let disk = Arc::new(HangingDisk::default());
    let rig = Rig { disk: Arc::clone(&disk) as Arc<dyn Disk>, ..Rig::new(1 << 24) };
    let running = rig.start();
    running.store("bike-1", 0..10).await;
    assert_eq!(running.journal.waiting(), None);
    disk.hangs.store(true, Ordering::SeqCst);
    let id = running.journal.devices().intern("bike-1").unwrap();
    let mut out = Vec::new();
    running.journal.append(&mut vec![reading_at(id.0, 11, 72)], &mut out).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(running.journal.waiting().is_some_and(|waited| waited >= Duration::from_millis(250)));
    disk.hangs.store(false, Ordering::SeqCst);
    running.journal.wait(out[0].ticket).await;
    assert_eq!(running.journal.waiting(), None);
    running.stop().await;
}

#[tokio::test]
async fn a_generation_that_cannot_be_opened_is_told_as_lost_and_stops_nobody() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..100).await;
    running.stop().await;
    let running = rig.start();
    running.store("bike-1", 100..150).await;
    running.stop().await;
    let broken = rig.dir.path().join("spool/raw/gen-1");
    std::fs::remove_dir_all(&broken).unwrap();
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("conf"), b"nonsense").unwrap();
    std::fs::write(broken.join("db"), b"nonsense").unwrap();

    let running = rig.start();
    let mut entries = Vec::new();
    let mut from = Seq(0);
    let started = Instant::now();
    while stamps(&entries).len() < 50 {
        match running.journal.read(from, 1000) {
            Ok(page) => {
                entries.extend(page.entries);
                from = page.next;
            }
            Err(ReadError::Damaged { generation: 1 }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
        assert!(started.elapsed() < Duration::from_secs(30), "its reader waits for ever");
    }
    assert_eq!(stamps(&entries).len(), 50);
    let lost = entries.iter().any(|entry| {
        matches!(entry, Entry::Gap { first, last, cause: GapCause::Lost, .. }
            if *first == Seq::new(1, 0) && *last == Seq::new(1, 99))
    });
    assert!(lost, "{entries:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_damaged_head_ends_and_the_journal_goes_on_in_a_new_one() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..10).await;
    let spool = &running.journal.inner.spool;
    assert!(matches!(spool.head_is_damaged(1, "a test"), ReadError::Damaged { generation: 1 }));
    running.journal.inner.intake.changed.notify_one();
    let mut watermark = running.journal.watch_watermark();
    watermark.wait_for(|seq| seq.generation() == 2).await.unwrap();
    running.store("bike-1", 10..20).await;
    let entries = everything(&running.journal, Seq(0));
    assert_eq!(stamps(&entries).len(), 20);
    assert!(entries.iter().any(|entry| matches!(entry, Entry::End { generation: 1, count: 10 })));
    running.stop().await;
}

/// A copy of the manifest that is older by one change: what it does not know of is not removed.
#[tokio::test]
async fn an_older_copy_of_the_manifest_costs_no_reading() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..10).await;
    running.stop().await;
    let spool = rig.dir.path().join("spool");
    // As if its database had been replaced after the copy was written.
    std::fs::rename(spool.join("raw/gen-1"), spool.join("raw/gen-1.r1")).unwrap();
    std::fs::write(spool.join("manifest.json"), "").unwrap();
    let running = rig.start();
    let entries = everything(&running.journal, Seq(0));
    assert_eq!(stamps(&entries).len(), 10);
    assert!(!entries.iter().any(|entry| matches!(entry, Entry::Gap { .. })));
    running.stop().await;
}

#[tokio::test]
async fn a_reader_waits_before_a_generation_that_is_just_being_made() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..10).await;
    let prepared = running.journal.inner.spool.create().unwrap();
    let there = Seq::new(prepared.number(), 0);
    let page = running.journal.peek(there, 100).unwrap();
    assert!(page.entries.is_empty());
    assert_eq!(page.next, there, "past it, its readings would never be delivered");
    drop(prepared);
    running.stop().await;
}
