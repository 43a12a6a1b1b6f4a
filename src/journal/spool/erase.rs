//! One generation without a device.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;

use super::{READ_BLOCKS, Spool, Tail, remove_dir};
use crate::journal::block::{self, BlockError, Encoder, Header, Kind, MAX_VALUE, Place};
use crate::journal::erase::EraseError;
use crate::journal::generation::{Generation, GenerationError};
use crate::journal::keys::Keys;
use crate::journal::manifest::{Missing, Record, Sealed};
use crate::journal::salvage;
use crate::journal::types::{GapCause, ReadError};
use crate::reading::Reading;
use crate::reading::summary::Summary;

/// What is done to one generation, and what is left of its values.
struct Pass<'a> {
    generation: u32,
    devices: HashSet<u32>,
    keys: &'a Keys,
    encoder: Encoder,
    /// Values are copied as they are: nothing is sealed, and nothing was.
    plain: bool,
    window_s: u16,
    entries: Vec<(u64, Vec<u8>)>,
    /// Numbers that were the devices', first and last n, in order.
    erased: Vec<(u32, u32)>,
    /// Readings that summaries of theirs spoke of.
    summarised: u64,
    /// Position after the last summary that is kept.
    summaries: u32,
}

impl Spool {
    /// Replaces a sealed generation by one without the device; returns how many of its readings were there. Nothing
    /// changes when there is none, or with `dry_run`.
    pub fn erase_in(&self, number: u32, device: &str, dry_run: bool) -> Result<u64, EraseError> {
        // One database of a generation is made at a time, be it for this or for thinning.
        let _alone = self.spared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, record)) = self.record_at_or_after(number).filter(|(found, _)| *found == number) else {
            return Ok(0);
        };
        let keys = self.keyring.keys();
        if let Some(sealed) = record.sealed.filter(|sealed| record.count > 0 && !keys.has(sealed.key)) {
            return Err(EraseError::Unreadable { generation: number, cause: BlockError::Sealed(sealed.key) });
        }
        let tail = match self.tail(number) {
            Ok(tail) => tail,
            // Delivered and removed meanwhile.
            Err(_) if self.record_at_or_after(number).is_none_or(|(found, _)| found != number) => {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        };
        let failed =
            |error: GenerationError| ReadError::Read { generation: number, cause: error.to_string() };
        let names = tail.generation.names(&keys).map_err(failed)?;
        let devices: HashSet<u32> =
            names.iter().filter(|(_, name)| &***name == device).map(|(number, _)| *number).collect();
        if devices.is_empty() {
            return Ok(0);
        }
        let sealer = keys.sealer().cloned();
        let mut pass = Pass {
            generation: number,
            devices,
            keys: &keys,
            plain: record.sealed.is_none() && sealer.is_none(),
            encoder: Encoder::new(sealer.clone()),
            window_s: record.summaries.map_or(0, |summaries| summaries.window_s),
            entries: Vec::new(),
            erased: Vec::new(),
            summarised: 0,
            summaries: 0,
        };
        if dry_run {
            pass.through(&tail, |_| Ok(()))?;
            return Ok(pass.readings());
        }
        let write = |source| EraseError::Write { generation: number, source };
        let (revision, dir) = self.next_revision(number).map_err(|error| write(error.into()))?;
        let about = about(&tail, &keys).map_err(failed)?;
        let fresh = Generation::create(&*self.disk, &dir, number, &about, sealer).map_err(write)?;
        pass.through(&tail, |entries| fresh.commit(&*self.disk, entries).map_err(write))?;
        let bytes = fresh.bytes();
        // Closed before it is opened under its new name; sled writes when it is dropped.
        drop(fresh);
        self.disk.sync_path(&dir).map_err(|error| write(error.into()))?;
        drop(tail);
        let sealing = keys.sealing();
        let swapped = self.swap(number, revision, |record| {
            record.bytes = bytes;
            let withheld = record.sealed.is_some_and(|sealed| sealed.withheld);
            record.sealed = sealing.map(|key| Sealed { key, withheld });
            if let Some(summaries) = &mut record.summaries {
                // Those that are left keep their positions.
                summaries.count = pass.summaries;
                summaries.sparse = true;
            }
            add_erased(record, &pass.erased);
        });
        match swapped {
            Ok(()) => Ok(pass.readings()),
            // Delivered or dropped meanwhile: all of it is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove_dir(&dir).map_err(|error| write(error.into()))?;
                Ok(0)
            }
            Err(error) => Err(write(error.into())),
        }
    }

    pub fn has_head(&self) -> bool {
        self.state().head.is_some()
    }

    /// Ranges of missing numbers in the manifest.
    pub fn ranges(&self) -> usize {
        self.state().manifest.generations.values().map(|record| record.missing.len()).sum()
    }

    /// What lies in quarantine.
    pub fn quarantined(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.join(salvage::QUARANTINE));
        entries.map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect())
    }

    /// Removes everything in quarantine: what is damaged may be anybody's.
    pub fn empty_quarantine(&self) -> io::Result<()> {
        // Under the lock: nothing is moved there meanwhile.
        let _state = self.state();
        for path in self.quarantined() {
            if path.is_dir() { remove_dir(&path)? } else { fs::remove_file(&path)? }
        }
        Ok(())
    }

    /// Takes a device's name out of the manifest; the counts it was part of stay.
    pub fn forget_counts(&self, device: &str) -> io::Result<()> {
        let mut state = self.state();
        let mut manifest = state.manifest.clone();
        let mut known = false;
        for record in manifest.generations.values_mut() {
            for missing in &mut record.missing {
                known |= missing.devices.remove(device).is_some();
            }
        }
        if known {
            manifest.store(&*self.disk, &self.dir)?;
            state.manifest = manifest;
        }
        Ok(())
    }

    /// Removes databases that were replaced and are read no more; `false`: some are still there.
    pub fn replaced_are_gone(&self) -> bool {
        let mut state = self.state();
        state.replaced.retain(|replaced| !replaced.removed());
        state.replaced.is_empty()
    }
}

