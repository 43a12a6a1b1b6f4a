use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::config;
use crate::journal::keys::{KeySource, Keys, add_key};
use crate::journal::tests::{TestClock, reading_at};
use crate::journal::{Appended, Disk, Entry, GapCause, RealDisk, Seq, StartAt, block};

const NAME: &str = "Mrs. Miller's strap";
/// A value that only this device reports.
const TELLTALE: u16 = 199;

fn settings() -> config::Journal {
    config::Journal {
        commit_interval: Duration::ZERO,
        generation_size: bytesize::ByteSize(60_000),
        ..config::Journal::default()
    }
}

struct Rig {
    dir: tempfile::TempDir,
    settings: config::Journal,
}

struct Running {
    journal: Journal,
    driver: tokio::task::JoinHandle<()>,
}

impl Rig {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), settings: settings() }
    }

    /// With a key file, outside of what is searched.
    fn keyed(keys: &Path) -> Self {
        let settings = config::Journal { key_file: Some(keys.to_owned()), ..settings() };
        Self { settings, ..Self::new() }
    }

    fn start(&self) -> Running {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (journal, driver, _) =
            Journal::open(&self.settings, self.dir.path(), TestClock::new(), disk).unwrap();
        Running { journal, driver: tokio::spawn(driver.run()) }
    }

    fn offline(&self) -> Journal {
        Journal::open_offline(&self.settings, self.dir.path(), TestClock::new(), Arc::new(RealDisk))
            .unwrap()
            .0
    }
}

impl Running {
    /// Groups of three devices' readings, the one to be erased in the middle of each.
    async fn store(&self, groups: i64, from: i64) {
        let devices = ["aaa", NAME, "zzz"].map(|name| self.journal.devices().intern(name).unwrap());
        let mut out: Vec<Appended> = Vec::new();
        for group in from..from + groups {
            let mut readings = Vec::new();
            for (at, device) in devices.iter().enumerate() {
                for n in 0..10 {
                    let bpm = if at == 1 { TELLTALE } else { 60 + at as u16 };
                    let mut reading = reading_at(device.0, group * 10 + n, bpm);
                    let noise = (group as u64 * 31 + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    reading.rr.values = (0..4).map(|i| (noise >> (8 * i)) as u32 & 0xffff).collect();
                    readings.push(reading);
                }
            }
            self.journal.append(&mut readings, &mut out).await;
            self.journal.wait(out.last().unwrap().ticket).await;
        }
    }

    async fn erase(&self, dry_run: bool) -> Erased {
        let journal = self.journal.clone();
        tokio::task::spawn_blocking(move || journal.erase(NAME, dry_run)).await.unwrap().unwrap()
    }

    async fn stop(self) {
        self.journal.close().await;
        self.driver.await.unwrap();
    }
}

type Readings = BTreeMap<Seq, (String, crate::reading::Reading)>;

/// Every reading that is kept, the numbers of each gap's cause, and the numbers the generations gave.
fn read(journal: &Journal) -> (Readings, BTreeMap<Seq, GapCause>, u64) {
    let (mut readings, mut missing, mut given) = (Readings::new(), BTreeMap::new(), 0);
    let mut from = Seq(0);
    loop {
        let page = journal.read(from, 100).unwrap();
        if page.next == from {
            return (readings, missing, given);
        }
        from = page.next;
        for entry in page.entries {
            match entry {
                Entry::Reading { seq, device, reading } => {
                    let reading = crate::reading::Reading { device: crate::reading::DeviceId(0), ..reading };
                    assert!(readings.insert(seq, (device.to_string(), reading)).is_none());
                }
                Entry::Gap { first, last, cause, .. } => {
                    for n in first.0..=last.0 {
                        assert!(missing.insert(Seq(n), cause).is_none());
                    }
                }
                Entry::End { count, .. } => given += u64::from(count),
                Entry::Summary { .. } => {}
            }
        }
    }
}

/// Looks at the raw bytes of every file and decodes every value of every database, not by way of the journal.
fn traces(dir: &Path) -> Vec<String> {
    traces_with(dir, &Keys::none())
}

fn traces_with(dir: &Path, keys: &Keys) -> Vec<String> {
    let mut found = Vec::new();
    let mut databases = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            if path.file_name().is_some_and(|name| name == "db") {
                databases.push(path.parent().unwrap().to_owned());
            }
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(NAME.len()).any(|window| window == NAME.as_bytes()) {
                found.push(format!("the name in {}", path.display()));
            }
        }
    }
    for database in databases {
        // Our own handle may still be closing.
        let db = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            sled::open(&database).ok()
        });
        let db = db.unwrap();
        for value in db.iter().values() {
            let mut readings = Vec::new();
            if block::decode(&value.unwrap(), keys, &mut readings).is_ok()
                && readings.iter().any(|reading| reading.bpm.is_some_and(|bpm| bpm.get() == TELLTALE))
            {
                found.push(format!("a reading in {}", database.display()));
            }
        }
    }
    found.dedup();
    found
}

