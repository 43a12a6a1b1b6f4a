use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::clock::{Anchor, Anchors, Stamp};
use crate::reading::summary::{Sources, Summary};
use crate::reading::{DeviceId, Reason, Source};

const BOOT: BootId =
    BootId([0x7c, 0x9e, 0x66, 0x79, 0x74, 0x25, 0x40, 0xde, 0x94, 0x4b, 0xe0, 0x7f, 0xc1, 0xf9, 0x0a, 0xe7]);

fn reading() -> Reading {
    Reading {
        device: DeviceId(1),
        source: Source::Mqtt,
        arrival: Stamp { uptime_ms: 61_250, wall_ms: 1_795_460_530_123, quality: WallQuality::Synced },
        device_time: None,
        bpm: NonZeroU16::new(72),
        rr: RrIntervals::default(),
        contact: Contact::Unsupported,
        energy_kj: None,
        battery_percent: None,
        rssi_dbm: None,
        reason: None,
        gap_ms: None,
    }
}

fn line(reading: &Reading) -> String {
    let mut out = Vec::new();
    LineContext::new("k3f9a1c2", "gym-12", Some("gym")).write_reading(
        &mut out,
        (7 << 32) + 42,
        &BootTimes::unknown(BOOT),
        "strap-1",
        reading,
    );
    String::from_utf8(out).unwrap()
}

const START: &str = r#"{"id":"k3f9a1c2-30064771114","gateway":"gym-12","site":"gym","device":"strap-1","#;

fn golden(reading: &Reading, rest: &str) {
    assert_eq!(line(reading), format!("{START}{rest}\n"));
}

