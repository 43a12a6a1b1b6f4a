//! A long outage: the uplink refuses while readings come in as fast as they can, then it works again.

use std::time::{Duration, Instant};

use crate::Bench;
use crate::kill::STOP;
use crate::support::blast::{Blast, Until};
use crate::support::daemon::{Daemon, Setup, optimised};
use crate::support::lake::{self, Lake};
use crate::support::{env_number, process, wall_ms};

/// Most resident memory, at any moment, in MB.
const MOST_MB: f64 = 64.0;

/// `FOGBEAT_OUTAGE` readings (300,000): memory stays bounded while nothing can be delivered, and afterwards everything
/// arrives, each reading once. Rates are printed, not judged: a debug build is slow.
#[test]
fn an_outage_costs_disk_and_not_memory() {
    let bench = Bench::new("outage");
    let setup = Setup::new(bench.path());
    setup.block_lake();
    let daemon = setup.start();
    let readings = env_number("FOGBEAT_OUTAGE", 300_000);
    let mut blast = Blast::connect(setup.mqtt, "strap", 100, 20, wall_ms() - 3_600_000).expect("connect");
    let stats = blast.run(Until::Acked(readings)).expect("publish");
    let total = stats.acked + blast.settle(Duration::from_secs(30)).expect("settle");
    assert_eq!(blast.in_flight(), 0, "publishes without an answer");
    assert_eq!(stats.disorder, 0, "PUBACKs out of order");
    assert_eq!(lake::progress(&setup.lake), 0, "the uplink was to refuse");
    let outage = peak_mb(&daemon);

    setup.open_lake();
    let opened = Instant::now();
    let mut first = None;
    loop {
        let done = lake::progress(&setup.lake);
        if done > 0 && first.is_none() {
            first = Some((Instant::now(), done));
        }
        // The newest numbers wait for the batch's age; they are not part of the rate.
        if done * 100 >= total * 95 {
            break;
        }
        assert!(
            opened.elapsed() < Duration::from_secs(180),
            "{done} of {total} delivered\n{}",
            setup.log_tail()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let (since, before) = first.expect("something was delivered");
    let delivered = lake::progress(&setup.lake) - before;
    let rate = delivered as f64 / since.elapsed().as_secs_f64().max(0.001);
    let peak = peak_mb(&daemon);
    let file_mb = process::memory(daemon.pid()).file_kib as f64 * 1024.0 / 1e6;
    let status = daemon.terminate(STOP);
    assert!(status.success(), "a clean stop ended with {status}\n{}", setup.log_tail());
    println!(
        "outage: {total} readings at {:.0}/s; peak {outage:.1} MB, with the backlog drained {peak:.1} MB; first \
         delivery after {:.1} s, then {rate:.0} readings/s",
        stats.rate(),
        (since - opened).as_secs_f64(),
    );
    let lake = Lake::read(&setup.lake);
    assert!(lake.defects.is_empty(), "{:#?}", &lake.defects[..lake.defects.len().min(20)]);
    assert_eq!(lake.readings.len() as u64, total, "each acknowledged reading once");
    assert_eq!(lake.unexplained(), Vec::<String>::new());
    let most = if optimised() { MOST_MB } else { MOST_MB + file_mb };
    assert!(peak < most, "peak memory {peak:.1} MB, at most {most:.1} MB");
}

fn peak_mb(daemon: &Daemon) -> f64 {
    process::memory(daemon.pid()).peak_kib as f64 * 1024.0 / 1e6
}