#[tokio::test]
async fn nothing_of_an_erased_device_is_left_and_everything_else_is_as_it_was() {
    let rig = Rig::new();
    let running = rig.start();
    running.store(120, 0).await;
    running.stop().await;
    let running = rig.start();
    running.store(120, 1_000).await;
    let journal = running.journal.clone();
    assert!(journal.generations().len() > 3);
    let (before, ..) = read(&journal);
    assert_eq!(before.len(), 7_200);

    let would = running.erase(true).await;
    assert_eq!(would.readings, 2_400);
    assert_eq!(read(&journal).0.len(), 7_200, "a dry run changes nothing");
    assert_eq!(running.erase(false).await, would);
    assert_eq!(running.erase(false).await, Erased::default(), "erasing again finds nothing");

    let check = |(after, missing, _): (Readings, BTreeMap<Seq, GapCause>, u64)| {
        assert_eq!(after.len(), 4_800);
        for (seq, (device, reading)) in &before {
            if device == NAME {
                assert_eq!(missing.get(seq), Some(&GapCause::Erased), "{seq}");
            } else {
                assert_eq!(after.get(seq), Some(&(device.clone(), reading.clone())), "{seq}");
                assert_eq!(missing.get(seq), None, "{seq}");
            }
        }
        assert_eq!(missing.len(), 2_400);
    };
    check(read(&journal));
    drop(journal);
    running.stop().await;
    assert_eq!(traces(rig.dir.path()), Vec::<String>::new());
    let journal = rig.offline();
    let all = read(&journal);
    assert_eq!(all.2, 7_200, "the ends still state what was given");
    check(all);
    for generation in journal.generations() {
        let verified = journal.verify(&generation).unwrap();
        assert!(verified.damaged.is_empty() && verified.missing == 0, "{verified:?}");
    }
}

