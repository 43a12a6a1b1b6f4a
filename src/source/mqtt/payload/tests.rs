use proptest::prelude::*;

use super::*;
use crate::clock::{BootId, BootTimes, WallQuality};
use crate::reading::line::LineContext;
use crate::reading::{Contact, DeviceTime, Reason, RrIntervals, RrUnit};

const NOW: i64 = 1_795_460_530_123;

fn read_at(payload: &[u8], arrival: Stamp) -> (Result<(), PayloadError>, Vec<Reading>, Metrics) {
    let metrics = Metrics::default();
    let mut out = Vec::new();
    let cx = DecodeContext { arrival, topic_device: None, devices: &|_| None, source: Source::Mqtt };
    let window = DeviceTimeWindow::default();
    let mut sink = Sink { cx: &cx, window: &window, metrics: &metrics, out: &mut out };
    let result = decode(payload, DeviceId(7), &mut sink);
    (result, out, metrics)
}

fn synced() -> Stamp {
    Stamp { uptime_ms: 5, wall_ms: NOW, quality: WallQuality::Synced }
}

fn one(payload: impl AsRef<[u8]>) -> Reading {
    let (result, mut out, _) = read_at(payload.as_ref(), synced());
    result.unwrap_or_else(|e| panic!("{e}: {:?}", payload.as_ref()));
    assert_eq!(out.len(), 1, "{:?}", payload.as_ref());
    out.remove(0)
}

fn cause(payload: impl AsRef<[u8]>) -> (&'static str, &'static str) {
    let (result, _, _) = read_at(payload.as_ref(), synced());
    let error = result.expect_err(&format!("{:?} is taken", payload.as_ref()));
    (error.cause.as_str(), error.field)
}

fn bpm(reading: &Reading) -> Option<u16> {
    reading.bpm.map(u16::from)
}

#[test]
fn bare_numbers() {
    for (payload, expected) in
        [("72", 72), (" 72\r\n", 72), ("72.5", 73), ("72.4", 72), ("7.2e1", 72), ("+72", 72), ("072", 72)]
    {
        assert_eq!(bpm(&one(payload)), Some(expected), "{payload}");
    }
    let zero = one("0");
    assert_eq!((zero.bpm, zero.reason), (None, Some(Reason::Zero)));
    assert_eq!(one("300").reason, Some(Reason::Implausible));
    for payload in ["-5", "65536", "1e9", "-0.1", "1e999"] {
        assert_eq!(cause(payload), ("out_of_range", "bpm"), "{payload}");
    }
}

#[test]
fn raw_measurements() {
    let reading = one([0x16, 0x4d, 0x16, 0x03]);
    assert_eq!((bpm(&reading), reading.contact), (Some(77), Contact::Detected));
    assert_eq!(reading.rr, RrIntervals { unit: RrUnit::Ticks, values: [790].into_iter().collect() });
    // Flags that are white space, then a brace: still a measurement.
    assert_eq!(bpm(&one([0x0a, 0x7b, 0x10, 0x00])), Some(123));
    let (result, out, metrics) = read_at(&[0x10, 0x3c, 0x00, 0x00, 0xff, 0xff, 0x00, 0x04, 0xde], synced());
    assert_eq!(result, Ok(()));
    assert_eq!(out[0].rr.values.as_slice(), [1024]);
    assert_eq!((metrics.rr_artefacts(), metrics.trailing_bytes()), (2, 1));
}

#[test]
fn text_never_becomes_a_heart_rate() {
    for payload in ["true", "null", "unavailable", "7x", "<xml/>", "72 bpm", "NaN", "\u{e9}"] {
        assert_eq!(cause(payload), ("unrecognised", "payload"), "{payload}");
    }
    assert_eq!(cause([0x00]), ("bad_hrm", "payload"));
    assert_eq!(cause([0x01, 0x12]), ("bad_hrm", "payload"));
    assert_eq!(cause([0x00, 0x48, 0x01, 0x02]), ("bad_hrm", "payload"));
    assert_eq!(cause(""), ("empty", "payload"));
    assert_eq!(cause(" \n"), ("empty", "payload"));
}

