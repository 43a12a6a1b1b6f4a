//! Whether an uplink's numbers are all accounted for, proven from what lies on disk. Pure.
//!
//! Three sources that do not know of each other are held together: the manifest (how many numbers were given, and which
//! are known to be missing), the cursor file (what the uplink has confirmed and was told), and the blocks (which numbers
//! can really be read). Behind the cursor: numbers given since the account began = delivered + told by cause. Ahead of
//! it: numbers given = readable + missing by cause, none of them both. What is ahead and neither readable nor known to
//! be missing is damage that nobody has come to yet: it is lost, and named apart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{Missing, State, told_by_gaps};
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
    pub state: State,
    /// Numbers given: 0 to this - 1.
    pub readings: u32,
    /// Summaries stand in the place of readings: positions before the gaps behind them account for no number.
    #[serde(default)]
    pub thinned: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
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
pub fn unexplained(given: &Given, readable: &[(u32, u32)]) -> u64 {
    let (found, known) = (within(readable, 0, given.readings), missing(given, 0));
    let both = overlap(readable, given, 0);
    u64::from(given.readings).saturating_sub(found + known.values().sum::<u64>() - both)
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
            let count = generation.readings;
            given += u64::from(count);
            let from = match generation.generation.cmp(&place.cursor.generation()) {
                std::cmp::Ordering::Less => count,
                std::cmp::Ordering::Equal if generation.thinned => {
                    told_by_gaps(&generation.missing, count, place.cursor.n())
                }
                std::cmp::Ordering::Equal => place.cursor.n(),
                std::cmp::Ordering::Greater => 0,
            };
            if from > count {
                faults.push(format!(
                    "generation {} gave {count} numbers, and {from} of them are confirmed",
                    generation.generation
                ));
            }
            behind += u64::from(from.min(count));
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
        let count = given.readings;
        if from >= count {
            return;
        }
        let known = missing(given, from);
        let told: u64 = known.values().sum();
        for (cause, numbers) in known {
            *self.missing.entry(cause).or_default() += numbers;
        }
        let numbers = u64::from(count - from);
        match given.state {
            // There is nothing to read: what no cause is known for is lost, and will be told so.
            State::Quarantined | State::Evicted | State::Void | State::Creating | State::Dead => {
                *self.missing.entry(GapCause::Lost).or_default() += numbers.saturating_sub(told);
            }
            State::Open | State::Sealed => match readable.get(&given.generation) {
                Some(ranges) => {
                    let found = within(ranges, from, count);
                    let both = overlap(ranges, given, from);
                    if both > 0 {
                        faults.push(format!(
                            "generation {}: {both} numbers are told as missing and can be read",
                            given.generation
                        ));
                    }
                    self.readable += found;
                    self.newly_lost += numbers.saturating_sub(found + told - both);
                }
                None => self.readable += numbers.saturating_sub(told),
            },
        }
        self.missing.retain(|_, numbers| *numbers > 0);
    }
}

/// Known missing numbers at or after `from`, by cause.
fn missing(given: &Given, from: u32) -> BTreeMap<GapCause, u64> {
    let mut sums = BTreeMap::new();
    for missing in &given.missing {
        let numbers = within(&[(missing.first, missing.last)], from, given.readings);
        if numbers > 0 {
            *sums.entry(missing.cause).or_default() += numbers;
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
fn overlap(ranges: &[(u32, u32)], given: &Given, from: u32) -> u64 {
    let known = given.missing.iter();
    known.map(|missing| within(ranges, missing.first.max(from), missing.last.saturating_add(1))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(first: u32, last: u32, cause: GapCause) -> Missing {
        Missing { first, last, cause, devices: BTreeMap::new() }
    }

    /// 1,000 numbers gone; generation 5 with 100, ten of them lost, the cursor in its middle; 6 evicted; 7 the head.
    fn facts() -> (Facts, Readable) {
        let generations = vec![
            Given {
                generation: 5,
                state: State::Sealed,
                readings: 100,
                thinned: false,
                missing: vec![missing(40, 49, GapCause::Lost), missing(90, 94, GapCause::Thinned)],
            },
            Given {
                generation: 6,
                state: State::Evicted,
                readings: 30,
                thinned: false,
                missing: vec![missing(0, 29, GapCause::Evicted)],
            },
            Given { generation: 7, state: State::Open, readings: 8, thinned: false, missing: Vec::new() },
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
        assert_eq!(proof.missing, [(GapCause::Evicted, 30), (GapCause::Thinned, 5)].into());
    }

    #[test]
    fn damage_that_nobody_came_to_is_named() {
        let (facts, mut readable) = facts();
        readable.insert(5, vec![(0, 39), (50, 79), (95, 99)]);
        let proof = facts.prove(&readable).remove(0);
        assert!(proof.adds_up, "{proof:?}");
        assert_eq!((proof.readable, proof.newly_lost), (33, 10));
        assert_eq!(unexplained(&facts.generations[0], &readable[&5]), 10);
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
            ("more confirmed than was given", |f, _| f.generations[0].readings = 50),
        ];
        for (what, breakage) in cases {
            let (mut facts, mut readable) = facts();
            breakage(&mut facts, &mut readable);
            let proof = facts.prove(&readable).remove(0);
            assert!(!proof.adds_up && !proof.faults.is_empty(), "{what}: {proof:?}");
        }
    }
}
