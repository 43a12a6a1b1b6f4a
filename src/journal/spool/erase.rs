//! One generation without a device.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use super::{READ_BLOCKS, Spool, Tail, remove_dir};
use crate::journal::block::{self, BlockError, Encoder, Header, Kind, MAX_VALUE, Place};
use crate::journal::erase::EraseError;
use crate::journal::generation::{Generation, GenerationError};
use crate::journal::manifest::{Missing, Record};
use crate::journal::types::{GapCause, ReadError};
use crate::reading::Reading;

/// What the values of a generation come to without the device.
#[derive(Default)]
struct Rest {
    entries: Vec<(u64, Vec<u8>)>,
    /// Numbers that were the device's, first and last n, in order.
    erased: Vec<(u32, u32)>,
}

impl Spool {
    /// Replaces a sealed generation by one without the device; returns how many of its readings were there. Nothing
    /// changes when there is none, or with `dry_run`.
    pub fn erase_in(&self, number: u32, device: &str, dry_run: bool) -> Result<u64, EraseError> {
        let tail = match self.tail(number) {
            Ok(tail) => tail,
            // Damaged, and moved to quarantine just now, where it is not kept.
            Err(_) if self.quarantined().iter().any(|path| path.ends_with(format!("gen-{number}"))) => {
                return Ok(0);
            }
            // Delivered and removed meanwhile.
            Err(_) if self.record_at_or_after(number).is_none_or(|(found, _)| found != number) => {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        };
        let failed =
            |error: GenerationError| ReadError::Read { generation: number, cause: error.to_string() };
        let names = tail.generation.names().map_err(failed)?;
        let devices: HashSet<u32> =
            names.iter().filter(|(_, name)| &***name == device).map(|(number, _)| *number).collect();
        if devices.is_empty() {
            return Ok(0);
        }
        let mut erased = Vec::new();
        if dry_run {
            walk(number, &tail, &devices, &mut Encoder::new(), |rest| {
                merge(&mut erased, rest.erased);
                Ok(())
            })?;
            return Ok(count(&erased));
        }
        let write = |source| EraseError::Write { generation: number, source };
        let (revision, dir) = self.next_revision(number).map_err(|error| write(error.into()))?;
        let about = about(&tail).map_err(failed)?;
        let fresh = Generation::create(&*self.disk, &dir, number, &about).map_err(write)?;
        walk(number, &tail, &devices, &mut Encoder::new(), |rest| {
            merge(&mut erased, rest.erased);
            fresh.commit(&*self.disk, &rest.entries).map_err(write)
        })?;
        let bytes = fresh.bytes();
        // Closed before it is opened under its new name; sled writes when it is dropped.
        drop(fresh);
        self.disk.sync_path(&dir).map_err(|error| write(error.into()))?;
        drop(tail);
        let readings = count(&erased);
        self.swap(number, revision, |record| {
            record.bytes = bytes;
            add_erased(record, &erased);
        })
        .map_err(|error| write(error.into()))?;
        Ok(readings)
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
        let entries = fs::read_dir(self.quarantine_dir());
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
fn about(tail: &Tail) -> Result<Vec<u8>, GenerationError> {
    let last = tail.generation.values(u64::MAX, 1)?;
    let about = last.first().and_then(|(_, value)| block::decode_plain(value, Kind::Generation).ok());
    Ok(about.unwrap_or(b"{}").to_vec())
}

/// Goes through all values of a generation and hands on what is left of them without `devices`.
fn walk(
    number: u32,
    tail: &Tail,
    devices: &HashSet<u32>,
    encoder: &mut Encoder,
    mut each: impl FnMut(Rest) -> Result<(), EraseError>,
) -> Result<(), EraseError> {
    let mut from = 0;
    loop {
        let values = tail
            .generation
            .values(from, READ_BLOCKS)
            .map_err(|error| ReadError::Read { generation: number, cause: error.to_string() })?;
        let Some(&(last, _)) = values.last() else { return Ok(()) };
        let mut rest = Rest::default();
        for (key, value) in &values {
            keep(number, *key, value, devices, encoder, &mut rest)?;
        }
        each(rest)?;
        match last.checked_add(1) {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// What is left of one value.
fn keep(
    generation: u32,
    key: u64,
    value: &[u8],
    devices: &HashSet<u32>,
    encoder: &mut Encoder,
    rest: &mut Rest,
) -> Result<(), EraseError> {
    let header = match block::header(value) {
        Ok(header) => header,
        // Nobody can read it any more, so that it is lost already: its numbers are told as lost as before.
        Err(BlockError::Checksum | BlockError::Malformed) => return Ok(()),
        Err(cause) => return Err(EraseError::Unreadable { generation, cause }),
    };
    match header.kind {
        // The new database has its own.
        Kind::Generation => {}
        Kind::Name if devices.contains(&(key as u32)) => {}
        Kind::Name => rest.entries.push((key, value.to_vec())),
        Kind::Readings => {
            let mut readings = Vec::new();
            match block::decode(value, &mut readings) {
                Ok(_) => {}
                Err(BlockError::Checksum | BlockError::Malformed) => return Ok(()),
                Err(cause) => return Err(EraseError::Unreadable { generation, cause }),
            }
            if readings.iter().any(|reading| devices.contains(&reading.device.0)) {
                split(&header, &readings, devices, encoder, rest);
            } else {
                rest.entries.push((key, value.to_vec()));
            }
        }
    }
    Ok(())
}

/// Encodes the runs of a block's readings that are not the devices', each under its own first number.
fn split(
    header: &Header,
    readings: &[Reading],
    devices: &HashSet<u32>,
    encoder: &mut Encoder,
    rest: &mut Rest,
) {
    let mut first_n = header.first_n;
    for run in readings.chunk_by(|a, b| devices.contains(&a.device.0) == devices.contains(&b.device.0)) {
        let next = first_n + run.len() as u32;
        if run.first().is_some_and(|reading| devices.contains(&reading.device.0)) {
            merge(&mut rest.erased, vec![(first_n, next - 1)]);
        } else {
            encode(header, first_n, run, encoder, rest);
        }
        first_n = next;
    }
}

/// One value, or as many as it takes to keep each small.
fn encode(header: &Header, first_n: u32, run: &[Reading], encoder: &mut Encoder, rest: &mut Rest) {
    let place = Place {
        boot_tag: header.boot_tag,
        clock_epoch: header.clock_epoch,
        generation: header.generation,
        first_n,
    };
    let value = encoder.encode(place, run.iter());
    if value.len() > MAX_VALUE && run.len() > 1 {
        let (left, right) = run.split_at(run.len() / 2);
        encode(header, first_n, left, encoder, rest);
        encode(header, first_n + left.len() as u32, right, encoder, rest);
    } else {
        rest.entries.push((u64::from(first_n), value));
    }
}

/// Adds ranges that lie behind those there are; what touches becomes one.
fn merge(ranges: &mut Vec<(u32, u32)>, more: Vec<(u32, u32)>) {
    for (first, last) in more {
        match ranges.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
            _ => ranges.push((first, last)),
        }
    }
}

fn count(ranges: &[(u32, u32)]) -> u64 {
    ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
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