#[test]
fn every_key() {
    for key in ["bpm", "hr", "heart_rate", "heartRate", "hbr"] {
        assert_eq!(bpm(&one(format!(r#"{{"{key}": 71.5, "other": {{"deep": [1, "x"]}}}}"#))), Some(72));
    }
    let full = one(
        br#"{"bpm":72,"time":"2026-11-23T19:02:09.5Z","rr_ms":[812,840],"contact":true,"energy_kj":12,"battery":80}"#,
    );
    assert_eq!(full.device_time, Some(DeviceTime::Accepted(1_795_460_529_500)));
    assert_eq!(full.rr, RrIntervals { unit: RrUnit::Millis, values: [812, 840].into_iter().collect() });
    assert_eq!((full.contact, full.energy_kj, full.battery_percent), (Contact::Detected, Some(12), Some(80)));
    assert_eq!(full.arrival, synced());
    let nulls = one(
        br#"{"bpm":72,"hr":null,"time":null,"rr_ms":null,"contact":null,"energy_kj":null,"battery":null}"#,
    );
    assert_eq!(nulls, one("72"));
    assert_eq!(one(br#"{"bpm":72,"contact":false}"#).reason, Some(Reason::NoContact));
    assert_eq!(one(br#"{"bp\u006d":72}"#), one("72"), "an escaped key is the same key");
}

#[test]
fn what_is_no_reading() {
    for payload in
        [&b"{}"[..], b"[]", br#"{"bpm":null,"battery":70}"#, br#"{"rr_ms":[]}"#, br#"{"rr_ms":[null]}"#]
    {
        let (result, out, _) = read_at(payload, synced());
        assert_eq!((result, out.len()), (Ok(()), 0), "{}", payload.escape_ascii());
    }
    assert_eq!(one(br#"{"rr_ms":812}"#).bpm, None, "RR intervals alone are a reading");
}

#[test]
fn times_by_size() {
    for time in [
        "1795460530",
        "1795460530.0",
        "1795460530000",
        "1795460530000000",
        "1795460530000000000",
        "\"2026-11-23T20:02:10+01:00\"",
    ] {
        let reading = one(format!(r#"{{"bpm":72,"time":{time}}}"#));
        assert_eq!(reading.device_time, Some(DeviceTime::Accepted(1_795_460_530_000)), "{time}");
    }
    assert_eq!(
        one(br#"{"bpm":72,"time":1795460530.123}"#).device_time,
        Some(DeviceTime::Accepted(1_795_460_530_123))
    );
    for (time, ms) in [("0", 0), ("\"0001-01-01T00:00:00Z\"", -62_135_596_800_000), ("123456", 123_456_000)] {
        let reading = one(format!(r#"{{"bpm":72,"time":{time}}}"#));
        assert_eq!(reading.device_time, Some(DeviceTime::Rejected(ms)), "{time}");
    }
    for (time, expected) in [
        ("\"yesterday\"", "bad_time"),
        ("\"2026-11-23T19:02:10\"", "bad_time"),
        ("true", "wrong_type"),
        ("[1]", "wrong_type"),
        ("1e300", "out_of_range"),
        ("-1e300", "out_of_range"),
        ("18446744073709551615", "wrong_type"),
    ] {
        assert_eq!(cause(format!(r#"{{"bpm":72,"time":{time}}}"#)), (expected, "time"), "{time}");
    }
}

#[test]
fn an_unsynchronised_gateway_cannot_judge() {
    let arrival = Stamp { uptime_ms: 5, wall_ms: 1_700_000_000_000, quality: WallQuality::Unsynced };
    let (_, out, _) = read_at(br#"{"bpm":72,"time":1795460530}"#, arrival);
    assert_eq!(out[0].device_time, Some(DeviceTime::Accepted(1_795_460_530_000)));
}

#[test]
fn intervals_lose_nothing() {
    for (rr, unit, values) in [
        ("[812, 840.0]", RrUnit::Millis, vec![812, 840]),
        ("[861.328, 884.766, 1000]", RrUnit::Ticks, vec![882, 906, 1024]),
        ("861.328125", RrUnit::Ticks, vec![882]),
        ("[861.3, 840]", RrUnit::Micros, vec![861_300, 840_000]),
        ("[0, 812]", RrUnit::Millis, vec![812]),
        ("63999.023", RrUnit::Ticks, vec![]),
    ] {
        let reading = one(format!(r#"{{"bpm":72,"rr_ms":{rr}}}"#));
        assert_eq!(reading.rr.unit, unit, "{rr}");
        assert_eq!(reading.rr.values.as_slice(), values, "{rr}");
    }
}

#[test]
fn what_cannot_be_taken() {
    for (payload, expected) in [
        (r#"{"bpm":"72"}"#, ("wrong_type", "bpm")),
        (r#"{"bpm":[72]}"#, ("wrong_type", "bpm")),
        (r#"{"bpm":{"value":72}}"#, ("wrong_type", "bpm")),
        (r#"{"bpm":-1}"#, ("out_of_range", "bpm")),
        (r#"{"bpm":70000}"#, ("out_of_range", "bpm")),
        (r#"{"bpm":72,"hr":73}"#, ("duplicate", "bpm")),
        (r#"{"bpm":72,"time":1,"time":2}"#, ("duplicate", "time")),
        (r#"{"bpm":72,"rr_ms":[1],"rr_ms":2}"#, ("duplicate", "rr_ms")),
        (r#"{"bpm":72,"contact":1}"#, ("wrong_type", "contact")),
        (r#"{"bpm":72,"battery":101}"#, ("out_of_range", "battery")),
        (r#"{"bpm":72,"energy_kj":65536}"#, ("out_of_range", "energy_kj")),
        (r#"{"bpm":72,"rr_ms":"812"}"#, ("wrong_type", "rr_ms")),
        (r#"{"bpm":72,"rr_ms":[812,"x"]}"#, ("wrong_type", "rr_ms")),
        (r#"{"bpm":72,"rr_ms":{"a":1}}"#, ("wrong_type", "rr_ms")),
        (r#"{"bpm":72,"rr_ms":-1}"#, ("out_of_range", "rr_ms")),
        (r#"{"bpm":72,"rr_ms":70000}"#, ("out_of_range", "rr_ms")),
        (r#"{"bpm":72"#, ("bad_json", "payload")),
        (r#"{"bpm":72}}"#, ("bad_json", "payload")),
        (r#"{"bpm":72} {"bpm":73}"#, ("bad_json", "payload")),
        (r#"[{"bpm":72}"#, ("bad_json", "payload")),
        (r#"[{"bpm":72}] x]"#, ("bad_json", "payload")),
        (r#"[72]"#, ("wrong_type", "payload")),
    ] {
        assert_eq!(cause(payload), expected, "{payload}");
    }
    let many = vec!["812"; MAX_RR + 1].join(",");
    assert_eq!(cause(format!(r#"{{"rr_ms":[{many}]}}"#)), ("out_of_range", "rr_ms"));
    assert_eq!(one(format!(r#"{{"rr_ms":[{}]}}"#, &many[4..])).rr.values.len(), MAX_RR);
}

#[test]
fn arrays() {
    let (result, out, _) = read_at(br#" [{"bpm":72},{},{"bpm":73}] "#, synced());
    assert_eq!(result, Ok(()));
    assert_eq!(out.iter().map(bpm).collect::<Vec<_>>(), [Some(72), Some(73)]);
    assert_eq!(cause(br#"[{"bpm":72},{"bpm":"x"}]"#), ("wrong_type", "bpm"));
}

#[test]
fn messages_name_no_value() {
    let (result, _, _) = read_at(br#"{"bpm":70001}"#, synced());
    assert_eq!(result.unwrap_err().to_string(), "out_of_range: bpm: expected a number from 0 to 65535");
    let (result, _, _) = read_at(br#"{"bpm":7"#, synced());
    assert_eq!(result.unwrap_err().to_string(), "bad_json: payload: expected well-formed JSON (at byte 8)");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = read_at(&payload, synced());
    }

    #[test]
    fn arbitrary_json_like_text_never_panics(payload in r#"[\[{]["a-z_:,0-9.eE\[\]{} -]{0,60}[\]}]?"#) {
        let _ = read_at(payload.as_bytes(), synced());
    }

    /// What a published line says is what was read, and reading the line again gives the same reading.
    #[test]
    fn lines_are_read_back(
        bpm in 1..1000u16,
        time in proptest::option::of(NOW - 1_000_000..NOW),
        unit in 0..3usize,
        rr in proptest::collection::vec(1..65_535u32, 0..6),
        contact in proptest::option::of(any::<bool>()),
        energy_kj in proptest::option::of(any::<u16>()),
        battery in proptest::option::of(0..=100u8),
    ) {
        let rr = RrIntervals { unit: [RrUnit::Ticks, RrUnit::Millis, RrUnit::Micros][unit], values: rr.into() };
        let measured = Measurement {
            bpm: Some(bpm),
            rr,
            contact: contact.map_or(Contact::Unsupported, |on| if on { Contact::Detected } else { Contact::NotDetected }),
            energy_kj,
            battery_percent: battery,
            rssi_dbm: None,
        };
        let (reading, _) =
            measured.judge(DeviceId(7), Source::Mqtt, synced(), Some(DeviceTime::Accepted(time.unwrap_or(NOW))));
        let context = LineContext::new("s", "g", None);
        let mut line = Vec::new();
        context.write_reading(&mut line, 1, &BootTimes::unknown(BootId([0; 16])), "d", &reading);
        let again = one(&line);
        let micros = |r: &Reading| r.rr.values.iter().map(|v| r.rr.unit.to_micros(*v)).collect::<Vec<_>>();
        prop_assert_eq!(micros(&again), micros(&reading));
        let mut second = Vec::new();
        context.write_reading(&mut second, 1, &BootTimes::unknown(BootId([0; 16])), "d", &again);
        prop_assert_eq!(line, second);
        prop_assert_eq!(Reading { rr: reading.rr.clone(), ..again }, reading);
    }
}
