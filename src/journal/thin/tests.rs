use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{Stamp, WallQuality};
use crate::config;
use crate::journal::tests::{TestClock, reading_at};
use crate::journal::thin::Level;
use crate::journal::{
    Bounds, Disk, Entry, GapCause, GenerationState, Journal, RealDisk, Seq, StartAt, Tally, Thinning,
    UplinkCursor,
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
        self.make_in(dir.path(), settings(self.generation)).await;
        dir
    }

    async fn make_in(self, dir: &Path, settings: config::Journal) {
        let (journal, driver, _) =
            Journal::open(&settings, dir, TestClock::new(), Arc::new(RealDisk)).unwrap();
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
    assert_eq!(thin_all(&journal), [(1, 10), (1, 60)]);
    agrees(&everything(&journal), &before);
}

/// A file tree, copied.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What the disk is asked for, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Data,
    Path(PathBuf),
    Replace(PathBuf),
}

/// A disk on which something happens at every call.
struct Watched<F> {
    happens: F,
}

impl<F: Fn(Call) -> std::io::Result<()> + Send + Sync + 'static> Disk for Watched<F> {
    fn sync_data(&self, file: &std::fs::File) -> std::io::Result<()> {
        (self.happens)(Call::Data)?;
        RealDisk.sync_data(file)
    }
    fn sync_path(&self, path: &Path) -> std::io::Result<()> {
        (self.happens)(Call::Path(path.to_owned()))?;
        RealDisk.sync_path(path)
    }
    fn replace(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        (self.happens)(Call::Replace(path.to_owned()))?;
        RealDisk.replace(path, bytes)
    }
}

