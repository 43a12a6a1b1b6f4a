//! Bytes and time per reading: what a day of 40 straps takes in the journal, encoded and in real disk blocks, plain and
//! encrypted.
//!
//! ```sh
//! cargo bench --bench storage -- [--hours 24] [--dir DIR] [--blocks-only]
//! ```
//!
//! Then every generation is thinned, to 10 s and to 1 min, and what that takes and wins is shown; and one strap is erased
//! from the journal, and another one from a lake that got everything.
//!
//! The straps are recorded hearts (`tests/data`). Two kinds are measured: raw 0x2A37 packets (RR in 1/1024 s, stamped
//! by the gateway on arrival) and JSON with a stamp of the device and RR in ms.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench stops at the first surprise, and its figures go to standard output"
)]

#[allow(dead_code, reason = "the straps can also speak JSON, which is not measured here")]
#[path = "../tests/support/hearts.rs"]
mod hearts;

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fogbeat::clock::{BootId, Clock, Stamp, WallQuality};
use fogbeat::config;
use fogbeat::forward::directory::erase::Lake;
use fogbeat::forward::{self, Drained, Metrics, Origin};
use fogbeat::journal::block::decode;
use fogbeat::journal::{Encoder, Journal, KeySource, Keys, Place, RealDisk, Thinning, disk_usage};
use fogbeat::reading::validity::DeviceTimeWindow;
use fogbeat::reading::{Contact, DeviceId, DeviceTime, Reading, RrIntervals, RrUnit, Source};

const STRAPS: usize = 40;
const BOOT_MS: i64 = 1_790_000_000_000;

struct BenchClock;

impl Clock for BenchClock {
    fn now(&self) -> Stamp {
        Stamp { uptime_ms: 0, wall_ms: BOOT_MS, quality: WallQuality::Synced }
    }
    fn boot(&self) -> BootId {
        BootId(*b"storage bench..!")
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Raw,
    StampedJson,
}

const KINDS: [(&str, Kind); 2] = [("raw 0x2A37", Kind::Raw), ("JSON with stamps", Kind::StampedJson)];

/// All straps' readings, second by second.
struct Day {
    kind: Kind,
    straps: Vec<std::iter::Peekable<hearts::Strap>>,
    second: u64,
    noise: u64,
}

impl Day {
    fn new(kind: Kind) -> Self {
        let straps = (0..STRAPS).map(|n| hearts::Strap::new(n).peekable()).collect();
        Self { kind, straps, second: 0, noise: 1 }
    }