/// What the generation says about itself.
fn about(tail: &Tail, keys: &Keys) -> Result<Vec<u8>, GenerationError> {
    let last = tail.generation.values(u64::MAX, 1)?;
    let about = last.first().and_then(|(_, value)| block::decode_plain(value, keys, Kind::Generation).ok());
    Ok(about.as_deref().unwrap_or(b"{}").to_vec())
}

impl Pass<'_> {
    /// Goes through all values and hands on what is left of them.
    fn through(
        &mut self,
        tail: &Tail,
        mut each: impl FnMut(&[(u64, Vec<u8>)]) -> Result<(), EraseError>,
    ) -> Result<(), EraseError> {
        let mut from = 0;
        loop {
            let values = tail
                .generation
                .values(from, READ_BLOCKS)
                .map_err(|error| ReadError::Read { generation: self.generation, cause: error.to_string() })?;
            let Some(&(last, _)) = values.last() else { return Ok(()) };
            for (key, value) in &values {
                match self.keep(*key, value) {
                    // Nobody can read it any more, so that it is lost already: it is told as lost as before.
                    Ok(()) | Err(BlockError::Checksum | BlockError::Malformed | BlockError::Altered(_)) => {}
                    Err(cause) => return Err(EraseError::Unreadable { generation: self.generation, cause }),
                }
            }
            each(&self.entries)?;
            self.entries.clear();
            match last.checked_add(1) {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// What is left of one value.
    fn keep(&mut self, key: u64, value: &[u8]) -> Result<(), BlockError> {
        let header = block::header(value)?;
        match header.kind {
            // The new database has its own.
            Kind::Generation => {}
            Kind::Name if self.devices.contains(&(key as u32)) => {}
            Kind::Name => {
                let name = block::decode_plain(value, self.keys, Kind::Name)?;
                let fresh = self.encoder.encode_plain(Kind::Name, self.generation, key as u32, &name)?;
                self.entries.push((key, if self.plain { value.to_vec() } else { fresh }));
            }
            Kind::Readings => {
                let mut readings = Vec::new();
                block::decode(value, self.keys, &mut readings)?;
                if self.plain && !readings.iter().any(|reading| self.devices.contains(&reading.device.0)) {
                    self.entries.push((key, value.to_vec()));
                } else {
                    self.split(&header, &readings)?;
                }
            }
            Kind::Summaries => {
                let mut summaries = Vec::new();
                block::decode_summaries(value, self.keys, &mut summaries)?;
                self.split_summaries(&header, &summaries)?;
            }
        }
        Ok(())
    }

    /// Encodes the runs of a block's readings that are not the devices', each under its own first number.
    fn split(&mut self, header: &Header, readings: &[Reading]) -> Result<(), BlockError> {
        let mut first_n = header.first_n;
        let devices = self.devices.clone();
        let theirs = |reading: &Reading| devices.contains(&reading.device.0);
        for run in readings.chunk_by(|a, b| theirs(a) == theirs(b)) {
            let next = first_n + run.len() as u32;
            if run.first().is_some_and(theirs) {
                add_range(&mut self.erased, first_n, next - 1);
            } else {
                let entries = &mut self.entries;
                let encoder = &mut self.encoder;
                in_parts(place(header, first_n), run, entries, &mut |place, part| {
                    encoder.encode(place, part.iter())
                })?;
            }
            first_n = next;
        }
        Ok(())
    }

    /// The same for summaries; those that are left keep their positions.
    fn split_summaries(&mut self, header: &Header, summaries: &[Summary]) -> Result<(), BlockError> {
        let mut first = header.first_n;
        let devices = self.devices.clone();
        let theirs = |summary: &Summary| devices.contains(&summary.device.0);
        for run in summaries.chunk_by(|a, b| theirs(a) == theirs(b)) {
            let next = first + run.len() as u32;
            if run.first().is_some_and(theirs) {
                self.summarised += run.iter().map(|summary| u64::from(summary.n)).sum::<u64>();
            } else {
                let entries = &mut self.entries;
                let (encoder, window_s) = (&mut self.encoder, self.window_s);
                in_parts(place(header, first), run, entries, &mut |place, part| {
                    encoder.encode_summaries(place, window_s, part)
                })?;
                self.summaries = next;
            }
            first = next;
        }
        Ok(())
    }

    fn readings(&self) -> u64 {
        self.erased.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>() + self.summarised
    }
}

const fn place(header: &Header, first_n: u32) -> Place {
    Place {
        boot_tag: header.boot_tag,
        clock_epoch: header.clock_epoch,
        generation: header.generation,
        first_n,
    }
}

/// One value, or as many as it takes to keep each small.
fn in_parts<T>(
    place: Place,
    run: &[T],
    entries: &mut Vec<(u64, Vec<u8>)>,
    encode: &mut impl FnMut(Place, &[T]) -> Result<Vec<u8>, BlockError>,
) -> Result<(), BlockError> {
    let value = encode(place, run)?;
    if value.len() > MAX_VALUE && run.len() > 1 {
        let (left, right) = run.split_at(run.len() / 2);
        in_parts(place, left, entries, encode)?;
        let first_n = place.first_n + left.len() as u32;
        return in_parts(Place { first_n, ..place }, right, entries, encode);
    }
    entries.push((u64::from(place.first_n), value));
    Ok(())
}

/// Adds a range that lies behind those there are; what touches becomes one.
fn add_range(ranges: &mut Vec<(u32, u32)>, first: u32, last: u32) {
    match ranges.last_mut() {
        Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
        _ => ranges.push((first, last)),
    }
}

/// Puts the ranges in their places in the record; they overlap none that is there, for their readings were.
fn add_erased(record: &mut Record, ranges: &[(u32, u32)]) {
    let erased = ranges.iter().map(|&(first, last)| Missing {
        first,
        last,
        cause: GapCause::Erased,
        devices: BTreeMap::new(),
    });
    record.missing.extend(erased);
    record.missing.sort_unstable_by_key(|missing| missing.first);
    record.missing.dedup_by(|next, before| {
        let alike = next.cause == GapCause::Erased && before.cause == GapCause::Erased;
        let touch = alike && before.last.checked_add(1) == Some(next.first);
        if touch {
            before.last = next.last;
        }
        touch
    });
}
