use proptest::prelude::*;

use super::*;
use crate::clock::{Stamp, WallQuality};
use crate::config::mapping::Literal;
use crate::reading::{DeviceId, DeviceTime, RrUnit, Source};

fn config(text: &str) -> MappingConfig {
    toml::from_str(text).unwrap()
}

fn mappings(text: &str) -> Mappings {
    Mappings::compile(&[config(text)], &[]).unwrap_or_else(|e| panic!("{e:?}"))
}

fn errors(text: &str) -> Vec<String> {
    let errors = Mappings::compile(&[config(text)], &[]).expect_err("it compiles");
    errors.iter().map(ToString::to_string).collect()
}

/// Device 0 is the topic's, others get the length of their names.
fn read(mappings: &Mappings, topic: &str, payload: &[u8]) -> Result<Vec<Reading>, PayloadError> {
    let route = mappings.route(topic).expect("no route");
    let cx = DecodeContext {
        arrival: Stamp { uptime_ms: 1, wall_ms: 1_795_460_530_000, quality: WallQuality::Synced },
        topic_device: route.topic_device().map(|_| DeviceId(0)),
        devices: &|name| (name != "full").then_some(DeviceId(name.len() as u32)),
        source: Source::Mqtt,
    };
    let mut out = Vec::new();
    let result = route.decode(payload, &cx, &mut out);
    if result.is_err() {
        assert!(out.is_empty(), "a refused payload leaves nothing");
    }
    result.map(|()| out)
}

fn cause(mappings: &Mappings, topic: &str, payload: &str) -> &'static str {
    read(mappings, topic, payload.as_bytes()).expect_err(payload).cause.as_str()
}

fn bpms(readings: &[Reading]) -> Vec<u16> {
    readings.iter().filter_map(|reading| reading.bpm.map(u16::from)).collect()
}

#[test]
fn the_built_in_mapping() {
    let mappings = Mappings::compile(&[], &[]).unwrap();
    let route = mappings.route("hr/strap-1").unwrap();
    assert_eq!((route.topic_device(), route.filter(), route.is_default()), (Some("strap-1"), "hr/+", true));
    assert_eq!(bpms(&read(&mappings, "hr/strap-1", b"72").unwrap()), [72]);
    assert!(mappings.route("hr/strap-1/x").is_none());
    assert!(mappings.route("other").is_none());
    assert_eq!(cause(&mappings, "hr/", "72"), "no_device");
    assert_eq!(cause(&mappings, &format!("hr/{}", "x".repeat(129)), "72"), "no_device");
}

