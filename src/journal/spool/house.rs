//! Housekeeping: what is kept, what may go, and whether it is whole.

use std::io;
use std::time::{Duration, Instant};

use super::read::is_at;
use super::{READ_BLOCKS, Spool, remove_dir, update};
use crate::journal::block::{self, BlockError};
use crate::journal::generation::GenerationError;
use crate::journal::manifest::{Sealed, State};
use crate::journal::types::{ReadError, Seq};

/// An open database that is not read from for this long is closed.
const IDLE: Duration = Duration::from_secs(5);

/// One generation, for `journal inspect`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct GenerationStatus {
    pub generation: u32,
    pub state: State,
    pub spool: String,
    pub boot: String,
    pub created_ms: i64,
    pub readings: u32,
    pub lost: u64,
    /// Readings that gave way to summaries.
    pub thinned: u64,
    /// Length of these summaries' windows, s; left out where readings are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u16>,
    pub bytes: u64,
    /// The key it is sealed with, and whether it is kept for want of that key.
    #[serde(flatten)]
    pub sealed: Option<Sealed>,
}

/// The result of checking one generation.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    pub generation: u32,
    pub blocks: u64,
    pub readings: u64,
    /// Bytes of the values, headers included.
    pub bytes: u64,
    pub missing: u64,
    /// Ranges of numbers that can be read, both ends included.
    pub found: Vec<(u32, u32)>,
    /// Readings in values that are whole, and sealed with a key that is not at hand.
    pub sealed: u64,
    pub damaged: Vec<(u32, BlockError)>,
}

impl Verified {
    /// The numbers from `first` to before `end` were read.
    fn found(&mut self, first: u32, end: u32) {
        if end <= first {
            return;
        }
        match self.found.last_mut() {
            Some((_, last)) if last.saturating_add(1) == first => *last = end - 1,
            _ => self.found.push((first, end - 1)),
        }
    }
}

impl Spool {
    /// First number that is kept, or of which somebody has yet to be told that it is gone: an uplink whose place was
    /// lost without a trace looks like a new one, and must not miss that.
    pub fn oldest(&self) -> Option<Seq> {
        self.state().manifest.generations.keys().next().map(|&number| Seq::new(number, 0))
    }

    /// The head's number and its bytes on disk.
    pub fn head_bytes(&self) -> Option<(u32, u64)> {
        self.state().head.as_ref().map(|head| (head.number(), head.bytes()))
    }

    /// Readings at or after `cursor` and before `watermark`; what was thinned is none any more.
    pub fn backlog(&self, cursor: Seq, watermark: Seq) -> u64 {
        let state = self.state();
        let records = state.manifest.generations.range(cursor.generation()..);
        let counts = records.map(|(&number, record)| {
            let count = if record.summaries.is_some() {
                0
            } else if record.state == State::Open && number == watermark.generation() {
                watermark.n()
            } else {
                record.count
            };
            let from = if number == cursor.generation() { cursor.n() } else { 0 };
            let missing = record.missing.iter().filter(|missing| missing.last >= from);
            let missing: u64 =
                missing.map(|missing| u64::from(missing.last - missing.first.max(from)) + 1).sum();
            u64::from(count.saturating_sub(from)).saturating_sub(missing)
        });
        counts.sum()
    }

    /// Removes generations that every uplink has passed, once they are older than the time in which a re-sent reading
    /// must still be recognised; `keep` of the newest stay that long, the others go at once.
    ///
    /// # Errors
    /// When the manifest or a directory cannot be changed; tried again the next time.
    pub fn remove_delivered(&self, lowest: Seq, patience: Duration, keep: usize) -> io::Result<usize> {
        let mut state = self.state();
        state.replaced.retain(|replaced| !replaced.removed());
        let delivered: Vec<u32> = {
            let records = state.manifest.generations.range(..lowest.generation());
            records
                .filter(|(_, r)| !matches!(r.state, State::Creating | State::Open))
                // Passed is not delivered: what was withheld is kept, for the key may come back.
                .filter(|(_, r)| r.sealed.is_none_or(|sealed| !sealed.withheld))
                .map(|(&n, _)| n)
                .collect()
        };
        let now = Instant::now();
        for &number in &delivered {
            state.delivered.entry(number).or_insert(now);
        }
        let newest = delivered.len().saturating_sub(keep);
        let due: Vec<u32> = delivered
            .iter()
            .enumerate()
            .filter(|(index, number)| {
                let since = state.delivered.get(number).copied().unwrap_or(now);
                *index < newest || now.duration_since(since) >= patience
            })
            .map(|(_, &number)| number)
            .collect();
        if due.is_empty() {
            return Ok(0);
        }
        for &number in &due {
            update(&mut state.manifest, number, |record| record.state = State::Dead);
            state.tails.retain(|tail| tail.generation.number() != number);
        }
        state.manifest.store(&*self.disk, &self.dir)?;
        for &number in &due {
            if state.handles.get(&number).is_some_and(|handle| handle.strong_count() > 0) {
                continue;
            }
            remove_dir(&self.dir_of(&state, number))?;
            state.manifest.forget(number);
            state.delivered.remove(&number);
            state.handles.remove(&number);
        }
        state.manifest.store(&*self.disk, &self.dir)?;
        Ok(due.len())
    }

