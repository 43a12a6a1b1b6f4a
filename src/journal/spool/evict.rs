//! Dropping a whole generation at the quota.
//!
//! The record stays in the manifest as `evicted`, with the exact count of every device between the places of the uplinks,
//! until each of them has been told. It is written before the database goes: a crash between the two leaves a directory
//! that the next start removes. Names are kept for [`MOST_NAMES`] counts over all generations; in an outage of months the
//! oldest lose theirs first, their ranges and their number of readings never.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::{READ_BLOCKS, Spool};
use crate::journal::block;
use crate::journal::cursor::UplinkCursor;
use crate::journal::generation::GenerationError;
use crate::journal::manifest::{Manifest, Missing, Record, State};
use crate::journal::types::{GapCause, ReadError, Seq, unnamed};

/// Counts with a name that the manifest may hold: some 3 MB.
const MOST_NAMES: usize = 100_000;
/// Times that an eviction is tried anew because an uplink has moved on meanwhile.
const ATTEMPTS: usize = 3;

/// What was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    pub generation: u32,
    /// Readings that some uplink had not got.
    pub readings: u64,
    /// Bytes on disk, as the manifest knew them.
    pub bytes: u64,
    pub cause: GapCause,
}

/// Readings of each device.
type Counts = BTreeMap<String, u64>;

impl Spool {
    /// Sealed generations, oldest first.
    pub fn sealed(&self) -> Vec<u32> {
        let state = self.state();
        let sealed = state.manifest.generations.iter().filter(|(_, record)| record.state == State::Sealed);
        sealed.map(|(&number, _)| number).collect()
    }

    /// Drops a sealed generation. `None`: a batch under way has some of it, or it is not there any more.
    ///
    /// # Errors
    /// When the manifest cannot be written; nothing has changed then.
    pub fn evict(
        &self,
        number: u32,
        cause: GapCause,
        cursors: &[UplinkCursor],
    ) -> io::Result<Option<Evicted>> {
        for _ in 0..ATTEMPTS {
            let Some(record) = self.sealed_record(number) else { return Ok(None) };
            let wanted = wanted(number, &record, cursors);
            if record.summaries.is_some() && wanted.iter().any(|&n| n > 0) {
                // In a thinned generation an uplink counts summaries: they do not say which readings it was told of.
                return Ok(None);
            }
            let edges = edges(&record, &wanted);
            let counts = self.counts(number, &edges);
            let mut state = self.state();
            // Counted without the lock, which readers need: the uplinks may have moved meanwhile.
            if state.manifest.generations.get(&number) != Some(&record)
                || self::wanted(number, &record, cursors) != wanted
            {
                continue;
            }
            if !cursors.iter().all(|cursor| cursor.claim(number)) {
                return Ok(None);
            }
            let dir = self.dir_of(&state, number);
            let mut manifest = state.manifest.clone();
            let missing = missing(&record, cause, &edges, counts);
            let readings = match wanted.first() {
                Some(&from) => undelivered(&missing, from, cause),
                None if cursors.is_empty() => u64::from(record.count),
                None => 0,
            };
            if let Some(record) = manifest.generations.get_mut(&number) {
                record.state = State::Evicted;
                record.missing = missing;
                record.summaries = None;
                record.sealed = None;
                record.bytes = 0;
            }
            forget_names(&mut manifest);
            manifest.store(&*self.disk, &self.dir)?;
            state.manifest = manifest;
            self.retire(state, number, dir);
            return Ok(Some(Evicted { generation: number, readings, bytes: record.bytes, cause }));
        }
        Ok(None)
    }

    fn sealed_record(&self, number: u32) -> Option<Record> {
        let state = self.state();
        state.manifest.generations.get(&number).filter(|record| record.state == State::Sealed).cloned()
    }

