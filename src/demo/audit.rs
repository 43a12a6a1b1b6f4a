//! The proof: what the straps sent against what was delivered. Pure.
//!
//! A reading with the strap's own stamp is found by (device, stamp) and must be there once, with every value as it was
//! sent. A raw packet has no stamp: packets are compared as a multiset of (device, values), so two packets of one strap
//! with equal values are told apart by their number only.

use std::collections::HashMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::lake::Line;
use super::ledger::Ledger;
use super::numbers::{self, Numbers};
use super::sample::Sample;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Findings {
    /// Distinct published readings that were delivered.
    pub delivered: u64,
    /// Acknowledged readings that were not.
    pub lost: u64,
    /// Delivered with other values than were sent.
    pub altered: u64,
    /// Delivered and never sent.
    pub strangers: u64,
    /// Further copies of a stamped reading.
    pub stamped_twice: u64,
    /// Further copies of a raw packet: re-sent without a stamp.
    pub unstamped_twice: u64,
    /// Lines whose `id` another line has, too.
    pub repeated_ids: u64,
    pub numbers: Numbers,
}

/// Values as they are compared: rate (0 = none), RR intervals in microseconds, contact.
type Values = (u16, Vec<u32>, Option<bool>);

#[derive(Debug, Default)]
struct Packets {
    published: u64,
    acknowledged: u64,
    delivered: u64,
}

/// Compares the straps' ledger with the delivered lines.
#[must_use]
pub fn audit(ledger: &Ledger, lines: &[Line]) -> Findings {
    let mut findings = Findings { numbers: numbers::add_up(lines), ..Findings::default() };
    let mut ids: HashMap<&str, u64> = HashMap::new();
    let mut stamped: HashMap<(&str, i64), (u64, &Line)> = HashMap::new();
    let mut packets: HashMap<(&str, Values), Packets> = HashMap::new();
    let stampless: HashMap<&str, bool> = ledger
        .straps
        .iter()
        .map(|strap| (strap.device.as_str(), strap.sent.iter().all(|sent| sent.sample.time_ms.is_none())))
        .collect();
    for line in lines {
        *ids.entry(&line.id).or_default() += 1;
        if !line.is_reading() {
            continue;
        }
        let device = line.device.as_deref().unwrap_or_default();
        match (stampless.get(device), line.time.as_deref().and_then(epoch_ms)) {
            (Some(true), _) => packets.entry((device, values_of_line(line))).or_default().delivered += 1,
            (Some(false), Some(time_ms)) => {
                stamped.entry((device, time_ms)).and_modify(|(copies, _)| *copies += 1).or_insert((1, line));
            }
            _ => findings.strangers += 1,
        }
    }
    findings.repeated_ids = ids.values().map(|copies| copies - 1).sum();
    for strap in &ledger.straps {
        for sent in strap.sent.iter().filter(|sent| sent.transmissions > 0) {
            let Some(time_ms) = sent.sample.time_ms else {
                let entry = packets.entry((&strap.device, values_of_sample(&sent.sample))).or_default();
                entry.published += 1;
                entry.acknowledged += u64::from(sent.acknowledged);
                continue;
            };
            match stamped.remove(&(strap.device.as_str(), time_ms)) {
                Some((copies, line)) => {
                    findings.delivered += 1;
                    findings.stamped_twice += copies - 1;
                    findings.altered += u64::from(values_of_line(line) != values_of_sample(&sent.sample));
                }
                None => findings.lost += u64::from(sent.acknowledged),
            }
        }
    }
    findings.strangers += stamped.values().map(|(copies, _)| copies).sum::<u64>();
    for Packets { published, acknowledged, delivered } in packets.into_values() {
        findings.delivered += delivered.min(published);
        findings.lost += acknowledged.saturating_sub(delivered);
        match published {
            0 => findings.strangers += delivered,
            _ => findings.unstamped_twice += delivered.saturating_sub(published),
        }
    }
    findings
}

fn values_of_sample(sample: &Sample) -> Values {
    (sample.bpm, sample.rr_us.clone(), sample.contact)
}

fn values_of_line(line: &Line) -> Values {
    // A delivered interval has at most three decimals: whole microseconds.
    let rr_us = line.rr_ms.iter().map(|ms| (ms * 1000.0).round() as u32).collect();
    (line.bpm.unwrap_or(0), rr_us, line.contact)
}

fn epoch_ms(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::super::ledger::StrapAccount;
    use super::super::outbox::Sent;
    use super::*;

    fn sent(time_ms: Option<i64>, acknowledged: bool) -> Sent {
        let contact = time_ms.map(|_| true);
        Sent {
            sample: Sample { time_ms, bpm: 61, rr_us: vec![983_398], contact },
            transmissions: 1,
            acknowledged,
        }
    }

    fn ledger(device: &str, sent: Vec<Sent>) -> Ledger {
        Ledger { straps: vec![StrapAccount { device: device.into(), sent }] }
    }

    fn line(n: u64, rest: &str) -> Line {
        let id = (1u64 << 32) + n;
        let text = format!("{{\"id\":\"s-{id}\",\"bpm\":61,\"rr_ms\":[983.398],{rest}}}");
        serde_json::from_str(&text).unwrap()
    }

    /// The stamp of millisecond 1500.
    const STAMPED: &str = r#""device":"a","time":"1970-01-01T00:00:01.500Z","contact":true"#;
    const PACKET: &str = r#""device":"b","time":"2026-11-23T10:00:00.000Z""#;

    #[test]
    fn one_to_one_is_all_there_is() {
        let findings = audit(&ledger("a", vec![sent(Some(1500), true)]), &[line(0, STAMPED)]);
        let numbers = Numbers { generations: 1, ..Numbers::default() };
        assert_eq!(findings, Findings { delivered: 1, numbers, ..Findings::default() });
    }

    #[test]
    fn only_what_was_acknowledged_can_be_lost() {
        let findings = audit(&ledger("a", vec![sent(Some(1500), true), sent(Some(2500), false)]), &[]);
        assert_eq!((findings.lost, findings.delivered), (1, 0));
    }

    #[test]
    fn another_value_is_found() {
        let mut other = line(0, STAMPED);
        other.rr_ms[0] += 0.001;
        assert_eq!(audit(&ledger("a", vec![sent(Some(1500), true)]), &[other]).altered, 1);
    }

    #[test]
    fn a_second_copy_and_a_stranger_are_found() {
        let lines = [line(0, STAMPED), line(1, STAMPED), line(2, r#""device":"nobody""#)];
        let findings = audit(&ledger("a", vec![sent(Some(1500), true)]), &lines);
        assert_eq!((findings.stamped_twice, findings.strangers, findings.repeated_ids), (1, 1, 0));
        let twice = [line(0, STAMPED), line(0, STAMPED)];
        assert_eq!(audit(&ledger("a", vec![sent(Some(1500), true)]), &twice).repeated_ids, 1);
    }

    #[test]
    fn packets_are_counted_by_their_values() {
        let ledger = ledger("b", vec![sent(None, true), sent(None, true)]);
        let one = audit(&ledger, &[line(0, PACKET)]);
        assert_eq!((one.delivered, one.lost), (1, 1));
        let three = audit(&ledger, &[line(0, PACKET), line(1, PACKET), line(2, PACKET)]);
        assert_eq!((three.delivered, three.lost, three.unstamped_twice), (2, 0, 1));
    }
}
