//! The quota at work in a whole journal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::config;
use crate::journal::tests::{TestClock, reading_at};
use crate::journal::{
    Bounds, CursorError, Disk, Entry, GapCause, Journal, RealDisk, Seq, StartAt, Tally, UplinkCursor,
    disk_usage,
};
use crate::reading::Reading;

const QUOTA: u64 = 16 << 20;

struct Rig {
    dir: tempfile::TempDir,
    journal: Journal,
    driver: tokio::task::JoinHandle<()>,
    stored: BTreeMap<String, u64>,
    next: i64,
    /// Most that the spool was seen to take.
    peak: u64,
}

fn settings(when_full: WhenFull) -> config::Journal {
    config::Journal {
        commit_interval: Duration::ZERO,
        generation_size: bytesize::ByteSize::mib(1),
        quota: Some(bytesize::ByteSize(QUOTA)),
        when_full,
        ..config::Journal::default()
    }
}

impl Rig {
    fn new(when_full: WhenFull) -> Self {
        Self::again(tempfile::tempdir().unwrap(), when_full)
    }

    fn again(dir: tempfile::TempDir, when_full: WhenFull) -> Self {
        Self::on(dir, when_full, Arc::new(RealDisk))
    }

    fn on(dir: tempfile::TempDir, when_full: WhenFull, disk: Arc<dyn Disk>) -> Self {
        let (journal, driver, _) =
            Journal::open(&settings(when_full), dir.path(), TestClock::new(), disk).unwrap();
        let driver = tokio::spawn(driver.run());
        Self { dir, journal, driver, stored: BTreeMap::new(), next: 0, peak: 0 }
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    /// Stores 1,000 readings that do not compress; `false`: not durable within `patience`.
    async fn store(&mut self, device: &str, patience: Duration) -> bool {
        let id = self.journal.devices().intern(device).unwrap();
        let mut readings: Vec<Reading> = (0..1000)
            .map(|n| {
                let mut reading = reading_at(id.0, self.next + n, 72);
                let noise = ((self.next + n) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                reading.rr.values = (0..6).map(|i| (noise >> (8 * i)) as u32 & 0xffff).collect();
                reading
            })
            .collect();
        self.next += 1000;
        let mut out = Vec::new();
        self.journal.append(&mut readings, &mut out).await;
        let ticket = out.last().unwrap().ticket;
        let durable = tokio::time::timeout(patience, self.journal.wait(ticket)).await.is_ok();
        let now = disk_usage(&self.spool());
        self.peak = self.peak.max(now);
        if durable {
            *self.stored.entry(device.to_owned()).or_default() += 1000;
        }
        durable
    }

    async fn fill(&mut self, groups: usize) {
        for n in 0..groups {
            let device = ["bike-1", "bike-2", "rower"][n % 3];
            assert!(self.store(device, Duration::from_secs(20)).await, "{}", self.status());
        }
        self.settle().await;
    }

    /// What housekeeping has done up to now.
    fn done(&self) -> (u64, u64, Vec<(u32, Option<u16>)>) {
        let status = self.journal.status().quota;
        let generations = self.journal.generations();
        let windows = generations.iter().map(|generation| (generation.generation, generation.window_s));
        (status.evicted, status.withheld, windows.collect())
    }

    /// Waits until housekeeping has nothing left to do.
    async fn settle(&self) {
        loop {
            let before = self.done();
            tokio::time::sleep(Duration::from_millis(400)).await;
            if self.done() == before {
                return;
            }
        }
    }

    /// What is told from `from` on, read in one piece: databases grow when they are opened, and more may have to go; and
    /// nobody minds a reader that is no uplink when a generation is thinned.
    async fn told(&self, from: Seq) -> Told {
        loop {
            let before = self.done();
            let told = told(&self.journal, from);
            self.settle().await;
            if self.done() == before {
                return told;
            }
        }
    }

    fn status(&self) -> String {
        format!("{:?} {:?}", self.journal.status().quota, self.journal.generations())
    }

    async fn stop(self) -> tempfile::TempDir {
        self.journal.close().await;
        self.driver.await.unwrap();
        self.dir
    }
}

/// What an uplink that goes on at `from` is told: readings, and numbers in gaps with their counts per device.
#[derive(Default, Debug)]
struct Told {
    readings: BTreeMap<String, u64>,
    gaps: BTreeMap<&'static str, BTreeMap<String, u64>>,
    in_gaps: u64,
    ends: u64,
}

fn told(journal: &Journal, mut from: Seq) -> Told {
    let mut told = Told::default();
    loop {
        let page = journal.read(from, 1000).unwrap();
        if page.entries.is_empty() {
            return told;
        }
        for entry in &page.entries {
            match entry {
                Entry::Reading { device, .. } => *told.readings.entry(device.to_string()).or_default() += 1,
                Entry::Gap { first, last, cause, devices, .. } => {
                    told.in_gaps += last.0 - first.0 + 1;
                    let cause = crate::forward::batch::cause_label(*cause);
                    for (name, count) in devices.iter() {
                        *told.gaps.entry(cause).or_default().entry(name.to_string()).or_default() += count;
                    }
                }
                Entry::End { count, .. } => told.ends += u64::from(*count),
                Entry::Summary { .. } => {}
            }
        }
        from = page.next;
    }
}

/// Confirms everything up to `to`.
fn pass(cursor: &UplinkCursor, to: Seq) {
    let bounds = Bounds { from: cursor.cursor(), to, fixed_ms: 0, clock: 0, guessed: false };
    cursor.renew();
    cursor.begin(bounds).unwrap();
    cursor.confirm(bounds, Tally::default()).unwrap();
}

fn add(into: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (name, count) in counts {
        *into.entry(name.clone()).or_default() += count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_oldest_stays_within_the_quota_and_counts_every_reading_it_drops() {
    let mut rig = Rig::new(WhenFull::DropOldest);
    let cursor = rig.journal.uplink("cloud", StartAt::Oldest).unwrap();
    rig.fill(20).await;
    // A batch under way keeps its generation, whatever happens.
    let open = Bounds { from: Seq::new(1, 0), to: Seq::new(1, 500), fixed_ms: 0, clock: 0, guessed: false };
    cursor.begin(open).unwrap();
    rig.fill(700).await;
    assert!(rig.peak <= QUOTA, "{} of {QUOTA}", rig.peak);
    let told = rig.told(Seq::new(1, 0)).await;
    let status = rig.journal.status().quota;
    assert!(status.evicted > 0, "{}", rig.status());
    let mut all = told.readings.clone();
    add(&mut all, &told.gaps["evicted"]);
    assert_eq!(all, rig.stored, "per device: delivered + evicted = stored");
    assert_eq!(told.in_gaps, told.gaps["evicted"].values().sum::<u64>());
    assert_eq!(told.in_gaps, status.evicted);
    let kept = rig.journal.read(Seq::new(1, 0), 500).unwrap();
    assert!(
        kept.entries.iter().all(|entry| matches!(entry, Entry::Reading { .. })),
        "the open batch is whole"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thin_gives_detail_away_first_stays_within_the_quota_and_loses_count_of_nothing() {
    let mut rig = Rig::new(WhenFull::Thin);
    let cursor = rig.journal.uplink("cloud", StartAt::Oldest).unwrap();
    rig.fill(700).await;
    assert!(rig.peak <= QUOTA, "{} of {QUOTA}", rig.peak);
    let told = rig.told(cursor.cursor()).await;
    assert!(told.gaps.contains_key("thinned"), "{:?} {}", told.gaps, rig.status());
    let mut all = told.readings.clone();
    told.gaps.values().for_each(|counts| add(&mut all, counts));
    assert_eq!(all, rig.stored, "per device: delivered + thinned + evicted = stored");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_told_after_a_restart_too_and_forgotten_when_everybody_knows() {
    let mut rig = Rig::new(WhenFull::DropOldest);
    let cursor = rig.journal.uplink("cloud", StartAt::Oldest).unwrap();
    rig.fill(600).await;
    drop(cursor);
    let stored = rig.stored.clone();
    let rig = Rig::again(rig.stop().await, WhenFull::DropOldest);
    let told = rig.told(Seq(0)).await;
    let mut all = told.readings.clone();
    add(&mut all, &told.gaps["evicted"]);
    assert_eq!(all, stored);
    let cursor = rig.journal.uplink("cloud", StartAt::Oldest).unwrap();
    pass(&cursor, *rig.journal.watch_watermark().borrow());
    let gone = async {
        while rig.journal.generations().iter().any(|g| g.state == crate::journal::GenerationState::Evicted) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("evicted records go");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_uplink_is_told_of_exactly_what_it_had_not_got() {
    let mut rig = Rig::new(WhenFull::DropOldest);
    let near = rig.journal.uplink("near", StartAt::Oldest).unwrap();
    let far = rig.journal.uplink("far", StartAt::Oldest).unwrap();
    rig.fill(30).await;
    pass(&near, Seq::new(1, 8_500));
    pass(&far, Seq::new(1, 4_321));
    rig.fill(700).await;
    for cursor in [&near, &far] {
        let told = rig.told(cursor.cursor()).await;
        let behind = u64::from(cursor.cursor().n());
        let evicted = &told.gaps["evicted"];
        assert_eq!(told.in_gaps, evicted.values().sum::<u64>(), "{}: each gap has its counts", cursor.name());
        let delivered: u64 = told.readings.values().sum();
        assert_eq!(behind + delivered + told.in_gaps, rig.stored.values().sum::<u64>(), "{}", cursor.name());
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_that_is_not_required_loses_first_and_alone() {
    let mut rig = Rig::new(WhenFull::DropOldest);
    let required = rig.journal.uplink("clinic", StartAt::Oldest).unwrap();
    let optional = rig.journal.uplink("research", StartAt::Oldest).unwrap();
    optional.set_required(false);
    for _ in 0..14 {
        rig.fill(50).await;
        let head = *rig.journal.watch_watermark().borrow();
        pass(&required, head);
    }
    let lost = rig.told(optional.cursor()).await;
    assert!(lost.gaps.keys().eq(["withheld"].iter()), "{:?}", lost.gaps);
    let mut all = lost.readings.clone();
    add(&mut all, &lost.gaps["withheld"]);
    assert_eq!(all, rig.stored);
    let status = rig.journal.status().quota;
    assert_eq!((status.evicted, status.withheld), (0, lost.in_gaps));
    assert_eq!(told(&rig.journal, required.cursor()).in_gaps, 0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_read_before_its_generation_was_dropped_is_made_anew() {
    let mut rig = Rig::new(WhenFull::DropOldest);
    let cursor = rig.journal.uplink("cloud", StartAt::Oldest).unwrap();
    rig.fill(10).await;
    cursor.renew();
    let page = rig.journal.read(cursor.cursor(), 100).unwrap();
    assert!(matches!(page.entries.first(), Some(Entry::Reading { .. })));
    rig.fill(600).await;
    let bounds = Bounds { from: cursor.cursor(), to: page.next, fixed_ms: 0, clock: 0, guessed: false };
    assert!(matches!(cursor.begin(bounds), Err(CursorError::Changed { generation: 1 })));
    cursor.renew();
    let page = rig.journal.read(cursor.cursor(), 100).unwrap();
    let gap = matches!(page.entries.first(), Some(Entry::Gap { cause: GapCause::Evicted, .. }));
    assert!(gap, "{:?}", page.entries.first());
    cursor.begin(bounds).unwrap();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuse_new_keeps_what_is_there_and_opens_again_when_it_is_delivered() {
    let mut rig = Rig::new(WhenFull::RefuseNew);
    let cursor = rig.journal.uplink("cloud", StartAt::Oldest).unwrap();
    let mut groups = 0;
    while !rig.journal.admission().borrow().is_refused() {
        rig.store("bike-1", Duration::from_millis(500)).await;
        groups += 1;
        assert!(groups < 2000, "{}", rig.status());
    }
    assert_eq!(*rig.journal.admission().borrow(), Admission::Refused(Trouble::Quota));
    assert!(rig.peak <= QUOTA, "{} of {QUOTA}", rig.peak);
    let before = told(&rig.journal, Seq(0));
    assert_eq!(before.in_gaps, 0, "nothing was dropped");
    let head = *rig.journal.watch_watermark().borrow();
    pass(&cursor, head);
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(10), rig.journal.admitted()).await.expect("open again");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(rig.store("bike-1", Duration::from_secs(10)).await);
    rig.stop().await;
}

#[tokio::test]
async fn the_default_quota_is_chosen_once_and_does_not_drift() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config::Journal { quota: None, ..settings(WhenFull::DropOldest) };
    let quota = |settings: &config::Journal| {
        let disk = Arc::new(RealDisk);
        let (journal, _) = Journal::open_offline(settings, dir.path(), TestClock::new(), disk).unwrap();
        journal.status().quota.quota_bytes
    };
    let first = quota(&settings);
    assert!(first <= 2 << 30);
    let path = dir.path().join("spool/quota.json");
    std::fs::write(&path, crate::files::with_sum(br#"{"default_bytes":123456789}"#.to_vec())).unwrap();
    assert_eq!(quota(&settings), 123_456_789);
    // A digit that flips would be a quota that the disk does not have.
    std::fs::write(&path, br#"{"default_bytes":923456789}"#).unwrap();
    assert_eq!(quota(&settings), first);
    assert_eq!(quota(&config::Journal { quota: Some(bytesize::ByteSize(QUOTA)), ..settings }), QUOTA);
}

/// A disk that turns read-only and back.
struct MoodyDisk(std::sync::atomic::AtomicBool);

impl MoodyDisk {
    fn mood(&self) -> std::io::Result<()> {
        if self.0.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(std::io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }
}

impl Disk for MoodyDisk {
    fn sync_data(&self, file: &std::fs::File) -> std::io::Result<()> {
        self.mood().and_then(|()| RealDisk.sync_data(file))
    }
    fn sync_path(&self, path: &std::path::Path) -> std::io::Result<()> {
        self.mood().and_then(|()| RealDisk.sync_path(path))
    }
    fn replace(&self, path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
        self.mood().and_then(|()| RealDisk.replace(path, bytes))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_holds_then_refuses_and_all_goes_on_by_itself_when_it_is_back() {
    let disk = Arc::new(MoodyDisk(false.into()));
    let mut rig =
        Rig::on(tempfile::tempdir().unwrap(), WhenFull::DropOldest, Arc::clone(&disk) as Arc<dyn Disk>);
    let cursor = rig.journal.uplink("cloud", StartAt::Oldest).unwrap();
    rig.fill(3).await;
    disk.0.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(!rig.store("bike-1", Duration::from_millis(1500)).await, "nothing is acknowledged");
    assert_eq!(*rig.journal.admission().borrow(), Admission::Held(Trouble::ReadOnly));
    let bounds = Bounds { from: cursor.cursor(), to: Seq::new(1, 10), fixed_ms: 0, clock: 0, guessed: false };
    assert!(cursor.begin(bounds).is_err(), "no batch is begun that could not be known again");
    tokio::time::timeout(2 * PATIENCE, rig.journal.refused()).await.expect("senders are told");
    let generations = rig.journal.generations().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(rig.journal.generations().len() <= generations + 1, "no numbers are used up by trying");

    disk.0.store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::timeout(Duration::from_secs(10), rig.journal.admitted()).await.expect("within 10 s");
    rig.fill(3).await;
    cursor.begin(bounds).unwrap();
    let told = rig.told(Seq(0)).await;
    assert_eq!(told.readings.values().sum::<u64>(), 7000, "the group that waited is there, once");
    assert_eq!(told.in_gaps, 0);
    rig.stop().await;
}
