//! A full disk, on the real binary: the quota, and a disk that others fill or that turns read-only. `tests/README.md`
//! names the promise behind each test. Needs root and loop devices; `FOGBEAT_NO_LOOP=1` leaves those tests out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure, and the figures go to standard output"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use fogbeat::journal::{Disk as _, RealDisk};
use serde_json::Value;

use support::bench::Bench;
use support::daemon::{Daemon, Setup, http_get};
use support::fleet::{Account, Fleet};
use support::lake::{Lake, judge};
use support::loopdev::LoopDisk;
use support::rng::Rng;

/// Within this time everything is as before once the disk is well.
const RESUMED: Duration = Duration::from_secs(10);
/// Longest clean stop.
const STOP: Duration = Duration::from_secs(60);
const QUOTA: u64 = 16 << 20;

fn small_disk(bench: &Bench) -> Option<LoopDisk> {
    match LoopDisk::new(bench.path(), 96) {
        Ok(disk) => Some(disk),
        Err(why) if std::env::var_os("FOGBEAT_NO_LOOP").is_some() => {
            println!("SKIPPED: full disks are not tested here: {why}");
            None
        }
        Err(why) => panic!(
            "full disks need root and a loop device ({why}); run as root, or set FOGBEAT_NO_LOOP=1 to leave them out"
        ),
    }
}

/// A gateway whose state has a small disk of its own; the lake is elsewhere, as the cloud would be.
fn on_small_disk(bench: &Bench) -> Option<(LoopDisk, Setup)> {
    let disk = small_disk(bench)?;
    let mut setup = Setup::new(bench.path());
    setup.state_dir = disk.mount.join("state");
    Some((disk, setup))
}

fn start(setup: &Setup, journal: &[(&str, &str)]) -> Daemon {
    let mut daemon = spawn(setup, journal);
    daemon.wait_ready();
    daemon
}

fn spawn(setup: &Setup, journal: &[(&str, &str)]) -> Daemon {
    let mut command = setup.command(&[]);
    for (key, value) in journal {
        command.env(format!("FOGBEAT__JOURNAL__{key}"), value);
    }
    Daemon::spawn(command, setup)
}

/// Waits until `met`; panics with the log after `limit`.
fn wait(setup: &Setup, limit: Duration, what: &str, mut met: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !met() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}\n{}", setup.log_tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}

fn page_says(setup: &Setup, page: &str, words: &str) -> bool {
    http_get(setup.http, page).is_some_and(|body| body.contains(words))
}

fn durable(daemon: &Daemon) -> f64 {
    daemon.metric("fogbeat_journal_readings_total").unwrap_or(0.0)
}

/// Real bytes below a directory. What vanishes meanwhile counts nothing.
fn usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => usage(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Everything acknowledged, a clean stop, a second short life that ends the last generation, and the account.
fn finish(setup: &Setup, mut daemon: Daemon, fleet: Fleet) -> Account {
    let account = fleet.settle();
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", setup.log_tail());
    assert_eq!(account.unacknowledged, 0, "publishes without an answer after 60 s\n{}", setup.log_tail());
    for daemon in [Some(daemon), None] {
        let daemon = daemon.unwrap_or_else(|| start(setup, &[]));
        let status = daemon.terminate(STOP);
        assert!(status.success(), "a clean stop ended with {status}\n{}", setup.log_tail());
    }
    account
}

fn require(setup: &Setup, account: &Account, what: &str) {
    let verdict = judge(&account.readings, &Lake::read(&setup.lake));
    verdict.require(what);
    assert!(verdict.acked > 500, "only {} acknowledged: the load did not flow", verdict.acked);
    assert!(!fs::read_to_string(&setup.log).unwrap().contains("panicked"), "{}", setup.log_tail());
}

/// A publisher that speaks MQTT as it is written, in both versions.
struct Client {
    io: TcpStream,
    v5: bool,
}

impl Client {
    /// Connects; the return or reason code of the CONNACK.
    fn connect(setup: &Setup, v5: bool) -> (Self, u8) {
        let io = TcpStream::connect(setup.mqtt).expect("connect");
        io.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self { io, v5 };
        let id = if v5 { b"five" } else { b"four" };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', if v5 { 5 } else { 4 }, 2, 0, 0];
        body.extend_from_slice(if v5 { &[0, 0, 4] } else { &[0, 4] });
        body.extend_from_slice(id);
        client.write(0x10, &body);
        let (first, body) = client.packet().expect("a CONNACK");
        assert_eq!(first, 0x20);
        (client, body[1])
    }

    fn publish(&mut self, pkid: u16, payload: &str) -> bool {
        let topic = if self.v5 { "hr/five" } else { "hr/four" };
        let mut body = vec![0, 7];
        body.extend_from_slice(topic.as_bytes());
        body.extend_from_slice(&pkid.to_be_bytes());
        if self.v5 {
            body.push(0);
        }
        body.extend_from_slice(payload.as_bytes());
        let mut packet = vec![0x32, u8::try_from(body.len()).unwrap()];
        packet.extend_from_slice(&body);
        self.io.write_all(&packet).is_ok()
    }

    fn write(&mut self, first: u8, body: &[u8]) {
        let mut packet = vec![first, u8::try_from(body.len()).unwrap()];
        packet.extend_from_slice(body);
        self.io.write_all(&packet).expect("write");
    }

    /// The next packet; `None`: closed.
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        match self.io.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(e) => panic!("neither a packet nor an end: {e}"),
        }
        let mut body = vec![0; usize::from(head[1])];
        self.io.read_exact(&mut body).expect("a whole packet");
        Some((head[0], body))
    }
}

