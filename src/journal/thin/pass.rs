//! One pass through a generation: from its readings or its summaries to coarser summaries in a new database.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::fold::Folder;
use super::store::Store;
use super::{Level, MOST_WINDOWS, ThinError, pays};
use crate::journal::block::{self, BlockError, Encoder, Header, Kind};
use crate::journal::disk::{Disk, disk_usage};
use crate::journal::generation::{Generation, GenerationError, Stored};
use crate::journal::keys::{KeyId, Keys};
use crate::journal::manifest::{Missing, Record, Summaries};
use crate::journal::types::GapCause;
use crate::reading::Reading;
use crate::reading::summary::Summary;

/// Blocks taken from the old database at a time.
const READ_BLOCKS: usize = 64;

/// What is thinned.
pub struct Source<'a> {
    pub generation: &'a Generation,
    pub record: &'a Record,
    pub names: &'a dyn Fn(u32) -> Option<Arc<str>>,
    /// What a device without a name is called.
    pub unnamed: &'a dyn Fn(u32) -> Arc<str>,
    /// The keys that its values are sealed with, if they are.
    pub keys: &'a Keys,
}

/// A new database, complete and on disk.
#[derive(Debug)]
pub struct Thinned {
    pub summaries: Summaries,
    /// Readings that the summaries speak of.
    pub readings: u64,
    /// What the record says from now on; every number of the generation is in it.
    pub missing: Vec<Missing>,
    /// Real bytes of the old and the new database.
    pub before: u64,
    pub after: u64,
    /// The key the new one is sealed with.
    pub key: Option<KeyId>,
}

/// Makes the new database in `dir`. `None`: it does not pay, or it must not be done, or `go_on` said so; what was begun
/// is left for the caller to remove.
///
/// # Errors
/// When the old database cannot be read, the new one cannot be written, or the counts do not agree.
pub fn thin(
    source: &Source<'_>,
    level: Level,
    disk: &dyn Disk,
    dir: &Path,
    old_dir: &Path,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Thinned>, ThinError> {
    let number = source.generation.number();
    let write = |error: GenerationError| ThinError::Write { generation: number, cause: error.to_string() };
    let about = serde_json::json!({
        "spool": source.record.spool,
        "boot": source.record.boot,
        "created_ms": source.record.created_ms,
        "fogbeat": env!("CARGO_PKG_VERSION"),
        "summaries": level.window_s(),
        "count": source.record.count,
    });
    let sealer = source.keys.sealer().cloned();
    if source.record.sealed.is_some() && sealer.is_none() {
        // What was encrypted once does not come to lie in the clear.
        return Ok(None);
    }
    let about = about.to_string();
    let new = Generation::create(disk, dir, number, about.as_bytes(), sealer.clone()).map_err(write)?;
    let mut pass = Pass {
        source,
        folder: Folder::new(level.window_s(), MOST_WINDOWS),
        store: Store::new(disk, new, Encoder::new(sealer), level.window_s(), source.names),
        done: Vec::new(),
        clock: None,
        ranges: Ranges::default(),
        readings: 0,
    };
    let whole = match source.record.summaries {
        None => pass.through_readings(go_on)?,
        Some(summaries) => pass.through_summaries(summaries, go_on)?,
    };
    if !whole {
        return Ok(None);
    }
    let Pass { mut folder, mut store, mut done, ranges, readings, .. } = pass;
    folder.finish(&mut done);
    store.add(&mut done, true).map_err(write)?;
    let count = store.count();
    let missing = match source.record.summaries {
        None => ranges.account(source),
        Some(_) => source.record.missing.clone(),
    };
    // The gaps stand behind the summaries, at positions of their own.
    if u64::from(count) + missing.len() as u64 > u64::from(source.record.count) {
        return Ok(None);
    }
    drop(store.finish().map_err(write)?);
    let found = read_back(disk, dir, number, count, source.keys).map_err(write)?;
    if found != readings {
        return Err(ThinError::Count { generation: number, expected: readings, found });
    }
    let (before, after) = (disk_usage(old_dir), disk_usage(dir));
    let summaries = Summaries { window_s: level.window_s(), count, sparse: false };
    Ok(pays(before, after).then_some(Thinned {
        summaries,
        readings,
        missing,
        before,
        after,
        key: source.keys.sealing(),
    }))
}

struct Pass<'a> {
    source: &'a Source<'a>,
    folder: Folder,
    store: Store<'a>,
    /// Done and not stored yet.
    done: Vec<Summary>,
    /// Boot and clock of the block before: stamps of different clocks never share a block.
    clock: Option<(u32, u32)>,
    ranges: Ranges,
    readings: u64,
}

