//! Whether an uplink's numbers are all accounted for, proven from what lies on disk. Pure.
//!
//! Three sources that do not know of each other are held together: the manifest (how many numbers were given, and which
//! are known to be missing), the cursor file (what the uplink has confirmed and was told), and the blocks (which numbers
//! can really be read). Behind the cursor: numbers given since the account began = delivered + told by cause. Ahead of
//! it: numbers given = readable + missing by cause, none of them both. What is ahead and neither readable nor known to
//! be missing is damage that nobody has come to yet: it is lost, and named apart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{Record, State};
use super::tally::{Began, Tally};
use super::types::{GapCause, Seq};

/// What the manifest and the cursor files say.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Which count of numbers this is.
    pub epoch: u32,
    /// Numbers given in generations that are not listed any more.
    pub gone: u64,
    pub generations: Vec<Given>,
    pub uplinks: Vec<Place>,
}

/// One generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Given {
    pub generation: u32,
    /// As the manifest has it; `count` of the head is what is durable.
    #[serde(flatten)]
    pub record: Record,
}

/// One uplink.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    pub name: String,
    pub cursor: Seq,
    pub began: Began,
    pub tally: Tally,
}

/// Ranges of numbers that can be read, both ends included, in order; by generation. A generation that is not here was
/// delivered and removed while the others were read.
pub type Readable = BTreeMap<u32, Vec<(u32, u32)>>;

/// The proof for one uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    pub uplink: String,
    pub adds_up: bool,
    /// Numbers given since the account began.
    pub durable: u64,
    pub delivered: u64,
    /// Numbers the uplink was told never to expect, by cause.
    pub told: BTreeMap<GapCause, u64>,
    /// Numbers ahead of the cursor that can be read.
    pub readable: u64,
    /// Numbers ahead of the cursor that are known to be missing, by cause.
    pub missing: BTreeMap<GapCause, u64>,
    /// Numbers ahead of the cursor that cannot be read and nobody knew of.
    pub newly_lost: u64,
    /// Delivered, and told as missing, before the count of numbers began anew: not part of the sum.
    pub delivered_earlier: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub told_earlier: BTreeMap<GapCause, u64>,
    /// Why it does not add up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// Numbers of a generation that are neither readable nor known to be missing.
pub fn unexplained(record: &Record, readable: &[(u32, u32)]) -> u64 {
    let (found, known) = (within(readable, 0, record.count), missing(record, 0));
    let both = overlap(readable, record, 0);
    u64::from(record.count).saturating_sub(found + known.values().sum::<u64>() - both)
}

impl Facts {
    /// Proves each uplink's account.
    pub fn prove(&self, readable: &Readable) -> Vec<Proof> {
        self.uplinks.iter().map(|place| self.prove_one(place, readable)).collect()
    }

    fn prove_one(&self, place: &Place, readable: &Readable) -> Proof {
        let (began, tally) = (&place.began, &place.tally);
        let mut faults = Vec::new();
        if began.epoch != self.epoch {
            faults.push("the account belongs to another manifest".to_owned());
        }
        let mut proof = Proof {
            uplink: place.name.clone(),
            adds_up: false,
            durable: 0,
            delivered: tally.delivered,
            told: tally.told.clone(),
            readable: 0,
            missing: BTreeMap::new(),
            newly_lost: 0,
            delivered_earlier: began.earlier.delivered,
            told_earlier: began.earlier.told.clone(),
            faults: Vec::new(),
        };
        let (mut given, mut behind) = (self.gone, self.gone);
        for generation in &self.generations {
            let record = &generation.record;
            let count = record.count;
            given += u64::from(count);
            let from = match generation.generation.cmp(&place.cursor.generation()) {
                std::cmp::Ordering::Less => count,
                std::cmp::Ordering::Equal => place.cursor.n(),
                std::cmp::Ordering::Greater => 0,
            };
            if from > count {
                faults.push(format!(
                    "generation {} gave {count} numbers, and {from} of them are confirmed",
                    generation.generation
                ));
            }
            behind += record.told_before(from);
            proof.ahead(generation, from, readable, &mut faults);
        }
        proof.durable = given.saturating_sub(began.given);
        if behind.checked_sub(began.given) != Some(tally.numbers()) {
            faults.push(format!(
                "{} numbers were given before the cursor, {} of them before the account began; {} were delivered and {} told \
                 as missing",
                behind,
                began.given,
                tally.delivered,
                tally.numbers() - tally.delivered
            ));
        }
        let sum = tally.numbers() + proof.readable + proof.missing.values().sum::<u64>() + proof.newly_lost;
        if proof.durable != sum {
            faults.push(format!("{} numbers were given, and {sum} are accounted for", proof.durable));
        }
        proof.adds_up = faults.is_empty();
        proof.faults = faults;
        proof
    }
}

