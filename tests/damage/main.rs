//! A damaged buffer never stops the gateway: every file of a spool truncated, flipped, zeroed, deleted. Each time the
//! gateway starts within 10 s, keeps what can be kept, tells the rest as lost, number by number, and delivers no wrong
//! value.
//!
//! The spool under test is that of a real gateway that was killed: several generations, the last one open. What each
//! number holds is taken from what an undamaged copy delivers, after that was held against what the publishers know.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure, and the figures go to standard output"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod names;
mod small_files;
mod summaries;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use fogbeat::clock::SystemClock;
use fogbeat::config;
use fogbeat::journal::{Entry, GapCause, Journal, Program, ReadError, RealDisk, Repaired, Seq};
use rustix::process::Signal;
use support::daemon::{Daemon, Setup, binary, http_get};
use support::fleet::Fleet;
use support::lake::{Delivered, Lake, judge};
use support::rng::Rng;

/// A gateway with damage starts within this time.
const START: Duration = Duration::from_secs(10);
/// Longer than sled may work on an open.
const STANDSTILL: Duration = Duration::from_secs(7);
/// Longest a test waits for what is being salvaged.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest that everything may take to be delivered on a busy machine.
const DELIVERY: Duration = Duration::from_secs(180);
const GENERATION_SIZE: &str = "1MiB";
/// Sealed generations in the spool under test, and the least size of its head's file.
const SEALED: usize = 2;
const HEAD_SIZE: u64 = 700_000;
/// Readings of one block at most: what one damaged value costs.
const BLOCK: u64 = 1000;

/// The spool under test.
struct Template {
    root: tempfile::TempDir,
    /// What each number holds.
    truth: BTreeMap<u64, Value>,
    /// Readings per generation.
    counts: BTreeMap<u32, u64>,
    head: u32,
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(Template::make)
}

fn scratch(name: &str) -> tempfile::TempDir {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(parent).unwrap();
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .disable_cleanup(std::env::var_os("FOGBEAT_KEEP").is_some())
        .tempdir_in(parent)
        .unwrap()
}