impl Pass<'_> {
    fn number(&self) -> u32 {
        self.source.generation.number()
    }

    fn unreadable(&self, error: &GenerationError) -> ThinError {
        ThinError::Read { generation: self.number(), cause: error.to_string() }
    }

    /// `false`: not to be thinned.
    fn through_readings(&mut self, go_on: &dyn Fn() -> bool) -> Result<bool, ThinError> {
        let limit = self.source.record.count;
        let mut readings: Vec<Reading> = Vec::new();
        let mut n = 0;
        while n < limit {
            let before = n;
            let mut seen = n;
            for stored in self.blocks(n)? {
                if stored.first_n >= limit {
                    break;
                }
                seen = seen.max(stored.first_n.saturating_add(1));
                readings.clear();
                let Some(header) = usable(block::decode(&stored.value, self.source.keys, &mut readings))
                else {
                    return Ok(false);
                };
                let Some(header) = header else { continue };
                let end = stored.first_n.saturating_add(header.count).min(limit);
                if end <= n {
                    continue;
                }
                let first = n.max(stored.first_n);
                let (skip, take) = ((first - stored.first_n) as usize, (end - first) as usize);
                self.turn_to(header)?;
                self.ranges.begin(first);
                for reading in readings.iter().skip(skip).take(take) {
                    self.ranges.count(reading.device.0);
                    self.folder.add(Summary::of(reading), &mut self.done);
                }
                self.ranges.end(end);
                self.readings += u64::from(end - first);
                n = end;
            }
            // Where a whole page is damaged, what comes behind it may be sound.
            n = n.max(seen);
            if n == before {
                // Nothing further is stored.
                break;
            }
            if !self.settle(go_on)? {
                return Ok(false);
            }
        }
        Ok(self.readings > 0)
    }

    /// `false`: not to be thinned.
    fn through_summaries(&mut self, known: Summaries, go_on: &dyn Fn() -> bool) -> Result<bool, ThinError> {
        let mut finer: Vec<Summary> = Vec::new();
        let mut k = 0;
        while k < known.count {
            let before = k;
            for stored in self.blocks(k)? {
                finer.clear();
                // A damaged one would vanish from the sums without a trace.
                let decoded = block::decode_summaries(&stored.value, self.source.keys, &mut finer);
                let Ok(header) = decoded else { return Ok(false) };
                let end = stored.first_n.saturating_add(header.count);
                if end <= k {
                    continue;
                }
                if stored.first_n != k {
                    return Ok(false);
                }
                self.turn_to(header)?;
                for summary in finer.drain(..) {
                    self.readings += u64::from(summary.n);
                    self.folder.add(summary, &mut self.done);
                }
                k = end;
            }
            if k == before {
                return Ok(false);
            }
            if !self.settle(go_on)? {
                return Ok(false);
            }
        }
        Ok(self.readings > 0)
    }

    fn blocks(&self, n: u32) -> Result<Vec<Stored>, ThinError> {
        self.source.generation.blocks(n, READ_BLOCKS).map_err(|error| self.unreadable(&error))
    }

    /// Finishes every window when the next block's stamps are of another boot or clock.
    fn turn_to(&mut self, header: Header) -> Result<(), ThinError> {
        let clock = (header.boot_tag, header.clock_epoch);
        if self.clock.is_some_and(|before| before != clock) {
            self.folder.finish(&mut self.done);
            self.store_done(true)?;
        }
        self.clock = Some(clock);
        self.store.stamps_of(clock.0, clock.1);
        Ok(())
    }

    /// Stores what is done; `false` when there is no use in going on.
    fn settle(&mut self, go_on: &dyn Fn() -> bool) -> Result<bool, ThinError> {
        self.store_done(false)?;
        Ok(go_on() && self.store.count() <= self.source.record.count / 2)
    }

    fn store_done(&mut self, all: bool) -> Result<(), ThinError> {
        let generation = self.number();
        self.store
            .add(&mut self.done, all)
            .map_err(|error| ThinError::Write { generation, cause: error.to_string() })
    }
}

