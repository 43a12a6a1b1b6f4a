use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::clock::BootId;
use crate::config::Encoding;
use crate::forward::member::Encoder;
use crate::reading::{Contact, DeviceId, Reading, RrIntervals, Source};

fn reading(seq: u64, device: &str, bpm: u16) -> Entry {
    let reading = Reading {
        device: DeviceId(0),
        source: Source::Mqtt,
        arrival: crate::clock::Stamp::default(),
        device_time: None,
        bpm: NonZeroU16::new(bpm),
        rr: RrIntervals::default(),
        contact: Contact::Unsupported,
        energy_kj: None,
        battery_percent: None,
        rssi_dbm: None,
        reason: None,
        gap_ms: None,
    };
    Entry::Reading { seq: Seq(seq), device: device.into(), reading }
}

fn context(spool: &str) -> Context {
    Context {
        spool: spool.into(),
        times: BootTimes::unknown(BootId([1; 16])),
        line: LineContext::new(spool, "g", None),
    }
}

/// Offers everything; says where the batch came to and whether it was full.
fn fill(lines: &mut Lines, entries: &[Entry], from: Seq, until: Until) -> (Seq, bool) {
    let mut position = from;
    for entry in entries {
        if lines.offer(entry, &mut position, until, &context("s")) == Offer::Full {
            return (position, true);
        }
    }
    (position, false)
}

fn bounds(from: Seq, to: Seq) -> Bounds {
    Bounds { from, to, fixed_ms: 0, clock: 0, guessed: false }
}

/// The ids in the order of the lines.
fn ids(members: &[Member]) -> Vec<String> {
    let text: Vec<u8> = members.iter().flat_map(|member| member.bytes.to_vec()).collect();
    let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    String::from_utf8(text)
        .unwrap()
        .lines()
        .map(|line| value(line)["id"].as_str().unwrap().to_owned())
        .collect()
}

fn json() -> Encoder {
    Encoder::new(Encoding::Json).unwrap()
}

#[test]
fn lines_stand_by_device_and_events_come_last() {
    let mut lines = Lines::default();
    let entries = [
        reading(0, "b", 60),
        Entry::Gap {
            at: Seq(1),
            first: Seq(1),
            last: Seq(3),
            cause: GapCause::Lost,
            devices: Arc::default(),
        },
        reading(4, "a", 61),
        reading(5, "b", 62),
        Entry::End { generation: 0, count: 6 },
        reading(Seq::new(1, 0).0, "a", 63),
    ];
    let (to, full) = fill(&mut lines, &entries, Seq(0), Until::Bytes(1 << 20));
    assert!(!full);
    assert_eq!(to, Seq::new(1, 1));
    let members = lines.encode(bounds(Seq(0), to), &mut json(), 1 << 20).unwrap();
    assert_eq!(ids(&members), ["s-4", "s-4294967296", "s-0", "s-5", "s-1-3", "s-6"]);
    let member = &members[0];
    assert_eq!((members.len(), member.readings, member.lines), (1, 4, 6));
    assert_eq!((member.first, member.last), (Seq(0), Seq::new(1, 0)));
    assert_eq!(member.text_bytes, member.bytes.len() as u64);
}

#[test]
fn a_batch_ends_before_the_line_that_would_make_it_too_large() {
    let entries: Vec<Entry> = (0..100).map(|n| reading(n, "a", 60)).collect();
    let mut lines = Lines::default();
    let (to, full) = fill(&mut lines, &entries, Seq(0), Until::Bytes(1_000));
    assert!(full);
    assert!(lines.text_bytes() <= 1_000);
    let count = to.0;
    let size = lines.text_bytes();
    lines.clear(0);
    fill(&mut lines, &entries[..=usize::try_from(count).unwrap()], Seq(0), Until::Bytes(usize::MAX));
    assert!(lines.text_bytes() > 1_000, "one more would not have fitted ({size})");
}

#[test]
fn a_single_line_that_is_too_large_is_a_batch_of_its_own() {
    let mut lines = Lines::default();
    let entries = [reading(7, "a", 60), reading(8, "a", 60)];
    let (to, full) = fill(&mut lines, &entries, Seq(0), Until::Bytes(10));
    assert_eq!((to, full), (Seq(8), true));
    let members = lines.encode(bounds(Seq(0), to), &mut json(), 10).unwrap();
    assert_eq!(ids(&members), ["s-7"]);
}

