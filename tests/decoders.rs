//! The decoders against payloads of real devices and the vectors of other implementations.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use fogbeat::reading::advert::{self, FrameFilter, PolarBroadcast};
use fogbeat::reading::hrm::{self, BodyLocation, HrmError};
use fogbeat::reading::{Contact, RrUnit};
use serde_json::{Value, json};

fn entries(kind: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(include_str!("vectors/heart_rate_payloads.json")).unwrap();
    let entries = vectors["entries"].as_array().unwrap().clone();
    entries.into_iter().filter(|entry| entry["kind"] == kind).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn company(entry: &Value) -> u16 {
    u16::from_str_radix(entry["company"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn heart_rate_measurements() {
    let entries = entries("gatt_2a37");
    assert_eq!(entries.len(), 44);
    for entry in entries {
        let expect = &entry["expect"];
        let decoded = hrm::decode(&bytes(&entry["hex"]));
        if expect["valid"] == false {
            assert_eq!(decoded, Err(HrmError::ShortBpm), "{entry}");
            assert_eq!(expect["error"], "short_hr16", "{entry}");
            continue;
        }
        let value = decoded.unwrap();
        let contact = match value.contact {
            Contact::Unsupported => "unsupported",
            Contact::NotDetected => "no_contact",
            Contact::Detected => "contact",
        };
        let rr_ms: Vec<f64> =
            value.rr.iter().map(|t| RrUnit::Ticks.to_micros(u32::from(*t)) as f64 / 1000.0).collect();
        let found = json!({
            "valid": true, "hr": value.bpm, "contact": contact, "energy_kj": value.energy_kj,
            "rr_flag": value.rr_flag, "rr_1024": value.rr.as_slice(), "rr_ms": rr_ms,
            "trailing_bytes": value.trailing_bytes,
        });
        assert_eq!(&found, expect, "{entry}");
    }
}

#[test]
fn body_locations() {
    let entries = entries("gatt_2a38");
    assert_eq!(entries.len(), 7);
    for entry in entries {
        let location = BodyLocation::decode(&bytes(&entry["hex"])).unwrap();
        assert_eq!(entry["expect"]["location"], location.as_str());
    }
}

#[test]
fn broadcasts() {
    let entries = entries("adv_mfr");
    assert_eq!(entries.len(), 6);
    for entry in entries {
        let expect = &entry["expect"];
        let data = bytes(&entry["hex"]);
        let found = advert::decode(company(&entry), &data);
        let bpm = found.and_then(|broadcast| broadcast.bpm);
        assert_eq!(bpm.is_some(), expect["present"].as_bool().unwrap(), "{entry}");
        assert_eq!(json!(bpm), expect.get("hr").cloned().unwrap_or(Value::Null), "{entry}");
        if let Some(mac) = expect["mac"].as_str() {
            let address = found.unwrap().address.unwrap();
            assert_eq!(address.map(|byte| format!("{byte:02X}")).join(":"), mac);
        }
        if expect.get("frame_counter").is_some() {
            let polar = PolarBroadcast::decode(&data).unwrap();
            let found = json!({
                "present": true, "battery_ok": polar.battery_ok, "contact": polar.contact,
                "frame_counter": polar.frame_counter, "broadcast_bit": polar.broadcast_bit,
                "status_flag": polar.status_flag, "khz_code": polar.khz_code, "hr_fast": polar.hr_fast,
                "hr_slow": polar.hr_slow, "hr": polar.hr_slow,
            });
            assert_eq!(&found, expect);
        }
    }
}

#[test]
fn repeated_polar_frames() {
    let entries = entries("adv_sequence_polar");
    assert_eq!(entries.len(), 1);
    for entry in entries {
        let mut filter = FrameFilter::default();
        let (mut counters, mut new) = (Vec::new(), Vec::new());
        for (index, frame) in entry["hex"].as_array().unwrap().iter().enumerate() {
            let counter = advert::decode(company(&entry), &bytes(frame)).unwrap().frame.unwrap();
            counters.push(counter);
            new.push(filter.is_new(counter, index as u64 * 200));
        }
        assert_eq!(json!({"frame_counter": counters, "is_new": new}), entry["expect"]);
    }
}
