use std::collections::BTreeMap;
use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::reading::{Contact, Reason, RrIntervals};

/// Readings as they come: few devices and windows, so that many meet; every kind of time.
pub fn readings(most: usize) -> impl Strategy<Value = Vec<Reading>> {
    let time = prop_oneof![
        4 => (-200_000i64..200_000).prop_map(|at| Some(DeviceTime::Accepted(at))),
        4 => Just(None),
        2 => (-200_000i64..200_000).prop_map(|at| Some(DeviceTime::Rejected(at))),
    ];
    let reason = prop_oneof![4 => Just(None), 1 => Just(Some(Reason::Jump)), 1 => Just(Some(Reason::Zero))];
    let one = (0..4u32, 0..300_000u64, any::<bool>(), time, 0..250u16, reason, 0..5usize, 0..2usize)
        .prop_map(|(device, uptime_ms, synced, device_time, bpm, reason, intervals, source)| Reading {
            device: DeviceId(device),
            source: [Source::Mqtt, Source::Gatt][source],
            arrival: Stamp {
                uptime_ms,
                wall_ms: 1_790_000_003_217 + uptime_ms as i64,
                quality: if synced { WallQuality::Synced } else { WallQuality::Unsynced },
            },
            device_time,
            bpm: NonZeroU16::new(bpm),
            rr: RrIntervals { values: std::iter::repeat_n(800, intervals).collect(), ..Default::default() },
            contact: Contact::Unsupported,
            energy_kj: None,
            battery_percent: None,
            rssi_dbm: None,
            reason,
            gap_ms: None,
        });
    prop::collection::vec(one, 0..most)
}

/// What a window says of its readings, added up the long way.
#[derive(Debug, Default, PartialEq)]
pub struct Naive {
    n: u32,
    bpms: Vec<u16>,
    rr_n: u32,
    gatt: bool,
    mqtt: bool,
}

/// Device, clock (0 its own, 1 wall, 2 uptime, 3 and 4 its own, believed or not, and uptime) and start of the window in
/// the clocks' ms.
pub type Key = (u32, u8, i64, i64);

pub fn naive(readings: &[Reading], width_s: i64) -> BTreeMap<Key, Naive> {
    let mut windows: BTreeMap<_, Naive> = BTreeMap::new();
    for reading in readings {
        let uptime = reading.arrival.uptime_ms as i64;
        let (clock, at, second) = match (reading.device_time, reading.arrival.quality) {
            (Some(DeviceTime::Accepted(at)), WallQuality::Synced) => (0, at, 0),
            (_, WallQuality::Synced) => (1, reading.arrival.wall_ms, 0),
            (None, WallQuality::Unsynced) => (2, uptime, 0),
            (Some(DeviceTime::Accepted(at)), WallQuality::Unsynced) => (3, at, uptime),
            (Some(DeviceTime::Rejected(at)), WallQuality::Unsynced) => (4, at, uptime),
        };
        let start = |at: i64| (at as f64 / (width_s as f64 * 1000.0)).floor() as i64 * width_s * 1000;
        let window = windows.entry((reading.device.0, clock, start(at), start(second))).or_default();
        window.n += 1;
        if let (Some(bpm), None) = (reading.bpm, reading.reason) {
            window.bpms.push(bpm.get());
        }
        window.rr_n += reading.rr.values.len() as u32;
        window.gatt |= reading.source == Source::Gatt;
        window.mqtt |= reading.source == Source::Mqtt;
    }
    windows
}

pub fn key_of(summary: &Summary) -> Key {
    let uptime = summary.arrival.uptime_ms as i64;
    let (clock, at, second) = match (summary.device_time, summary.arrival.quality) {
        (Some(DeviceTime::Accepted(at)), WallQuality::Synced) => (0, at, 0),
        (Some(DeviceTime::Rejected(_)), WallQuality::Synced) => panic!("rejected for good: {summary:?}"),
        (None, WallQuality::Synced) => (1, summary.arrival.wall_ms, 0),
        (None, WallQuality::Unsynced) => (2, uptime, 0),
        (Some(DeviceTime::Accepted(at)), WallQuality::Unsynced) => (3, at, uptime),
        (Some(DeviceTime::Rejected(at)), WallQuality::Unsynced) => (4, at, uptime),
    };
    (summary.device.0, clock, at, second)
}