    /// Readings per device between each two of the `edges`; nothing when the generation cannot be read.
    fn counts(&self, number: u32, edges: &BTreeSet<u32>) -> Vec<Counts> {
        match self.count(number, edges) {
            Ok(counts) => counts,
            Err(error) => {
                tracing::warn!(generation = number, %error, "dropped without a count of its devices");
                Vec::new()
            }
        }
    }

    fn count(&self, number: u32, edges: &BTreeSet<u32>) -> Result<Vec<Counts>, ReadError> {
        let failed =
            |error: GenerationError| ReadError::Read { generation: number, cause: error.to_string() };
        let tail = self.tail(number)?;
        let starts: Vec<u32> = edges.iter().copied().collect();
        let mut found: Vec<HashMap<u32, u64>> = vec![HashMap::new(); starts.len().saturating_sub(1)];
        let keys = self.keyring().keys();
        let mut readings = Vec::new();
        let mut n = 0;
        loop {
            let before = n;
            for stored in tail.generation.blocks(n, READ_BLOCKS).map_err(failed)? {
                readings.clear();
                // What cannot be read is in the range and in nobody's count.
                if stored.first_n < n || block::decode(&stored.value, &keys, &mut readings).is_err() {
                    n = n.max(stored.first_n.saturating_add(1));
                    continue;
                }
                n = stored.first_n;
                for reading in &readings {
                    let segment = starts.partition_point(|&start| start <= n).wrapping_sub(1);
                    if let Some(counts) = found.get_mut(segment) {
                        *counts.entry(reading.device.0).or_default() += 1;
                    }
                    n = n.saturating_add(1);
                }
            }
            if n == before {
                break;
            }
        }
        let name = |device: u32| {
            let known = tail.name(device, &keys).ok().flatten();
            known.unwrap_or_else(|| unnamed(number, device)).to_string()
        };
        let counts = found.into_iter().map(|counts| {
            let mut named = Counts::new();
            for (device, count) in counts {
                *named.entry(name(device)).or_default() += count;
            }
            named
        });
        let counts = counts.collect();
        self.let_go(number);
        Ok(counts)
    }
}