    fn next_second(&mut self) -> Vec<Reading> {
        self.second += 1;
        let until = self.second * 1000;
        let mut readings = Vec::new();
        for (n, strap) in self.straps.iter_mut().enumerate() {
            while let Some(sent) = strap.next_if(|sent| sent.at_ms < until) {
                // 2 to 17 ms on the air and through the network.
                self.noise = self
                    .noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let arrived = sent.at_ms + 2 + (self.noise >> 60);
                let json = self.kind == Kind::StampedJson;
                let unit = if json { RrUnit::Millis } else { RrUnit::Ticks };
                let in_unit = |ms: &u64| if json { *ms as u32 } else { (*ms as u32 * 1024 + 500) / 1000 };
                readings.push(Reading {
                    device: DeviceId(n as u32),
                    source: Source::Mqtt,
                    arrival: Stamp {
                        uptime_ms: arrived,
                        wall_ms: BOOT_MS + arrived as i64,
                        quality: WallQuality::Synced,
                    },
                    device_time: json.then(|| DeviceTime::Accepted(BOOT_MS + sent.at_ms as i64)),
                    bpm: NonZeroU16::new(sent.bpm as u16),
                    rr: RrIntervals { unit, values: sent.rr_ms.iter().map(in_unit).collect() },
                    contact: if json { Contact::Unsupported } else { Contact::Detected },
                    energy_kj: None,
                    battery_percent: None,
                    rssi_dbm: None,
                    reason: None,
                    gap_ms: None,
                });
            }
        }
        readings
    }
}

/// CPU time of this thread: wall time would measure the machine's other work.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What blocks of one size cost, per reading.
struct Cost {
    bytes: f64,
    encode_ns: f64,
    decode_ns: f64,
}

fn blocks(kind: Kind, size: usize, keys: &Keys) -> Cost {
    let mut day = Day::new(kind);
    let mut encoder = Encoder::new(keys.sealer().cloned());
    let (mut bytes, mut readings, mut took, mut opening) = (0, 0, Duration::ZERO, Duration::ZERO);
    let mut back = Vec::new();
    for _ in 0..200_000 / size {
        let mut block = Vec::new();
        while block.len() < size {
            block.extend(day.next_second());
        }
        block.truncate(size);
        let started = cpu_time();
        block.sort_by_key(|reading| reading.device);
        let place = Place { boot_tag: 0x1234_5678, clock_epoch: 0, generation: 3, first_n: readings };
        let value = encoder.encode(place, block.iter()).expect("a value");
        took += cpu_time().saturating_sub(started);
        bytes += value.len();
        readings += block.len() as u32;
        let started = cpu_time();
        back.clear();
        decode(&value, keys, &mut back).expect("what was encoded");
        opening += cpu_time().saturating_sub(started);
        assert_eq!(back, block);
    }
    let each = |sum: f64| sum / f64::from(readings);
    Cost {
        bytes: each(bytes as f64),
        encode_ns: each(took.as_nanos() as f64),
        decode_ns: each(opening.as_nanos() as f64),
    }
}

/// The best of five in time; the bytes are the same.
fn best(kind: Kind, size: usize, keys: &Keys) -> Cost {
    let rounds = (0..5).map(|_| blocks(kind, size, keys));
    let better = |a: Cost, b: Cost| Cost {
        bytes: b.bytes,
        encode_ns: a.encode_ns.min(b.encode_ns),
        decode_ns: a.decode_ns.min(b.decode_ns),
    };
    rounds.reduce(better).expect("five rounds")
}

/// Disk bytes per reading when every second's readings are one commit, as at default settings.
async fn spool(kind: Kind, hours: u64, dir: &Path, key_file: Option<PathBuf>) -> (u64, f64, usize) {
    let settings =
        config::Journal { commit_interval: Duration::ZERO, key_file, ..config::Journal::default() };
    let (journal, driver, _) =
        Journal::open(&settings, dir, Arc::new(BenchClock), Arc::new(RealDisk)).expect("journal");
    let driver = tokio::spawn(driver.run());
    for n in 0..STRAPS {
        journal.devices().intern(&format!("bike-{n:02}")).expect("room for a device");
    }
    let mut day = Day::new(kind);
    let mut out = Vec::new();
    let mut readings = 0u64;
    for _ in 0..hours * 3600 {
        let mut second = day.next_second();
        readings += second.len() as u64;
        out.clear();
        journal.append(&mut second, &mut out).await;
        if let Some(last) = out.last() {
            journal.wait(last.ticket).await;
        }
    }
    let bytes = disk_usage(&dir.join("spool/raw"));
    let generations = journal.generations().len();
    journal.close().await;
    driver.await.expect("driver");
    (readings, bytes as f64 / readings as f64, generations)
}

/// Processor time of this process, ms.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    // utime and stime, in ticks of 10 ms.
    (fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")) * 10
}

/// What something took: time, time of the processor, memory at the peak beyond what was in use before.
struct Took {
    started: Instant,
    cpu_ms: u64,
    resident_kib: u64,
}

impl Took {
    fn begin() -> Self {
        // The highest mark of memory starts anew.
        std::fs::write("/proc/self/clear_refs", "5").expect("procfs");
        Self { started: Instant::now(), cpu_ms: cpu_ms(), resident_kib: status_kib("VmRSS:") }
    }

