//! Thinning, as the spool does it: which generation is next, putting its summaries in its place, reading them.
//!
//! Only a sealed generation may be thinned that every uplink is wholly before or wholly past. An uplink is inside one as
//! soon as it has taken something of it, if only into its memory ([`Cursors::may_replace`]); that is asked before the work
//! and again in the moment of the swap, when nobody can begin to read. So no uplink ever sees readings and summaries of
//! the same numbers.
//!
//! In the order of positions a thinned generation is: its summaries from 0 on, its gaps at the last numbers, its end.

use std::collections::BTreeSet;
use std::io;
use std::sync::PoisonError;

use super::read::{gap, page};
use super::repair::is_damage;
use super::{READ_BLOCKS, Spool, Verified, remove_dir};
use crate::journal::block::{self, BlockError};
use crate::journal::cursor::Cursors;
use crate::journal::generation::GenerationError;
use crate::journal::manifest::{Missing, Record, Sealed, State, Summaries};
use crate::journal::thin::{self, LEAST_DATABASE, Level, Source, ThinError, Thinned, pays};
use crate::journal::types::{Entry, GapCause, Page, ReadError, Seq, unnamed};

/// Added to the daemon's own: what comes in goes before what is cleared away.
const NICENESS: i32 = 10;

/// What [`Spool::thin_one`] has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thinning {
    /// One generation is smaller now.
    Done(ThinnedGeneration),
    /// One generation was looked at and is not worth it (or an uplink came to it meanwhile); another may be.
    Spared { generation: u32 },
    /// Nothing more can be won by thinning.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinnedGeneration {
    pub generation: u32,
    pub level: Level,
    /// Readings that were replaced just now: 0 when they had given way to summaries before.
    pub readings: u64,
    pub summaries: u32,
    /// Real bytes on disk before and after.
    pub before: u64,
    pub after: u64,
}

/// What this run has found not worth thinning.
#[derive(Default)]
pub(super) struct Spared(BTreeSet<(u32, Level)>);

