//! What must hold for every sequence of bytes that comes from outside: one function for each decoder, called by the
//! fuzzer (`fuzz/`), and here with arbitrary bytes and with every seed and former finding in `fuzz/seeds/`.
//!
//! Beside "never panics, never hangs, takes no memory to speak of": what was understood can be stored, read back as it
//! was, and becomes a line that is valid JSON.

use std::sync::LazyLock;

use crate::clock::{BootId, BootTimes, Stamp, WallQuality};
use crate::config::from_toml;
use crate::journal::block::{self, BlockError, Encoder, Kind, MAX_VALUE, Place};
use crate::journal::{KeyId, Keys};
use crate::reading::line::LineContext;
use crate::reading::{DeviceId, Reading, Source, advert, hrm};
use crate::source::mqtt::mapping::{DecodeContext, MAX_DEVICE_NAME, Mappings, Route, preset_names};
pub use crate::source::mqtt::session;

/// A payload larger than this is cut: the listener's limit on a packet is of the same size.
const LONGEST: usize = 256 << 10;

/// A Heart Rate Measurement (0x2A37).
pub fn heart_rate(data: &[u8]) {
    let _ = hrm::BodyLocation::decode(data);
    let Ok(value) = hrm::decode(data) else { return };
    let mut written = Vec::new();
    value.encode(&mut written);
    let again = hrm::decode(&written);
    assert_eq!(again, Ok(hrm::HeartRateMeasurement { trailing_bytes: 0, ..value }));
}

/// Manufacturer data of an advertisement: its company id, then its bytes.
pub fn advertisement(data: &[u8]) {
    let Some((company, data)) = data.split_first_chunk() else { return };
    let companies = [advert::POLAR, advert::HUAMI, advert::XOSS, u16::from_le_bytes(*company)];
    for company in companies {
        let Some(found) = advert::decode(company, data) else { continue };
        assert!(companies[..3].contains(&company));
        assert!(found.battery_percent.is_none_or(|percent| percent <= 100));
        if let Some(frame) = found.frame {
            let mut filter = advert::FrameFilter::default();
            assert!(filter.is_new(frame, 0) && !filter.is_new(frame, 1));
        }
    }
}

/// Mappings of every form: the presets, pointers of all kinds, a sensor's bytes in each encoding.
static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let own = r#"
        [[mqtt.mapping]]
        topic = "own/+/all"
        device.pointer = "/id"
        device.level = 1
        each = "/samples"
        bpm = "/hr"
        rr = "/rr"
        rr_unit = "s"
        time = "/at"
        contact = "/worn"
        energy_kj = "/kj"
        battery = "/bat"
        rssi = "/rssi"
        when = [{ pointer = "/kind", equals = "pulse" }, { pointer = "/error", present = false }]
        [[mqtt.mapping]]
        topic = "own/ticks"
        device.name = "strap"
        bpm = "/0"
        rr = "/1"
        rr_unit = "1/1024 s"
        time = "/2"
        time_unit = "ns"
        [[mqtt.mapping]]
        topic = "own/hex"
        device.pointer = "/mac"
        raw.format = "manufacturer"
        raw.encoding = "hex"
        raw.pointer = "/data"
        raw.company = 107
        [[mqtt.mapping]]
        topic = "own/base64"
        device.pointer = "/mac"
        raw.format = "advert"
        raw.encoding = "base64"
        raw.pointer = "/data"
        [[mqtt.mapping]]
        topic = "own/binary"
        device.name = "strap"
        raw.format = "2a37"
    "#;
    let presets: Vec<String> = preset_names().map(str::to_owned).collect();
    let custom = from_toml(own).map(|config| config.mqtt.custom).unwrap_or_default();
    let mappings = Mappings::compile(&custom, &presets);
    assert!(mappings.is_ok(), "{mappings:?}");
    let Ok(mappings) = mappings else { return Vec::new() };
    let topic = |filter: &str| filter.replace('+', "strap-1").replace('#', "strap-1/x");
    mappings.filters().filter_map(|filter| mappings.route(&topic(filter))).collect()
});

/// A payload: the first byte chooses the mapping.
pub fn payload(data: &[u8]) {
    let Some((&choice, payload)) = data.split_first() else { return };
    let routes = &*ROUTES;
    let Some(route) = routes.get(usize::from(choice) % routes.len()) else { return };
    let payload = payload.get(..LONGEST).unwrap_or(payload);
    let devices = |name: &str| {
        assert!(!name.is_empty() && name.len() <= MAX_DEVICE_NAME);
        Some(DeviceId(name.len() as u32))
    };
    let cx = DecodeContext {
        arrival: Stamp { uptime_ms: 5_000, wall_ms: 1_790_000_000_000, quality: WallQuality::Synced },
        topic_device: route.topic_device().and_then(devices),
        devices: &devices,
        source: Source::Mqtt,
    };
    let mut readings = Vec::new();
    if route.decode(payload, &cx, &mut readings).is_err() {
        assert!(readings.is_empty(), "of a payload that is refused nothing is taken");
    }
    let mut encoder = Encoder::new(KEYS.sealer().cloned());
    for reading in &readings {
        stored(reading, &mut encoder);
        told(reading);
    }
}

