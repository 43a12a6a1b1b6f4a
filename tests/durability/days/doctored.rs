//! The judge of a day, judged: ledgers, delivered lines and accounts with one fault each must be noticed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::band::Unstamped;
use super::day::Hit;
use super::judge::{Evidence, Verdict, judge};
use crate::support::fleet::Account;
use crate::support::lake::{Lake, Sent};

const STAMP: i64 = 1_790_000_000_000;
const G: u64 = 1 << 32;

type Doctoring = fn(&mut Small);

/// A small day: generation 1 gave five numbers, of which one was lost; one band without a clock.
struct Small {
    straps: Account,
    bands: Vec<Unstamped>,
    hit: BTreeSet<Hit>,
    lines: Vec<Value>,
    account: Value,
}

impl Small {
    fn new() -> Self {
        let sent = |n: i64| Sent {
            device: "strap-00".into(),
            stamp: STAMP + n,
            bpm: 72,
            rr_ms: vec![833.0],
            acked: true,
        };
        let line = |n: u64| {
            json!({"id": format!("s-{}", G + n), "device": "strap-00", "time": format!("2026-09-21T14:13:20.00{n}Z"),
                "time_quality": "device", "bpm": 72, "rr_ms": [833]})
        };
        let lines = vec![
            line(0),
            line(1),
            json!({"id": format!("s-{}-{}", G + 2, G + 2), "type": "gap", "first_seq": G + 2, "last_seq": G + 2,
                "cause": "lost", "devices": {"strap-00": 1}}),
            line(3),
            json!({"id": format!("s-{}", G + 4), "device": "band-00", "time": "2026-09-21T14:13:21.000Z", "bpm": 72,
                "rr_ms": [600, 601, 602]}),
            json!({"id": format!("s-{}", G + 5), "type": "end", "generation": 1, "count": 5}),
        ];
        Self {
            straps: Account { readings: (0..4).map(sent).collect(), ..Account::default() },
            bands: vec![Unstamped {
                device: "band-00".into(),
                rr_ms: vec![600.0, 601.0, 602.0],
                first_ms: STAMP + 990,
                acked_ms: Some(STAMP + 1_010),
                sends: 1,
            }],
            hit: [Hit::Damage].into(),
            lines,
            account: json!({"adds_up": true, "durable": 5, "delivered": 4, "told": {"lost": 1}, "readable": 0,
                "delivered_earlier": 0}),
        }
    }

    fn judge(&self) -> Verdict {
        let mut lake = Lake::default();
        self.lines.iter().for_each(|line| lake.take(&line.to_string()));
        let evidence = Evidence { optional: false, straps: &self.straps, bands: &self.bands, hit: &self.hit };
        judge(&evidence, &lake, &self.account)
    }
}

#[test]
fn a_day_that_adds_up_passes() {
    let verdict = Small::new().judge();
    assert_eq!(verdict.faults, Vec::<String>::new());
    assert_eq!((verdict.acked, verdict.delivered, verdict.told("lost"), verdict.unexplained), (5, 4, 1, 0));
    // Two batches hold the same line: the answer to the first was lost.
    let mut small = Small::new();
    small.lines.push(small.lines[0].clone());
    assert_eq!(small.judge().faults, Vec::<String>::new());
}

