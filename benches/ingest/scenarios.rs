//! What is measured, one function each.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::Options;
use crate::broker::{Broker, scratch};
use crate::report::{Ingest, Run};
use crate::support::blast::{Blast, Until};
use crate::support::daemon::Setup;
use crate::support::finding::{Bound, Finding, mb, median};
use crate::support::loopdev::LoopDisk;
use crate::support::{process, wall_ms};

/// Time for both sides to come up to speed before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// Readings carry stamps of the past hour onwards, a millisecond apart: distinct, and none in the future.
const PAST: u64 = 3_600_000;

fn one_run(broker: &Broker, clients: usize, window: usize, length: Duration) -> Run {
    let mut blast =
        Blast::connect(broker.addr(), "strap", clients, window, wall_ms() - PAST).expect("connect");
    blast.run(Until::Elapsed(WARM_UP)).expect("publish");
    let before = process::cpu(broker.pid());
    let stats = blast.run(Until::Elapsed(length)).expect("publish");
    let cpu = process::cpu(broker.pid()) - before;
    assert_eq!(stats.disorder, 0, "PUBACKs came out of order");
    Run {
        rate: stats.rate(),
        cpu_us: cpu.as_secs_f64() * 1e6 / stats.acked as f64,
        peak_kib: process::memory(broker.pid()).peak_kib,
    }
}

/// `clients` clients of `window` in flight against both brokers, in turns.
pub fn ingest(options: &Options, clients: usize, window: usize) -> Ingest {
    let length = Duration::from_secs(options.seconds);
    let mut result = Ingest { clients, window, fogbeat: Vec::new(), mosquitto: Vec::new() };
    for round in 0..options.rounds {
        let run = one_run(&Broker::mosquitto(), clients, window, length);
        eprintln!("{clients}x{window} round {round}: mosquitto {run}");
        result.mosquitto.push(run);
        let run = one_run(&Broker::fogbeat(options.forwarding), clients, window, length);
        eprintln!("{clients}x{window} round {round}: fogbeat   {run}");
        result.fogbeat.push(run);
    }
    result
}

/// One client with one in flight, against a program that appends the same payload to a growing file and calls
/// `fdatasync` for each.
pub fn against_fdatasync(options: &Options) -> Finding {
    let length = Duration::from_secs(options.seconds);
    let payload = br#"{"bpm":72,"time":1790000000123,"rr_ms":[833,829]}"#;
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let dir = scratch("append");
        let mut file =
            OpenOptions::new().create(true).append(true).open(dir.path().join("log")).expect("open the file");
        let (start, mut count) = (Instant::now(), 0u64);
        while start.elapsed() < length {
            file.write_all(payload).expect("append");
            file.sync_data().expect("fdatasync");
            count += 1;
        }
        floor.push(count as f64 / start.elapsed().as_secs_f64());
        ours.push(one_run(&Broker::fogbeat(options.forwarding), 1, 1, length).rate);
        eprintln!("fdatasync round {round}: file {:.0}/s, fogbeat {:.0}/s", floor[round], ours[round]);
    }
    let (ours, floor) = (median(&ours), median(&floor));
    Finding::new("1 x 1 against append + fdatasync each")
        .row("file, writes/s", floor)
        .row("fogbeat, readings/s", ours)
        .bound("ratio", ours / floor, Bound::AtLeast(0.5))
}

/// Memory after ten million readings, forwarding at work; on the way there it is shown where it grows.
pub fn ten_million(_: &Options) -> Finding {
    let broker = Broker::fogbeat(true);
    let mut blast = Blast::connect(broker.addr(), "strap", 100, 20, wall_ms() - PAST).expect("connect");
    let (mut acked, mut elapsed) = (0, Duration::ZERO);
    for goal in [100_000, 1_000_000, 3_000_000, 6_000_000, 10_000_000] {
        let stats = blast.run(Until::Acked(goal - acked)).expect("publish");
        acked += stats.acked;
        elapsed += stats.elapsed;
        let memory = process::memory(broker.pid());
        eprintln!(
            "memory: {acked:8} readings, RSS {:.1} MB, of it files {:.1} MB",
            mb(memory.rss_kib),
            mb(memory.file_kib)
        );
    }
    let memory = process::memory(broker.pid());
    Finding::new("After 10 million readings, forwarding at work")
        .bound("RSS, MB", mb(memory.rss_kib), Bound::AtMost(48.0))
        .row("peak RSS, MB", mb(memory.peak_kib))
        .row("readings/s", acked as f64 / elapsed.as_secs_f64())
}

