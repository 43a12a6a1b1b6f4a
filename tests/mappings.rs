//! Every preset against the messages it is for.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::cell::RefCell;
use std::path::Path;

use fogbeat::clock::{Stamp, WallQuality};
use fogbeat::reading::{DeviceId, DeviceTime, Reading, RrIntervals, RrUnit, Source};
use fogbeat::source::mqtt::mapping::{DecodeContext, Mappings, PayloadError, preset_names};
use serde_json::{Value, json};

/// Gives devices their numbers by the order in which they come.
#[derive(Default)]
struct Names(RefCell<Vec<String>>);

impl Names {
    fn intern(&self, name: &str) -> Option<DeviceId> {
        let mut names = self.0.borrow_mut();
        let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        Some(DeviceId(at as u32))
    }
}

/// The readings of one message, each with its device's name.
fn read(
    preset: &str,
    topic: &str,
    payload: &[u8],
    arrival_ms: i64,
) -> Result<Vec<(String, Reading)>, PayloadError> {
    let mappings = Mappings::compile(&[], &[preset.to_owned()]).unwrap();
    let route = mappings.route(topic).unwrap_or_else(|| panic!("{preset} does not map {topic}"));
    let names = Names::default();
    let devices = |name: &str| names.intern(name);
    let cx = DecodeContext {
        arrival: Stamp { uptime_ms: 1, wall_ms: arrival_ms, quality: WallQuality::Synced },
        topic_device: route.topic_device().and_then(devices),
        devices: &devices,
        source: Source::Mqtt,
    };
    let mut out = Vec::new();
    route.decode(payload, &cx, &mut out)?;
    let names = names.0.borrow();
    Ok(out.into_iter().map(|reading| (names[reading.device.0 as usize].clone(), reading)).collect())
}

