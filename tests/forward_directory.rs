//! From the real journal into a lake on disk, read by DuckDB; beside it an uplink that is dead.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/firehose.rs"]
mod firehose;
#[path = "support/venv.rs"]
mod venv;

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fogbeat::clock::{BootId, Clock, Stamp, WallQuality};
use fogbeat::config::{self, Encoding};
use fogbeat::forward::{self, Drained, Handle, Metrics, Origin};
use fogbeat::journal::{Journal, RealDisk};
use fogbeat::reading::validity::DeviceTimeWindow;
use fogbeat::reading::{Contact, DeviceId, Reading, RrIntervals, RrUnit, Source};
use tokio::time::Instant;

/// 2026-11-23 19:05:00 UTC
const NOW_MS: i64 = 1_795_460_700_000;

struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Stamp {
        Stamp { uptime_ms: 60_000, wall_ms: NOW_MS, quality: WallQuality::Synced }
    }
    fn boot(&self) -> BootId {
        BootId([7; 16])
    }
}

fn reading(device: DeviceId, n: u64) -> Reading {
    Reading {
        device,
        source: Source::Mqtt,
        arrival: Stamp {
            uptime_ms: 60_000 + n,
            wall_ms: NOW_MS + i64::try_from(n).unwrap(),
            quality: WallQuality::Synced,
        },
        device_time: None,
        bpm: NonZeroU16::new(60 + u16::try_from(n % 40).unwrap()),
        rr: RrIntervals {
            unit: RrUnit::Ticks,
            values: [900 + u32::try_from(n % 100).unwrap()].as_slice().into(),
        },
        contact: Contact::Detected,
        energy_kj: None,
        battery_percent: None,
        rssi_dbm: None,
        reason: None,
        gap_ms: None,
    }
}

struct Gateway {
    journal: Journal,
    driver: tokio::task::JoinHandle<()>,
}

impl Gateway {
    fn start(state: &Path) -> Self {
        let settings = config::Journal { commit_interval: Duration::ZERO, ..config::Journal::default() };
        let (journal, driver, _) =
            Journal::open(&settings, state, Arc::new(StillClock), Arc::new(RealDisk)).unwrap();
        Self { journal, driver: tokio::spawn(driver.run()) }
    }

    async fn store(&self, count: u64) {
        let devices: Vec<DeviceId> =
            (0..7).map(|d| self.journal.devices().intern(&format!("strap-{d}")).unwrap()).collect();
        let mut out = Vec::new();
        for chunk in (0..count).collect::<Vec<_>>().chunks(500) {
            let mut readings = chunk.iter().map(|n| reading(devices[(n % 7) as usize], *n)).collect();
            self.journal.append(&mut readings, &mut out).await;
        }
        self.journal.wait(out.last().unwrap().ticket).await;
    }

    fn uplink(&self, state: &Path, uplink: &config::Uplink, max_age: Duration) -> Handle {
        let batch = config::Batch { max_age, max_bytes: bytesize::ByteSize::kib(256) };
        let origin = Origin {
            gateway: "gym-12".into(),
            site: Some("gym".into()),
            state_dir: state.to_owned(),
            pseudonyms: None,
            window: DeviceTimeWindow::default(),
        };
        forward::spawn(uplink, &batch, &origin, &self.journal, Arc::new(StillClock), &Metrics::default())
            .unwrap()
    }

    async fn stop(self) {
        self.journal.close().await;
        self.driver.await.unwrap();
    }
}

fn uplink(name: &str, encoding: config::Encoding, kind: config::UplinkKind) -> config::Uplink {
    config::Uplink {
        name: Some(name.to_owned()),
        encoding,
        from: config::From::Oldest,
        required: true,
        pseudonyms: None,
        kind,
    }
}

/// A directory uplink that writes to `path`.
fn lake_at(path: &Path, encoding: config::Encoding) -> config::Uplink {
    let name = path.file_name().unwrap().to_str().unwrap();
    let keep = Duration::from_secs(30 * 86_400);
    let directory = config::Directory { path: Some(path.to_owned()), max_bytes: None, keep };
    uplink(name, encoding, config::UplinkKind::Directory(directory))
}