impl Spool {
    /// Thins one generation: the oldest one with readings to 10 s, or the oldest one at all to 1 min when there is no
    /// such. Blocking, for seconds; the work is done on a nicer thread. `go_on` is asked now and then.
    ///
    /// # Errors
    /// When the generation cannot be read, or its summaries cannot be written. It is as it was then.
    pub fn thin_one(
        &self,
        cursors: &Cursors,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Thinning, ThinError> {
        // One at a time.
        let mut spared = self.spared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((number, record, level)) = self.next_to_thin(cursors, &spared) else {
            return Ok(Thinning::Nothing);
        };
        let failed =
            |error: &dyn std::fmt::Display| ThinError::Write { generation: number, cause: error.to_string() };
        let thinned = std::thread::scope(|scope| {
            let work = || {
                // On Linux niceness belongs to the thread. Without it the work is done all the same.
                let _ = rustix::process::nice(NICENESS);
                self.thin(number, &record, level, cursors, go_on)
            };
            let thread = std::thread::Builder::new().name("journal-thin".into());
            thread.spawn_scoped(scope, work).map(std::thread::ScopedJoinHandle::join)
        });
        let result = match thinned {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(failed(&"the thread has panicked")),
            Err(error) => Err(failed(&error)),
        };
        match result {
            Ok(Some(thinned)) => {
                let readings = if record.summaries.is_none() { thinned.readings } else { 0 };
                Ok(Thinning::Done(ThinnedGeneration {
                    generation: number,
                    level,
                    readings,
                    summaries: thinned.summaries.count,
                    before: thinned.before,
                    after: thinned.after,
                }))
            }
            Ok(None) => {
                if go_on() && cursors.may_replace(number) {
                    spared.0.insert((number, level));
                }
                Ok(Thinning::Spared { generation: number })
            }
            Err(error) => {
                // What cannot be read today is not asked for again in this run; what cannot be written may be tomorrow.
                if !matches!(error, ThinError::Write { .. }) {
                    spared.0.insert((number, Level::TenSeconds));
                    spared.0.insert((number, Level::Minute));
                }
                Err(error)
            }
        }
    }

    /// The generation whose turn it is.
    fn next_to_thin(&self, cursors: &Cursors, spared: &Spared) -> Option<(u32, Record, Level)> {
        let state = self.state();
        let sealed = || {
            state.manifest.generations.iter().filter(|(number, record)| {
                // Of unknown size: it is tried.
                let may_pay = record.bytes == 0 || pays(record.bytes, LEAST_DATABASE);
                record.state == State::Sealed && may_pay && cursors.may_replace(**number)
            })
        };
        let whole = |record: &Record| record.summaries.is_none() && record.count > 0;
        let tens = sealed()
            .find(|(number, record)| whole(record) && !spared.0.contains(&(**number, Level::TenSeconds)))
            .map(|found| (found, Level::TenSeconds));
        let minute = Level::Minute.window_s();
        let coarser = || {
            let mut sealed = sealed().filter(|(number, record)| {
                let finer =
                    record.summaries.map_or(record.count > 0, |summaries| summaries.window_s < minute);
                finer && !spared.0.contains(&(**number, Level::Minute))
            });
            sealed.next().map(|found| (found, Level::Minute))
        };
        tens.or_else(coarser).map(|((&number, record), level)| (number, record.clone(), level))
    }

    /// Makes the summaries and puts them in the readings' place. `None`: not done, and nothing has changed.
    fn thin(
        &self,
        number: u32,
        record: &Record,
        level: Level,
        cursors: &Cursors,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Thinned>, ThinError> {
        let write = |error: io::Error| ThinError::Write { generation: number, cause: error.to_string() };
        let (revision, dir) = self.next_revision(number).map_err(write)?;
        let old_dir = self.generation_dir(number, record.revision);
        let result = self.make_summaries(number, record, level, &dir, &old_dir, go_on);
        let swapped = match &result {
            Ok(Some(thinned)) => {
                let may = || cursors.may_replace(number);
                self.swap_if(may, number, revision, |record| {
                    record.summaries = Some(thinned.summaries);
                    record.missing.clone_from(&thinned.missing);
                    record.bytes = thinned.after;
                    let withheld = record.sealed.is_some_and(|sealed| sealed.withheld);
                    record.sealed = thinned.key.map(|key| Sealed { key, withheld });
                })
            }
            _ => Ok(false),
        };
        if !matches!(swapped, Ok(true)) {
            // What stays behind is removed by the next attempt, or the next start.
            let _ = remove_dir(&dir);
        }
        if swapped.map_err(write)? { result } else { result.map(|_| None) }
    }

    fn make_summaries(
        &self,
        number: u32,
        record: &Record,
        level: Level,
        dir: &std::path::Path,
        old_dir: &std::path::Path,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Thinned>, ThinError> {
        let keys = self.keyring.keys();
        let tail = self
            .tail(number)
            .map_err(|error| ThinError::Read { generation: number, cause: error.to_string() })?;
        let names = |device| tail.name(device, &keys).ok().flatten();
        let unnamed = |device| unnamed(number, device);
        let source =
            Source { generation: &tail.generation, record, names: &names, unnamed: &unnamed, keys: &keys };
        let result = thin::thin(&source, level, &*self.disk, dir, old_dir, go_on);
        drop(tail);
        self.let_go(number);
        result
    }

    /// The record of a generation that was thinned.
    pub(super) fn thinned_record(&self, number: u32) -> Option<(Record, Summaries)> {
        let state = self.state();
        let record = state.manifest.generations.get(&number)?;
        Some((record.clone(), record.summaries?))
    }

    /// Checks every value of a thinned generation: `readings` are those that its summaries speak of, `missing` are the
    /// others that were thinned.
    pub(super) fn verify_summaries(
        &self,
        number: u32,
        record: &Record,
        known: Summaries,
    ) -> Result<Verified, ReadError> {
        let failed =
            |error: GenerationError| ReadError::Read { generation: number, cause: error.to_string() };
        let tail = self.tail(number)?;
        let keys = self.keyring.keys();
        let mut verified = Verified { generation: number, ..Verified::default() };
        let mut k = 0;
        while k < known.count {
            let before = k;
            for stored in tail.generation.blocks(k, READ_BLOCKS).map_err(failed)? {
                if stored.first_n < k {
                    continue;
                }
                verified.blocks += 1;
                verified.bytes += stored.value.len() as u64;
                let mut summaries = Vec::new();
                match block::decode_summaries(&stored.value, &keys, &mut summaries) {
                    Ok(header) => {
                        verified.readings +=
                            summaries.iter().map(|summary| u64::from(summary.n)).sum::<u64>();
                        k = stored.first_n.saturating_add(header.count);
                    }
                    Err(BlockError::Sealed(_)) => {
                        // One key seals them all.
                        verified.sealed = record.thinned();
                        return Ok(verified);
                    }
                    Err(error) => {
                        verified.damaged.push((stored.first_n, error));
                        k = stored.first_n.saturating_add(1);
                    }
                }
            }
            if k == before {
                break;
            }
        }
        verified.missing = record.thinned().saturating_sub(verified.readings);
        Ok(verified)
    }

    /// Entries of a thinned generation from position `from` on, at most about `max`.
    pub(super) fn read_summaries(
        &self,
        number: u32,
        record: &Record,
        known: Summaries,
        from: Seq,
        max: usize,
    ) -> Result<Page, ReadError> {
        let failed = |error: GenerationError| match is_damage(&error) {
            true => self.condemn(number, &error.to_string()),
            false => ReadError::Read { generation: number, cause: error.to_string() },
        };
        let mut page = page(record, Vec::new(), from);
        let keys = self.keyring.keys();
        // Found damaged again and again: then it is read as far as it can be.
        let strict = self.may_condemn(number);
        // Whether something was sound and could not be understood: there is nothing to salvage then.
        let mut foreign = false;
        let mut cause = None;
        let mut k = from.n();
        while k < known.count && page.entries.len() < max {
            let tail = self.tail(number)?;
            let before = k;
            for stored in tail.generation.blocks(k, READ_BLOCKS).map_err(failed)? {
                if k >= known.count || page.entries.len() >= max {
                    break;
                }
                let mut summaries = Vec::new();
                let decoded = block::decode_summaries(&stored.value, &keys, &mut summaries);
                if stored.first_n > k && strict && !foreign && !known.sparse && decoded.is_ok() {
                    return Err(self.condemn(number, &format!("the summaries from {k} on are not there")));
                }
                match decoded {
                    Ok(_) => {}
                    Err(BlockError::Sealed(_)) => {
                        // One key seals them all: the readings are withheld until it is back.
                        cause = Some(GapCause::Withheld);
                        k = known.count;
                        break;
                    }
                    Err(BlockError::Checksum | BlockError::Malformed) if strict => {
                        let cause = format!("the summaries at {} are damaged", stored.first_n);
                        return Err(self.condemn(number, &cause));
                    }
                    Err(error) => {
                        tracing::error!(generation = number, n = stored.first_n, %error, "summaries cannot be read");
                        foreign = true;
                        continue;
                    }
                }
                let skip = k.saturating_sub(stored.first_n) as usize;
                for (at, summary) in (stored.first_n..known.count).zip(summaries).skip(skip) {
                    let device = tail.name(summary.device.0, &keys).map_err(failed)?;
                    let device = device.unwrap_or_else(|| unnamed(number, summary.device.0));
                    page.entries.push(Entry::Summary { at: Seq::new(number, at), device, summary });
                    k = at + 1;
                }
            }
            if k == before {
                if strict && !foreign {
                    return Err(self.condemn(number, &format!("the summaries from {k} on are not there")));
                }
                // Their readings are told of as thinned all the same.
                tracing::error!(generation = number, from = k, of = known.count, "summaries are missing");
                k = known.count;
            }
        }
        if k >= known.count {
            for (at, missing) in record.gaps_behind_summaries().filter(|(at, _)| *at >= k) {
                let cause = cause.filter(|_| missing.cause == GapCause::Thinned).unwrap_or(missing.cause);
                page.entries.push(gap(number, at, &Missing { cause, ..missing.clone() }));
            }
            k = record.count;
        }
        page.next = Seq::new(number, k);
        Ok(page)
    }
}