fn example(id: u64) -> Vec<u8> {
    let vectors: Value = serde_json::from_str(include_str!("vectors/mqtt_payloads.json")).unwrap();
    let examples = vectors["examples"].as_array().unwrap();
    let payload = &examples.iter().find(|example| example["id"] == id).unwrap()["payload"];
    match payload {
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

#[test]
fn every_example_through_its_preset() {
    // Example, preset, topic; device, bpm and the believed stamp of the wearable in ms.
    let expected = [
        (1, "theengs", "home/gw/BTtoMQTT/AABBCCDDEEFF", "AA:BB:CC:DD:EE:FF", 70, None),
        (2, "theengs", "home/gw/BTtoMQTT/AABBCCDDEEFF", "AABBCCDDEEFF", 63, None),
        (2, "theengs-xoss", "home/gw/BTtoMQTT/AABBCCDDEEFF", "AABBCCDDEEFF", 63, None),
        (4, "twente-h10", "h10/hr", "h10", 72, Some(1_763_900_000_000)),
        (5, "redback", "bike/000001/heartrate", "000001", 88, Some(1_760_000_000_123)),
        (6, "streampulse", "streampulse/heart_rate", "streampulse", 72, None),
        (7, "qz", "QZ/mill/workout/heart/current", "mill", 132, None),
        (8, "heartrate2mqtt", "heartrate/data", "heartrate", 72, None),
        (10, "espruinohub", "/ble/json/c1:2a:3b:4c:5d:6e/fee0", "c1:2a:3b:4c:5d:6e", 84, None),
        (14, "omh", "omh/heart-rate/u-17", "u-17", 50, Some(1_360_049_100_000)),
        (15, "serverless-talk", "/health/anything", "u-17", 72, Some(1_505_902_272_000)),
    ];
    for (id, preset, topic, device, bpm, time) in expected {
        // Arrival a second after the stamp.
        let readings = read(preset, topic, &example(id), time.unwrap_or(1_790_000_000_000) + 1000).unwrap();
        let [(name, reading)] = readings.as_slice() else { panic!("{preset}: {readings:?}") };
        assert_eq!(name, device, "{preset}");
        assert_eq!(reading.bpm.map(u16::from), Some(bpm), "{preset}");
        assert_eq!(reading.device_time, time.map(DeviceTime::Accepted), "{preset}");
        assert_eq!(reading.reason, None);
    }
}

#[test]
fn no_example_and_no_preset_is_forgotten() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/mqtt_payloads.json")).unwrap();
    let ids: Vec<u64> = vectors["examples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|example| example["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [1, 2, 4, 5, 6, 7, 8, 10, 13, 14, 15]);
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/mappings")).unwrap();
    let mut files: Vec<String> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    files.sort();
    assert_eq!(preset_names().collect::<Vec<_>>(), files);
}

#[test]
fn side_values() {
    let [(_, theengs)] = &read("theengs", "home/gw/BTtoMQTT/A", &example(1), 0).unwrap()[..] else {
        panic!()
    };
    assert_eq!(theengs.rssi_dbm, Some(-60));
    let [(_, xoss)] = &read("theengs-xoss", "home/gw/BTtoMQTT/A", &example(2), 0).unwrap()[..] else {
        panic!()
    };
    assert_eq!(xoss.battery_percent, Some(97));
    let [(_, rri)] = &read("heartrate2mqtt", "heartrate/data", &example(8), 0).unwrap()[..] else { panic!() };
    assert_eq!(rri.rr, RrIntervals { unit: RrUnit::Millis, values: [832].into_iter().collect() });
}

#[test]
fn what_is_no_reading_is_no_error() {
    for (preset, topic, payload) in [
        ("heartrate2mqtt", "heartrate/data", json!({})),
        ("heartrate2mqtt", "heartrate/data", json!({"hr": null, "rri": null})),
        ("theengs", "home/gw/BTtoMQTT/A", json!({"id": "A", "tempc": 21.5})),
        ("theengs-xoss", "home/gw/BTtoMQTT/A", json!({"model_id": "H10", "bpm": 70})),
        ("espruinohub", "/ble/json/c1/fee0", json!({"steps": 9101})),
        ("pozyx", "ble-data", json!([])),
    ] {
        let readings = read(preset, topic, payload.to_string().as_bytes(), 0).unwrap();
        assert!(readings.is_empty(), "{preset} {payload}");
    }
}

#[test]
fn pozyx_broadcasts() {
    assert!(read("pozyx", "ble-data", &example(13), 0).unwrap().is_empty(), "an unknown broadcast");
    let message = |raw: &str| {
        let mut message: Value = serde_json::from_slice(&example(13)).unwrap();
        message[0]["data"]["deviceData"]["payloadRaw"] = json!(raw);
        let second = message[0].clone();
        message.as_array_mut().unwrap().push(second);
        message[1]["deviceId"] = json!("second");
        message.to_string().into_bytes()
    };
    // The broadcast of a Polar H10 as whole advertisement and as manufacturer data.
    for raw in ["020106 07ff6b0033000038", "6b0033000038"] {
        let readings = read("pozyx", "ble-data", &message(&raw.replace(' ', "")), 1_671_165_465_000).unwrap();
        let devices: Vec<&str> = readings.iter().map(|(device, _)| device.as_str()).collect();
        assert_eq!(devices, ["ex:am:pl:ma:ca:dr", "second"]);
        for (_, reading) in readings {
            assert_eq!(reading.bpm.map(u16::from), Some(56));
            assert_eq!(reading.rssi_dbm, Some(-85));
            assert_eq!(reading.device_time, Some(DeviceTime::Accepted(1_671_165_464_378)));
        }
    }
}

#[test]
fn espruinohub_broadcasts() {
    for (company, payload, bpm) in [
        ("006b", "\"3b1b5452\"", 82),
        ("0157", "\"020aff54ffffffffffffffffffffffffff03c5093f890b4b\"", 84),
        ("ff04", "\"0061003f\"", 63),
    ] {
        let topic = format!("/ble/advertise/c1:2a/manufacturer/{company}");
        let readings = read("espruinohub", &topic, payload.as_bytes(), 0).unwrap();
        let [(device, reading)] = readings.as_slice() else { panic!("{company}: {readings:?}") };
        assert_eq!((device.as_str(), reading.bpm.map(u16::from)), ("c1:2a", Some(bpm)));
    }
}

/// What each document of the schemas' own tests makes, by `<schema>/<verdict>/<name>`.
#[test]
fn open_mhealth_documents() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/omh");
    let arrival = 1_580_916_300_000 + 1000;
    for (document, made) in [
        ("heart-rate/2.0/shouldPass/with-temporal-relationship-to-sleep", Some(68)),
        // Valid, but a minimum over a day, not a reading.
        ("heart-rate/2.0/shouldPass/with-descriptive-statistic", None),
        ("heart-rate/2.0/shouldFail/empty-document", None),
        ("heart-rate/2.0/shouldFail/incorrect-unit", None),
        ("heart-rate/2.0/shouldFail/missing-effective-time-frame", None),
        ("rr-interval/1.0/shouldPass/rr-interval-only", Some(30)),
        ("rr-interval/1.0/shouldPass/with-temporal-relationship-to-physical-activity", Some(30)),
        ("rr-interval/1.0/shouldPass/with-time-frame", Some(30)),
        ("rr-interval/1.0/shouldPass/with-statistic", None),
        ("rr-interval/1.0/shouldFail/empty-document", None),
        ("rr-interval/1.0/shouldFail/invalid-rr-interval", None),
    ] {
        let payload = std::fs::read(root.join(format!("{document}.json"))).unwrap();
        let topic = format!("omh/{}/u-17", document.split('/').next().unwrap());
        let readings = read("omh", &topic, &payload, arrival).unwrap();
        let found: Vec<u32> = readings
            .iter()
            .map(|(_, reading)| {
                reading.bpm.map(|bpm| u32::from(bpm.get())).or(reading.rr.values.first().copied()).unwrap()
            })
            .collect();
        assert_eq!(found, made.into_iter().collect::<Vec<u32>>(), "{document}");
    }
}
