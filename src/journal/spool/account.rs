//! What the manifest knows of the numbers around an uplink's cursor.

use std::collections::BTreeMap;

use super::Spool;
use crate::journal::manifest::{Record, State, told_by_gaps};
use crate::journal::proof::{Facts, Given};
use crate::journal::tally::Around;
use crate::journal::types::{GapCause, Seq};

impl Spool {
    /// What the manifest says of every generation; the uplinks' places are not its business.
    pub fn facts(&self, watermark: Seq) -> Facts {
        let state = self.state();
        let manifest = &state.manifest;
        let given = |(&generation, record): (&u32, &Record)| Given {
            generation,
            state: record.state,
            readings: given(generation, record, watermark),
            thinned: record.summaries.is_some(),
            missing: record.missing.clone(),
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
            let passed = match number.cmp(&cursor.generation()) {
                std::cmp::Ordering::Less => count,
                std::cmp::Ordering::Equal if record.summaries.is_some() => {
                    told_by_gaps(&record.missing, count, cursor.n())
                }
                std::cmp::Ordering::Equal => count.min(cursor.n()),
                std::cmp::Ordering::Greater => 0,
            };
            around.behind += u64::from(passed);
            ahead(record, passed, count, &mut around);
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

/// Adds the numbers `from` to `count` - 1 of one generation.
fn ahead(record: &Record, from: u32, count: u32, around: &mut Around) {
    let mut rest = u64::from(count.saturating_sub(from));
    for missing in &record.missing {
        let (first, last) = (missing.first.max(from), missing.last.min(count.saturating_sub(1)));
        if count == 0 || first > last {
            continue;
        }
        let numbers = u64::from(last - first) + 1;
        rest = rest.saturating_sub(numbers);
        add(&mut around.missing, missing.cause, numbers);
        // Of a part it is not known how many each device gave.
        if (first, last) == (missing.first, missing.last) {
            for (device, count) in &missing.devices {
                add(around.devices.entry(device.clone()).or_default(), missing.cause, *count);
            }
        }
    }
    match record.state {
        // Nothing is there to be read: what no cause is known for is lost.
        State::Quarantined | State::Evicted => add(&mut around.missing, GapCause::Lost, rest),
        _ => around.queued += rest,
    }
}

fn add(sums: &mut BTreeMap<GapCause, u64>, cause: GapCause, count: u64) {
    if count > 0 {
        *sums.entry(cause).or_default() += count;
    }
}