fn databases(dir: &Path) -> BTreeSet<String> {
    let raw = std::fs::read_dir(dir.join("spool/raw")).unwrap();
    raw.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// One generation of 32,000 readings.
const ONE: Fill = Fill { devices: 10, every: 1, seconds: 3_200, generation: 1 << 24 };

#[tokio::test]
async fn a_kill_at_any_step_leaves_the_readings_or_the_summaries_whole() {
    let dir = ONE.make().await;
    let copies = tempfile::tempdir().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let disk = {
        // What a kill leaves: the files as they are in that moment.
        let (from, to, taken) = (dir.path().to_owned(), copies.path().to_owned(), Arc::clone(&taken));
        Watched {
            happens: move |_| {
                copy(&from, &to.join(taken.fetch_add(1, Ordering::SeqCst).to_string()));
                Ok(())
            },
        }
    };
    let journal = open(dir.path(), Arc::new(disk));
    let before = census(&everything(&journal));
    let first = taken.load(Ordering::SeqCst);
    assert!(matches!(journal.thin_one().unwrap(), Thinning::Done(_)));
    copy(dir.path(), &copies.path().join(taken.load(Ordering::SeqCst).to_string()));
    let mut found = Vec::new();
    for step in first..=taken.load(Ordering::SeqCst) {
        let dir = copies.path().join(step.to_string());
        let journal = open(&dir, Arc::new(RealDisk));
        let entries = everything(&journal);
        agrees(&entries, &before);
        let thinned = matches!(entries.first(), Some(Entry::Summary { .. }));
        let expected = if thinned { "gen-1.r1" } else { "gen-1" };
        assert_eq!(databases(&dir), [expected.to_owned()].into(), "step {step}: leftovers are removed");
        if !thinned {
            assert!(matches!(journal.thin_one().unwrap(), Thinning::Done(_)), "step {step}");
            agrees(&everything(&journal), &before);
        }
        found.push(thinned);
    }
    assert!(found.len() >= 8 && !found[0] && found[found.len() - 1], "{found:?}");
    assert!(found.is_sorted(), "once thinned it stays thinned: {found:?}");
}

#[tokio::test]
async fn a_disk_that_fails_at_any_step_costs_nothing() {
    let template = ONE.make().await;
    let before = census(&everything(&open(template.path(), Arc::new(RealDisk))));
    // Once, at each call; and from some calls on for ever.
    for (for_ever, stride) in [(false, 1), (true, 4)] {
        for step in (0..).step_by(stride) {
            let dir = tempfile::tempdir().unwrap();
            copy(template.path(), dir.path());
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let failed = Arc::new(AtomicBool::new(false));
            let fails = {
                let (left, failed) = (Arc::clone(&left), Arc::clone(&failed));
                move |_| match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
                    Ok(_) => Ok(()),
                    Err(_) => {
                        failed.store(true, Ordering::SeqCst);
                        left.store(if for_ever { 0 } else { usize::MAX }, Ordering::SeqCst);
                        Err(std::io::ErrorKind::StorageFull.into())
                    }
                }
            };
            let journal = open(dir.path(), Arc::new(Watched { happens: fails }));
            left.store(step, Ordering::SeqCst);
            let result = journal.thin_one();
            let failed = failed.load(Ordering::SeqCst);
            if !for_ever {
                left.store(usize::MAX, Ordering::SeqCst);
                agrees(&everything(&journal), &before);
            }
            drop(journal);
            assert_eq!(databases(dir.path()).len(), 1, "step {step}: nothing is left lying");
            let journal = open(dir.path(), Arc::new(RealDisk));
            agrees(&everything(&journal), &before);
            match result {
                Ok(Thinning::Done(_)) if failed => {
                    // Only the manifest's second copy may fail without a word.
                    assert!(step >= 6, "step {step}");
                    continue;
                }
                Ok(Thinning::Done(_)) => {
                    assert!(step >= 6, "step {step}");
                    break;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(failed && error.to_string().contains("generation 1"), "{error}"),
            }
            assert!(matches!(journal.thin_one().unwrap(), Thinning::Done(_)), "step {step}: it works later");
        }
    }
}

#[tokio::test]
async fn the_summaries_are_on_disk_with_their_directories_before_they_take_the_readings_place() {
    let dir = ONE.make().await;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let happens = move |call| {
        log.lock().unwrap().push(call);
        Ok(())
    };
    let journal = open(dir.path(), Arc::new(Watched { happens }));
    journal.read(Seq(0), 1).unwrap();
    calls.lock().unwrap().clear();
    assert!(matches!(journal.thin_one().unwrap(), Thinning::Done(_)));
    let calls = calls.lock().unwrap().clone();
    let raw = dir.path().join("spool/raw");
    let new = raw.join("gen-1.r1");
    let manifest = Call::Replace(dir.path().join("spool/manifest.json"));
    let at = |wanted: &Call| calls.iter().rposition(|call| call == wanted);
    let swapped = at(&manifest).unwrap();
    assert_eq!(calls.iter().filter(|call| **call == manifest).count(), 1);
    assert!(at(&Call::Data).unwrap() < swapped, "{calls:?}");
    for path in [raw, new.clone(), new.join("db")] {
        assert!(at(&Call::Path(path.clone())).is_some_and(|at| at < swapped), "{path:?} in {calls:?}");
    }
}

#[tokio::test]
async fn a_damaged_block_is_told_as_lost_and_the_rest_as_thinned() {
    let dir = ONE.make().await;
    let journal = open(dir.path(), Arc::new(RealDisk));
    let before = everything(&journal);
    drop(journal);
    // One value in the middle, damaged behind sled's own checksum.
    let db = sled::open(dir.path().join("spool/raw/gen-1")).unwrap();
    let mut blocks = db.range(0u64.to_be_bytes()..(1u64 << 63).to_be_bytes());
    let (key, value) = blocks.nth(100).unwrap().unwrap();
    let (next, _) = blocks.next().unwrap().unwrap();
    let number = |key: &[u8]| u64::from_be_bytes(key.try_into().unwrap()) as u32;
    let (first, after) = (number(&key), number(&next));
    let mut value = value.to_vec();
    *value.last_mut().unwrap() ^= 1;
    db.insert(key, value).unwrap();
    db.flush().unwrap();
    drop((blocks, db));

    let journal = open(dir.path(), Arc::new(RealDisk));
    assert!(matches!(journal.thin_one().unwrap(), Thinning::Done(_)));
    let found = add_up(&everything(&journal)).remove(&1).unwrap();
    let count = found.count as u32;
    let gaps = [
        (0, first - 1, GapCause::Thinned),
        (first, after - 1, GapCause::Lost),
        (after, count - 1, GapCause::Thinned),
    ];
    assert_eq!(found.gaps, gaps);
    assert_eq!(found.summarised, u64::from(count - (after - first)));
    let mut devices = BTreeMap::new();
    for entry in before {
        if let Entry::Reading { seq, device, .. } = entry
            && !(first..after).contains(&seq.n())
        {
            *devices.entry(device.to_string()).or_default() += 1;
        }
    }
    assert_eq!(found.devices, devices, "of what was thinned the counts are exact");
}

#[tokio::test]
async fn summaries_whose_key_is_gone_are_withheld_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("keys");
    let settings = config::Journal { key_file: Some(key_file.clone()), ..settings(1 << 24) };
    let fill = Fill { devices: 90, every: 3, seconds: 9_000, generation: 1 << 24 };
    fill.make_in(dir.path(), settings.clone()).await;
    let open =
        || Journal::open_offline(&settings, dir.path(), TestClock::new(), Arc::new(RealDisk)).unwrap().0;
    let journal = open();
    let before = census(&everything(&journal));
    assert!(matches!(journal.thin_one().unwrap(), Thinning::Done(_)));
    agrees(&everything(&journal), &before);
    let verified = journal.verify(&journal.generations()[0]).unwrap();
    let count: u64 = before[&1].values().sum();
    assert_eq!((verified.readings, verified.missing, verified.damaged.len()), (count, 0, 0));
    drop(journal);

    let aside = dir.path().join("keys-aside");
    std::fs::rename(&key_file, &aside).unwrap();
    let journal = open();
    let found = add_up(&everything(&journal)).remove(&1).unwrap();
    assert_eq!((found.summaries, found.readings), (0, 0));
    assert_eq!(found.gaps, [(0, count as u32 - 1, GapCause::Withheld)]);
    assert_eq!(journal.verify(&journal.generations()[0]).unwrap().sealed, count);
    drop(journal);

    std::fs::rename(&aside, &key_file).unwrap();
    agrees(&everything(&open()), &before);
}