impl Template {
    fn make() -> Self {
        let root = scratch("damage");
        let setup = Setup::new(root.path());
        setup.block_lake();
        let mut command = setup.command(&[]);
        command.env("FOGBEAT__JOURNAL__GENERATION_SIZE", GENERATION_SIZE);
        let mut daemon = Daemon::spawn(command, &setup);
        daemon.wait_ready();
        let fleet = Fleet::start(setup.mqtt, 20, 6000.0, Rng::new(7));
        let started = Instant::now();
        let newest = |number: &u32| setup.state_dir.join(format!("spool/raw/gen-{number}/db"));
        while generations(&setup.state_dir).get(SEALED).map(newest).is_none_or(|db| size(&db) < HEAD_SIZE) {
            std::thread::sleep(Duration::from_millis(100));
            assert!(started.elapsed() < Duration::from_secs(120), "the generations do not fill");
        }
        let account = fleet.settle();
        assert_eq!(account.unacknowledged, 0);
        daemon.kill();
        let head = *generations(&setup.state_dir).last().unwrap();

        // An undamaged copy tells which number each reading has, and is held against the publishers' own account.
        let copy = Setup {
            state_dir: root.path().join("whole"),
            lake: root.path().join("lake-whole"),
            ..setup.clone()
        };
        copy_dir(&setup.state_dir, &copy.state_dir);
        let lake = deliver(&copy);
        judge(&account.readings, &lake).require("damage, the spool before it");
        let counts = lake
            .ends
            .iter()
            .filter(|(g, _)| **g <= head)
            .map(|(generation, count)| (*generation, *count))
            .collect();
        let truth =
            lake.readings.into_iter().map(|(seq, got)| (seq, got.into())).collect::<BTreeMap<_, Value>>();
        println!("damage: {} readings in generations 1 to {head}", truth.len());
        Self { root, truth, counts, head }
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// What a damaged spool may tell: each number the truth or a gap, and nothing else.
    fn hold(&self, what: &str, seen: &Seen, most_lost: Option<u64>) -> u64 {
        for (seq, got) in &seen.readings {
            let Some(truth) = self.truth.get(seq) else {
                panic!("{what}: nobody sent number {seq}: {got:?}")
            };
            assert_eq!(got, truth, "{what}: number {seq} was altered");
        }
        let mut lost = 0;
        for seq in self.truth.keys() {
            let told = seen.gaps.iter().any(|(first, last)| first <= seq && seq <= last);
            let there = seen.readings.contains_key(seq);
            assert!(told || there, "{what}: number {seq} is neither delivered nor told as lost");
            assert!(!(told && there), "{what}: number {seq} is delivered and told as lost");
            lost += u64::from(told);
        }
        for (generation, count) in &self.counts {
            assert_eq!(
                seen.ends.get(generation),
                Some(count),
                "{what}: generation {generation} has another count"
            );
        }
        if let Some(head) = seen.head {
            assert!(head > self.head, "{what}: generation {head} is used again");
        }
        if let Some(most) = most_lost {
            assert!(lost <= most, "{what}: {lost} readings lost, at most {most} were hit");
        }
        lost
    }
}

/// What a reading says.
#[derive(Debug, Clone, PartialEq)]
struct Value {
    device: String,
    stamp: i64,
    bpm: Option<u64>,
    rr_ms: Vec<f64>,
}

impl From<Delivered> for Value {
    fn from(Delivered { device, stamp, bpm, rr_ms, .. }: Delivered) -> Self {
        Self { device, stamp, bpm, rr_ms }
    }
}

/// What came out of a damaged spool.
#[derive(Default)]
struct Seen {
    readings: BTreeMap<u64, Value>,
    gaps: Vec<(u64, u64)>,
    ends: BTreeMap<u32, u64>,
    /// The generation that the run under test writes; none when it was read from the lake.
    head: Option<u32>,
    /// What was salvaged meanwhile.
    repaired: Vec<Repaired>,
}

impl From<Lake> for Seen {
    fn from(lake: Lake) -> Self {
        assert!(lake.defects.is_empty(), "{:?}", lake.defects);
        let gaps = lake.gaps.iter().map(|(first, last, cause)| {
            assert_eq!(cause, "lost");
            (*first, *last)
        });
        Self {
            gaps: gaps.collect(),
            readings: lake.readings.into_iter().map(|(seq, got)| (seq, got.into())).collect(),
            ends: lake.ends,
            ..Self::default()
        }
    }
}

/// A copy of the template that may be damaged.
struct Scene {
    root: tempfile::TempDir,
    head: u32,
}

impl Scene {
    fn new() -> Self {
        let root = scratch("damage-scene");
        copy_dir(&template().state(), &root.path().join("state"));
        Self { root, head: template().head }
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn spool(&self) -> PathBuf {
        self.state().join("spool")
    }

    fn generation(&self, number: u32) -> PathBuf {
        self.spool().join(format!("raw/gen-{number}"))
    }

    fn snapshots(&self, number: u32) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.generation(number)).unwrap().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap."))
            .collect()
    }

    /// Opens the journal as the gateway does, reads everything through it, and closes it.
    fn read(&self, what: &str) -> Seen {
        self.read_with(what, config::Journal::default())
    }

    fn read_with(&self, what: &str, settings: config::Journal) -> Seen {
        self.read_after(what, settings, || {})
    }

    /// `opened` comes after the start, and before anything is salvaged.
    fn read_after(&self, what: &str, settings: config::Journal, opened: impl FnOnce()) -> Seen {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let trusted = config::Clock { trust: config::Trust::Always, ..config::Clock::default() };
            let clock = Arc::new(SystemClock::new(&trusted, &self.state()));
            let settings = config::Journal { commit_interval: Duration::ZERO, ..settings };
            let started = Instant::now();
            let (journal, driver, _) =
                Journal::open(&settings, &self.state(), clock, Arc::new(RealDisk)).unwrap();
            assert!(started.elapsed() < START, "{what}: the start took {:?}", started.elapsed());
            journal.salvage_by(Program::new(binary()));
            opened();
            let driver = tokio::spawn(driver.run());
            let reading = journal.clone();
            let said = what.to_owned();
            let mut seen = tokio::task::spawn_blocking(move || read_all(&reading, &said)).await.unwrap();
            seen.repaired = journal.damage().map_or_else(Vec::new, |damage| damage.salvaged);
            journal.close().await;
            driver.await.unwrap();
            seen
        })
    }

    /// The real gateway, up to a clean stop.
    fn run(&self, what: &str) -> (Setup, Seen) {
        let root = self.root.path();
        let setup = Setup { state_dir: self.state(), ..Setup::new(root) };
        println!("{what}");
        let lake = deliver(&setup);
        (setup, lake.into())
    }
}