#[test]
fn a_gap_is_cut_at_the_bounds_and_each_part_accounts_for_its_own() {
    let gap = [Entry::Gap {
        at: Seq(10),
        first: Seq(10),
        last: Seq(19),
        cause: GapCause::Evicted,
        devices: Arc::default(),
    }];
    let mut lines = Lines::default();
    assert_eq!(fill(&mut lines, &gap, Seq(5), Until::Position(Seq(14))), (Seq(14), false));
    let first = lines.encode(bounds(Seq(5), Seq(14)), &mut json(), 1 << 20).unwrap();
    lines.clear(0);
    fill(&mut lines, &gap, Seq(14), Until::Bytes(1 << 20));
    let second = lines.encode(bounds(Seq(14), Seq(20)), &mut json(), 1 << 20).unwrap();
    assert_eq!([ids(&first), ids(&second)].concat(), ["s-10-13", "s-14-19"]);
}

fn summary(at: Seq, device: &str) -> Entry {
    let Entry::Reading { reading, .. } = reading(0, device, 60) else { unreachable!() };
    let (_, summary) = crate::reading::summary::Summary::of(&reading).widen(10);
    Entry::Summary { at, device: device.into(), summary }
}

#[test]
fn a_thinned_generation_is_cut_anywhere_and_each_line_comes_once() {
    let seq = |n| Seq::new(1, n);
    let gap = |at, first, last, cause| Entry::Gap {
        at: seq(at),
        first: seq(first),
        last: seq(last),
        cause,
        devices: Arc::default(),
    };
    // 20 readings became 3 summaries; 3 of them had been lost before.
    let entries = [
        summary(seq(0), "a"),
        summary(seq(1), "b"),
        summary(seq(2), "a"),
        gap(17, 0, 1, GapCause::Thinned),
        gap(18, 2, 4, GapCause::Lost),
        gap(19, 5, 19, GapCause::Thinned),
        Entry::End { generation: 1, count: 20 },
    ];
    let base = 1u64 << 32;
    let whole = [
        format!("s-{base}-s10"),
        format!("s-{}-s10", base + 2),
        format!("s-{}-s10", base + 1),
        format!("s-{base}-{}", base + 1),
        format!("s-{}-{}", base + 2, base + 4),
        format!("s-{}-{}", base + 5, base + 19),
        format!("s-{}", base + 20),
    ];
    let mut sorted = whole.to_vec();
    sorted.sort();
    for cut in 1..entries.len() {
        let mut lines = Lines::default();
        let (to, _) = fill(&mut lines, &entries[..cut], seq(0), Until::Bytes(1 << 20));
        let first = lines.encode(bounds(seq(0), to), &mut json(), 1 << 20).unwrap();
        // Sent again, with the bounds alone to go by: the same bytes.
        lines.clear(0);
        assert_eq!(fill(&mut lines, &entries, seq(0), Until::Position(to)).0, to);
        let again = lines.encode(bounds(seq(0), to), &mut json(), 1 << 20).unwrap();
        assert_eq!(first[0].bytes, again[0].bytes);
        lines.clear(0);
        let (end, _) = fill(&mut lines, &entries, to, Until::Bytes(1 << 20));
        assert_eq!(end, Seq::new(2, 0));
        let second = lines.encode(bounds(to, end), &mut json(), 1 << 20).unwrap();
        let mut ids = [ids(&first), ids(&second)].concat();
        ids.sort();
        assert_eq!(ids, sorted, "cut behind {cut}");
        assert_eq!((first[0].readings, second[0].readings), (0, 0));
    }
    let mut lines = Lines::default();
    fill(&mut lines, &entries, seq(0), Until::Bytes(1 << 20));
    let members = lines.encode(bounds(seq(0), Seq::new(2, 0)), &mut json(), 1 << 20).unwrap();
    assert_eq!(ids(&members), whole);
    let told = [(GapCause::Thinned, 17), (GapCause::Lost, 3)].into();
    assert_eq!(lines.tally(), Tally { delivered: 0, told }, "numbers, not positions");
}