    /// Closes databases that nobody has read from for a while: each takes some 6 MB of memory.
    pub fn close_idle(&self) {
        let (idle, used) = {
            let mut state = self.state();
            let tails = std::mem::take(&mut state.tails);
            tails.into_iter().partition::<Vec<_>, _>(|tail| tail.idle() >= IDLE)
        };
        self.state().tails.extend(used);
        // sled may write and sync when it is closed: not under the lock.
        drop(idle);
    }

    pub fn status(&self, watermark: Seq) -> Vec<GenerationStatus> {
        let state = self.state();
        let head_bytes = state.head.as_ref().map_or(0, |head| head.bytes());
        let records = state.manifest.generations.iter();
        let status = records.map(|(&generation, record)| {
            let open = record.state == State::Open;
            GenerationStatus {
                generation,
                state: record.state,
                spool: record.spool.clone(),
                boot: record.boot.clone(),
                created_ms: record.created_ms,
                readings: if open && watermark.generation() == generation {
                    watermark.n()
                } else {
                    record.count
                },
                lost: record.lost(),
                thinned: record.thinned(),
                window_s: record.summaries.map(|summaries| summaries.window_s),
                bytes: if open { head_bytes } else { record.bytes },
                sealed: record.sealed,
            }
        });
        status.collect()
    }

    /// Files in any open generation's `blobs/`: always 0, or durability is gone.
    pub fn blobs(&self) -> usize {
        let state = self.state();
        let head = state.head.iter().map(|head| head.blobs());
        head.chain(state.tails.iter().map(|tail| tail.generation.blobs())).sum()
    }

    /// Checks every value of every generation.
    ///
    /// # Errors
    /// When a generation cannot be opened or read at all.
    pub fn verify(&self, number: u32, limit: u32) -> Result<Verified, ReadError> {
        if let Some((record, summaries)) = self.thinned_record(number) {
            return self.verify_summaries(number, &record, summaries);
        }
        let failed =
            |error: GenerationError| ReadError::Read { generation: number, cause: error.to_string() };
        let tail = self.tail(number)?;
        let mut verified = Verified { generation: number, ..Verified::default() };
        let keys = self.keyring.keys();
        let mut n = 0;
        loop {
            let blocks = tail.generation.blocks(n, READ_BLOCKS).map_err(failed)?;
            let before = n;
            for stored in blocks {
                if stored.first_n < n || stored.first_n >= limit {
                    continue;
                }
                verified.missing += u64::from(stored.first_n - n);
                verified.blocks += 1;
                verified.bytes += stored.value.len() as u64;
                let opened = block::decode(&stored.value, &keys, &mut Vec::new());
                match opened.and_then(|header| is_at(header, number, stored.first_n)) {
                    Err(BlockError::Sealed(_)) => {
                        let count = block::header(&stored.value).map_or(1, |header| header.count);
                        verified.sealed += u64::from(count);
                        n = stored.first_n + count;
                        // Whole, and there for whoever has the key.
                        verified.found(stored.first_n, n);
                    }
                    Ok(header) => {
                        n = stored.first_n + header.count;
                        verified.readings += u64::from(header.count);
                        verified.found(stored.first_n, n);
                    }
                    Err(error) => {
                        verified.damaged.push((stored.first_n, error));
                        n = stored.first_n + 1;
                    }
                }
            }
            if n == before {
                verified.missing += u64::from(limit.saturating_sub(n));
                let erased = self.record_at_or_after(number).map_or(0, |(_, record)| record.erased());
                verified.missing = verified.missing.saturating_sub(erased);
                return Ok(verified);
            }
        }
    }
}
