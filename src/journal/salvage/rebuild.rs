//! A new database from what was salvaged, and the exact account of what it lacks.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::values::{Reader, Value};
use crate::journal::block::Kind;
use crate::journal::disk::Disk;
use crate::journal::generation::{Generation, GenerationError};
use crate::journal::manifest::{Missing, Record, Summaries};

/// Values put into sled under one flush.
const TOGETHER: usize = 256;

/// What lies in a file of salvaged values.
#[derive(Debug, Default)]
pub struct Survey {
    /// First number to the number behind the last one; no two overlap.
    numbers: BTreeMap<u32, u32>,
    /// The same for summaries.
    positions: BTreeMap<u32, u32>,
    /// What the generation said of itself, if that was found: the value as it was stored.
    pub about: Option<Vec<u8>>,
    /// Values that are worth a database: all but names and what the generation said of itself.
    pub values: usize,
}

impl Survey {
    /// Reads the file through. Numbers at or above `limit` were never given: a commit that failed left them.
    ///
    /// # Errors
    /// When the file cannot be read at all.
    pub fn of(values: &Path, generation: u32, limit: Option<u32>) -> io::Result<Self> {
        let mut survey = Self::default();
        for value in Reader::open(values, generation)? {
            if !wanted(&value, limit) {
                continue;
            }
            match value.header.kind {
                Kind::Summaries => {
                    survey.values += 1;
                    let after = value.header.first_n.saturating_add(value.header.count);
                    survey.positions.insert(value.header.first_n, after);
                }
                Kind::Readings => {
                    survey.values += 1;
                    let after = value.header.first_n.saturating_add(value.header.count);
                    survey
                        .numbers
                        .insert(value.header.first_n, limit.map_or(after, |limit| after.min(limit)));
                }
                Kind::Generation => {
                    survey.about = Some(value.bytes);
                }
                Kind::Name => {}
            }
        }
        Ok(survey)
    }

    /// The number behind the last one found.
    pub fn end(&self) -> u32 {
        self.numbers.values().copied().max().unwrap_or(0)
    }

    /// Readings and summaries found.
    pub fn found(&self) -> u64 {
        let found = self.numbers.iter().chain(&self.positions);
        found.map(|(first, after)| u64::from(after.saturating_sub(*first))).sum()
    }

    /// What is left of a thinned generation's summaries.
    pub fn left_of(&self, known: Summaries) -> Summaries {
        let count = self.positions.values().copied().max().unwrap_or(0).min(known.count);
        let there: u64 = self.positions.iter().map(|(first, after)| u64::from(after - first)).sum();
        Summaries { count, sparse: known.sparse || there < u64::from(count), ..known }
    }

    /// What of the record's numbers, being `count` in all, is not there: lost, unless its cause is known already.
    pub fn missing(&self, count: u32, record: &Record) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut reached = 0;
        for (&first, &after) in &self.numbers {
            if reached < first.min(count) {
                record.tell_missing(reached, first.min(count), &mut missing);
            }
            reached = reached.max(after);
        }
        if reached < count {
            record.tell_missing(reached, count, &mut missing);
        }
        missing
    }
}

pub(super) fn wanted(value: &Value, limit: Option<u32>) -> bool {
    let numbered = matches!(value.header.kind, Kind::Readings | Kind::Summaries);
    let never_given = limit.is_some_and(|limit| value.header.first_n >= limit);
    !numbered || (value.header.count > 0 && !never_given)
}

/// Makes the database; `about` is what it says of itself unless its own word was salvaged. It is on disk with its directory when this returns. Its real size is handed back.
///
/// # Errors
/// When the disk or sled refuses.
pub fn build(
    disk: &dyn Disk,
    dir: &Path,
    generation: u32,
    about: &[u8],
    values: &Path,
    limit: Option<u32>,
) -> Result<u64, GenerationError> {
    let database = Generation::create(disk, dir, generation, about, None)?;
    let mut group = Vec::with_capacity(TOGETHER);
    for value in Reader::open(values, generation)?.filter(|value| wanted(value, limit)) {
        group.push((value.key, value.bytes));
        if group.len() == TOGETHER {
            database.commit(disk, &group)?;
            group.clear();
        }
    }
    database.commit(disk, &group)?;
    Ok(database.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::manifest::State;
    use crate::journal::types::GapCause;

    fn missing(numbers: &[(u32, u32)], count: u32, known: &[Missing]) -> Vec<Missing> {
        let record = Record {
            state: State::Quarantined,
            spool: String::new(),
            boot: String::new(),
            created_ms: 0,
            count,
            missing: known.to_vec(),
            damage: None,
            sealed: None,
            summaries: None,
            revision: 0,
            bytes: 0,
        };
        Survey { numbers: numbers.iter().copied().collect(), ..Survey::default() }.missing(count, &record)
    }

    fn ranges(missing: &[Missing]) -> Vec<(u32, u32, GapCause)> {
        missing.iter().map(|missing| (missing.first, missing.last, missing.cause)).collect()
    }

    #[test]
    fn what_is_missing_is_told_exactly() {
        use GapCause::{Lost, Withheld};
        assert_eq!(ranges(&missing(&[(0, 10)], 10, &[])), []);
        assert_eq!(ranges(&missing(&[], 10, &[])), [(0, 9, Lost)]);
        assert_eq!(ranges(&missing(&[], 0, &[])), []);
        let holes = missing(&[(2, 4), (7, 9)], 12, &[]);
        assert_eq!(ranges(&holes), [(0, 1, Lost), (4, 6, Lost), (9, 11, Lost)]);
        assert_eq!(ranges(&missing(&[(0, 10)], 8, &[])), []);
        assert_eq!(ranges(&missing(&[(9, 12)], 8, &[])), [(0, 7, Lost)]);

        let devices = BTreeMap::from([("bike".to_owned(), 6)]);
        let known = [Missing { first: 4, last: 9, cause: Withheld, devices: devices.clone() }];
        let whole = missing(&[(0, 2)], 12, &known);
        assert_eq!(ranges(&whole), [(2, 3, Lost), (4, 9, Withheld), (10, 11, Lost)]);
        assert_eq!(whole[1].devices, devices);
        let part = missing(&[(0, 6)], 12, &known);
        assert_eq!(ranges(&part), [(6, 9, Withheld), (10, 11, Lost)]);
        assert!(part[0].devices.is_empty());
    }
}