/// Default settings, 40 readings a second through one connection with 20 in flight: the backlog must not grow.
pub fn default_settings(_: &Options) -> Finding {
    let root = scratch("default");
    let mut setup = Setup::new(root.path());
    setup.commit_interval = "1s".into();
    setup.max_age = "60s".into();
    let _daemon = setup.start();
    let mut blast = Blast::connect(setup.mqtt, "strap", 1, 20, wall_ms() - PAST).expect("connect");
    let (mut backlog, mut latency) = (Vec::new(), Duration::ZERO);
    blast
        .run_paced(40.0, Duration::from_secs(60), |second, due, acked, worst| {
            backlog.push((due - acked) as f64);
            latency = latency.max(worst);
            eprintln!("default {second:2} s: due {due}, acknowledged {acked}, backlog {}", due - acked);
        })
        .expect("publish");
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&backlog[10..20]), mean(&backlog[backlog.len() - 10..]));
    Finding::new("Default settings, 40 readings/s, 1 x 20, 60 s")
        .row("backlog, mean of seconds 11 to 20", first)
        .row("backlog, mean of the last 10 s", last)
        .row("backlog, most", backlog.iter().copied().fold(0.0, f64::max))
        .bound("growth of the backlog", last - first, Bound::AtMost(10.0))
        .row("worst PUBACK latency, ms", latency.as_secs_f64() * 1e3)
}

/// What a paced minute writes to the device that holds the state directory and nothing else.
pub fn wear(_: &Options) -> Finding {
    let root = scratch("wear");
    let disk = match LoopDisk::new(root.path(), 256) {
        Ok(disk) => disk,
        Err(e) => return Finding::new(&format!("Wear: not measured ({e})")),
    };
    let mut setup = Setup::new(root.path());
    setup.state_dir = disk.mount.join("state");
    setup.commit_interval = "1s".into();
    setup.max_age = "60s".into();
    let daemon = setup.start();
    let mut blast = Blast::connect(setup.mqtt, "strap", 30, 20, wall_ms() - PAST).expect("connect");
    // The first seconds make directories and the first generation.
    blast.run_paced(30.0, Duration::from_secs(5), |_, _, _, _| {}).expect("publish");
    rustix::fs::sync();
    let (device, process) = (disk.written(), process::write_bytes(daemon.pid()));
    let commits = daemon.metric(COMMITS);
    let mut worst = Duration::ZERO;
    blast
        .run_paced(30.0, Duration::from_secs(60), |_, _, _, latency| worst = worst.max(latency))
        .expect("publish");
    let commits = commits.zip(daemon.metric(COMMITS)).map_or(60.0, |(before, after)| after - before);
    rustix::fs::sync();
    let device = (disk.written() - device) as f64;
    let process = (process::write_bytes(daemon.pid()) - process) as f64;
    drop(daemon);
    Finding::new("Wear: 30 readings/s for 60 s, commit_interval 1s, uplink on another device")
        .row("commits", commits)
        .bound("device writes per commit, KB", device / commits / 1e3, Bound::AtMost(20.0))
        .row("device writes, GB/day", device / 60.0 * 86_400.0 / 1e9)
        .row("/proc/PID/io write_bytes per commit (uplink included), KB", process / commits / 1e3)
        .row("worst PUBACK latency, ms", worst.as_secs_f64() * 1e3)
}

/// The daemon's own count of commits.
const COMMITS: &str = "fogbeat_journal_commits_total";
