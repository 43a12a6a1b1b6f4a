//! A day of forty straps, compressed: nothing grows that a day must not grow.

use std::time::Duration;

use crate::Bench;
use crate::kill::STOP;
use crate::support::daemon::Setup;
use crate::support::lake::Lake;
use crate::support::straps::Straps;
use crate::support::{env_number, process, wall_ms};

const STRAPS: usize = 40;
/// A day in five minutes.
const SPEED: f64 = 288.0;
/// The head generation's page cache fills over its life of more than a day, to 4 MB by its own account and about twice
/// that in the allocator's: memory may sway by this much, but not climb.
const SWAY_MB: f64 = 10.0;

/// `FOGBEAT_SOAK_SECONDS` seconds (30) at 288 times the speed of life; 300 make a day.
#[test]
fn a_day_of_forty_straps_leaves_no_trace() {
    let bench = Bench::new("soak");
    let mut setup = Setup::new(bench.path());
    setup.commit_interval = "1s".into();
    let daemon = setup.start();
    let length = env_number("FOGBEAT_SOAK_SECONDS", 30).max(10);
    let mut straps = Straps::connect(setup.mqtt, STRAPS, wall_ms() - 86_400_000);
    let mut samples = Vec::new();
    let pid = daemon.pid();
    straps.wear(SPEED, Duration::from_secs(length), 400, |_| {
        samples.push([
            process::memory(pid).rss_kib as f64 * 1024.0 / 1e6,
            process::descriptors(pid) as f64,
            process::threads(pid) as f64,
        ]);
    });
    let fifth = samples.len() / 5;
    let most = |part: &[[f64; 3]], figure: usize| part.iter().map(|s| s[figure]).fold(0.0, f64::max);
    let early = &samples[fifth..2 * fifth];
    let late = &samples[samples.len() - fifth..];
    let [rss, descriptors, threads] = [0, 1, 2].map(|figure| (most(early, figure), most(late, figure)));
    let (acked, worn) = (straps.acked, straps.slowest());
    let status = daemon.terminate(STOP);
    assert!(status.success(), "a clean stop ended with {status}\n{}", setup.log_tail());
    println!(
        "soak: {acked} readings, {:.1} h of {STRAPS} straps in {length} s; early -> late: RSS {:.1} -> {:.1} MB, \
         descriptors {} -> {}, threads {} -> {}",
        worn.as_secs_f64() / 3600.0,
        rss.0,
        rss.1,
        descriptors.0,
        descriptors.1,
        threads.0,
        threads.1
    );
    let lake = Lake::read(&setup.lake);
    assert!(lake.defects.is_empty(), "{:#?}", &lake.defects[..lake.defects.len().min(20)]);
    assert_eq!(lake.readings.len() as u64, acked, "each acknowledged reading once");
    assert_eq!(lake.unexplained(), Vec::<String>::new());
    assert!(rss.1 < rss.0 + SWAY_MB, "memory climbs: {:.1} to {:.1} MB", rss.0, rss.1);
    // The uplink's file, a generation in the making and the like come and go.
    assert!(
        descriptors.1 <= descriptors.0 + 6.0,
        "descriptors climb: {} to {}",
        descriptors.0,
        descriptors.1
    );
    assert!(threads.1 <= threads.0 + 3.0, "threads climb: {} to {}", threads.0, threads.1);
}