fn read_all(journal: &Journal, what: &str) -> Seen {
    let mut seen = Seen::default();
    let mut from = Seq(0);
    let started = Instant::now();
    let end = *journal.watch_watermark().borrow();
    seen.head = Some(end.generation());
    while from < end {
        assert!(started.elapsed() < PATIENCE, "{what}: the reader waits for ever at {from}");
        let page = match journal.read(from, 5000) {
            Ok(page) => page,
            Err(ReadError::Damaged { .. }) => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        assert!(page.next > from, "{what}: nothing comes at {from}");
        from = page.next;
        for entry in page.entries {
            match entry {
                Entry::Reading { seq, device, reading } => {
                    let stamp = match reading.device_time {
                        Some(fogbeat::reading::DeviceTime::Accepted(at)) => at,
                        other => panic!("{what}: a stamp became {other:?}"),
                    };
                    let rr_ms = reading.rr.values.iter().map(|&value| f64::from(value)).collect();
                    let bpm = reading.bpm.map(|bpm| u64::from(bpm.get()));
                    let got = Value { device: device.to_string(), stamp, bpm, rr_ms };
                    assert!(seen.readings.insert(seq.0, got).is_none(), "{what}: {seq} twice");
                }
                Entry::Gap { first, last, cause, .. } => {
                    assert_eq!(cause, GapCause::Lost);
                    seen.gaps.push((first.0, last.0));
                }
                Entry::Summary { .. } => panic!("{what}: nothing was thinned"),
                Entry::End { generation, count } => {
                    seen.ends.insert(generation, u64::from(count));
                }
            }
        }
    }
    seen
}

/// Starts the gateway, waits until it has delivered everything that the spool held, and stops it.
fn deliver(setup: &Setup) -> Lake {
    let started = Instant::now();
    let mut daemon = setup.start();
    let took = started.elapsed();
    assert!(took < START, "the start took {took:?}\n{}", setup.log_tail());
    let begun = Instant::now();
    while !is_delivered(setup) {
        assert!(daemon.ended().is_none(), "the gateway ended\n{}", setup.log_tail());
        assert!(begun.elapsed() < DELIVERY, "deliveries do not come to an end\n{}", setup.log_tail());
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = daemon.terminate(PATIENCE);
    assert!(status.success(), "a clean stop ended with {status}\n{}", setup.log_tail());
    Lake::read(&setup.lake)
}

/// Nothing waits to be salvaged, and nothing to be delivered.
fn is_delivered(setup: &Setup) -> bool {
    let Some(status) = http_get(setup.http, "/status") else { return false };
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let waiting =
        status["journal"]["damage"]["waiting"].as_array().is_some_and(|waiting| !waiting.is_empty());
    let queued = status["uplinks"][0]["queued_readings"].as_u64();
    !waiting && queued == Some(0)
}

/// Numbers of the generations on disk, in order.
fn generations(state: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(state.join("spool/raw")) else { return Vec::new() };
    let mut numbers: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("gen-")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn truncate(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn flip(path: &Path, bit: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

fn zero(path: &Path, offset: u64, length: usize) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&vec![0; length], offset).unwrap();
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// The tests load the machine: one at a time.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn an_undamaged_spool_loses_nothing_and_nothing_is_salvaged() {
    let _alone = alone();
    let scene = Scene::new();
    let seen = scene.read("undamaged");
    assert_eq!(template().hold("undamaged", &seen, Some(0)), 0);
    assert!(!scene.spool().join("quarantine").exists());
}

#[test]
fn a_truncated_database_keeps_what_is_left_of_it() {
    let _alone = alone();
    let segment = 512 * 1024;
    for number in [1, template().head] {
        let whole = size(&Scene::new().generation(number).join("db"));
        let places = [
            0,
            1,
            8,
            19,
            4096,
            segment - 1,
            segment,
            segment + 1,
            whole / 2,
            whole - 4096,
            whole - 17,
            whole - 1,
        ];
        for length in places.into_iter().filter(|length| *length < whole) {
            let scene = Scene::new();
            truncate(&scene.generation(number).join("db"), length);
            let what = format!("gen-{number} of {whole} bytes cut at {length}");
            let seen = scene.read(&what);
            let lost = template().hold(&what, &seen, None);
            println!("{what}: {lost} of {} lost", template().counts[&number]);
            assert!(length < segment || lost < template().counts[&number], "{what}: nothing was kept");
        }
    }
}

#[test]
fn a_flipped_bit_costs_at_most_the_block_it_hits() {
    let _alone = alone();
    let mut rng = Rng::from_env("damage, flips");
    let flips = support::env_number("FOGBEAT_FLIPS", 40);
    let mut total = 0;
    for n in 0..flips {
        let scene = Scene::new();
        let number = rng.between(1, u64::from(scene.head) + 1) as u32;
        let db = scene.generation(number).join("db");
        let whole = size(&db);
        // Every third in the last of the file, where the newest readings are.
        let from = if n % 3 == 0 { whole - whole / 20 } else { 0 };
        let bit = rng.between(from * 8, whole * 8);
        flip(&db, bit);
        let what = format!("gen-{number} of {whole} bytes, bit {} of byte {}", bit % 8, bit / 8);
        let lost = template().hold(&what, &scene.read(&what), Some(BLOCK));
        total += lost;
        if lost > 0 {
            println!("{what}: {lost} lost");
        }
    }
    println!("{flips} flips cost {total} readings");
}

#[test]
fn zeroed_pages_cost_at_most_the_blocks_on_them() {
    let _alone = alone();
    let mut rng = Rng::from_env("damage, zeros");
    for _ in 0..support::env_number("FOGBEAT_ZEROS", 16) {
        let scene = Scene::new();
        let number = rng.between(1, u64::from(scene.head) + 1) as u32;
        let db = scene.generation(number).join("db");
        let pages = size(&db) / 4096;
        let page = rng.between(0, pages);
        zero(&db, page * 4096, 4096);
        let what = format!("gen-{number}, page {page} of {pages} zeroed");
        // A page touches what is on it, the smallest blocks being one reading of some 40 bytes.
        let lost = template().hold(&what, &scene.read(&what), Some(2 * BLOCK));
        println!("{what}: {lost} lost");
    }
}

#[test]
fn deleted_and_damaged_files_of_a_database_cost_only_what_they_held() {
    let _alone = alone();
    for number in [1, template().head] {
        let count = template().counts[&number];
        type Harm = fn(&Scene, u32);
        let harms: [(&str, Harm, u64); 9] = [
            ("db deleted", |s, n| fs::remove_file(s.generation(n).join("db")).unwrap(), count),
            ("conf deleted", |s, n| fs::remove_file(s.generation(n).join("conf")).unwrap(), 0),
            ("conf emptied", |s, n| truncate(&s.generation(n).join("conf"), 0), 0),
            ("conf flipped", |s, n| flip(&s.generation(n).join("conf"), 77), 0),
            ("blobs deleted", |s, n| fs::remove_dir_all(s.generation(n).join("blobs")).unwrap(), 0),
            ("everything deleted", |s, n| fs::remove_dir_all(s.generation(n)).unwrap(), count),
            (
                "snapshots deleted",
                |s, n| s.snapshots(n).iter().for_each(|path| fs::remove_file(path).unwrap()),
                0,
            ),
            ("snapshots flipped", |s, n| s.snapshots(n).iter().for_each(|path| flip(path, 99)), 0),
            (
                "an empty snapshot under way",
                |s, n| fs::write(s.generation(n).join("snap.0000000000001234.generating"), "").unwrap(),
                0,
            ),
        ];
        for (name, harm, most) in harms {
            let scene = Scene::new();
            harm(&scene, number);
            let what = format!("gen-{number}, {name}");
            let lost = template().hold(&what, &scene.read(&what), Some(most));
            println!("{what}: {lost} lost");
            assert_eq!(lost, most, "{what}");
        }
    }
}

type Harm = fn(&Path);

const HARMS: [(&str, Harm); 4] = [
    ("deleted", |path| fs::remove_file(path).unwrap()),
    ("emptied", |path| truncate(path, 0)),
    ("flipped", |path| flip(path, size(path) * 8 / 3)),
    ("overwritten", |path| fs::write(path, "nonsense").unwrap()),
];

#[test]
fn a_damaged_small_file_costs_no_reading_and_no_number_is_used_twice() {
    let _alone = alone();
    let files = ["manifest.json", "manifest.copy", "mark", "id.json", "cursors/directory.json"];
    for file in files {
        for (name, harm) in HARMS {
            let scene = Scene::new();
            harm(&scene.spool().join(file));
            let what = format!("{file} {name}");
            template().hold(&what, &scene.read(&what), Some(0));
        }
    }
    for (name, harm) in HARMS {
        let scene = Scene::new();
        files.iter().for_each(|file| harm(&scene.spool().join(file)));
        let what = format!("all small files {name}");
        template().hold(&what, &scene.read(&what), Some(0));
    }
}

/// What is damaged, how, and how many readings that may cost at most.
type Case<'a> = (&'a str, &'a dyn Fn(&Scene), u64);

#[test]
fn the_real_gateway_starts_and_delivers_whatever_is_damaged() {
    let _alone = alone();
    let head = template().head;
    let halved = |scene: &Scene, number| {
        let db = scene.generation(number).join("db");
        truncate(&db, size(&db) / 2);
    };
    let cases: [Case<'_>; 4] = [
        ("a database cut in half", &|scene| halved(scene, 1), template().counts[&1]),
        ("the head cut in half", &|scene| halved(scene, head), template().counts[&head]),
        (
            "a snapshot under way, and a flipped bit in a snapshot",
            &|scene| {
                fs::write(scene.generation(head).join("snap.0000000000001234.generating"), "").unwrap();
                scene.snapshots(1).iter().for_each(|path| flip(path, 99));
            },
            0,
        ),
        (
            "every small file emptied",
            &|scene| {
                let files = ["manifest.json", "manifest.copy", "mark", "id.json", "cursors/directory.json"];
                let beside = ["lock", "gateway-id", "devices.toml", "clock-floor"];
                for path in files
                    .map(|f| scene.spool().join(f))
                    .into_iter()
                    .chain(beside.map(|f| scene.state().join(f)))
                {
                    fs::write(path, "").unwrap();
                }
            },
            0,
        ),
    ];
    for (what, harm, most) in cases {
        let scene = Scene::new();
        harm(&scene);
        let (setup, seen) = scene.run(what);
        let lost = template().hold(what, &seen, Some(most));
        println!("{what}: {lost} lost");
        let log = fs::read_to_string(&setup.log).unwrap();
        assert!(log.contains("ERROR") || most == 0, "{what}: nothing was said\n{log}");
    }
}

#[test]
fn a_kill_inside_open_costs_nothing() {
    let _alone = alone();
    let mut rng = Rng::from_env("damage, kills inside open");
    let scene = Scene::new();
    let setup = Setup { state_dir: scene.state(), ..Setup::new(scene.root.path()) };
    for _ in 0..support::env_number("FOGBEAT_OPEN_KILLS", 8) {
        let daemon = setup.spawn();
        std::thread::sleep(Duration::from_micros(rng.between(0, 400_000)));
        daemon.kill();
    }
    let (_, seen) = scene.run("killed inside open");
    template().hold("killed inside open", &seen, Some(0));
}

/// sled cannot be stopped: given up while it opens a database, it goes on, and writes a snapshot where that had been.
#[test]
fn what_sled_writes_when_it_was_given_up_does_not_replace_what_was_set_aside() {
    let _alone = alone();
    let scene = Scene::new();
    let db = scene.generation(1).join("db");
    flip(&db, size(&db) * 4);
    let seen = scene.read_after("given up", config::Journal::default(), || {
        assert!(!scene.generation(1).exists(), "it was not set aside");
        fs::create_dir(scene.generation(1)).unwrap();
        fs::write(scene.generation(1).join("snap.0000000000003688"), [0; 64]).unwrap();
    });
    assert_eq!(seen.repaired.len(), 1);
    template().hold("given up", &seen, Some(BLOCK));
    assert!(!scene.generation(1).exists(), "the snapshot is left over");
}

/// A suspended virtual machine, a host without a processor to spare: slow is not damaged.
#[test]
fn a_process_that_stands_still_while_sled_opens_loses_nothing() {
    let _alone = alone();
    let scene = Scene::new();
    let setup = Setup { state_dir: scene.state(), ..Setup::new(scene.root.path()) };
    let begun = Instant::now();
    let mut daemon = setup.spawn();
    while !support::process::has_thread(daemon.pid(), "journal-open") {
        assert!(begun.elapsed() < START, "sled is never opened\n{}", setup.log_tail());
    }
    daemon.signal(Signal::STOP);
    std::thread::sleep(STANDSTILL);
    daemon.signal(Signal::CONT);
    daemon.wait_ready();
    while !is_delivered(&setup) {
        assert!(begun.elapsed() < DELIVERY, "deliveries do not come to an end\n{}", setup.log_tail());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(daemon.terminate(PATIENCE).success());
    let log = fs::read_to_string(&setup.log).unwrap();
    assert!(!log.contains("quarantine"), "slow was taken for damaged\n{log}");
    template().hold("stood still", &Lake::read(&setup.lake).into(), Some(0));
}

#[test]
fn a_damaged_place_of_an_uplink_repeats_readings_under_the_same_ids() {
    let _alone = alone();
    let scene = Scene::new();
    let (setup, first) = scene.run("before");
    template().hold("before", &first, Some(0));
    for (name, harm) in HARMS {
        harm(&scene.spool().join("cursors/directory.json"));
        // Reading the lake fails when an id has two contents.
        let seen: Seen = deliver(&setup).into();
        template().hold(&format!("the place {name}"), &seen, Some(0));
    }
}

#[test]
fn salvage_by_hand_needs_no_gateway_and_the_quarantine_is_bounded() {
    let _alone = alone();
    let scene = Scene::new();
    let db = scene.generation(1).join("db");
    truncate(&db, size(&db) / 2);
    let setup = Setup { state_dir: scene.state(), ..Setup::new(scene.root.path()) };
    // Writes the configuration that the commands read.
    drop(setup.command(&[]));
    let fogbeat = |words: &[&str]| {
        let mut command = std::process::Command::new(binary());
        let output = command.args(words).arg("--config").arg(&setup.config).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    // Looking at everything finds the damage.
    assert_eq!(fogbeat(&["journal", "verify"]).0, Some(69));
    let (code, told) = fogbeat(&["journal", "inspect", "--json"]);
    let inspected: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &inspected["damage"]["waiting"]), (Some(0), &serde_json::json!([1])));
    let (code, told) = fogbeat(&["journal", "salvage", "--json"]);
    let salvaged: serde_json::Value = serde_json::from_str(&told).unwrap();
    let [one] = &salvaged["salvaged"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((code, &one["generation"]), (Some(0), &serde_json::json!(1)));
    let (kept, lost) = (one["salvaged"].as_u64().unwrap(), one["lost"].as_u64().unwrap());
    assert_eq!(kept + lost, template().counts[&1]);
    assert!(kept > 0 && lost > 0, "{told}");
    let shelf = scene.spool().join("quarantine/gen-1");
    assert!(shelf.is_dir(), "what is damaged is kept for a look");

    // Another one is damaged, and there is no room for what is kept for a look.
    fs::remove_file(scene.generation(2).join("db")).unwrap();
    let settings = config::Journal { quarantine: bytesize::ByteSize(0), ..config::Journal::default() };
    let seen = scene.read_with("no room", settings);
    assert_eq!(template().hold("no room", &seen, None), lost + template().counts[&2]);
    assert_eq!(fs::read_dir(scene.spool().join("quarantine")).unwrap().count(), 0);
}
