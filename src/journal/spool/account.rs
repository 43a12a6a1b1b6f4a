//! What the manifest knows of the numbers around an uplink's cursor.

use super::Spool;
use crate::journal::manifest::{Missing, Record, State};
use crate::journal::proof::{Facts, Given};
use crate::journal::tally::Around;
use crate::journal::types::Seq;

impl Spool {
    /// What the manifest says of every generation; the uplinks' places are not its business.
    pub fn facts(&self, watermark: Seq) -> Facts {
        let state = self.state();
        let manifest = &state.manifest;
        let given = |(&generation, record): (&u32, &Record)| {
            let count = given(generation, record, watermark);
            Given { generation, record: Record { count, ..record.clone() } }
        };
        let generations = manifest.generations.iter().map(given).collect();
        Facts { epoch: manifest.epoch, gone: manifest.gone, generations, uplinks: Vec::new() }
    }

    /// Counts the numbers given so far, those before `cursor`, and what became of the others. One look under one lock:
    /// the figures belong to one moment.
    pub fn around(&self, cursor: Seq, watermark: Seq) -> Around {
        let state = self.state();
        let manifest = &state.manifest;
        let mut around = Around {
            epoch: manifest.epoch,
            given: manifest.gone,
            behind: manifest.gone,
            ..Around::default()
        };
        for (&number, record) in &manifest.generations {
            let count = given(number, record, watermark);
            around.given += u64::from(count);
            let from = match number.cmp(&cursor.generation()) {
                std::cmp::Ordering::Less => count,
                std::cmp::Ordering::Equal => cursor.n(),
                std::cmp::Ordering::Greater => 0,
            };
            // Also for the head, whose record does not know its count yet.
            let passed = match record.summaries {
                None => u64::from(from.min(count)),
                Some(_) => record.told_before(from),
            };
            around.behind += passed;
            ahead(record, from, count, &mut around);
        }
        around
    }
}

/// Numbers a generation has given.
fn given(number: u32, record: &Record, watermark: Seq) -> u32 {
    match record.state {
        // Until it is sealed, only the watermark tells how many numbers the head has given.
        State::Open if number == watermark.generation() => watermark.n(),
        _ => record.count,
    }
}

/// Adds what is at position `from` of one generation and after it.
fn ahead(record: &Record, from: u32, count: u32, around: &mut Around) {
    if record.summaries.is_some() {
        let gaps = record.gaps_behind_summaries().filter(|(at, _)| *at >= from);
        gaps.for_each(|(_, missing)| around.tell(missing));
        return;
    }
    let mut missing = Vec::new();
    if from < count {
        record.tell_missing(from, count, &mut missing);
    }
    if !matches!(record.state, State::Quarantined | State::Evicted) {
        // What the record does not know of is there to be read.
        let known = |missing: &Missing| {
            record.missing.iter().any(|known| known.first <= missing.first && missing.last <= known.last)
        };
        missing.retain(known);
    }
    let numbers = u64::from(count.saturating_sub(from));
    around.queued += numbers.saturating_sub(missing.iter().map(Missing::count).sum());
    missing.iter().for_each(|missing| around.tell(missing));
}