impl Proof {
    fn ahead(&mut self, given: &Given, from: u32, readable: &Readable, faults: &mut Vec<String>) {
        let record = &given.record;
        if from >= record.count {
            return;
        }
        let known = missing(record, from);
        let told: u64 = known.values().sum();
        for (cause, numbers) in known {
            *self.missing.entry(cause).or_default() += numbers;
        }
        let numbers = match record.summaries {
            None => u64::from(record.count - from),
            Some(_) => u64::from(record.count) - record.told_before(from),
        };
        match (record.state, readable.get(&given.generation)) {
            // Nothing is there to be read: what no cause is known for is lost, and will be told so.
            (State::Quarantined | State::Evicted | State::Void | State::Creating | State::Dead, _) => {
                *self.missing.entry(GapCause::Lost).or_default() += numbers.saturating_sub(told);
            }
            (State::Open | State::Sealed, Some(ranges)) => {
                let found = within(ranges, from, record.count);
                let both = overlap(ranges, record, from);
                if both > 0 {
                    faults.push(format!(
                        "generation {}: {both} numbers are told as missing and can be read",
                        given.generation
                    ));
                }
                self.readable += found;
                self.newly_lost += numbers.saturating_sub(found + told - both);
            }
            (State::Open | State::Sealed, None) => self.readable += numbers.saturating_sub(told),
        }
        self.missing.retain(|_, numbers| *numbers > 0);
    }
}

/// Known missing numbers at or after position `from`, by cause.
fn missing(record: &Record, from: u32) -> BTreeMap<GapCause, u64> {
    let mut sums = BTreeMap::new();
    let mut add = |cause, numbers: u64| {
        if numbers > 0 {
            *sums.entry(cause).or_default() += numbers;
        }
    };
    if record.summaries.is_some() {
        let gaps = record.gaps_behind_summaries().filter(|(at, _)| *at >= from);
        gaps.for_each(|(_, missing)| add(missing.cause, missing.count()));
    } else {
        for missing in &record.missing {
            add(missing.cause, within(&[(missing.first, missing.last)], from, record.count));
        }
    }
    sums
}

/// Numbers of the ranges in `from..to`.
fn within(ranges: &[(u32, u32)], from: u32, to: u32) -> u64 {
    let clipped = ranges.iter().map(|(first, last)| (*first.max(&from), u64::from(*last) + 1));
    clipped.map(|(first, end)| end.min(u64::from(to)).saturating_sub(u64::from(first))).sum()
}

