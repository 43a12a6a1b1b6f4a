//! Writes summaries into a new database: numbered from 0, in blocks, a batch of blocks per commit.

use std::collections::HashSet;
use std::sync::Arc;

use crate::journal::block::{Encoder, MAX_READINGS, MAX_VALUE, Place};
use crate::journal::disk::Disk;
use crate::journal::generation::{Generation, GenerationError};
use crate::reading::summary::Summary;

/// Blocks that are gathered for one commit: at most 256 KiB.
const COMMIT_BLOCKS: usize = 64;

pub struct Store<'a> {
    disk: &'a dyn Disk,
    generation: Generation,
    encoder: Encoder,
    window_s: u16,
    place: Place,
    names: &'a dyn Fn(u32) -> Option<Arc<str>>,
    named: HashSet<u32>,
    entries: Vec<(u64, Vec<u8>)>,
}

impl<'a> Store<'a> {
    pub fn new(
        disk: &'a dyn Disk,
        generation: Generation,
        encoder: Encoder,
        window_s: u16,
        names: &'a dyn Fn(u32) -> Option<Arc<str>>,
    ) -> Self {
        let place = Place { boot_tag: 0, clock_epoch: 0, generation: generation.number(), first_n: 0 };
        Self { disk, generation, encoder, window_s, place, names, named: HashSet::new(), entries: Vec::new() }
    }

    /// Summaries so far.
    pub const fn count(&self) -> u32 {
        self.place.first_n
    }

    /// Which boot and clock the following summaries' stamps are of.
    pub const fn stamps_of(&mut self, boot_tag: u32, clock_epoch: u32) {
        self.place.boot_tag = boot_tag;
        self.place.clock_epoch = clock_epoch;
    }

    /// Adds whole blocks of the summaries and leaves the rest in `summaries`; with `all`, adds everything.
    ///
    /// # Errors
    /// When the database takes no more.
    pub fn add(&mut self, summaries: &mut Vec<Summary>, all: bool) -> Result<(), GenerationError> {
        let mut rest = summaries.as_slice();
        let mut most = MAX_READINGS;
        while !rest.is_empty() && (all || rest.len() >= MAX_READINGS) {
            let (chunk, later) = rest.split_at(rest.len().min(most));
            let value = self.encoder.encode_summaries(self.place, self.window_s, chunk)?;
            if value.len() > MAX_VALUE && chunk.len() > 1 {
                most = chunk.len() / 2;
                continue;
            }
            for summary in chunk {
                if self.named.insert(summary.device.0)
                    && let Some(name) = (self.names)(summary.device.0)
                {
                    self.entries.push(self.generation.name_entry(&self.encoder, summary.device.0, &name)?);
                }
            }
            self.entries.push((u64::from(self.place.first_n), value));
            self.place.first_n += chunk.len() as u32;
            rest = later;
            if self.entries.len() >= COMMIT_BLOCKS {
                self.generation.commit(self.disk, &self.entries)?;
                self.entries.clear();
            }
        }
        let left = rest.len();
        summaries.drain(..summaries.len() - left);
        Ok(())
    }

    /// Commits the rest; the database and its names are on disk then.
    ///
    /// # Errors
    /// When the database takes no more.
    pub fn finish(self) -> Result<Generation, GenerationError> {
        self.generation.commit(self.disk, &self.entries)?;
        Ok(self.generation)
    }
}