#[test]
fn stamps_of_wearables_are_judged_by_the_configured_window() {
    use std::time::Duration;
    let window = DeviceTimeWindow::new(Duration::from_secs(60), Duration::from_secs(2));
    let mappings = Mappings::compile(&[], &[]).unwrap().judging_by(window);
    let judged = |ms: i64| {
        let payload = format!(r#"{{"bpm":72,"time":{ms}}}"#);
        read(&mappings, "hr/a", payload.as_bytes()).unwrap()[0].device_time.unwrap()
    };
    let now = 1_795_460_530_000;
    for (ms, believed) in
        [(now - 60_000, true), (now - 60_001, false), (now + 2_000, true), (now + 2_001, false)]
    {
        assert_eq!(matches!(judged(ms), DeviceTime::Accepted(_)), believed, "{ms}");
    }
}

#[test]
fn a_device_too_many() {
    let mappings = Mappings::compile(&[], &[]).unwrap();
    let cx = DecodeContext {
        arrival: Stamp::default(),
        topic_device: None,
        devices: &|_| None,
        source: Source::Mqtt,
    };
    let refused = mappings.route("hr/late").unwrap().decode(b"72", &cx, &mut Vec::new());
    assert_eq!(refused.unwrap_err().cause, Cause::TooManyDevices);
    let table = self::mappings("topic = 't'\nbpm = '/bpm'\ndevice = { pointer = '/id' }");
    assert_eq!(cause(&table, "t", r#"{"bpm":72,"id":"full"}"#), "too_many_devices");
}

#[test]
fn the_operators_own_come_first() {
    let own = config("topic = 'hr/+'\nbpm = '/pulse'\ndevice = { level = 1 }");
    let mappings = Mappings::compile(&[own], &["qz".to_owned()]).unwrap();
    assert_eq!(mappings.filters().collect::<Vec<_>>(), ["hr/+", "QZ/+/workout/heart/current", "hr/+"]);
    assert_eq!(bpms(&read(&mappings, "hr/a", br#"{"pulse":61}"#).unwrap()), [61]);
}

#[test]
fn arrays_selectors_and_devices() {
    let mappings = mappings(
        r#"
        topic = "gym/#"
        each = "/people"
        bpm = "/data[name=HR][unit=beats/min]/value"
        rr = ["/rri1", "/rri2", "/more"]
        rr_unit = "1/1024 s"
        contact = "/worn"
        time = "/t"
        time_unit = "ms"
        device = { pointer = "/id", level = 1, name = "unknown" }
        when = [{ pointer = "/kind", equals = "live" }]
        "#,
    );
    let payload = br#"{"people": [
        {"id": "abc", "kind": "live", "t": "1795460530000", "worn": 1, "rri1": 882, "rri2": null, "more": [906],
         "data": [{"name": "SpO2", "value": 98}, {"name": "HR", "unit": "beats/min", "value": "71"}]},
        {"id": 12, "kind": "live", "data": [{"name": "HR", "unit": "beats/min", "value": 72}]},
        {"kind": "live", "data": [{"name": "HR", "unit": "beats/min", "value": 73}]},
        {"id": "abc", "kind": "lap", "data": [{"name": "HR", "unit": "beats/min", "value": 99}]}
    ]}"#;
    let readings = read(&mappings, "gym/room-4", payload).unwrap();
    assert_eq!(bpms(&readings), [71, 72, 73]);
    assert_eq!(readings.iter().map(|r| r.device.0).collect::<Vec<_>>(), [3, 2, 6], "abc, 12, room-4");
    assert_eq!(readings[0].device_time, Some(DeviceTime::Accepted(1_795_460_530_000)));
    assert_eq!(readings[0].rr.unit, RrUnit::Ticks);
    assert_eq!(readings[0].rr.values.as_slice(), [882, 906]);
    let elsewhere = read(&mappings, "gym", payload).unwrap();
    assert_eq!(elsewhere[2].device.0, 7, "unknown");
    assert_eq!(cause(&mappings, "gym/a", r#"{"people": 3}"#), "wrong_type");
}

#[test]
fn a_device_beside_the_array() {
    let mappings = mappings("topic = 't'\neach = '/samples'\nbpm = '/hr'\ndevice = { pointer = '/who' }");
    let readings = read(&mappings, "t", br#"{"who":"abcd","samples":[{"hr":70},{"hr":71}]}"#).unwrap();
    assert_eq!(bpms(&readings), [70, 71]);
    assert!(readings.iter().all(|reading| reading.device.0 == 4));
    assert_eq!(cause(&mappings, "t", r#"{"samples":[{"hr":70}]}"#), "no_device");
    assert_eq!(cause(&mappings, "t", r#"{"who":true,"samples":[{"hr":70}]}"#), "wrong_type");
}

#[test]
fn raw_bytes_in_each_dress() {
    for (raw, payload) in [
        ("{ format = '2a37' }", &[0x16, 0x4d, 0x16, 0x03][..]),
        ("{ format = '2a37', encoding = 'hex' }", b"164d1603\n"),
        ("{ format = '2a37', encoding = 'hex' }", br#""164D1603""#),
        ("{ format = '2a37', encoding = 'base64' }", b"Fk0WAw=="),
        ("{ format = '2a37', encoding = 'base64' }", b"Fk0WAw"),
        ("{ format = '2a37', encoding = 'hex', pointer = '/v' }", br#"{"v":"164d1603"}"#),
    ] {
        let mappings = mappings(&format!("topic = 'raw/+'\ndevice = {{ level = 1 }}\nraw = {raw}"));
        let readings = read(&mappings, "raw/a", payload).unwrap();
        assert_eq!(bpms(&readings), [77], "{raw}");
        assert_eq!(readings[0].rr.values.as_slice(), [790]);
    }
    let hex =
        mappings("topic = 'raw/+'\ndevice = { level = 1 }\nraw = { format = '2a37', encoding = 'hex' }");
    assert_eq!(cause(&hex, "raw/a", "16 4d"), "bad_encoding");
    assert_eq!(cause(&hex, "raw/a", "01"), "bad_hrm");
    assert_eq!(cause(&hex, "raw/a", " "), "empty");
}

#[test]
fn seconds_as_intervals() {
    let mappings = mappings("topic = 't'\nrr = '/rr'\nrr_unit = 's'\ndevice = { name = 'd' }");
    for (rr, unit, value) in [
        ("0.832", RrUnit::Millis, 832),
        ("0.83203125", RrUnit::Ticks, 852),
        ("0.8321", RrUnit::Micros, 832_100),
    ] {
        let readings = read(&mappings, "t", format!(r#"{{"rr":{rr}}}"#).as_bytes()).unwrap();
        assert_eq!((readings[0].rr.unit, readings[0].rr.values[0]), (unit, value), "{rr}");
    }
    assert_eq!(cause(&mappings, "t", r#"{"rr":832}"#), "out_of_range", "milliseconds by mistake");
}

/// The `config` crate keeps values in a form of its own; all kinds must come through it.
#[test]
fn the_configuration_crate_reads_every_key() {
    let text = r#"
        [[mapping]]
        topic = "/health/+"
        device = { pointer = "/userId", level = 2, name = "x" }
        each = "/list"
        bpm = "/heartRate"
        rr = ["/a", "/b"]
        rr_unit = "1/1024 s"
        time = "/t"
        time_unit = "yyyy-MM-dd HH:mm:ss"
        contact = "/c"
        energy_kj = "/e"
        battery = "/bat"
        rssi = "/rssi"
        when = [{ pointer = "/k", equals = 3 }, { pointer = "/l", equals = true }, { pointer = "/m", present = false }]

        [[mapping]]
        topic = "b"
        device = { name = "d" }
        raw = { format = "manufacturer", encoding = "base64", pointer = "/v", company = 0x006B }
    "#;
    #[derive(serde::Deserialize)]
    struct File {
        mapping: Vec<MappingConfig>,
    }
    let source = ::config::File::from_str(text, ::config::FileFormat::Toml);
    let loaded: File =
        ::config::Config::builder().add_source(source).build().unwrap().try_deserialize().unwrap();
    let read: File = toml::from_str(text).unwrap();
    assert_eq!(loaded.mapping, read.mapping);
    assert_eq!(loaded.mapping[0].when[0].equals, Some(Literal::Number(3.0)));
    assert_eq!(loaded.mapping[0].when[1].equals, Some(Literal::Bool(true)));
    Mappings::compile(&loaded.mapping, &[]).unwrap();
}

#[test]
fn every_mistake_at_once() {
    let found = errors(
        r#"
        topic = "a/#/b"
        each = "list"
        rr_unit = "ms"
        when = [{ pointer = "/a" }]
        device = { name = "" }
        "#,
    );
    assert_eq!(
        found,
        [
            r##"mqtt.mapping[0].topic = "a/#/b": `#` can only be the last level"##,
            r#"mqtt.mapping[0].device.name = "": a name has 1 to 128 bytes and no control characters"#,
            r#"mqtt.mapping[0].each = "list": a pointer begins with `/`; write a JSON pointer such as /heart_rate/value"#,
            r#"mqtt.mapping[0].when[0] = "/a": write either `equals` or `present`"#,
            r#"mqtt.mapping[0].bpm = "": say where the heart rate (or `rr`) stands; `/` is the whole payload"#,
        ]
    );
}

#[test]
fn mistakes_by_kind() {
    for (text, key) in [
        ("bpm = '/b'\ndevice = { name = 'd' }", "topic"),
        ("topic = 'a/b'\nbpm = '/b'\ndevice = { level = 2 }", "device.level"),
        ("topic = 'a/b'\nbpm = '/b'", "device"),
        ("topic = 'a'\nbpm = '/b'\ndevice = { name = 'd' }\nraw = { format = '2a37' }", "bpm"),
        ("topic = 'a'\ntime = '/t'\ndevice = { name = 'd' }\nraw = { format = '2a37' }", "time"),
        ("topic = 'a'\ndevice = { name = 'd' }\nraw = { format = '2a37', pointer = '/v' }", "raw.encoding"),
        ("topic = 'a'\ndevice = { name = 'd' }\nraw = { format = '2a37', company = 107 }", "raw.company"),
    ] {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("mqtt.mapping[0].{key} = ")), "{found:?}");
    }
    let twice = config("topic = 'a'\nbpm = '/b'\ndevice = { name = 'd' }");
    let errors = Mappings::compile(&[twice.clone(), twice], &[]).unwrap_err();
    assert_eq!(errors[0].key, "mqtt.mapping[1].topic");
    let unknown = toml::from_str::<MappingConfig>("topic = 'a'\nbmp = '/b'").unwrap_err();
    assert!(unknown.to_string().contains("unknown field `bmp`"));
}

#[test]
fn an_unknown_preset_names_the_nearest() {
    let errors = Mappings::compile(&[], &["serverless_talk".to_owned(), "zzz".to_owned()]).unwrap_err();
    assert!(errors[0].remedy.contains(r#"did you mean "serverless-talk"?"#), "{}", errors[0]);
    assert!(
        errors[1].remedy.starts_with("there is no such preset. There are: espruinohub, "),
        "{}",
        errors[1]
    );
}

#[test]
fn all_presets_compile_together() {
    let all: Vec<String> = preset_names().map(str::to_owned).collect();
    Mappings::compile(&[], &all).unwrap();
}

proptest! {
    #[test]
    fn arbitrary_payloads_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..80), number in any::<f64>()) {
        let all: Vec<String> = preset_names().map(str::to_owned).collect();
        let mappings = Mappings::compile(&[], &all).unwrap();
        for topic in ["ble-data", "h10/hr", "heartrate/data", "/ble/advertise/a/manufacturer/006b", "/health/x"] {
            let _ = read(&mappings, topic, &payload);
        }
        let _ = read(&mappings, "h10/hr", format!(r#"{{"hr":{number:?},"timeStamp":{number:?}}}"#).as_bytes());
    }
}