/// Fails unless the summaries say what the readings do: n, smallest, mean, largest, RR intervals, sources.
pub fn agree(summaries: &[Summary], readings: &[Reading], width_s: i64) {
    let mut expected = naive(readings, width_s);
    for summary in summaries {
        let naive =
            expected.remove(&key_of(summary)).unwrap_or_else(|| panic!("no such window: {summary:?}"));
        assert_eq!((summary.n, summary.rr_n), (naive.n, naive.rr_n));
        assert_eq!(summary.bpm_n as usize, naive.bpms.len());
        assert_eq!(summary.bpm_min, naive.bpms.iter().copied().min().unwrap_or(0));
        assert_eq!(summary.bpm_max, naive.bpms.iter().copied().max().unwrap_or(0));
        let sum: f64 = naive.bpms.iter().map(|bpm| f64::from(*bpm)).sum();
        match summary.bpm_mean_milli() {
            None => assert!(naive.bpms.is_empty()),
            Some(mean) => assert!((mean as f64 / 1000.0 - sum / naive.bpms.len() as f64).abs() <= 0.000_501),
        }
        let only = match (naive.mqtt, naive.gatt) {
            (true, false) => Some(Source::Mqtt),
            (false, true) => Some(Source::Gatt),
            _ => None,
        };
        assert_eq!(summary.sources.only(), only);
        assert_eq!(i64::from(summary.window_s), width_s);
    }
    assert!(expected.is_empty(), "windows without a summary: {expected:?}");
}

fn summarise(parts: impl Iterator<Item = Summary>, seconds: u16) -> Vec<Summary> {
    let mut windows: BTreeMap<Window, Summary> = BTreeMap::new();
    for (window, summary) in parts.map(|part| part.widen(seconds)) {
        match windows.get_mut(&window) {
            Some(known) => assert!(known.merge(&summary)),
            None => _ = windows.insert(window, summary),
        }
    }
    windows.into_values().collect()
}

/// One reading without a heart rate.
fn single(arrival: Stamp) -> Summary {
    Summary {
        device: DeviceId(0),
        window_s: 0,
        arrival,
        device_time: None,
        sources: Sources::of(Source::Mqtt),
        n: 1,
        bpm_n: 0,
        bpm_sum: 0,
        bpm_min: 0,
        bpm_max: 0,
        rr_n: 0,
    }
}

proptest! {
    #[test]
    fn a_summary_says_what_its_readings_said(readings in readings(200)) {
        let tens = summarise(readings.iter().map(Summary::of), 10);
        agree(&tens, &readings, 10);
        let minutes = summarise(tens.into_iter(), 60);
        agree(&minutes, &readings, 60);
        prop_assert_eq!(minutes, summarise(readings.iter().map(Summary::of), 60));
    }

    #[test]
    fn the_order_of_merging_does_not_matter(readings in readings(100)) {
        let forward = summarise(readings.iter().map(Summary::of), 10);
        prop_assert_eq!(forward, summarise(readings.iter().rev().map(Summary::of), 10));
    }

    #[test]
    fn any_time_has_a_window(at: i64, wall_ms: i64, uptime_ms: u64, seconds: u16, own: bool, synced: bool) {
        let quality = if synced { WallQuality::Synced } else { WallQuality::Unsynced };
        let summary = Summary {
            device_time: own.then_some(DeviceTime::Accepted(at)),
            ..single(Stamp { uptime_ms, wall_ms, quality })
        };
        let (window, widened) = summary.widen(seconds);
        // A start is in the window it starts.
        prop_assert_eq!(widened.clone().widen(seconds), (window, widened));
    }
}

#[test]
fn a_window_starts_on_the_clock_its_readings_have() {
    let summary =
        single(Stamp { uptime_ms: 73_217, wall_ms: 1_790_000_014_500, quality: WallQuality::Synced });
    let (_, synced) = summary.clone().widen(10);
    assert_eq!((synced.arrival.wall_ms, synced.arrival.uptime_ms), (1_790_000_010_000, 68_717));
    let unsynced =
        Summary { arrival: Stamp { quality: WallQuality::Unsynced, ..summary.arrival }, ..summary.clone() };
    let (_, unsynced) = unsynced.widen(10);
    assert_eq!((unsynced.arrival.wall_ms, unsynced.arrival.uptime_ms), (1_790_000_011_283, 70_000));
    let (_, own) = Summary { device_time: Some(DeviceTime::Accepted(-1)), ..summary.clone() }.widen(10);
    assert_eq!((own.device_time, own.arrival), (Some(DeviceTime::Accepted(-10_000)), summary.arrival));
    // By a clock that was a guess nothing is believed or rejected for good: both clocks count.
    let arrival = Stamp { quality: WallQuality::Unsynced, ..summary.arrival };
    let pending = Summary { device_time: Some(DeviceTime::Rejected(25_000)), arrival, ..summary };
    let (_, pending) = pending.widen(10);
    assert_eq!(pending.device_time, Some(DeviceTime::Rejected(20_000)));
    assert_eq!(pending.arrival.uptime_ms, 70_000);
}

#[test]
fn counts_that_would_not_fit_are_not_merged() {
    let one = single(Stamp::default());
    let mut full = Summary { n: u32::MAX, ..one.clone() };
    assert!(!full.merge(&Summary { bpm_n: 1, bpm_sum: 60, ..one }));
    assert_eq!((full.n, full.bpm_sum), (u32::MAX, 0));
}