/// Numbers at or after `from` that are both readable and known to be missing.
fn overlap(ranges: &[(u32, u32)], record: &Record, from: u32) -> u64 {
    let known = record.missing.iter();
    known.map(|missing| within(ranges, missing.first.max(from), missing.last.saturating_add(1))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::manifest::{Missing, Summaries};

    fn given(generation: u32, state: State, count: u32, missing: &[(u32, u32, GapCause)]) -> Given {
        let missing = missing
            .iter()
            .map(|&(first, last, cause)| Missing { first, last, cause, devices: BTreeMap::new() })
            .collect();
        let record = Record {
            state,
            spool: "s".into(),
            boot: String::new(),
            created_ms: 0,
            count,
            missing,
            summaries: None,
            damage: None,
            sealed: None,
            revision: 0,
            bytes: 0,
        };
        Given { generation, record }
    }

    /// 1,000 numbers gone; generation 5 with 100, ten of them lost, the cursor in its middle; 6 evicted; 7 the head.
    fn facts() -> (Facts, Readable) {
        let generations = vec![
            given(5, State::Sealed, 100, &[(40, 49, GapCause::Lost), (90, 94, GapCause::Withheld)]),
            given(6, State::Evicted, 30, &[(0, 29, GapCause::Evicted)]),
            given(7, State::Open, 8, &[]),
        ];
        let place = Place {
            name: "cloud".into(),
            cursor: Seq::new(5, 60),
            began: Began { given: 200, ..Began::default() },
            tally: Tally { delivered: 850, told: [(GapCause::Lost, 10)].into() },
        };
        let facts = Facts { epoch: 0, gone: 1000, generations, uplinks: vec![place] };
        (facts, [(5, vec![(0, 39), (50, 89), (95, 99)]), (7, vec![(0, 7)])].into())
    }

    #[test]
    fn what_is_behind_and_what_is_ahead_is_proven() {
        let (facts, readable) = facts();
        let proof = facts.prove(&readable).remove(0);
        assert!(proof.adds_up, "{proof:?}");
        assert_eq!((proof.durable, proof.delivered, proof.readable, proof.newly_lost), (938, 850, 43, 0));
        assert_eq!(proof.missing, [(GapCause::Evicted, 30), (GapCause::Withheld, 5)].into());
    }

    /// A generation of 100 thinned to 12 summaries: the cursor among them has passed no number, behind the gap all.
    #[test]
    fn summaries_stand_for_numbers_that_are_told_behind_them() {
        let (mut facts, mut readable) = facts();
        let thinned = &mut facts.generations[0].record;
        thinned.summaries = Some(Summaries { window_s: 10, count: 12, sparse: false });
        thinned.missing = given(5, State::Sealed, 100, &[(0, 99, GapCause::Thinned)]).record.missing;
        readable.insert(5, Vec::new());
        for (n, tally) in [
            (7, Tally { delivered: 800, told: BTreeMap::new() }),
            (100, Tally { delivered: 800, told: [(GapCause::Thinned, 100)].into() }),
        ] {
            facts.uplinks[0].cursor = Seq::new(5, n);
            facts.uplinks[0].tally = tally;
            let proof = facts.prove(&readable).remove(0);
            assert!(proof.adds_up, "{n}: {proof:?}");
            assert_eq!((proof.readable, proof.newly_lost), (8, 0));
        }
        facts.uplinks[0].cursor = Seq::new(5, 7);
        assert!(!facts.prove(&readable).remove(0).adds_up, "a gap told before its place");
    }

    #[test]
    fn damage_that_nobody_came_to_is_named() {
        let (facts, mut readable) = facts();
        readable.insert(5, vec![(0, 39), (50, 79), (95, 99)]);
        let proof = facts.prove(&readable).remove(0);
        assert!(proof.adds_up, "{proof:?}");
        assert_eq!((proof.readable, proof.newly_lost), (33, 10));
        assert_eq!(unexplained(&facts.generations[0].record, &readable[&5]), 10);
    }

    #[test]
    fn every_way_not_to_add_up_is_noticed() {
        type Breakage = fn(&mut Facts, &mut Readable);
        let cases: [(&str, Breakage); 6] = [
            ("a batch counted twice", |f, _| f.uplinks[0].tally.delivered += 60),
            ("a batch not counted", |f, _| f.uplinks[0].tally.delivered -= 60),
            ("a gap told and not tallied", |f, _| f.uplinks[0].tally.told.clear()),
            ("a generation removed and not remembered", |f, _| f.gone -= 10),
            ("told as missing, and there", |_, r| drop(r.insert(5, vec![(0, 39), (50, 99)]))),
            ("more confirmed than was given", |f, _| f.generations[0].record.count = 50),
        ];
        for (what, breakage) in cases {
            let (mut facts, mut readable) = facts();
            breakage(&mut facts, &mut readable);
            let proof = facts.prove(&readable).remove(0);
            assert!(!proof.adds_up && !proof.faults.is_empty(), "{what}: {proof:?}");
        }
    }
}
