//! The judges judged: an account that does not add up must be noticed, else the other tests prove nothing.

use crate::support::hearts::Strap;
use crate::support::lake::{Lake, Sent, judge};
use crate::support::wire::{Packet, Stream, publish};
use crate::trace::{examine, parse};

/// Doctors the delivered lines.
type Breakage = fn(&mut Vec<String>);

fn sent(stamp: i64, acked: bool) -> Sent {
    Sent { device: "a".into(), stamp: 1_790_000_000_000 + stamp, bpm: 72, rr_ms: vec![833.0], acked }
}

/// Generation 1 with numbers 0 to 2.
fn lines() -> Vec<String> {
    let reading = |n: u64, time: &str| {
        format!(r#"{{"id":"s-{}","device":"a","time":"{time}","bpm":72,"rr_ms":[833]}}"#, (1u64 << 32) | n)
    };
    vec![
        reading(0, "2026-09-21T14:13:20Z"),
        reading(1, "2026-09-21T14:13:20.001Z"),
        reading(2, "2026-09-21T14:13:20.002Z"),
        format!(r#"{{"id":"s-{}","type":"end","generation":1,"count":3}}"#, (1u64 << 32) | 3),
    ]
}

fn faults(lines: &[String]) -> Vec<String> {
    let mut lake = Lake::default();
    lines.iter().for_each(|line| lake.take(line));
    judge(&[sent(0, true), sent(1, true), sent(2, false)], &lake).faults
}

#[test]
fn an_account_that_adds_up_passes() {
    assert_eq!(faults(&lines()), Vec::<String>::new());
    let mut again = lines();
    again.push(again[0].clone());
    assert_eq!(faults(&again), Vec::<String>::new(), "delivered twice with the same id is no fault");
}

#[test]
fn every_way_to_break_the_promise_is_noticed() {
    let cases: [(&str, Breakage); 10] = [
        ("acknowledged readings lost", |l| drop(l.remove(1))),
        ("numbers without explanation", |l| drop(l.remove(2))),
        ("id with two contents", |l| l.push(l[0].replace(":72", ":73"))),
        ("altered", |l| l[1] = l[1].replace("833", "834")),
        ("nobody sent", |l| l[1] = l[1].replace("20.001", "20.009")),
        ("stored 2 times", |l| {
            l[2] = l[2].replace("20.002", "20.001");
        }),
        ("but number 2 was delivered", |l| l[3] = l[3].replace("\"count\":3", "\"count\":2")),
        ("two counts", |l| {
            let other = l[3].replace(":3}", ":4}").replace("\"s-4294967299\"", "\"s-4294967300\"");
            l.push(other);
        }),
        ("has no end line", |l| {
            l.push(r#"{"id":"s-12884901888","type":"end","generation":3,"count":0}"#.into())
        }),
        ("of them were delivered", |l| {
            let gap =
                r#"{"id":"s-1","type":"gap","first_seq":4294967297,"last_seq":4294967297,"cause":"lost"}"#;
            l.push(gap.into());
        }),
    ];
    for (expected, breakage) in cases {
        let mut broken = lines();
        breakage(&mut broken);
        let faults = faults(&broken);
        assert!(faults.iter().any(|f| f.contains(expected)), "{expected}: {faults:?}");
    }
}

#[test]
fn a_gap_line_explains_missing_numbers() {
    let mut lines = lines();
    lines[2] =
        r#"{"id":"s-1","type":"gap","first_seq":4294967298,"last_seq":4294967298,"cause":"lost"}"#.into();
    assert_eq!(faults(&lines), Vec::<String>::new());
}

/// One PUBLISH (id 1) read, its group written, synced, acknowledged; threads interleaved as strace shows them.
const TRACE: &str = r#"7 fsync(5</s/raw/gen-1>) = 0
7 fsync(6</s/raw>) = 0
7 recvfrom(9<TCP:[127.0.0.1:1883->127.0.0.1:50000]>,  <unfinished ...>
8 fsync(7</s/raw/gen-1/db>) = 0
7 <... recvfrom resumed>"\x32\x06\x00\x01\x61\x00\x01\x35", 4096, 0, NULL, NULL) = 8
8 pwrite64(7</s/raw/gen-1/\x64\x62>, "\x00\x01"..., 512, 0) = 512
8 fdatasync(8</s/raw/gen-1/db> <unfinished ...>
8 <... fdatasync resumed>) = 0
7 sendto(9<TCP:[127.0.0.1:1883->127.0.0.1:50000]>, "\x40\x02\x00\x01", 4, 0, NULL, 0) = 4"#;

#[test]
fn a_trace_is_read_as_strace_writes_it() {
    let findings = examine(&parse(TRACE), 1883, true);
    assert_eq!((findings.pubacks, findings.faults), (1, vec![]));
    // The acknowledgement leaves while the fdatasync is still under way.
    let mut lines: Vec<&str> = TRACE.lines().collect();
    lines.swap(7, 8);
    assert!(!examine(&parse(&lines.join("\n")), 1883, true).faults.is_empty());
    // The write comes after the fdatasync.
    let mut lines: Vec<&str> = TRACE.lines().collect();
    let write = lines.remove(5);
    lines.insert(7, write);
    assert!(!examine(&parse(&lines.join("\n")), 1883, true).faults.is_empty());
    // A directory was not fsynced.
    let lines: Vec<&str> = TRACE.lines().skip(1).collect();
    assert_eq!(examine(&parse(&lines.join("\n")), 1883, true).faults.len(), 1);
}

#[test]
fn packets_are_cut_at_any_border() {
    let mut bytes = publish("hr/a", 7, true, &[b'x'; 300]);
    bytes.extend_from_slice(&[0x40, 2, 1, 2, 0x20, 2, 0, 5]);
    let mut stream = Stream::default();
    let mut got = Vec::new();
    for byte in bytes {
        stream.push(&[byte]);
        got.extend(stream.next_packet());
    }
    assert_eq!(
        got,
        [
            Packet::Publish { id: Some(7), payload: vec![b'x'; 300] },
            Packet::PubAck { id: 0x102 },
            Packet::ConnAck { code: 5 }
        ]
    );
}

/// The straps keep time and lose no beat.
#[test]
fn straps_are_plausible_hearts() {
    for n in 0..40 {
        let hour: Vec<_> = Strap::new(n).take(3600).collect();
        let worn = hour.last().map_or(0, |l| l.at_ms);
        assert!((3_500_000..3_700_000).contains(&worn), "strap {n}: 3,600 notifications in {worn} ms");
        let beats: u64 = hour.iter().flat_map(|l| &l.rr_ms).sum();
        assert!(worn.abs_diff(beats) < 5_000, "strap {n}: intervals add up to {beats} of {worn} ms");
        assert!(hour.iter().all(|l| (40..120).contains(&l.bpm)), "strap {n}: a strange rate");
    }
}