/// Where the uplinks that still need some of a generation go on in it, sorted.
fn wanted(number: u32, record: &Record, cursors: &[UplinkCursor]) -> Vec<u32> {
    let places = cursors.iter().map(UplinkCursor::cursor);
    let mut wanted: Vec<u32> = places
        .filter(|cursor| *cursor < Seq::new(number, record.count))
        .map(|cursor| if cursor.generation() == number { cursor.n() } else { 0 })
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// Numbers at which a gap begins or ends, so that each uplink's are whole gaps.
fn edges(record: &Record, wanted: &[u32]) -> BTreeSet<u32> {
    let lost = record.missing.iter().filter(|missing| missing.cause == GapCause::Lost);
    let mut edges: BTreeSet<u32> =
        lost.flat_map(|missing| [missing.first, missing.last.saturating_add(1)]).collect();
    edges.extend(wanted);
    edges.extend([0, record.count]);
    edges
}

/// What is missing once the generation is dropped.
fn missing(record: &Record, cause: GapCause, edges: &BTreeSet<u32>, counts: Vec<Counts>) -> Vec<Missing> {
    let mut counts = counts.into_iter();
    let pairs = edges.iter().zip(edges.iter().skip(1));
    let parts = pairs.filter(|(first, _)| **first < record.count).map(|(&first, &end)| {
        let mut devices = counts.next().unwrap_or_default();
        let last = end - 1;
        let mut cause = cause;
        for known in record.missing.iter().filter(|known| known.first <= last && known.last >= first) {
            let whole = known.first >= first && known.last <= last;
            match known.cause {
                GapCause::Lost => cause = GapCause::Lost,
                // Readings whose summaries go as well.
                _ if whole => {
                    for (name, count) in &known.devices {
                        *devices.entry(name.clone()).or_default() += count;
                    }
                }
                // Of a part it is not known how many each device gave.
                _ => devices.clear(),
            }
        }
        Missing { first, last, cause, devices }
    });
    parts.collect()
}

/// Readings from `from` on that are missing for `cause`.
fn undelivered(missing: &[Missing], from: u32, cause: GapCause) -> u64 {
    missing.iter().filter(|part| part.cause == cause && part.first >= from).map(Missing::count).sum()
}

/// Keeps the number of names in bounds.
fn forget_names(manifest: &mut Manifest) {
    let mut names: usize = manifest.generations.values().map(names_of).sum();
    for record in manifest.generations.values_mut().filter(|record| record.state == State::Evicted) {
        if names <= MOST_NAMES {
            return;
        }
        names -= names_of(record);
        record.missing.iter_mut().for_each(|missing| missing.devices.clear());
    }
}

fn names_of(record: &Record) -> usize {
    record.missing.iter().map(|missing| missing.devices.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(count: u32, missing: Vec<Missing>) -> Record {
        Record {
            state: State::Sealed,
            spool: "s".into(),
            boot: String::new(),
            created_ms: 0,
            count,
            missing,
            summaries: None,
            damage: None,
            revision: 0,
            sealed: None,
            bytes: 0,
        }
    }

    fn part(first: u32, last: u32, cause: GapCause, devices: &[(&str, u64)]) -> Missing {
        let devices = devices.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Missing { first, last, cause, devices }
    }

    #[test]
    fn gaps_are_cut_where_uplinks_stand_and_what_was_lost_before_stays_lost() {
        let record = record(100, vec![part(40, 49, GapCause::Lost, &[])]);
        let edges = edges(&record, &[10, 60]);
        assert_eq!(edges, BTreeSet::from([0, 10, 40, 50, 60, 100]));
        let counts = [10, 30, 0, 10, 40]
            .map(|count| if count == 0 { Counts::new() } else { Counts::from([("a".to_owned(), count)]) });
        let missing = missing(&record, GapCause::Evicted, &edges, counts.into());
        let evicted = |first, last, count| part(first, last, GapCause::Evicted, &[("a", count)]);
        let expected = vec![
            evicted(0, 9, 10),
            evicted(10, 39, 30),
            part(40, 49, GapCause::Lost, &[]),
            evicted(50, 59, 10),
            evicted(60, 99, 40),
        ];
        assert_eq!(missing, expected);
        assert_eq!(undelivered(&missing, 10, GapCause::Evicted), 80);
    }

    #[test]
    fn what_was_thinned_before_is_dropped_with_its_counts() {
        let record = record(50, vec![part(0, 49, GapCause::Thinned, &[("a", 20), ("b", 30)])]);
        let whole = missing(&record, GapCause::Evicted, &edges(&record, &[0]), vec![Counts::new()]);
        assert_eq!(whole, vec![part(0, 49, GapCause::Evicted, &[("a", 20), ("b", 30)])]);
        let cut = missing(&record, GapCause::Evicted, &edges(&record, &[5]), Vec::new());
        assert_eq!(
            cut,
            vec![part(0, 4, GapCause::Evicted, &[]), part(5, 49, GapCause::Evicted, &[])],
            "of a part it is not known"
        );
    }

    #[test]
    fn names_are_bounded_and_the_oldest_go_first() {
        let mut manifest = Manifest::default();
        let names: Vec<String> = (0..MOST_NAMES / 2).map(|n| format!("device-{n}")).collect();
        let devices: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        for number in 1..=3 {
            let missing = vec![part(0, 9, GapCause::Evicted, &devices)];
            manifest.generations.insert(number, Record { state: State::Evicted, ..record(10, missing) });
        }
        forget_names(&mut manifest);
        let left: Vec<usize> = manifest.generations.values().map(names_of).collect();
        assert_eq!(left, [0, MOST_NAMES / 2, MOST_NAMES / 2]);
        assert!(manifest.generations.values().all(|record| record.missing[0].count() == 10));
    }
}
