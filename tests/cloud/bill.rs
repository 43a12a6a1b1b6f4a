//! What it costs: measured bytes per reading against the figures that the bill is reckoned with.

use std::num::NonZeroU16;

use fogbeat::clock::{BootId, BootTimes, Stamp, WallQuality};
use fogbeat::config::Encoding;
use fogbeat::forward::batch::{Context, Lines, Until};
use fogbeat::forward::member::Encoder;
use fogbeat::journal::{Bounds, Entry, Seq};
use fogbeat::reading::line::LineContext;
use fogbeat::reading::{Contact, DeviceId, Reading, RrIntervals, RrUnit, Source};

use fogbeat::cloud::prices::Prices;
use serde_json::Value;

use super::site::MIDNIGHT_MS;
use super::{fogbeat, project, recorded};

/// `count` readings of `straps` recorded hearts with all their intervals, as a gateway numbers them.
fn entries(straps: usize, count: usize) -> Vec<Entry> {
    let mut hearts: Vec<recorded::Strap> = (0..straps).map(recorded::Strap::new).collect();
    let entry = |n: usize| {
        let strap = n % straps;
        let said = hearts[strap].next().unwrap();
        let reading = Reading {
            device: DeviceId(strap as u32),
            source: Source::Gatt,
            arrival: Stamp {
                uptime_ms: said.at_ms,
                wall_ms: MIDNIGHT_MS + said.at_ms as i64,
                quality: WallQuality::Synced,
            },
            device_time: None,
            bpm: NonZeroU16::new(said.bpm as u16),
            rr: RrIntervals {
                unit: RrUnit::Ticks,
                values: said.rr_ms.iter().map(|ms| (ms * 1024 / 1000) as u32).collect(),
            },
            contact: Contact::Detected,
            energy_kj: None,
            battery_percent: None,
            rssi_dbm: None,
            reason: None,
            gap_ms: None,
        };
        Entry::Reading { seq: Seq::new(1, n as u32), device: format!("strap-{strap:02}").into(), reading }
    };
    (0..count).map(entry).collect()
}

/// Bytes of JSON lines, and of the gzip member that they make.
fn member(straps: usize, count: usize) -> (u64, u64) {
    let context = Context {
        spool: "k3v9x2ab".into(),
        times: BootTimes::unknown(BootId([7; 16])),
        line: LineContext::new("k3v9x2ab", "gym-12", Some("gym")),
    };
    let mut lines = Lines::default();
    let mut position = Seq(0);
    for entry in entries(straps, count) {
        lines.offer(&entry, &mut position, Until::Bytes(usize::MAX), &context);
    }
    let bounds = Bounds { from: Seq(0), to: Seq::new(2, 0), fixed_ms: 0, clock: 0, guessed: false };
    let mut encoder = Encoder::with_level(Encoding::Gzip, None).unwrap();
    let members = lines.encode(bounds, &mut encoder, usize::MAX).unwrap();
    (lines.text_bytes() as u64, members[0].bytes.len() as u64)
}

/// The bill's figures are what a gateway really sends, or a little more.
#[test]
fn the_bill_reckons_with_the_bytes_that_are_sent() {
    let measured = Prices::list().unwrap().measured;
    for straps in [1, 5, 20, 40] {
        for count in [60, 300, 600, 1200, 2400, 5000, 12_000] {
            let (text, packed) = member(straps, count);
            let reckoned = measured.member(count as f64) / packed as f64;
            assert!(
                (1.0..1.11).contains(&reckoned),
                "{straps} straps, {count} readings: {packed} bytes, {reckoned} of them reckoned"
            );
            let reckoned = measured.text_bytes * count as f64 / text as f64;
            assert!(
                (0.98..1.03).contains(&reckoned),
                "{straps} straps, {count} readings: {text} bytes of text"
            );
        }
    }
}

/// With these very members: what the README promises for a million readings.
#[test]
fn a_million_readings_cost_what_is_promised() {
    let prices = Prices::list().unwrap();
    for (straps, count) in [(10, 600), (20, 1200), (40, 2400), (40, 8000)] {
        let (_, packed) = member(straps, count);
        let firehose = prices.firehose.record(packed) / count as f64 * 1e6;
        let rules =
            prices.iot.units(packed) as f64 * (prices.iot.per_million_rules + prices.iot.per_million_actions);
        let basic = firehose + rules / count as f64;
        assert!(firehose <= 0.0005, "{straps} straps: {firehose}");
        assert!(basic <= 0.0015, "{straps} straps: {basic}");
    }
}

#[test]
fn the_bill_is_printed_line_by_line_and_says_what_the_batch_settings_mean() {
    let arguments = ["cloud", "cost", "--devices", "40", "--rate", "1", "--gateways", "2"];
    let page = fogbeat(&arguments);
    let readme = std::fs::read_to_string(project("README.md")).unwrap();
    assert!(readme.contains(page.trim()), "README does not carry this table:\n{page}");
    assert!(page.contains("103.7 million readings in 30 days") && page.contains("<- in force"), "{page}");

    let told: Value = serde_json::from_str(&fogbeat(&[&arguments[..], &["--json"]].concat())).unwrap();
    let bills = told["bills"].as_array().unwrap();
    assert_eq!(
        bills.iter().map(|bill| bill["way"].as_str().unwrap()).collect::<Vec<_>>(),
        ["firehose", "basic_ingest", "broker"]
    );
    for bill in bills {
        let sum: f64 =
            bill["lines"].as_array().unwrap().iter().map(|line| line["usd"].as_f64().unwrap()).sum();
        assert!((sum - bill["total_usd"].as_f64().unwrap()).abs() < 1e-9, "{bill}");
    }
    // The settings in force, from a file.
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("fogbeat.toml");
    std::fs::write(&file, "[batch]\nmax_age = \"7m\"\n").unwrap();
    let slower = fogbeat(&[&arguments[..], &["--config", file.to_str().unwrap()]].concat());
    let line = slower.lines().find(|line| line.contains("<- in force")).unwrap();
    assert!(line.starts_with("7m") && line.contains(" 8400 "), "{line}");
}