#[test]
fn clock_lines_ride_in_the_first_member_and_once() {
    let mut lines = Lines::default();
    let entries: Vec<Entry> = (0..20).map(|n| reading(n, "a", 60)).collect();
    let (to, _) = fill(&mut lines, &entries, Seq(0), Until::Bytes(1 << 20));
    let correction = Correction { boot: BootId([1; 16]), uptime_ms: 5, wall_ms: 0, error_ms: 500 };
    let line = context("s").line;
    lines.carry(&line, [correction, correction].iter());
    lines.carry(&line, std::iter::once(&correction));
    for limit in [1 << 20, 600] {
        let members = lines.encode(bounds(Seq(0), to), &mut json(), limit).unwrap();
        let all = ids(&members);
        let clock = "s-clock-01010101-0101-0101-0101-010101010101";
        assert_eq!(all.iter().filter(|id| *id == clock).count(), 1, "{all:?}");
        assert!(ids(&members[..1]).contains(&clock.to_owned()));
        assert_eq!(members.iter().map(|member| member.lines).sum::<u32>(), 21);
        assert_eq!(members.iter().map(|member| member.readings).sum::<u32>(), 20);
        assert_eq!((members[0].first, members[members.len() - 1].last), (Seq(0), Seq(19)));
    }
    lines.clear(0);
    fill(&mut lines, &entries, Seq(0), Until::Bytes(1 << 20));
    let members = lines.encode(bounds(Seq(0), to), &mut json(), 1 << 20).unwrap();
    assert_eq!(ids(&members).len(), 20, "the next batch has its own");
}

#[test]
fn two_spools_never_share_a_batch() {
    let mut lines = Lines::default();
    let mut position = Seq(0);
    let until = Until::Bytes(1 << 20);
    assert_eq!(lines.offer(&reading(0, "a", 60), &mut position, until, &context("old")), Offer::Taken);
    assert_eq!(lines.offer(&reading(1, "a", 60), &mut position, until, &context("new")), Offer::Full);
    assert_eq!(position, Seq(1));
}

#[test]
fn what_closes_a_batch() {
    let policy = Policy { max_age: Duration::from_secs(60), max_bytes: 1 };
    assert_eq!(policy.due(Duration::from_secs(59), false), None);
    assert_eq!(policy.due(Duration::from_secs(60), false), Some(Close::Age));
    assert_eq!(policy.due(Duration::ZERO, true), Some(Close::Drain));
}

proptest! {
    /// However the journal hands its entries out, each falls into exactly one batch, and the same bounds give
    /// the same members, each within the limit.
    #[test]
    fn bounds_partition_the_journal(
        devices in prop::collection::vec(0u8..5, 1..200),
        max in 100usize..3_000,
        limit in 150usize..1_500,
        encoding in prop::sample::select(vec![Encoding::Gzip, Encoding::Zstd, Encoding::Json]),
    ) {
        let entries: Vec<Entry> = devices.iter().zip(0..).map(|(d, n)| reading(n, &format!("d{d}"), 60)).collect();
        let mut encoder = Encoder::new(encoding).unwrap();
        let mut lines = Lines::default();
        let mut from = Seq(0);
        let mut seen = 0;
        while from.0 < entries.len() as u64 {
            lines.clear(0);
            let (to, _) = fill(&mut lines, &entries, from, Until::Bytes(max));
            prop_assert!(to > from);
            let members = lines.encode(bounds(from, to), &mut encoder, limit).unwrap();
            lines.clear(0);
            prop_assert_eq!(fill(&mut lines, &entries, from, Until::Position(to)).0, to);
            let again = lines.encode(bounds(from, to), &mut encoder, limit).unwrap();
            prop_assert_eq!(members.len(), again.len());
            let mut next = from;
            for (one, two) in members.iter().zip(&again) {
                prop_assert_eq!(&one.bytes, &two.bytes);
                prop_assert!(one.bytes.len() <= limit || one.lines == 1);
                prop_assert_eq!(one.first, next);
                next = Seq(one.last.0 + 1);
                seen += one.readings;
            }
            prop_assert_eq!(next, to);
            from = to;
        }
        prop_assert_eq!(seen as usize, entries.len());
    }
}