async fn drain(handle: Handle) -> Drained {
    handle.drain(Instant::now() + Duration::from_secs(20)).await.unwrap()
}

/// Rows, distinct ids, readings, sum of bpm, and how many RR intervals.
fn count(lake: &Path, extension: &str) -> Vec<u64> {
    let rows = venv::python(
        "import duckdb, sys
print(*duckdb.sql(f'''select count(*), count(distinct id), count(bpm), sum(bpm)::bigint, sum(len(rr_ms))::bigint
  from read_json('{sys.argv[1]}/readings/*/*/*{sys.argv[2]}', hive_partitioning = true, format = 'newline_delimited',
  columns = {{id: 'VARCHAR', type: 'VARCHAR', bpm: 'INTEGER', rr_ms: 'DOUBLE[]', device: 'VARCHAR'}})
  where dt = '2026-11-23' ''').fetchall()[0])",
        &[lake.to_str().unwrap(), extension],
    );
    rows.split_whitespace().map(|field| field.parse().unwrap()).collect()
}

fn bpm_sum(count: u64) -> u64 {
    (0..count).map(|n| 60 + n % 40).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duckdb_reads_what_the_journal_held_in_every_encoding() {
    let state = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(state.path());
    gateway.store(20_000).await;
    for (encoding, extension) in
        [(Encoding::Gzip, ".json.gz"), (Encoding::Zstd, ".json.zst"), (Encoding::Json, ".json")]
    {
        let lake = state.path().join(format!("lake{extension}"));
        let handle = gateway.uplink(state.path(), &lake_at(&lake, encoding), Duration::from_secs(60));
        assert_eq!(drain(handle).await, Drained::Empty);
        assert_eq!(count(&lake, extension), [20_000, 20_000, 20_000, bpm_sum(20_000), 20_000]);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_it_stood_and_accounts_for_the_generation() {
    let state = tempfile::tempdir().unwrap();
    let lake = state.path().join("lake");
    for run in 1..=2 {
        let gateway = Gateway::start(state.path());
        gateway.store(5_000).await;
        let handle = gateway.uplink(
            state.path(),
            &lake_at(&state.path().join("lake"), Encoding::Gzip),
            Duration::from_millis(20),
        );
        if run == 1 {
            // Left without a drain.
            while handle.status().delivered_readings < 5_000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } else {
            assert_eq!(drain(handle).await, Drained::Empty);
        }
        gateway.stop().await;
    }
    let rows = count(&lake, ".json.gz");
    assert_eq!(rows[2..], [10_000, 2 * bpm_sum(5_000), 10_000]);
    assert_eq!(rows[1], 10_001, "the first generation's end line tells its count");
    assert_eq!(rows[0], rows[1], "files of a batch that is sent again replace each other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_uplink_holds_nobody_back_and_loses_nothing() {
    let state = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(state.path());
    let server = firehose::Server::start([]).await;
    server.always(firehose::Mood::Drop);
    // No credentials are to be had here, or no server: dead either way.
    let dead = config::Firehose {
        stream: "heart-rate".into(),
        region: Some("eu-west-1".into()),
        endpoint_url: Some(server.url()),
        timeout: Duration::from_secs(5),
        ca: None,
        proxy: None,
        proxy_credentials_file: None,
        credentials: None,
    };
    let dead = uplink("firehose", Encoding::Gzip, config::UplinkKind::Firehose(dead));
    let dead = gateway.uplink(state.path(), &dead, Duration::from_millis(20));
    let alive = gateway.uplink(
        state.path(),
        &lake_at(&state.path().join("lake"), Encoding::Gzip),
        Duration::from_millis(20),
    );
    gateway.store(10_000).await;
    assert_eq!(drain(alive).await, Drained::Empty);
    assert_eq!(count(&state.path().join("lake"), ".json.gz")[2], 10_000);
    let status = dead.status();
    assert_eq!((status.queued_readings, status.delivered_readings), (10_000, 0));
    gateway.stop().await;
}