#[test]
fn the_default_line() {
    golden(&reading(), r#""source":"mqtt","time":"2026-11-23T19:02:10.123Z","bpm":72}"#);
}

#[test]
fn every_optional_field_in_its_place() {
    let full = Reading {
        source: Source::Gatt,
        arrival: Stamp { quality: WallQuality::Unsynced, ..reading().arrival },
        device_time: Some(DeviceTime::Rejected(946_684_800_000)),
        rr: RrIntervals { unit: RrUnit::Ticks, values: [882, 906, 1024].into_iter().collect() },
        contact: Contact::NotDetected,
        energy_kj: Some(2000),
        battery_percent: Some(97),
        rssi_dbm: Some(-61),
        reason: Some(Reason::NoContact),
        gap_ms: Some(4_213),
        ..reading()
    };
    golden(
        &full,
        concat!(
            r#""source":"gatt","time":"2026-11-23T19:02:10.123Z","time_quality":"unsynced","#,
            r#""boot":"7c9e6679-7425-40de-944b-e07fc1f90ae7","uptime_ms":61250,"#,
            r#""device_time":"2000-01-01T00:00:00.000Z","bpm":72,"rr_ms":[861.328,884.766,1000],"contact":false,"#,
            r#""energy_kj":2000,"battery_percent":97,"rssi_dbm":-61,"reason":"no_contact","gap_ms":4213}"#
        ),
    );
}

#[test]
fn a_believed_device_time_is_the_time() {
    let stamped = Reading { device_time: Some(DeviceTime::Accepted(1_795_460_529_000)), ..reading() };
    golden(
        &stamped,
        r#""source":"mqtt","time":"2026-11-23T19:02:09.000Z","time_quality":"device","bpm":72}"#,
    );
    let unsynced =
        Reading { arrival: Stamp { quality: WallQuality::Unsynced, ..reading().arrival }, ..stamped.clone() };
    assert_eq!(line(&unsynced), line(&stamped), "the gateway's own clock does not matter then");
}

#[test]
fn a_rejected_device_time_stands_aside() {
    let rejected = Reading { device_time: Some(DeviceTime::Rejected(0)), ..reading() };
    golden(
        &rejected,
        r#""source":"mqtt","time":"2026-11-23T19:02:10.123Z","device_time":"1970-01-01T00:00:00.000Z","bpm":72}"#,
    );
}

#[test]
fn zero_has_no_number() {
    let zero = Reading { bpm: None, reason: Some(Reason::Zero), contact: Contact::Detected, ..reading() };
    golden(&zero, r#""source":"mqtt","time":"2026-11-23T19:02:10.123Z","contact":true,"reason":"zero"}"#);
}

#[test]
fn intervals_in_each_unit() {
    for (unit, value, written) in [
        (RrUnit::Ticks, 882, "861.328"),
        (RrUnit::Ticks, 1024, "1000"),
        (RrUnit::Ticks, 65_535, "63999.023"),
        (RrUnit::Ticks, 2, "1.953"),
        // 7.8125 ms: half up.
        (RrUnit::Ticks, 8, "7.813"),
        (RrUnit::Ticks, 64, "62.5"),
        (RrUnit::Millis, 936, "936"),
        (RrUnit::Micros, 936_000, "936"),
        (RrUnit::Micros, 936_500, "936.5"),
        (RrUnit::Micros, 936_050, "936.05"),
        (RrUnit::Micros, 936_005, "936.005"),
    ] {
        let mut out = Vec::new();
        write_rr(&mut out, &RrIntervals { unit, values: [value].into_iter().collect() });
        assert_eq!(String::from_utf8(out).unwrap(), format!("[{written}]"));
    }
}

#[test]
fn names_are_escaped() {
    let mut out = Vec::new();
    let context = LineContext::new("s", "g\"1\\", None);
    context.write_reading(&mut out, 1, &BootTimes::unknown(BOOT), "Zoë\n\u{1}\u{1f}\t\"", &reading());
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value["gateway"], "g\"1\\");
    assert_eq!(value["device"], "Zoë\n\u{1}\u{1f}\t\"");
    assert_eq!(value.get("site"), None);
}

/// Three hours after its boot the clock was set.
fn anchored() -> BootTimes {
    let mut table = Anchors::default();
    let anchor = Anchor { uptime_ms: 10_861_250, wall_ms: 1_795_471_330_123, error_ms: 500, ahead_ms: 0 };
    table.anchor(BOOT, anchor);
    table.times(BOOT, table.revision())
}

fn line_at(times: &BootTimes, reading: &Reading) -> String {
    let mut out = Vec::new();
    LineContext::new("k3f9a1c2", "gym-12", Some("gym")).write_reading(
        &mut out,
        (7 << 32) + 42,
        times,
        "strap-1",
        reading,
    );
    String::from_utf8(out).unwrap()
}

#[test]
fn a_time_that_became_known_later_is_told_with_its_uncertainty() {
    let stamp = Stamp { uptime_ms: 61_250, wall_ms: 5, quality: WallQuality::Unsynced };
    let line = line_at(&anchored(), &Reading { arrival: stamp, ..reading() });
    let rest = concat!(
        r#""source":"mqtt","time":"2026-11-23T19:02:10.123Z","time_quality":"repaired","uncertainty_s":1.6,"#,
        r#""bpm":72}"#
    );
    assert_eq!(line, format!("{START}{rest}\n"));
}

#[test]
fn a_synchronised_clock_tells_its_uncertainty_only_when_that_is_large() {
    let told = |uptime_ms: u64, wall_ms: i64| {
        let arrival = Stamp { uptime_ms, wall_ms, quality: WallQuality::Synced };
        let line = line_at(&anchored(), &Reading { arrival, ..reading() });
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["uncertainty_s"].as_f64()
    };
    let (at, wall) = (10_861_250, 1_795_471_330_123);
    assert_eq!(told(at, wall), None);
    assert_eq!(told(at + 20_000_000, wall + 20_000_000), None);
    assert_eq!(told(at + 20_010_000, wall + 20_010_000), Some(2.6));
    let week = 7 * 86_400_000;
    assert_eq!(told(at + week, wall + i64::try_from(week).unwrap()), Some(61.0), "without a network");
    assert_eq!(told(at + 2_000_000_000, wall + 2_000_000_000), Some(201.0), "whole seconds from 100 on");
    assert_eq!(told(at, wall + 3_000), Some(3.5), "while a correction is under way");
}

#[test]
fn a_wearables_stamp_is_judged_again_when_the_time_of_arrival_is_known() {
    let arrival = Stamp { uptime_ms: 61_250, wall_ms: 5, quality: WallQuality::Unsynced };
    let line = |device_ms| {
        let device_time = Some(DeviceTime::Accepted(device_ms));
        line_at(&anchored(), &Reading { arrival, device_time, ..reading() })
    };
    let at = 1_795_460_530_123;
    let believed = line(at - 31 * 86_400_000);
    assert!(
        believed.contains(r#""time":"2026-10-23T19:02:10.123Z","time_quality":"device","bpm""#),
        "{believed}"
    );
    // 5 minutes ahead, and the 1.58 s that the arrival itself is uncertain by.
    assert!(line(at + 301_580).contains(r#""time_quality":"device""#));
    let rejected = line(at + 301_581);
    assert!(
        rejected.contains(
            r#""time":"2026-11-23T19:02:10.123Z","time_quality":"repaired","uncertainty_s":1.6,"device_time":"2026"#
        ),
        "{rejected}"
    );
}

#[test]
fn a_clock_line_tells_what_lines_with_a_guess_are_to_be_moved_by() {
    let mut out = Vec::new();
    let correction = anchored().correction().unwrap();
    LineContext::new("k3f9a1c2", "gym-12", Some("gym")).write_clock(&mut out, &correction);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"id":"k3f9a1c2-clock-7c9e6679-7425-40de-944b-e07fc1f90ae7","type":"clock","gateway":"gym-12","#,
            r#""site":"gym","time":"2026-11-23T22:02:10.123Z","boot":"7c9e6679-7425-40de-944b-e07fc1f90ae7","#,
            r#""uptime_ms":10861250,"uncertainty_s":0.5}"#,
            "\n"
        )
    );
}

#[test]
fn events() {
    let mut out = Vec::new();
    let context = LineContext::new("k3f9a1c2", "gym-12", Some("gym"));
    context.write_end(&mut out, 7, 42);
    context.write_gap(&mut out, (7 << 32) + 5, (7 << 32) + 9, "evicted", &[]);
    let devices = [("bike-1".into(), 3), ("bike \"2\"".into(), 2)];
    context.write_gap(&mut out, (7 << 32) + 10, (7 << 32) + 14, "thinned", &devices);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"id":"k3f9a1c2-30064771114","type":"end","gateway":"gym-12","site":"gym","generation":7,"count":42}"#,
            "\n",
            r#"{"id":"k3f9a1c2-30064771077-30064771081","type":"gap","gateway":"gym-12","site":"gym","#,
            r#""first_seq":30064771077,"last_seq":30064771081,"cause":"evicted"}"#,
            "\n",
            r#"{"id":"k3f9a1c2-30064771082-30064771086","type":"gap","gateway":"gym-12","site":"gym","#,
            r#""first_seq":30064771082,"last_seq":30064771086,"cause":"thinned","#,
            r#""devices":{"bike-1":3,"bike \"2\"":2}}"#,
            "\n"
        )
    );
}