/// `None`: not readable by this build, and perhaps by another. `Some(None)`: damaged, nobody can read it.
fn usable(decoded: Result<Header, BlockError>) -> Option<Option<Header>> {
    match decoded {
        Ok(header) => Some(Some(header)),
        Err(BlockError::Checksum | BlockError::Malformed) => Some(None),
        Err(_) => None,
    }
}

/// Readings the summaries in the closed new database speak of, read from the disk.
fn read_back(
    disk: &dyn Disk,
    dir: &Path,
    number: u32,
    count: u32,
    keys: &Keys,
) -> Result<u64, GenerationError> {
    let generation = Generation::recover(disk, dir, number)?;
    let mut readings = 0;
    let mut k = 0;
    while k < count {
        let before = k;
        for stored in generation.blocks(k, READ_BLOCKS)? {
            let mut summaries = Vec::new();
            let header = block::decode_summaries(&stored.value, keys, &mut summaries);
            let sound = header.is_ok_and(|header| header.kind == Kind::Summaries);
            if sound && stored.first_n == k {
                readings += summaries.iter().map(|summary| u64::from(summary.n)).sum::<u64>();
                k += summaries.len() as u32;
            }
        }
        if k == before {
            break;
        }
    }
    Ok(readings)
}

/// The stretches of numbers that were there, with what each device gave to each.
#[derive(Default)]
struct Ranges {
    done: Vec<(u32, u32, HashMap<u32, u64>)>,
    first: u32,
    /// Number after the last one.
    next: u32,
    devices: HashMap<u32, u64>,
    /// Readings of one device come side by side.
    device: u32,
    run: u64,
}

impl Ranges {
    fn begin(&mut self, first: u32) {
        if first != self.next {
            self.close();
            self.first = first;
            self.next = first;
        }
    }

    fn count(&mut self, device: u32) {
        if device != self.device {
            self.end_run();
            self.device = device;
        }
        self.run += 1;
    }

    fn end(&mut self, next: u32) {
        self.next = next;
    }

    fn end_run(&mut self) {
        if self.run > 0 {
            *self.devices.entry(self.device).or_default() += self.run;
            self.run = 0;
        }
    }

    fn close(&mut self) {
        self.end_run();
        if self.next > self.first {
            self.done.push((self.first, self.next - 1, std::mem::take(&mut self.devices)));
        }
    }

    /// What is said of every number: thinned where readings were, else what the record knew, else lost.
    fn account(mut self, source: &Source<'_>) -> Vec<Missing> {
        self.close();
        let name = |device: u32| (source.names)(device).unwrap_or_else(|| (source.unnamed)(device));
        let mut account = Vec::new();
        let mut n = 0;
        for (first, last, devices) in self.done {
            source.record.tell_missing(n, first, &mut account);
            let mut named: BTreeMap<String, u64> = BTreeMap::new();
            for (device, count) in devices {
                *named.entry(name(device).to_string()).or_default() += count;
            }
            account.push(Missing { first, last, cause: GapCause::Thinned, devices: named });
            n = last.saturating_add(1);
        }
        source.record.tell_missing(n, source.record.count, &mut account);
        account
    }
}
