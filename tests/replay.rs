//! Recordings replayed by the real gateway, from the configuration to the delivered line.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

#[path = "support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fogbeat::source::replay::{Recording, csv_beats};
use support::daemon::Setup;
use support::lake::{Delivered, Lake};

const POLAR: &str = include_str!("data/polar-h10-ibi/sample_data_ibi.csv");
const MITDB: &str = include_str!("data/mitdb/100_rr.csv");

/// For a slow machine; a replay at `max` takes a blink.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a gateway with these replays until `count` readings are delivered, then stops it.
fn replayed(root: &Path, replays: &str, count: usize) -> Vec<Delivered> {
    let setup = Setup { extra: replays.to_owned(), ..Setup::new(root) };
    let daemon = setup.start();
    let start = Instant::now();
    while Lake::read(&setup.lake).readings.len() < count {
        assert!(start.elapsed() < PATIENCE, "not delivered in {PATIENCE:?}\n{}", setup.log_tail());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(daemon.terminate(PATIENCE).success(), "{}", setup.log_tail());
    let lake = Lake::read(&setup.lake);
    assert_eq!(lake.defects, Vec::<String>::new());
    assert_eq!(lake.unexplained(), Vec::<String>::new());
    lake.readings.into_values().collect()
}

fn recording(root: &Path, name: &str, text: &str) -> PathBuf {
    let path = root.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn of<'a>(readings: &'a [Delivered], device: &str) -> Vec<&'a Delivered> {
    readings.iter().filter(|reading| reading.device == device).collect()
}

/// Every interval of the recording, in order, in microseconds.
fn intervals(readings: &[&Delivered]) -> Vec<u64> {
    readings.iter().flat_map(|reading| &reading.rr_ms).map(|ms| (ms * 1000.0).round() as u64).collect()
}

#[test]
fn recorded_hearts_arrive_whole_and_exact() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let polar = recording(root.path(), "polar.csv", POLAR);
    let mitdb = recording(root.path(), "record-100.csv", MITDB);
    let replays = format!(
        "[[replay]]\npath = {polar:?}\nspeed = \"max\"\n\
         [[replay]]\npath = {mitdb:?}\ndevice = \"bike-1\"\nspeed = \"max\"\n"
    );
    let count = |text| Recording::parse(text).unwrap().moments().len();
    let readings = replayed(root.path(), &replays, count(POLAR) + count(MITDB));

    for (device, text) in [("polar", POLAR), ("bike-1", MITDB)] {
        let readings = of(&readings, device);
        assert_eq!(readings.len(), count(text), "{device}");
        let recorded: Vec<u64> = csv_beats(text).unwrap().iter().map(|beat| u64::from(beat.rr_us)).collect();
        assert_eq!(intervals(&readings), recorded, "{device}");
        assert!(readings.iter().all(|reading| reading.bpm.is_some_and(|bpm| (40..130).contains(&bpm))));
        assert!(readings.windows(2).all(|pair| pair[0].stamp <= pair[1].stamp), "{device} goes back in time");
    }
}

#[test]
fn what_was_delivered_can_be_replayed() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lines = concat!(
        r#"{"id":"s-1","gateway":"g","device":"strap-2","source":"mqtt","time":"2026-01-02T03:04:05.500Z","bpm":71}"#,
        "\n",
        r#"{"id":"s-0","gateway":"g","device":"strap-1","source":"gatt","time":"2026-01-02T03:04:05Z","bpm":61,"#,
        r#""rr_ms":[983.398,990]}"#,
        "\n",
        r#"{"id":"s-2","type":"end","gateway":"g","generation":1,"count":2}"#,
        "\n",
    );
    let path = recording(root.path(), "lines.json", lines);
    let replays = format!("[[replay]]\npath = {path:?}\n");
    let began = support::wall_ms();
    let readings = replayed(root.path(), &replays, 2);
    assert_eq!(readings.len(), 2);
    let one = of(&readings, "strap-1")[0];
    assert_eq!((one.bpm, one.rr_ms.as_slice()), (Some(61), [983.398, 990.0].as_slice()));
    let two = of(&readings, "strap-2")[0];
    assert_eq!(two.bpm, Some(71));
    // A replayed reading is a new one, and at `1x` half a second lies between these two.
    assert!(one.stamp >= i64::try_from(began).unwrap() - 1000, "stamped with the time of the recording");
    assert!((400..5_000).contains(&(two.stamp - one.stamp)), "{} ms apart", two.stamp - one.stamp);
}

#[test]
fn a_recording_that_cannot_be_read_does_not_stop_the_gateway() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let broken = recording(root.path(), "broken.csv", "800\n810\nnoise\n");
    let good = recording(root.path(), "good.txt", "800\n800\n800\n800\n800\n");
    let replays = format!(
        "[[replay]]\npath = {broken:?}\n[[replay]]\npath = {good:?}\nspeed = \"max\"\nloop = false\n"
    );
    let readings = replayed(root.path(), &replays, 4);
    assert_eq!(of(&readings, "good").len(), 4);
    let log = std::fs::read_to_string(root.path().join("fogbeat.log")).unwrap();
    assert!(log.contains("line 3") && log.contains("noise"), "{log}");
}

#[test]
fn a_loop_goes_on_until_the_gateway_stops() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = recording(root.path(), "short.txt", "500\n500\n500\n500\n");
    let replays = format!("[[replay]]\npath = {path:?}\nspeed = \"100x\"\nloop = true\n");
    let readings = replayed(root.path(), &replays, 10);
    assert!(readings.len() >= 10);
    assert!(readings.iter().all(|reading| reading.bpm == Some(120)));
}