/// An uplink as the forwarder is one: takes pages into its memory, fixes bounds, confirms.
struct Uplink {
    cursor: UplinkCursor,
    position: Seq,
    held: Vec<Entry>,
    open: Vec<(Bounds, Vec<Entry>)>,
    got: Vec<Entry>,
}

impl Uplink {
    fn new(journal: &Journal, name: &str, before: Option<Self>) -> Self {
        let cursor = journal.uplink(name, StartAt::Oldest).unwrap();
        let mut uplink = Self {
            position: cursor.cursor(),
            cursor,
            held: Vec::new(),
            open: Vec::new(),
            got: before.as_ref().map(|before| before.got.clone()).unwrap_or_default(),
        };
        let before = before.map(|before| before.open).unwrap_or_default();
        for (bounds, sent) in uplink.cursor.open().into_iter().zip(before.iter()) {
            assert_eq!(bounds, sent.0);
            // Sent again it is the same batch.
            uplink.position = bounds.from;
            while uplink.position < bounds.to {
                uplink.take(journal, bounds.to);
            }
            let again = std::mem::take(&mut uplink.held);
            assert_eq!(again.len(), sent.1.len(), "{bounds:?}");
            for (again, sent) in again.iter().zip(&sent.1) {
                assert_eq!(format!("{again:?}"), format!("{sent:?}"));
            }
            uplink.open.push((bounds, again));
        }
        uplink
    }

    /// Reads a page, as far as `to`; `false` when there is nothing more.
    fn take(&mut self, journal: &Journal, to: Seq) -> bool {
        let page = journal.read_for(&self.cursor, self.position, 16_000).unwrap();
        let next = page.next.min(to);
        let entries = page.entries.into_iter();
        self.held.extend(entries.filter(|entry| (self.position..to).contains(&entry.span().0)));
        let more = next > self.position;
        self.position = next;
        more
    }

    fn begin(&mut self) {
        let from = self.open.last().map_or_else(|| self.cursor.cursor(), |(bounds, _)| bounds.to);
        if self.position > from {
            let bounds = Bounds { from, to: self.position, fixed_ms: 0, clock: 0, guessed: false };
            self.cursor.begin(bounds).unwrap();
            self.open.push((bounds, std::mem::take(&mut self.held)));
        }
    }

    fn confirm(&mut self) {
        if !self.open.is_empty() {
            let (bounds, entries) = self.open.remove(0);
            let mut tally = Tally::default();
            for entry in &entries {
                match entry {
                    Entry::Reading { .. } => tally.delivered += 1,
                    Entry::Gap { first, last, cause, .. } => tally.tell(*cause, last.0 - first.0 + 1),
                    Entry::Summary { .. } | Entry::End { .. } => {}
                }
            }
            self.cursor.confirm(bounds, tally).unwrap();
            self.got.extend(entries);
        }
    }

    /// Its account adds up, by the manifest and by what is found in the databases.
    fn proven(&self, journal: &Journal) {
        let account = journal.account(&self.cursor);
        assert!(account.adds_up, "{account:?} at {:?}", self.cursor.cursor());
        let generations = journal.generations().into_iter();
        let readable = generations.map(|g| (g.generation, journal.verify(&g).unwrap().found)).collect();
        for proof in journal.facts().prove(&readable) {
            assert!(proof.adds_up, "{proof:?}");
        }
    }

