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
    let rest = (any::<Option<u16>>(), any::<Option<u8>>(), any::<Option<i8>>(), reason, any::<Option<u32>>());
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
            (energy_kj, battery_percent, rssi_dbm, reason, gap_ms),
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
                gap_ms,
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

/// Two keys; the second one seals.
fn keys() -> Keys {
    Keys::for_tests(b"ab")
}

fn sealed(readings: &[Reading]) -> Vec<u8> {
    Encoder::new(keys().sealer().cloned()).encode(PLACE, readings.iter()).unwrap()
}

/// Makes the checksum right again, as somebody would who changes a value on purpose.
pub fn mend_checksum(value: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&value[..4]), &value[8..]);
    value[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn plain_reading() -> Reading {
    crate::journal::tests::reading_at(3, 1_790_000_000_000, 72)
}

/// The same value as version 1 wrote it.
fn as_version_1(value: &[u8]) -> Vec<u8> {
    let mut rest = &value[8..];
    crate::journal::varint::take(&mut rest).unwrap();
    let mut old = [&[1], &value[1..8], rest].concat();
    mend_checksum(&mut old);
    old
}

fn encoded(readings: &[Reading]) -> Vec<u8> {
    Encoder::new(None).encode(PLACE, readings.iter()).unwrap()
}

proptest! {
    #[test]
    fn every_reading_comes_back_as_it_was(readings in proptest::collection::vec(reading(), 0..50)) {
        let value = encoded(&readings);
        let mut back = Vec::new();
        let header = decode(&value, &Keys::none(), &mut back).unwrap();
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
        prop_assert!(decode(&value, &Keys::none(), &mut back).is_err());
        prop_assert!(back.is_empty());
    }

    #[test]
    fn every_summary_comes_back_as_it_was(
        summaries in proptest::collection::vec(summary(), 0..50),
        window_s in 1..100u16,
        seal: bool,
    ) {
        let summaries: Vec<Summary> = summaries.into_iter().map(|s| Summary { window_s, ..s }).collect();
        let sealer = seal.then(|| keys().sealer().cloned()).flatten();
        let value = Encoder::new(sealer).encode_summaries(PLACE, window_s, &summaries).unwrap();
        let mut back = Vec::new();
        let header = decode_summaries(&value, &keys(), &mut back).unwrap();
        prop_assert_eq!(&back, &summaries);
        prop_assert_eq!(header.count as usize, summaries.len());
        prop_assert_eq!((header.generation, header.first_n), (7, 41));
        prop_assert_eq!(decode(&value, &keys(), &mut Vec::new()), Err(BlockError::Malformed));
    }

    #[test]
    fn a_sealed_reading_comes_back_as_it_was(readings in proptest::collection::vec(reading(), 0..50)) {
        let value = sealed(&readings);
        let mut back = Vec::new();
        prop_assert_eq!(decode(&value, &keys(), &mut back).unwrap(), header(&value).unwrap());
        prop_assert_eq!(&back, &readings);
    }

    #[test]
    fn a_value_says_how_long_it_is(
        readings in proptest::collection::vec(reading(), 0..50),
        seal: bool,
        behind: Vec<u8>,
    ) {
        let value = if seal { sealed(&readings) } else { encoded(&readings) };
        let len = value.len();
        prop_assert_eq!(stored_len(&[value, behind].concat()), Some(len));
    }

    #[test]
    fn arbitrary_bodies_never_panic(body: Vec<u8>, count in 0..1000usize) {
        let _ = summaries::read(&body, count, &mut Vec::new());
        let _ = columns::read(&body, count, &mut Vec::new());
        let _ = decode(&body, &Keys::none(), &mut Vec::new());
        let _ = stored_len(&body);
    }
}

#[test]
fn an_unknown_version_is_named_not_guessed() {
    let mut value = encoded(&[]);
    value[0] = 9;
    assert_eq!(header(&value), Err(BlockError::Version(9)));
}

#[test]
fn every_flipped_bit_of_a_sealed_value_is_refused_also_when_the_checksum_was_mended() {
    let value = sealed(&[plain_reading()]);
    decode(&value, &keys(), &mut Vec::new()).unwrap();
    for at in 0..value.len() * 8 {
        let mut flipped = value.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let mut back = Vec::new();
        decode(&flipped, &keys(), &mut back).unwrap_err();
        mend_checksum(&mut flipped);
        // A flip in the checksum itself is mended with it.
        if !(4..8).contains(&(at / 8)) {
            decode(&flipped, &keys(), &mut back).unwrap_err();
        }
        assert!(back.is_empty());
    }
}

#[test]
fn without_its_key_a_value_is_known_to_be_whole_and_stays_closed() {
    let value = sealed(&[plain_reading()]);
    let id = key(&value).unwrap().unwrap();
    assert_eq!(Some(id), keys().sealing());
    for other in [Keys::none(), Keys::for_tests(b"a"), Keys::for_tests(b"xyz")] {
        assert_eq!(header(&value).unwrap().count, 1);
        assert_eq!(decode(&value, &other, &mut Vec::new()), Err(BlockError::Sealed(id)));
    }
    // An older key than the one that seals now opens what it sealed.
    decode(&value, &Keys::for_tests(b"bc"), &mut Vec::new()).unwrap();
    assert_eq!(key(&encoded(&[])), Ok(None));
}

#[test]
fn the_same_readings_are_never_sealed_alike() {
    let keys = keys();
    let mut encoder = Encoder::new(keys.sealer().cloned());
    let readings = [plain_reading()];
    let mut values: Vec<Vec<u8>> =
        (0..300).map(|_| encoder.encode(PLACE, readings.iter()).unwrap()).collect();
    // After a restart, or a reload: the same keys loaded once more.
    values.extend((0..300).map(|_| sealed(&readings)));
    let nonce_and_body = |value: &Vec<u8>| value[value.len() - 60..].to_vec();
    let mut distinct: Vec<_> = values.iter().map(nonce_and_body).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 600);
}

#[test]
fn what_version_1_wrote_is_still_read() {
    let value = encoded(&[plain_reading()]);
    let old = as_version_1(&value);
    let mut back = Vec::new();
    assert_eq!(decode(&old, &Keys::none(), &mut back), header(&value));
    assert_eq!(back, [plain_reading()]);
    let name = Encoder::new(None).encode_plain(Kind::Name, 7, 3, b"bike").unwrap();
    assert_eq!(decode_plain(&as_version_1(&name), &Keys::none(), Kind::Name).unwrap(), &b"bike"[..]);
    assert_eq!(stored_len(&as_version_1(&name)), Some(name.len() - 1));
}
