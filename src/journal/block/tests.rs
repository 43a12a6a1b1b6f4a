use proptest::prelude::*;
use smallvec::SmallVec;

use super::*;
use crate::clock::{Stamp, WallQuality};
use crate::reading::summary::Sources;
use crate::reading::{Contact, DeviceId, DeviceTime, Reason, RrIntervals, RrUnit, Source};

const PLACE: Place = Place { boot_tag: 0xf5c5_f06f, clock_epoch: 0, generation: 7, first_n: 41 };

fn reading() -> impl Strategy<Value = Reading> {
    let stamp = (any::<u64>(), any::<i64>(), any::<bool>()).prop_map(|(uptime_ms, wall_ms, synced)| Stamp {
        uptime_ms,
        wall_ms,
        quality: if synced { WallQuality::Synced } else { WallQuality::Unsynced },
    });
    let device_time = prop_oneof![
        Just(None),
        any::<i64>().prop_map(|at| Some(DeviceTime::Accepted(at))),
        any::<i64>().prop_map(|at| Some(DeviceTime::Rejected(at))),
    ];
    let rr = (
        prop_oneof![Just(RrUnit::Ticks), Just(RrUnit::Millis), Just(RrUnit::Micros)],
        proptest::collection::vec(any::<u32>(), 0..10),
    )
        .prop_map(|(unit, values)| RrIntervals { unit, values: SmallVec::from_vec(values) });
    let reason = prop_oneof![
        Just(None),
        Just(Some(Reason::Zero)),
        Just(Some(Reason::NoContact)),
        Just(Some(Reason::Frozen))
    ];
    let rest = (any::<Option<u16>>(), any::<Option<u8>>(), any::<Option<i8>>(), reason);
    let source =
        prop_oneof![Just(Source::Gatt), Just(Source::Advert), Just(Source::Mqtt), Just(Source::Replay)];
    let contact =
        prop_oneof![Just(Contact::Unsupported), Just(Contact::NotDetected), Just(Contact::Detected)];
    (0..5u32, stamp, device_time, any::<u16>(), rr, rest, source, contact).prop_map(
        |(
            device,
            arrival,
            device_time,
            bpm,
            rr,
            (energy_kj, battery_percent, rssi_dbm, reason),
            source,
            contact,
        )| {
            Reading {
                device: DeviceId(device),
                source,
                arrival,
                device_time,
                bpm: std::num::NonZeroU16::new(bpm),
                rr,
                contact,
                energy_kj,
                battery_percent,
                rssi_dbm,
                reason,
            }
        },
    )
}

fn summary() -> impl Strategy<Value = Summary> {
    let counts = (1..1000u32, 0..1000u32, any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>());
    let stamp = prop_oneof![
        Just(None),
        any::<i64>().prop_map(|at| Some(DeviceTime::Accepted(at))),
        any::<i64>().prop_map(|at| Some(DeviceTime::Rejected(at))),
    ];
    (0..5u32, any::<(u64, i64, bool)>(), stamp, 0..16u8, counts).prop_map(
        |(device, (uptime_ms, wall_ms, synced), device_time, sources, (n, idle, a, b, above, rr_n))| {
            let bpm_n = n.saturating_sub(idle);
            let (bpm_min, bpm_max) = if bpm_n == 0 { (0, 0) } else { (a.min(b), a.max(b)) };
            let floor = u64::from(bpm_n) * u64::from(bpm_min);
            Summary {
                device: DeviceId(device),
                window_s: 10,
                arrival: Stamp {
                    uptime_ms,
                    wall_ms,
                    quality: if synced { WallQuality::Synced } else { WallQuality::Unsynced },
                },
                device_time,
                sources: Sources::from_bits(sources).unwrap(),
                n,
                bpm_n,
                bpm_sum: if bpm_n == 0 { 0 } else { floor + u64::from(above) },
                bpm_min,
                bpm_max,
                rr_n,
            }
        },
    )
}

fn encoded(readings: &[Reading]) -> Vec<u8> {
    Encoder::new().encode(PLACE, readings.iter())
}

proptest! {
    #[test]
    fn every_reading_comes_back_as_it_was(readings in proptest::collection::vec(reading(), 0..50)) {
        let value = encoded(&readings);
        let mut back = Vec::new();
        let header = decode(&value, &mut back).unwrap();
        prop_assert_eq!(&back, &readings);
        prop_assert_eq!(header.count as usize, readings.len());
        prop_assert_eq!((header.generation, header.first_n, header.boot_tag), (7, 41, 0xf5c5_f06f));
    }

    #[test]
    fn one_changed_bit_is_always_noticed(
        readings in proptest::collection::vec(reading(), 1..20),
        at: proptest::sample::Index,
        bit in 0..8u8,
    ) {
        let mut value = encoded(&readings);
        let at = at.index(value.len());
        value[at] ^= 1 << bit;
        let mut back = Vec::new();
        prop_assert!(decode(&value, &mut back).is_err());
        prop_assert!(back.is_empty());
    }

    #[test]
    fn every_summary_comes_back_as_it_was(
        summaries in proptest::collection::vec(summary(), 0..50),
        window_s in 1..100u16,
    ) {
        let summaries: Vec<Summary> = summaries.into_iter().map(|s| Summary { window_s, ..s }).collect();
        let value = Encoder::new().encode_summaries(PLACE, window_s, &summaries);
        let mut back = Vec::new();
        let header = decode_summaries(&value, &mut back).unwrap();
        prop_assert_eq!(&back, &summaries);
        prop_assert_eq!(header.count as usize, summaries.len());
        prop_assert_eq!((header.generation, header.first_n), (7, 41));
        prop_assert_eq!(decode(&value, &mut Vec::new()), Err(BlockError::Malformed));
    }

    #[test]
    fn arbitrary_bodies_never_panic(body: Vec<u8>, count in 0..1000usize) {
        let _ = summaries::read(&body, count, &mut Vec::new());
        let _ = columns::read(&body, count, &mut Vec::new());
        let _ = decode(&body, &mut Vec::new());
    }
}

#[test]
fn an_unknown_version_is_named_not_guessed() {
    let mut value = encoded(&[]);
    value[0] = 9;
    assert_eq!(header(&value), Err(BlockError::Version(9)));
}