    fn finish(&mut self, journal: &Journal) {
        while self.take(journal, Seq(u64::MAX)) {}
        self.begin();
        while !self.open.is_empty() {
            self.confirm();
        }
    }
}

#[tokio::test]
async fn no_uplink_is_served_readings_and_summaries_of_the_same_numbers() {
    let template = SMALL.make().await;
    let before = census(&everything(&open(template.path(), Arc::new(RealDisk))));
    assert!(before.len() >= 3, "{}", before.len());
    let (mut mixed, mut thinned) = (0, 0);
    for seed in 1..=3u64 {
        let dir = tempfile::tempdir().unwrap();
        copy(template.path(), dir.path());
        let mut journal = open(dir.path(), Arc::new(RealDisk));
        let names = ["a", "b", "c"];
        let mut uplinks: Vec<Uplink> = names.iter().map(|name| Uplink::new(&journal, name, None)).collect();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for step in 0..150 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // The first is fast, the last is slow.
            let which = [0, 0, 0, 0, 0, 1, 1, 2][(random >> 8) as usize % 8];
            let uplink: &mut Uplink = &mut uplinks[which];
            match random % 32 {
                0..14 => _ = uplink.take(&journal, Seq(u64::MAX)),
                14..21 => uplink.begin(),
                21..28 => uplink.confirm(),
                28..31 if step >= 40 => {
                    thinned += usize::from(matches!(journal.thin_one().unwrap(), Thinning::Done(_)))
                }
                _ => {
                    uplinks.iter().for_each(|uplink| uplink.cursor.sync().unwrap());
                    drop(journal);
                    journal = open(dir.path(), Arc::new(RealDisk));
                    uplinks = names
                        .iter()
                        .zip(uplinks)
                        .map(|(name, uplink)| Uplink::new(&journal, name, Some(uplink)))
                        .collect();
                }
            }
        }
        let mut kinds = BTreeSet::new();
        for uplink in &mut uplinks {
            uplink.proven(&journal);
            uplink.finish(&journal);
            uplink.proven(&journal);
            // Each number once: as a reading, or in a summary and a gap.
            agrees(&uplink.got, &before);
            let windows = add_up(&uplink.got).into_values().map(|found| found.window_s);
            kinds.insert(windows.collect::<Vec<_>>());
        }
        mixed += usize::from(kinds.len() > 1);
    }
    assert!(thinned >= 3 && mixed >= 1, "the draw was too tame: {thinned} thinned, {mixed} mixed");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_race_with_thinning_see_one_or_the_other() {
    let template = SMALL.make().await;
    let before = census(&everything(&open(template.path(), Arc::new(RealDisk))));
    for round in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        copy(template.path(), dir.path());
        let journal = open(dir.path(), Arc::new(RealDisk));
        let mut uplinks = ["a", "b"].map(|name| Uplink::new(&journal, name, None));
        std::thread::scope(|scope| {
            for (index, uplink) in uplinks.iter_mut().enumerate() {
                let journal = &journal;
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(round * 60 * index as u64));
                    while uplink.take(journal, Seq(u64::MAX)) {
                        uplink.begin();
                        uplink.confirm();
                    }
                });
            }
            while journal.thin_one().unwrap() != Thinning::Nothing {}
        });
        for uplink in &uplinks {
            agrees(&uplink.got, &before);
        }
    }
}

#[tokio::test]
async fn what_everybody_has_is_left_to_be_removed_and_what_somebody_is_reading_is_left_alone() {
    let dir = SMALL.make().await;
    let journal = open(dir.path(), Arc::new(RealDisk));
    let mut ahead = Uplink::new(&journal, "ahead", None);
    while ahead.position < Seq::new(2, 0) {
        ahead.take(&journal, Seq::new(2, 0));
    }
    ahead.begin();
    ahead.confirm();
    // Of generation 2 it has a page in its memory, and nothing on disk says so.
    ahead.take(&journal, Seq(u64::MAX));
    assert_eq!((ahead.cursor.cursor(), ahead.cursor.open().len()), (Seq::new(2, 0), 0));
    assert_eq!(thin_all(&journal), [(3, 10)], "1 is everybody's, 2 is being read");
    let _behind = Uplink::new(&journal, "behind", None);
    assert_eq!(thin_all(&journal), [(1, 10)], "somebody still needs 1");
    assert_eq!(journal.generations()[1].state, GenerationState::Sealed);
}