/// A reading alone fits into a value, sealed, and comes back as it was.
fn stored(reading: &Reading, encoder: &mut Encoder) {
    let place = Place { boot_tag: 1, clock_epoch: 0, generation: 1, first_n: 0 };
    let value = encoder.encode(place, std::iter::once(reading)).unwrap_or_default();
    assert!(value.len() <= MAX_VALUE, "{} bytes", value.len());
    let mut back = Vec::new();
    assert!(block::decode(&value, &KEYS, &mut back).is_ok());
    assert_eq!(back.first(), Some(reading));
}

fn told(reading: &Reading) {
    let mut line = Vec::new();
    LineContext::new("spool", "gateway", None).write_reading(
        &mut line,
        1,
        &BootTimes::unknown(BootId([7; 16])),
        "x\"\u{7f}é",
        reading,
    );
    assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok(), "{}", String::from_utf8_lossy(&line));
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::for_tests(b"kK"));

/// A stored value. As it is; with its checksum made right, so that what lies behind it is met; and as the body of a
/// sealed value, one byte of which is then changed.
pub fn stored_value(data: &[u8]) {
    let mut value = data.to_vec();
    for mended in [false, true] {
        if mended && let Some(([head @ .., _, _, _, _], rest)) = value.split_first_chunk::<8>() {
            let crc = crc32c::crc32c_append(crc32c::crc32c(head), rest);
            value.splice(4..8, crc.to_le_bytes());
        }
        let mut readings = Vec::new();
        let header = block::header(&value);
        if header.is_ok() {
            let whole = block::stored_len(&value);
            assert!(whole.is_none_or(|len| len == value.len()), "{whole:?} of {}", value.len());
        }
        match block::decode(&value, &KEYS, &mut readings) {
            Ok(decoded) => {
                assert_eq!((Ok(decoded), decoded.count as usize), (header, readings.len()));
                readings.iter().for_each(told);
            }
            Err(_) => assert!(readings.is_empty()),
        }
        let mut summaries = Vec::new();
        if block::decode_summaries(&value, &KEYS, &mut summaries).is_err() {
            assert!(summaries.is_empty());
        }
        for kind in [Kind::Name, Kind::Generation] {
            let _ = block::decode_plain(&value, &KEYS, kind);
        }
    }
    let Some((&[at, change], body)) = data.split_first_chunk() else { return };
    let encoder = Encoder::new(KEYS.sealer().cloned());
    let Ok(mut sealed) = encoder.encode_plain(Kind::Name, 1, 2, body) else { return };
    assert_eq!(block::decode_plain(&sealed, &KEYS, Kind::Name).as_deref(), Ok(body));
    let lost: Option<KeyId> = KEYS.sealing();
    let without = block::decode_plain(&sealed, &Keys::none(), Kind::Name);
    assert_eq!(without.err(), lost.map(BlockError::Sealed));
    let at = usize::from(at) % sealed.len();
    if change != 0 {
        sealed.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= change);
        assert!(block::decode_plain(&sealed, &KEYS, Kind::Name).is_err());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Target = fn(&[u8]);
    const TARGETS: [(&str, Target); 5] = [
        ("heart_rate", heart_rate),
        ("advertisement", advertisement),
        ("payload", payload),
        ("stored_value", stored_value),
        ("session", session),
    ];

    #[test]
    fn every_seed_and_every_former_finding_holds() {
        for (name, target) in TARGETS {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
            let mut seeds = 0;
            for entry in std::fs::read_dir(&dir).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                seeds += 1;
            }
            assert!(seeds >= 5, "{seeds} seeds in {}", dir.display());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_hold(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for (_, target) in TARGETS {
                target(&bytes);
            }
        }

        #[test]
        fn seeds_with_changes_hold(
            which in any::<proptest::sample::Index>(),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<proptest::sample::Index>(),
        ) {
            for (name, target) in TARGETS {
                let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
                let mut seeds: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
                seeds.sort();
                let mut bytes = std::fs::read(which.get(&seeds)).unwrap();
                for (at, value) in &changes {
                    if let Some(len) = std::num::NonZero::new(bytes.len()) {
                        bytes[at.index(len.get())] = *value;
                    }
                }
                bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
                target(&bytes);
            }
        }
    }
}