#[tokio::test]
async fn a_journal_without_a_daemon_is_erased_as_well_and_so_is_what_a_crash_left() {
    let rig = Rig::new();
    let running = rig.start();
    running.store(50, 0).await;
    // Cut off: the head is sealed by whoever opens the journal next.
    running.driver.abort();
    let _ = running.driver.await;
    drop(running.journal);
    assert!(!traces(rig.dir.path()).is_empty(), "the test can find something");
    let journal = rig.offline();
    // An attempt that was cut off before the swap.
    std::fs::create_dir_all(rig.dir.path().join("spool/raw/gen-1.r1")).unwrap();
    assert_eq!(journal.erase(NAME, false).unwrap().readings, 500);
    assert_eq!(read(&journal).0.len(), 1_000);
    drop(journal);
    assert_eq!(traces(rig.dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn damaged_generations_and_counts_by_device_go_as_well() {
    let rig = Rig::new();
    let running = rig.start();
    running.store(50, 0).await;
    running.stop().await;
    let quarantine = rig.dir.path().join("spool/quarantine/gen-77");
    std::fs::create_dir_all(&quarantine).unwrap();
    std::fs::write(quarantine.join("db"), NAME).unwrap();
    let manifest = rig.dir.path().join("spool/manifest.json");
    let bytes = std::fs::read(&manifest).unwrap();
    let text = crate::files::without_sum(&bytes).unwrap();
    let mut kept: serde_json::Value = serde_json::from_slice(text).unwrap();
    kept["generations"]["9"] = serde_json::json!({
        "state": "evicted", "spool": "x", "boot": "", "created_ms": 0, "count": 30,
        "missing": [{ "first": 0, "last": 29, "cause": "evicted", "devices": { NAME: 10, "aaa": 20 } }],
    });
    std::fs::write(&manifest, kept.to_string()).unwrap();
    let journal = rig.offline();
    let erased = journal.erase(NAME, false).unwrap();
    assert_eq!((erased.readings, erased.quarantined), (500, 1));
    drop(journal);
    assert!(!quarantine.exists());
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("aaa") && !text.contains(NAME), "{text}");
    let copy = std::fs::read_to_string(manifest.with_file_name("manifest.copy")).unwrap();
    assert!(!copy.contains(NAME), "{copy}");
}

#[tokio::test]
async fn a_head_is_sealed_by_its_age_so_that_delivered_readings_go() {
    let rig = Rig::new();
    let young = config::Journal {
        generation_age: Duration::from_millis(300),
        dedupe_window: Duration::ZERO,
        ..settings()
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (journal, driver, _) = Journal::open(&young, rig.dir.path(), TestClock::new(), disk).unwrap();
    let uplink = journal.uplink("lake", StartAt::Oldest).unwrap();
    let running = Running { journal: journal.clone(), driver: tokio::spawn(driver.run()) };
    running.store(3, 0).await;
    let database = rig.dir.path().join("spool/raw/gen-1/db");
    assert!(std::fs::read(database).unwrap().windows(NAME.len()).any(|w| w == NAME.as_bytes()));
    let begun = std::time::Instant::now();
    // Housekeeping comes every 5 s: it seals, and then removes what the uplink has passed.
    while journal.generations().iter().any(|generation| generation.readings > 0) {
        let next = journal.read(uplink.cursor(), 1_000).unwrap().next;
        let bounds =
            crate::journal::Bounds { from: uplink.cursor(), to: next, fixed_ms: 0, guessed: false, clock: 0 };
        uplink.begin(bounds).unwrap();
        uplink.confirm(bounds, crate::journal::Tally::default()).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", journal.generations());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(journal);
    running.stop().await;
    assert_eq!(traces(rig.dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_sealed_stays_sealed_and_what_cannot_be_opened_is_told() {
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("keys");
    add_key(&file).unwrap();
    let first = std::fs::read(&file).unwrap();
    let rig = Rig::keyed(&file);
    let running = rig.start();
    running.store(20, 0).await;
    running.stop().await;
    add_key(&file).unwrap();
    let running = rig.start();
    running.store(20, 1_000).await;
    let (before, ..) = read(&running.journal);
    assert_eq!(running.erase(false).await.readings, 400);
    let (after, missing, _) = read(&running.journal);
    assert_eq!((after.len(), missing.len()), (800, 400));
    assert!(after.iter().all(|(seq, reading)| before.get(seq) == Some(reading)));
    running.store(20, 2_000).await;
    running.stop().await;
    let keys = KeySource::of(&rig.settings).load_again().unwrap();
    let left = traces_with(rig.dir.path(), &keys);
    assert_eq!(left.len(), 1, "only what came after it: {left:?}");

    // The newest key is gone: what it opens is told, the rest is erased all the same.
    std::fs::write(&file, first).unwrap();
    let running = rig.start();
    running.store(20, 3_000).await;
    let journal = running.journal.clone();
    let told = tokio::task::spawn_blocking(move || journal.erase(NAME, false)).await.unwrap().unwrap_err();
    assert!(
        matches!(told, EraseError::Unreadable { cause: crate::journal::BlockError::Sealed(_), .. }),
        "{told}"
    );
    running.stop().await;
    assert_eq!(traces_with(rig.dir.path(), &keys), left);
    for database in std::fs::read_dir(rig.dir.path().join("spool/raw")).unwrap() {
        let db = sled::open(database.unwrap().path()).unwrap();
        for value in db.iter().values() {
            assert!(block::key(&value.unwrap()).unwrap().is_some(), "a value lies in the clear");
        }
    }
}

#[tokio::test]
async fn summaries_go_as_well_and_those_of_others_keep_their_places() {
    let rig = Rig {
        settings: config::Journal { generation_size: bytesize::ByteSize(4 << 20), ..settings() },
        ..Rig::new()
    };
    let running = rig.start();
    let devices = ["aaa", NAME, "zzz"].map(|name| running.journal.devices().intern(name).unwrap());
    let mut out: Vec<Appended> = Vec::new();
    for group in 0..200_i64 {
        let mut readings = Vec::new();
        for device in devices {
            for n in 0..200 {
                let mut reading = reading_at(device.0, (group * 200 + n) * 1_000, 70);
                let noise = (group as u64 * 211 + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                reading.rr.values = (0..4).map(|i| (noise >> (8 * i)) as u32 & 0xffff).collect();
                readings.push(reading);
            }
        }
        running.journal.append(&mut readings, &mut out).await;
        running.journal.wait(out.last().unwrap().ticket).await;
    }
    running.stop().await;
    let journal = rig.offline();
    assert!(matches!(journal.thin_one().unwrap(), crate::journal::Thinning::Done(_)));
    let summaries = || {
        let mut found = Vec::new();
        let mut from = Seq(0);
        loop {
            let page = journal.read(from, 100).unwrap();
            if page.next == from {
                return found;
            }
            from = page.next;
            for entry in page.entries {
                match entry {
                    Entry::Summary { at, device, summary } => found.push((at, device.to_string(), summary.n)),
                    Entry::Gap { devices, .. } => assert!(
                        found.len() > 10 && devices.iter().any(|(name, _)| &**name == "aaa"),
                        "{devices:?}"
                    ),
                    _ => {}
                }
            }
        }
    };
    let before = summaries();
    let theirs =
        before.iter().filter(|(_, device, _)| device == NAME).map(|(.., n)| u64::from(*n)).sum::<u64>();
    assert!(theirs > 10_000, "{theirs}");
    let erased = journal.erase(NAME, false).unwrap();
    assert_eq!(erased.readings, 40_000);
    let kept: Vec<_> = before.into_iter().filter(|(_, device, _)| device != NAME).collect();
    assert_eq!(summaries(), kept);
    drop(journal);
    assert_eq!(traces(rig.dir.path()), Vec::<String>::new());
}