#[test]
fn summaries() {
    let full = Summary {
        device: DeviceId(1),
        window_s: 10,
        arrival: Stamp { uptime_ms: 61_127, wall_ms: 1_795_460_530_000, quality: WallQuality::Synced },
        device_time: None,
        sources: Sources::of(Source::Mqtt),
        n: 10,
        bpm_n: 9,
        bpm_sum: 649,
        bpm_min: 71,
        bpm_max: 74,
        rr_n: 12,
    };
    let line = |summary: &Summary| {
        let mut out = Vec::new();
        let context = LineContext::new("k3f9a1c2", "gym-12", Some("gym"));
        context.write_summary(&mut out, (7 << 32) + 3, &BootTimes::unknown(BOOT), "strap-1", summary);
        String::from_utf8(out).unwrap()
    };
    const START: &str = r#"{"id":"k3f9a1c2-30064771075-s10","type":"summary","gateway":"gym-12","site":"gym","device":"strap-1","#;
    let golden = |summary: &Summary, rest: &str| assert_eq!(line(summary), format!("{START}{rest}\n"));
    golden(
        &full,
        concat!(
            r#""source":"mqtt","time":"2026-11-23T19:02:10.000Z","window_s":10,"n":10,"bpm_n":9,"#,
            r#""bpm_min":71,"bpm_mean":72.111,"bpm_max":74,"rr_n":12}"#
        ),
    );
    let unsynced = Stamp { quality: WallQuality::Unsynced, ..full.arrival };
    golden(
        &Summary { arrival: unsynced, bpm_n: 0, bpm_sum: 0, bpm_min: 0, bpm_max: 0, rr_n: 0, ..full.clone() },
        concat!(
            r#""source":"mqtt","time":"2026-11-23T19:02:10.000Z","time_quality":"unsynced","#,
            r#""boot":"7c9e6679-7425-40de-944b-e07fc1f90ae7","uptime_ms":61127,"window_s":10,"n":10,"bpm_n":0}"#
        ),
    );
    let mut both = Summary {
        device_time: Some(DeviceTime::Accepted(1_795_460_520_000)),
        bpm_n: 1,
        bpm_sum: 71,
        ..full.clone()
    };
    both.sources = Sources::from_bits(0b110).unwrap();
    golden(
        &both,
        concat!(
            r#""time":"2026-11-23T19:02:00.000Z","time_quality":"device","window_s":10,"n":10,"bpm_n":1,"#,
            r#""bpm_min":71,"bpm_mean":71,"bpm_max":74,"rr_n":12}"#
        ),
    );
    let minute = line(&Summary { window_s: 60, ..full });
    assert!(minute.starts_with(r#"{"id":"k3f9a1c2-30064771075-s60","#), "{minute}");
}

proptest! {
    #[test]
    fn every_line_is_one_json_object(
        device in ".{0,30}",
        gateway in ".{0,30}",
        seq in any::<u64>(),
        wall_ms in any::<i64>(),
        ticks in proptest::collection::vec(any::<u32>(), 0..5),
        unit in 0..3u8,
    ) {
        let unit = [RrUnit::Ticks, RrUnit::Millis, RrUnit::Micros][usize::from(unit)];
        let reading = Reading {
            arrival: Stamp { wall_ms, ..Stamp::default() },
            rr: RrIntervals { unit, values: ticks.into() },
            ..reading()
        };
        let mut out = Vec::new();
        LineContext::new("s", &gateway, Some("x")).write_reading(
            &mut out,
            seq,
            &BootTimes::unknown(BOOT),
            &device,
            &reading,
        );
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(value["device"].as_str(), Some(device.as_str()));
        prop_assert_eq!(value["gateway"].as_str(), Some(gateway.as_str()));
        prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
    }
}