#[test]
fn refuse_new_gives_no_puback_in_either_version_and_says_so_as_the_protocol_can() {
    let bench = Bench::new("refuse-new");
    let setup = Setup::new(bench.path());
    let journal = [("QUOTA", "16MiB"), ("GENERATION_SIZE", "1MiB"), ("WHEN_FULL", "refuse-new")];
    let daemon = start(&setup, &journal);
    let mut clients = [false, true].map(|v5| {
        let (mut client, code) = Client::connect(&setup, v5);
        assert_eq!(code, 0);
        assert!(client.publish(1, r#"{"bpm":71}"#));
        assert_eq!(client.packet(), Some((0x40, vec![0, 1])), "there is room: acknowledged");
        client
    });
    let stored = durable(&daemon);

    // Everything below the spool counts, so the quota is reached as soon as housekeeping has looked.
    let spool = setup.state_dir.join("spool");
    fs::write(spool.join("quarantine-of-old"), vec![0; 14 << 20]).unwrap();
    for client in &mut clients {
        let end = client.packet();
        if client.v5 {
            assert_eq!(end, Some((0xE0, vec![0x97])), "DISCONNECT: quota exceeded");
            assert_eq!(client.packet(), None);
        } else {
            assert_eq!(end, None, "3.1.1 is closed");
        }
        // Whatever is sent into it from now on is answered by nobody.
        client.publish(2, r#"{"bpm":72}"#);
    }
    for (v5, busy) in [(false, 0x03), (true, 0x89)] {
        let (mut client, code) = Client::connect(&setup, v5);
        assert_eq!(code, busy, "CONNACK: server unavailable, server busy");
        client.publish(3, r#"{"bpm":73}"#);
        assert_eq!(client.packet(), None);
    }
    assert_eq!(durable(&daemon), stored, "nothing was stored");
    wait(&setup, Duration::from_secs(3), "/ready says why", || {
        page_says(&setup, "/ready", r#""ready":false"#) && page_says(&setup, "/ready", "quota is reached")
    });
    assert!(page_says(&setup, "/status", "refused: the journal's quota is reached"));
    assert_eq!(daemon.metric("fogbeat_journal_admission"), Some(2.0));

    fs::remove_file(spool.join("quarantine-of-old")).unwrap();
    for v5 in [false, true] {
        let mut welcome = None;
        wait(&setup, RESUMED, "clients are let in again", || {
            let (client, code) = Client::connect(&setup, v5);
            welcome = (code == 0).then_some(client);
            code == 0
        });
        let mut client = welcome.unwrap();
        assert!(client.publish(9, r#"{"bpm":74}"#));
        assert_eq!(client.packet(), Some((0x40, vec![0, 9])));
    }
    assert_eq!(durable(&daemon), stored + 2.0);
    assert!(daemon.terminate(STOP).success());
}

/// Readings per device as the delivered files tell, read with nothing of fogbeat's.
#[derive(Debug, Default, PartialEq)]
struct Told {
    delivered: BTreeMap<String, u64>,
    evicted: BTreeMap<String, u64>,
    /// Numbers in gap lines.
    numbers: u64,
}

fn told(lake: &Path) -> Told {
    let mut told = Told::default();
    let mut seen = HashSet::new();
    for path in support::lake::files(lake) {
        for line in BufReader::new(MultiGzDecoder::new(fs::File::open(path).unwrap())).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let kind = line["type"].as_str().unwrap_or("");
            if !seen.insert(format!("{kind} {}", line["id"])) {
                continue;
            }
            match kind {
                "" => {
                    *told.delivered.entry(line["device"].as_str().unwrap().to_owned()).or_default() += 1;
                }
                "gap" => {
                    assert_eq!(line["cause"], "evicted", "{line}");
                    told.numbers +=
                        line["last_seq"].as_u64().unwrap() - line["first_seq"].as_u64().unwrap() + 1;
                    for (name, count) in line["devices"].as_object().expect("counts per device") {
                        *told.evicted.entry(name.clone()).or_default() += count.as_u64().unwrap();
                    }
                }
                _ => {}
            }
        }
    }
    told
}

/// Sends readings that hardly compress, as fast as they are acknowledged.
struct Hose {
    clients: Vec<(String, Client)>,
    rng: Rng,
    sent: BTreeMap<String, u64>,
    stamp: u64,
}

impl Hose {
    fn new(setup: &Setup, devices: usize) -> Self {
        let clients = (0..devices).map(|n| {
            let io = TcpStream::connect(setup.mqtt).expect("connect");
            let mut client = Client { io, v5: false };
            let name = format!("rower-{n:02}");
            let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 8];
            body.extend_from_slice(name.as_bytes());
            client.write(0x10, &body);
            assert_eq!(client.packet(), Some((0x20, vec![0, 0])));
            (name, client)
        });
        Self {
            clients: clients.collect(),
            rng: Rng::from_env("hose"),
            sent: BTreeMap::new(),
            stamp: support::wall_ms(),
        }
    }

    /// `each` readings of every device, all of them acknowledged.
    fn pour(&mut self, each: u16) {
        for (name, client) in &mut self.clients {
            let mut bytes = Vec::new();
            for pkid in 1..=each {
                self.stamp += 1;
                let rr: Vec<String> = (0..6)
                    .map(|_| format!("{}.{:03}", self.rng.between(600, 1100), self.rng.between(1, 999)))
                    .collect();
                let payload = format!(r#"{{"bpm":70,"time":{},"rr_ms":[{}]}}"#, self.stamp, rr.join(","));
                let length = 2 + 3 + name.len() + 2 + payload.len();
                bytes.extend_from_slice(&[0x32, ((length % 128) | 128) as u8, (length / 128) as u8]);
                bytes.extend_from_slice(&u16::try_from(3 + name.len()).unwrap().to_be_bytes());
                bytes.extend_from_slice(b"hr/");
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(&pkid.to_be_bytes());
                bytes.extend_from_slice(payload.as_bytes());
            }
            client.io.write_all(&bytes).expect("publish");
        }
        for (name, client) in &mut self.clients {
            for pkid in 1..=each {
                assert_eq!(client.packet(), Some((0x40, pkid.to_be_bytes().to_vec())), "{name}");
            }
            *self.sent.entry(name.clone()).or_default() += u64::from(each);
        }
    }
}

#[test]
fn drop_oldest_is_counted_exactly_by_an_independent_reader() {
    let bench = Bench::new("drop-oldest");
    let Some((disk, setup)) = on_small_disk(&bench) else { return };
    let journal = [("QUOTA", "16MiB"), ("GENERATION_SIZE", "1MiB")];
    let mut daemon = start(&setup, &journal);
    setup.block_lake();
    let spool = setup.state_dir.join("spool");
    let mut hose = Hose::new(&setup, 8);
    let (mut peak, started) = (0, Instant::now());
    let dropped = |daemon: &Daemon| daemon.metric("fogbeat_journal_evicted_generations_total").unwrap_or(0.0);
    while dropped(&daemon) < 4.0 {
        for _ in 0..10 {
            hose.pour(200);
            peak = peak.max(usage(&spool));
        }
        assert!(daemon.ended().is_none(), "{}", setup.log_tail());
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "the quota is not reached\n{}",
            setup.log_tail()
        );
    }
    assert!(peak <= QUOTA, "the spool took {peak} of {QUOTA} bytes");
    println!("drop-oldest: {} readings, peak {peak} bytes, {:?}", hose.stamp, started.elapsed());
    daemon.terminate(STOP);
    setup.open_lake();
    let daemon = start(&setup, &journal);
    wait(&setup, Duration::from_secs(60), "everything is delivered", || {
        page_says(&setup, "/status", r#""queued_readings":0"#)
    });
    assert!(daemon.terminate(STOP).success());

    let told = told(&setup.lake);
    let mut all = told.delivered.clone();
    for (name, count) in &told.evicted {
        *all.entry(name.clone()).or_default() += count;
    }
    assert_eq!(all, hose.sent, "per device: delivered + evicted = acknowledged");
    assert_eq!(told.numbers, told.evicted.values().sum::<u64>());
    assert!(told.numbers > 0);
    let unexplained = Lake::read(&setup.lake).unexplained();
    assert!(unexplained.is_empty(), "{unexplained:?}");
    drop(disk);
}

#[test]
fn a_disk_that_somebody_else_fills_loses_nothing_and_everything_resumes() {
    let bench = Bench::new("filled");
    let Some((disk, setup)) = on_small_disk(&bench) else { return };
    let mut daemon = start(&setup, &[]);
    let fleet = Fleet::start(setup.mqtt, 20, 2_000.0, Rng::from_env("filled"));
    wait(&setup, Duration::from_secs(20), "readings flow", || durable(&daemon) > 2_000.0);
    for _ in 0..2 {
        let foreign = disk.fill();
        wait(&setup, Duration::from_secs(30), "/ready says that the disk is full", || {
            // The ballast is given up first; somebody takes that as well.
            let _ = fs::OpenOptions::new().append(true).open(&foreign).map(|mut file| {
                let zeros = vec![0; 1 << 16];
                while file.write_all(&zeros).is_ok() {}
            });
            page_says(&setup, "/ready", "the journal's disk is full")
        });
        std::thread::sleep(Duration::from_secs(7));
        assert!(daemon.ended().is_none(), "the daemon has ended\n{}", setup.log_tail());
        assert!(page_says(&setup, "/health", r#""healthy":false"#));
        let before = durable(&daemon);
        fs::remove_file(&foreign).unwrap();
        let took = wait(&setup, RESUMED, "readings flow again", || durable(&daemon) > before + 100.0);
        println!("filled: resumed after {took:?}");
        wait(&setup, RESUMED, "/ready is well", || page_says(&setup, "/ready", r#""ready":true"#));
    }
    require(&setup, &finish(&setup, daemon, fleet), "filled");
}

#[test]
fn a_full_disk_at_start_stops_no_gateway_and_it_resumes_by_itself() {
    let bench = Bench::new("full-at-start");
    let Some((disk, setup)) = on_small_disk(&bench) else { return };
    let daemon = start(&setup, &[]);
    let fleet = Fleet::start(setup.mqtt, 20, 2_000.0, Rng::from_env("full-at-start"));
    wait(&setup, Duration::from_secs(20), "readings flow", || durable(&daemon) > 2_000.0);
    // Killed, so that the start has a head to seal and a manifest to write.
    daemon.kill();
    let _ = fs::remove_file(setup.state_dir.join("spool/ballast"));
    let foreign = disk.fill();
    let mut daemon = spawn(&setup, &[]);
    wait(&setup, Duration::from_secs(10), "/health says that the disk is full", || {
        page_says(&setup, "/health", "the journal's disk is full")
    });
    assert!(page_says(&setup, "/ready", r#""ready":false"#));
    assert!(page_says(&setup, "/status", "the journal's disk is full"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", setup.log_tail());
    fs::remove_file(&foreign).unwrap();
    let took = wait(&setup, RESUMED, "readings flow", || durable(&daemon) > 100.0);
    println!("full at start: resumed after {took:?}");
    require(&setup, &finish(&setup, daemon, fleet), "full at start");
}

#[test]
fn the_very_first_start_on_a_full_disk_comes_up_and_resumes_by_itself() {
    let bench = Bench::new("first-start");
    let Some((disk, setup)) = on_small_disk(&bench) else { return };
    // Not even the state directory is there.
    let foreign = disk.fill();
    assert!(!setup.state_dir.exists());
    let mut daemon = spawn(&setup, &[]);
    let fleet = Fleet::start(setup.mqtt, 5, 500.0, Rng::from_env("first-start"));
    wait(&setup, Duration::from_secs(10), "/health says that the disk is full", || {
        page_says(&setup, "/health", "the journal's disk is full")
    });
    assert!(page_says(&setup, "/ready", r#""ready":false"#));
    std::thread::sleep(Duration::from_secs(3));
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", setup.log_tail());
    let log = fs::read_to_string(&setup.log).unwrap();
    assert!(log.contains("the gateway waits for its disk"), "{log}");
    assert!(log.contains("the state directory"), "it is the directory itself that cannot be made: {log}");
    assert!(!log.contains("MQTT listener"), "no port is open, so nothing can be acknowledged: {log}");
    fs::remove_file(&foreign).unwrap();
    let took = wait(&setup, RESUMED, "readings flow", || durable(&daemon) > 100.0);
    println!("first start on a full disk: resumed after {took:?}");
    require(&setup, &finish(&setup, daemon, fleet), "first start on a full disk");
}

#[test]
fn a_read_only_disk_at_start_is_waited_for() {
    let bench = Bench::new("read-only-at-start");
    let Some((disk, setup)) = on_small_disk(&bench) else { return };
    let daemon = start(&setup, &[]);
    let fleet = Fleet::start(setup.mqtt, 20, 2_000.0, Rng::from_env("read-only-at-start"));
    wait(&setup, Duration::from_secs(20), "readings flow", || durable(&daemon) > 2_000.0);
    daemon.kill();
    disk.remount("ro").expect("remount read-only");
    let mut daemon = spawn(&setup, &[]);
    wait(&setup, Duration::from_secs(10), "/health says that the disk is read-only", || {
        page_says(&setup, "/health", "read-only")
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", setup.log_tail());
    disk.remount("rw").expect("remount read-write");
    let took = wait(&setup, RESUMED, "readings flow", || durable(&daemon) > 100.0);
    println!("read-only at start: resumed after {took:?}");
    require(&setup, &finish(&setup, daemon, fleet), "read-only at start");
}

/// ext4 gives its journal up some milliseconds before it says so; fsync meanwhile returns 0 and has written nothing.
#[test]
fn what_was_synced_while_the_disk_broke_is_there_when_it_is_back() {
    const TRIES: usize = 25;
    let bench = Bench::new("breaking-disk");
    let Some(disk) = small_disk(&bench) else { return };
    let path = disk.mount.join("written");
    let mut synced = 0;
    for _ in 0..TRIES {
        let mut file = fs::File::create(&path).expect("make a file");
        // Whoever writes has got going, and nothing else is to be waited for.
        let writer = std::thread::spawn(move || {
            let mut synced = 0u64;
            while file.write_all(&[7; 317]).and_then(|()| RealDisk.sync_data(&file)).is_ok() {
                synced += 317;
            }
            synced
        });
        std::thread::sleep(Duration::from_millis(100));
        disk.fail().expect("let the filesystem fail");
        let promised = writer.join().expect("the writer");
        disk.repair().expect("mount the disk anew");
        let there = fs::metadata(&path).expect("the file is there").len();
        assert!(there >= promised, "{promised} bytes were said to be on disk, {there} are");
        synced += promised;
    }
    println!("breaking disk: {TRIES} times, {synced} bytes synced and there");
    assert!(synced > 0, "nothing was written");
}

/// ext4 that has turned read-only by an error stays so until it is mounted anew, which no process with open files
/// survives: so the return is a restart here. The unit tests of the journal's quota let the same process go on.
#[test]
fn a_disk_that_turns_read_only_makes_no_panic_and_no_false_acknowledgement() {
    let bench = Bench::new("turns-read-only");
    let Some((disk, setup)) = on_small_disk(&bench) else { return };
    let mut daemon = start(&setup, &[]);
    let fleet = Fleet::start(setup.mqtt, 20, 2_000.0, Rng::from_env("turns-read-only"));
    wait(&setup, Duration::from_secs(20), "readings flow", || durable(&daemon) > 2_000.0);
    disk.fail().expect("let the filesystem fail");
    wait(&setup, Duration::from_secs(10), "/ready says that the disk is read-only", || {
        page_says(&setup, "/ready", "read-only")
    });
    let before = durable(&daemon);
    std::thread::sleep(Duration::from_secs(8));
    assert!(daemon.ended().is_none(), "the daemon has ended\n{}", setup.log_tail());
    assert!((durable(&daemon) - before).abs() < 0.5, "nothing can have become durable");
    daemon.kill();
    disk.repair().expect("mount the disk anew");
    let daemon = start(&setup, &[]);
    wait(&setup, RESUMED, "readings flow", || durable(&daemon) > 100.0);
    require(&setup, &finish(&setup, daemon, fleet), "turns read-only");
}