    /// Columns of a table.
    fn columns(&self) -> String {
        format!(
            "{:.2} s | {:.2} s | {:.1} MB",
            self.started.elapsed().as_secs_f64(),
            (cpu_ms() - self.cpu_ms) as f64 / 1e3,
            status_kib("VmHWM:").saturating_sub(self.resident_kib) as f64 * 1024.0 / 1e6
        )
    }
}

/// A line of /proc/self/status, KiB.
fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// Thins everything there is, and prints each generation's figures.
fn thin(name: &str, dir: &Path) {
    let (journal, _) =
        Journal::open_offline(&config::Journal::default(), dir, Arc::new(BenchClock), Arc::new(RealDisk))
            .expect("journal");
    loop {
        let took = Took::begin();
        match journal.thin_one().expect("thin") {
            Thinning::Done(done) => println!(
                "| {name} | {} to {} s | {} | {} | {:.1} MB to {:.2} MB | {} |",
                done.generation,
                done.level.window_s(),
                done.readings,
                done.summaries,
                done.before as f64 / 1e6,
                done.after as f64 / 1e6,
                took.columns()
            ),
            Thinning::Spared { .. } => {}
            Thinning::Nothing => return,
        }
    }
}

/// Erases a strap from the journal, delivers everything else, and erases another one from the lake.
async fn erase(name: &str, dir: &Path, lake: &Path) {
    let settings = config::Journal::default();
    let (journal, _) =
        Journal::open_offline(&settings, dir, Arc::new(BenchClock), Arc::new(RealDisk)).expect("journal");
    let took = Took::begin();
    let erased = journal.erase("bike-07", false).expect("erase");
    let size = disk_usage(&dir.join("spool")) as f64 / 1e6;
    println!("| {name} | journal, {size:.0} MB | {} readings | {} |", erased.readings, took.columns());
    drop(journal);
    deliver(dir, lake).await;
    let size = disk_usage(lake) as f64 / 1e6;
    let took = Took::begin();
    let names = ["bike-08".to_owned()];
    let erased = Lake { path: lake, names: &names }.erase(false).expect("erase");
    println!(
        "| {name} | lake, {size:.0} MB | {} lines in {} files | {} |",
        erased.lines,
        erased.files,
        took.columns()
    );
}

async fn deliver(dir: &Path, lake: &Path) {
    let clock = Arc::new(BenchClock);
    let (journal, driver, _) =
        Journal::open(&config::Journal::default(), dir, clock.clone(), Arc::new(RealDisk)).expect("journal");
    let driver = tokio::spawn(driver.run());
    let directory = config::Directory {
        path: Some(lake.to_owned()),
        max_bytes: None,
        keep: Duration::from_secs(30 * 86_400),
    };
    let uplink = config::Uplink {
        name: None,
        encoding: config::Encoding::Gzip,
        from: config::From::Oldest,
        required: true,
        pseudonyms: None,
        kind: config::UplinkKind::Directory(directory),
    };
    let origin = Origin {
        gateway: "bench".into(),
        site: None,
        state_dir: dir.to_owned(),
        window: DeviceTimeWindow::default(),
        pseudonyms: None,
    };
    let batch = config::Batch::default();
    let handle =
        forward::spawn(&uplink, &batch, &origin, &journal, clock, &Metrics::default()).expect("uplink");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
    assert_eq!(handle.drain(deadline).await.expect("a delivery"), Drained::Empty);
    journal.close().await;
    driver.await.expect("driver");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

fn option(name: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.next().and_then(|_| args.next())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let hours = option("--hours").map_or(24, |hours| hours.parse().expect("--hours: a number"));
    let base = option("--dir").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let keys = tempfile::tempdir().expect("a directory");
    let key_file = keys.path().join("keys");
    let sealed = KeySource::File(key_file.clone()).load_or_make().expect("a key");
    println!("| {STRAPS} straps, recorded hearts | readings a block | plain | encrypted |");
    println!("|---|---|---|---|");
    for (name, kind) in KINDS {
        for size in [40, 1000] {
            let told = |cost: Cost| {
                let Cost { bytes, encode_ns, decode_ns } = cost;
                format!("{bytes:.2} B, encoded in {encode_ns:.0} ns, decoded in {decode_ns:.0} ns")
            };
            let (plain, encrypted) = (best(kind, size, &Keys::none()), best(kind, size, &sealed));
            println!("| {name} | {size} | {} | {} |", told(plain), told(encrypted));
        }
    }
    if std::env::args().any(|arg| arg == "--blocks-only") {
        return;
    }
    println!();
    let mut dirs = Vec::new();
    println!("| {hours} h at one commit a second | disk blocks, plain | encrypted |");
    println!("|---|---|---|");
    for (name, kind) in KINDS {
        let mut columns = Vec::new();
        for key_file in [None, Some(key_file.clone())] {
            let dir = tempfile::tempdir_in(&base).expect("a directory");
            let (readings, disk, generations) = spool(kind, hours, dir.path(), key_file.clone()).await;
            columns.push(format!("{disk:.2} B/reading ({readings} readings, {generations} generations)"));
            if key_file.is_none() {
                dirs.push((name, dir));
            }
        }
        println!("| {name} | {} |", columns.join(" | "));
    }
    println!(
        "\n| thinned | generation | readings | summaries | disk | time | processor | memory, at the peak |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut copies = Vec::new();
    for (name, dir) in dirs {
        let whole = tempfile::tempdir_in(&base).expect("a directory");
        copy(dir.path(), whole.path());
        copies.push((name, whole));
        thin(name, dir.path());
    }
    println!("\n| a strap is erased | from | | time | processor | memory, at the peak |");
    println!("|---|---|---|---|---|---|");
    for (name, dir) in copies {
        let lake = tempfile::tempdir_in(&base).expect("a directory");
        erase(name, dir.path(), lake.path()).await;
    }
}
