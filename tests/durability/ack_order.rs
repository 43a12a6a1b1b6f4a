//! The order of system calls: write the group, fdatasync the database, then acknowledge. Cheap, so it always runs; it
//! shows what a kill cannot (the page cache survives a kill) and needs no power cut.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::kill::STOP;
use crate::support::blast::{Blast, Until};
use crate::support::daemon::{Daemon, Setup};
use crate::support::wall_ms;
use crate::trace::{CALLS, Call, Findings, examine, parse};

/// Traces the daemon while `clients` clients of `window` in flight publish until `readings` are acknowledged.
fn traced(name: &str, clients: usize, window: usize, readings: u64) -> (Vec<Call>, u16) {
    assert!(
        Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success()),
        "this test needs strace (Debian: apt install strace)"
    );
    let bench = Bench::new(name);
    let setup = Setup::new(bench.path());
    let log = bench.path().join("strace.log");
    let path = log.display().to_string();
    // -D: the tracer is the grandchild, so that signals meet the daemon.
    let under = ["strace", "-D", "-f", "-yy", "-xx", "-s", "65536", "-e", CALLS, "-o", &path, "--"];
    let mut daemon = Daemon::spawn(setup.command(&under), &setup);
    daemon.wait_ready();
    let mut blast =
        Blast::connect(setup.mqtt, "strap", clients, window, wall_ms() - 3_600_000).expect("connect");
    blast.run(Until::Acked(readings)).expect("publish");
    blast.settle(Duration::from_secs(10)).expect("settle");
    drop(blast);
    let pid = daemon.pid();
    let status = daemon.terminate(STOP);
    assert!(status.success(), "a clean stop ended with {status}\n{}", setup.log_tail());
    // The tracer may still be writing.
    let start = Instant::now();
    let end = format!("{pid} ");
    loop {
        let text = fs::read_to_string(&log).expect("read the trace");
        if text.lines().rev().take(50).any(|line| line.starts_with(&end) && line.contains("+++ exited")) {
            return (parse(&text), setup.mqtt.port());
        }
        assert!(start.elapsed() < Duration::from_secs(10), "the trace does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn require(findings: &Findings, least: u64) {
    println!(
        "ack-order: {} PUBACKs, {} fdatasyncs, {} publishes pipelined",
        findings.pubacks, findings.fdatasyncs, findings.pipelined
    );
    let first = &findings.faults[..findings.faults.len().min(10)];
    assert!(findings.faults.is_empty(), "{} faults, the first of them {first:#?}", findings.faults.len());
    assert!(findings.pubacks as u64 >= least, "only {} PUBACKs traced", findings.pubacks);
}

/// One client, one in flight: here the group of each PUBACK is known exactly. The same trace, doctored, must fail.
#[test]
fn each_puback_follows_the_fdatasync_of_its_group() {
    let (calls, port) = traced("ack-order-1", 1, 1, 100);
    let findings = examine(&calls, port, true);
    require(&findings, 100);

    let doctored = |change: &dyn Fn(&Call) -> Option<Call>| {
        let calls: Vec<Call> = calls.iter().filter_map(change).collect();
        examine(&calls, port, true).faults.len()
    };
    let is_db_sync = |c: &Call| c.name == "fdatasync" && c.target.ends_with("/db");
    let without = doctored(&|c| (!is_db_sync(c)).then(|| c.clone()));
    assert!(without >= 100, "no fdatasync at all: {without} faults");
    let failing =
        doctored(&|c| Some(Call { result: if is_db_sync(c) { -1 } else { c.result }, ..c.clone() }));
    assert!(failing >= 100, "every fdatasync fails: {failing} faults");
    let elsewhere = doctored(&|c| {
        let target = if is_db_sync(c) { c.target.replace("/db", "/conf") } else { c.target.clone() };
        Some(Call { target, ..c.clone() })
    });
    assert!(elsewhere >= 100, "another file is synced: {elsewhere} faults");
    // Each fdatasync ends only when the acknowledgement has left.
    let late = doctored(&|c| Some(Call { end: if is_db_sync(c) { usize::MAX } else { c.end }, ..c.clone() }));
    assert!(late >= 100, "the fdatasync is not awaited: {late} faults");
}

/// Many clients with many in flight, as in life.
#[test]
fn no_puback_overtakes_the_disk_under_load() {
    let (calls, port) = traced("ack-order-8", 8, 20, 2_000);
    let findings = examine(&calls, port, false);
    require(&findings, 2_000);
    assert!(findings.pipelined > 100, "nothing was pipelined");
}
