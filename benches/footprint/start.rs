//! Time from exec until READY=1, as systemd is told it.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise, sync};

use crate::Options;
use crate::scenarios::{STRAPS, scratch, setup};
use crate::support::blast::{Blast, Until};
use crate::support::daemon::{Daemon, Setup, http_get};
use crate::support::finding::{Bound, Finding};
use crate::support::wall_ms;

/// Starts in a row, each after a kill -9 of the one before.
const STARTS: usize = 5;
/// More than the bound by far.
const PATIENCE: Duration = Duration::from_secs(60);

/// On a state directory that is not there yet.
pub fn empty(options: &Options) -> Finding {
    let times = (0..options.rounds.max(STARTS)).map(|round| {
        let root = scratch("start");
        let (daemon, took) = start(&setup(root.path()));
        eprintln!("start round {round}: {took:.0} ms");
        daemon.kill();
        took
    });
    Finding::new("Start with an empty journal").runs(
        "exec to READY=1, ms",
        times.collect(),
        Some(Bound::AtMost(300.0)),
    )
}

/// With readings that no uplink takes, stored as a gym's are: one of each strap in a group.
pub fn backlog(options: &Options) -> Finding {
    let root = scratch("backlog");
    let mut setup = setup(root.path());
    setup.block_lake();
    // Three days in minutes: a commit as soon as the one before is done.
    setup.commit_interval = "0ms".into();
    let daemon = setup.start();
    let mut blast = Blast::connect(setup.mqtt, "strap", STRAPS, 1, wall_ms() - 3_600_000).expect("connect");
    let goal = options.readings;
    let mut done = 0;
    while done < goal {
        done += blast.run(Until::Acked((goal / 10).max(1).min(goal - done))).expect("publish").acked;
        eprintln!("backlog: {done} readings");
    }
    let commits = daemon.metric("fogbeat_journal_commits_total").expect("a metric");
    daemon.kill();
    setup.commit_interval = "1s".into();
    // What a start reads again is the window in which re-sent readings are recognised (10 minutes), at 1.5 us a reading.
    // In a gym the other days lie outside it; here all of them came a moment ago.
    setup.journal = "dedupe_window = \"1s\"".into();
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for round in 0..STARTS {
        forget(&setup.state_dir);
        for (name, times) in [("from disk", &mut cold), ("from memory", &mut warm)] {
            let (daemon, took) = start(&setup);
            eprintln!("backlog round {round}, {name}: {took:.0} ms");
            times.push(took);
            let begun = Instant::now();
            while waiting(&setup) < goal {
                assert!(begun.elapsed() < PATIENCE, "{} of {goal} readings wait", waiting(&setup));
                std::thread::sleep(Duration::from_millis(50));
            }
            daemon.kill();
        }
    }
    Finding::new(&format!("Start after kill -9 with {goal} readings buffered"))
        .runs("exec to READY=1, journal not in memory, ms", cold, Some(Bound::AtMost(1000.0)))
        .runs("exec to READY=1, again, ms", warm, Some(Bound::AtMost(1000.0)))
        .row("readings in a commit", goal as f64 / commits)
        .row("spool, MB", blocks(&setup.state_dir) as f64 * 512.0 / 1e6)
}

/// A gateway that is ready, and the milliseconds that took.
fn start(setup: &Setup) -> (Daemon, f64) {
    // The name of a socket has at most 107 bytes.
    let place = tempfile::tempdir().expect("a directory for the socket");
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind the socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    let mut command = setup.command(&[]);
    command.env("NOTIFY_SOCKET", &path);
    let begun = Instant::now();
    let daemon = Daemon::spawn(command, setup);
    let mut message = [0; 4096];
    loop {
        let length =
            socket.recv(&mut message).unwrap_or_else(|error| panic!("{error}\n{}", setup.log_tail()));
        let took = begun.elapsed().as_secs_f64() * 1e3;
        if message[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
            return (daemon, took);
        }
    }
}

/// Readings that wait for the uplink.
fn waiting(setup: &Setup) -> u64 {
    let text = http_get(setup.http, "/status").expect("the pages answer");
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    status["uplinks"][0]["queued_readings"].as_u64().expect("a number")
}

/// Every file below `dir` is written and leaves the page cache.
fn forget(dir: &Path) {
    sync();
    files(dir, &mut |path| {
        let file = File::open(path).expect("open a file of the journal");
        fadvise(&file, 0, None, Advice::DontNeed).expect("advise");
    });
}

fn blocks(dir: &Path) -> u64 {
    let mut total = 0;
    files(dir, &mut |path| {
        total += std::os::unix::fs::MetadataExt::blocks(&path.metadata().expect("metadata"))
    });
    total
}

fn files(dir: &Path, each: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).expect("list the state directory") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("its kind") {
            kind if kind.is_dir() => files(&entry.path(), each),
            kind if kind.is_file() => each(&entry.path()),
            // A socket.
            _ => {}
        }
    }
}
