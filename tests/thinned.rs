//! A thinned journal into a lake on disk, read by DuckDB and by the independent reader: every reading is in one
//! summary, every number in one gap, and each line comes once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, clippy::expect_used, clippy::print_stdout, reason = "made for the durability tests")]
#[path = "support/lake.rs"]
mod lake;
#[path = "support/venv.rs"]
mod venv;

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fogbeat::clock::{BootId, Clock, Stamp, WallQuality};
use fogbeat::config::{self, Encoding};
use fogbeat::forward::{self, Drained, Metrics, Origin};
use fogbeat::journal::{Journal, RealDisk, Thinning};
use fogbeat::reading::validity::DeviceTimeWindow;
use fogbeat::reading::{Contact, DeviceId, Reading, Reason, RrIntervals, RrUnit, Source};
use tokio::time::Instant;

/// 2026-11-23 19:05:00 UTC
const NOW_MS: i64 = 1_795_460_700_000;
const DEVICES: u64 = 7;
const SECONDS: u64 = 6_000;

struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Stamp {
        Stamp { uptime_ms: 60_000, wall_ms: NOW_MS, quality: WallQuality::Synced }
    }
    fn boot(&self) -> BootId {
        BootId([7; 16])
    }
}

/// One a second; every tenth says that it must not enter an average.
fn reading(device: DeviceId, second: u64) -> Reading {
    let noise = (second + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(device.0 * 9);
    Reading {
        device,
        source: Source::Mqtt,
        arrival: Stamp {
            uptime_ms: 60_000 + second * 1000,
            wall_ms: NOW_MS + i64::try_from(second).unwrap() * 1000,
            quality: WallQuality::Synced,
        },
        device_time: None,
        bpm: NonZeroU16::new(60 + (noise % 40) as u16),
        rr: RrIntervals {
            unit: RrUnit::Millis,
            values: [8, 24, 40].map(|shift| (noise >> shift) as u32 & 0xffff).into_iter().collect(),
        },
        contact: Contact::Detected,
        energy_kj: None,
        battery_percent: None,
        rssi_dbm: None,
        reason: second.is_multiple_of(10).then_some(Reason::Jump),
        gap_ms: None,
    }
}

async fn fill(journal: &Journal) -> u64 {
    let devices: Vec<DeviceId> =
        (0..DEVICES).map(|d| journal.devices().intern(&format!("strap-{d}")).unwrap()).collect();
    let mut out = Vec::new();
    let mut sum = 0;
    for start in (0..SECONDS).step_by(100) {
        let seconds = start..start + 100;
        let mut readings: Vec<Reading> =
            seconds.flat_map(|second| devices.iter().map(move |device| reading(*device, second))).collect();
        let counted = readings.iter().filter(|reading| reading.reason.is_none());
        sum += counted.map(|reading| u64::from(reading.bpm.unwrap().get())).sum::<u64>();
        journal.append(&mut readings, &mut out).await;
    }
    journal.wait(out.last().unwrap().ticket).await;
    sum
}

async fn deliver(journal: &Journal, state: &Path, lake: &Path) {
    let keep = Duration::from_secs(30 * 86_400);
    let directory = config::Directory { path: Some(lake.to_owned()), max_bytes: None, keep };
    let uplink = config::Uplink {
        name: Some(lake.file_name().unwrap().to_str().unwrap().to_owned()),
        encoding: Encoding::Gzip,
        from: config::From::Oldest,
        required: true,
        pseudonyms: None,
        kind: config::UplinkKind::Directory(directory),
    };
    // Small batches: their bounds fall among the summaries.
    let batch = config::Batch { max_age: Duration::from_secs(60), max_bytes: bytesize::ByteSize::kib(64) };
    let origin = Origin {
        gateway: "gym-12".into(),
        site: None,
        state_dir: state.to_owned(),
        window: DeviceTimeWindow::default(),
        pseudonyms: None,
    };
    let clock = Arc::new(StillClock);
    let handle = forward::spawn(&uplink, &batch, &origin, journal, clock, &Metrics::default()).unwrap();
    let drained = handle.drain(Instant::now() + Duration::from_secs(60)).await.unwrap();
    assert_eq!(drained, Drained::Empty);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_thinned_is_delivered_once_and_adds_up_in_sql() {
    let state = tempfile::tempdir().unwrap();
    let settings = config::Journal { commit_interval: Duration::ZERO, ..config::Journal::default() };
    let open = || Journal::open(&settings, state.path(), Arc::new(StillClock), Arc::new(RealDisk)).unwrap();
    let (journal, driver, _) = open();
    let driver = tokio::spawn(driver.run());
    let sum = fill(&journal).await;
    journal.close().await;
    driver.await.unwrap();

    let (journal, driver, _) = open();
    let driver = tokio::spawn(driver.run());
    let before = state.path().join("readings-lake");
    deliver(&journal, state.path(), &before).await;
    // The first uplink has the readings, and gives its place up; for another one they are thinned.
    assert!(journal.forget_uplink("readings-lake").unwrap());
    let thinner = journal.clone();
    let done = tokio::task::spawn_blocking(move || thinner.thin_one()).await.unwrap().unwrap();
    assert!(matches!(done, Thinning::Done(_)), "{done:?}");
    let after = state.path().join("summaries-lake");
    deliver(&journal, state.path(), &after).await;
    journal.close().await;
    driver.await.unwrap();

    let readings = lake::Lake::read(&before);
    assert_eq!((readings.defects.len(), readings.unexplained().len()), (0, 0));
    assert_eq!(readings.readings.len() as u64, DEVICES * SECONDS);
    let thinned = lake::Lake::read(&after);
    assert_eq!(thinned.defects, Vec::<String>::new());
    assert_eq!(thinned.unexplained(), Vec::<String>::new());
    assert_eq!(thinned.spools, readings.spools);
    assert!(thinned.readings.is_empty());
    let count = u64::from(u32::try_from(DEVICES * SECONDS).unwrap());
    assert_eq!(thinned.gaps, [(1 << 32, (1 << 32) + count - 1, "thinned".to_owned())]);
    assert_eq!(thinned.ends[&1], count);
    assert!(thinned.summarised[&1].values().all(|n| *n == SECONDS));

    let found = venv::python(
        "import duckdb, sys
print(*duckdb.sql(f'''select count(*), count(distinct id), sum(n)::bigint, sum(bpm_n)::bigint, sum(rr_n)::bigint,
    round(sum(bpm_mean * bpm_n))::bigint, min(window_s), max(window_s)
  from read_json('{sys.argv[1]}/readings/*/*/*.json.gz', hive_partitioning = true, format = 'newline_delimited',
  columns = {{id: 'VARCHAR', type: 'VARCHAR', device: 'VARCHAR', time: 'VARCHAR', window_s: 'INTEGER', n: 'BIGINT',
    bpm_n: 'BIGINT', bpm_min: 'INTEGER', bpm_mean: 'DOUBLE', bpm_max: 'INTEGER', rr_n: 'BIGINT'}})
  where type = 'summary' ''').fetchall()[0])",
        &[after.to_str().unwrap()],
    );
    let found: Vec<u64> = found.split_whitespace().map(|field| field.parse().unwrap()).collect();
    let windows = DEVICES * SECONDS / 10;
    assert_eq!(found[..2], [windows, windows], "each window once");
    assert_eq!(found[2..], [count, count / 10 * 9, count * 3, sum, 10, 10]);
}