#[test]
fn every_way_a_day_can_fail_is_noticed() {
    let cases: &[(&str, Doctoring)] = &[
        ("numbers without explanation", |s| drop(s.lines.remove(1))),
        ("acknowledged readings are missing", |s| {
            drop(s.lines.remove(1));
            s.lines.last_mut().unwrap()["count"] = json!(5);
        }),
        ("are missing, 1 were told", |s| {
            s.straps.readings.push(Sent { stamp: STAMP + 9, ..s.straps.readings[0].clone() })
        }),
        ("strap-00: 1 readings are missing, 0 were told", |s| {
            s.lines[2]["devices"] = json!({"strap-07": 1});
        }),
        ("only 0 readings are", |s| drop(s.straps.readings.remove(2))),
        ("id with two contents", |s| {
            let mut other = s.lines[0].clone();
            other["bpm"] = json!(73);
            s.lines.push(other);
        }),
        ("altered", |s| s.lines[1]["rr_ms"] = json!([834])),
        ("nobody sent", |s| s.lines[1]["time"] = json!("2026-09-21T14:13:29Z")),
        ("not believed", |s| drop(s.lines[1].as_object_mut().unwrap().remove("time_quality"))),
        ("a time that is not true", |s| s.lines[4]["time"] = json!("2026-09-21T15:13:21.000Z")),
        ("a time that is not true", |s| {
            s.lines[4]["time"] = json!("1970-01-01T00:00:21.000Z");
            s.lines[4]["time_quality"] = json!("repaired");
            s.lines[4]["uncertainty_s"] = json!(3600);
        }),
        ("has no end line", |s| drop(s.lines.pop())),
        ("but 4 was delivered", |s| s.lines[5]["count"] = json!(4)),
        ("two counts", |s| {
            let mut other = s.lines[5].clone();
            other["id"] = json!("s-9");
            other["count"] = json!(6);
            s.lines.push(other);
        }),
        ("nothing of the kind happened", |s| s.hit.clear()),
        ("nothing of the kind happened", |s| s.lines[2]["cause"] = json!("evicted")),
        ("nothing of the kind happened", |s| s.lines[2]["cause"] = json!("misplaced")),
        ("were told as evicted and delivered", |s| {
            s.lines[2]["cause"] = json!("evicted");
            s.lines[2]["first_seq"] = json!(G + 1);
        }),
        ("overlap", |s| {
            let mut other = s.lines[2].clone();
            other["id"] = json!("s-1-2");
            other["cause"] = json!("thinned");
            s.lines.push(other);
        }),
        ("never answered", |s| s.straps.unacknowledged = 1),
        ("never answered", |s| s.bands[0].acked_ms = None),
        ("several spools", |s| s.lines[0]["id"] = json!(format!("t-{G}"))),
        ("does not add up", |s| s.account["adds_up"] = json!(false)),
        ("does not add up", |s| s.account = Value::Null),
        ("says 6 given", |s| s.account["durable"] = json!(6)),
        ("says 5 delivered", |s| s.account["delivered"] = json!(5)),
        ("says 0 told", |s| s.account["told"] = json!({})),
        ("readable and not delivered", |s| s.account["readable"] = json!(1)),
    ];
    for (expected, doctoring) in cases {
        let mut small = Small::new();
        doctoring(&mut small);
        let faults = small.judge().faults;
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
    }
}

#[test]
fn a_stamped_reading_stored_twice_is_a_fault_where_nothing_was_forgotten() {
    let twice = |hit: BTreeSet<Hit>| {
        let mut small = Small::new();
        small.hit = hit;
        // The third reading, told as lost, came again; and so did the second, which was not.
        small.lines[3] = small.lines[1].clone();
        small.lines[3]["id"] = json!(format!("s-{}", G + 3));
        small.straps.readings.remove(3);
        small.straps.sent_again = 1;
        small.judge().faults
    };
    assert!(twice([Hit::DiskFull].into()).iter().any(|fault| fault.contains("stored 2 times")));
    assert!(!twice([Hit::Damage].into()).iter().any(|fault| fault.contains("stored 2 times")));
    // A band cannot be recognised, but it is not stored more often than it sent.
    let mut small = Small::new();
    small.lines.insert(5, small.lines[4].clone());
    small.lines[5]["id"] = json!(format!("s-{}", G + 5));
    small.lines[6]["count"] = json!(6);
    assert!(small.judge().faults.iter().any(|fault| fault.contains("stored 2 times")));
}

/// Two straps' readings whose names were lost with every copy.
fn nameless() -> Small {
    let mut small = Small::new();
    for n in 5..8 {
        small.straps.readings.push(Sent {
            device: "strap-01".into(),
            stamp: STAMP + 1_000 + n,
            rr_ms: vec![900.0],
            ..small.straps.readings[0].clone()
        });
        let at = small.lines.len() - 1;
        let time = format!("2026-09-21T14:13:21.{n:03}Z");
        let line = json!({"id": format!("s-{}", G + n as u64), "device": "unnamed-1-1", "time": time,
            "time_quality": "device", "bpm": 72, "rr_ms": [900]});
        small.lines.insert(at, line);
    }
    small.lines[0]["device"] = json!("unnamed-1-0");
    small.lines.last_mut().unwrap()["count"] = json!(8);
    small.account["durable"] = json!(8);
    small.account["delivered"] = json!(7);
    small
}

#[test]
fn a_lost_name_is_explained_and_a_wrong_one_is_not() {
    let verdict = nameless().judge();
    assert_eq!((verdict.faults, verdict.unnamed), (Vec::new(), 4));
    let wrong: [(&str, Doctoring); 5] = [
        ("nothing was damaged", |s| s.hit = [Hit::Evicts].into()),
        ("nobody sent", |s| s.lines[5]["device"] = json!("unnamed-1-0")),
        ("nobody sent", |s| s.lines[5]["device"] = json!("strap-00")),
        ("nobody sent", |s| s.lines[5]["rr_ms"] = json!([901])),
        ("altered", |s| s.lines[5]["bpm"] = json!(73)),
    ];
    for (expected, doctoring) in wrong {
        let mut small = nameless();
        doctoring(&mut small);
        let faults = small.judge().faults;
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
    }
}

/// A day on which strap-00's third and fourth reading gave way to a summary.
fn thinned() -> Small {
    let mut small = Small::new();
    small.hit = [Hit::Thins].into();
    small.straps.readings[3].bpm = 80;
    small.straps.readings[3].rr_ms.clear();
    small.lines.remove(3);
    small.lines[2]["cause"] = json!("thinned");
    small.lines[2]["last_seq"] = json!(G + 3);
    small.lines[2]["devices"] = json!({"strap-00": 2});
    small.lines.insert(
        0,
        json!({"id": format!("s-{}-s10", G), "type": "summary", "device": "strap-00", "time": "2026-09-21T14:13:20.000Z",
            "time_quality": "device", "window_s": 10, "n": 2, "bpm_n": 2, "bpm_min": 72, "bpm_mean": 76.0, "bpm_max": 80,
            "rr_n": 1}),
    );
    small.account["delivered"] = json!(3);
    small.account["told"] = json!({"thinned": 2});
    small
}

#[test]
fn summaries_are_held_against_the_readings_they_stand_for() {
    let verdict = thinned().judge();
    assert_eq!(verdict.faults, Vec::<String>::new());
    assert_eq!((verdict.summaries, verdict.compared, verdict.told("thinned")), (1, 1, 2));
    let wrong: [(&str, Value); 5] = [
        ("bpm_min", json!(71)),
        ("bpm_mean", json!(76.01)),
        ("bpm_max", json!(90)),
        ("bpm_n", json!(1)),
        ("rr_n", json!(2)),
    ];
    for (field, value) in wrong {
        let mut small = thinned();
        small.lines[0][field] = value;
        let faults = small.judge().faults;
        assert!(faults.iter().any(|fault| fault.starts_with("summary of strap-00")), "{field}: {faults:?}");
    }
    let mut small = thinned();
    small.lines[0]["n"] = json!(3);
    assert!(small.judge().faults.iter().any(|fault| fault.contains("were told as thinned")));
    let mut small = thinned();
    small.lines.remove(0);
    assert!(small.judge().faults.iter().any(|fault| fault.contains("were told as thinned")));
}

/// A guess is as good as the `clock` line that corrects it.
#[test]
fn a_guessed_time_is_judged_as_a_consumer_takes_it() {
    let guessed = |clocks: &[(&str, &str)]| {
        let mut small = Small::new();
        small.hit.insert(Hit::Clock);
        let line = &mut small.lines[4];
        line["time"] = json!("1970-01-01T00:00:21.000Z");
        line["time_quality"] = json!("unsynced");
        line["boot"] = json!("b");
        line["uptime_ms"] = json!(21_000);
        for (spool, time) in clocks {
            small
                .lines
                .push(json!({"id": format!("{spool}-clock-b"), "type": "clock", "boot": "b", "time": time,
                "uptime_ms": 61_000, "uncertainty_s": 2.5}));
        }
        small.judge().faults
    };
    let (right, wrong) = ("2026-09-21T14:14:01.000Z", "2026-09-21T14:14:09.000Z");
    assert_eq!(guessed(&[("s", right)]), Vec::<String>::new());
    assert_eq!(guessed(&[("s", right), ("t", right)]), Vec::<String>::new(), "the spool got another name");
    assert!(guessed(&[("s", right), ("t", wrong)]).iter().any(|fault| fault.contains("two clock lines")));
    assert!(guessed(&[("s", wrong)]).iter().any(|fault| fault.contains("not true")));
    assert!(guessed(&[]).iter().any(|fault| fault.contains("never corrected")));
}
