//! Replacing a sealed generation's database by another one.
//!
//! The new database is made beside the old one, synced with its directory, and takes its place by one replacement of the
//! manifest: a crash leaves the one or the other, whole, and the next start removes whichever is not the generation.
//! A reader that is inside the old database goes on reading there to the end of its page; its directory goes once
//! nobody holds it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{MutexGuard, Weak};

use super::{Generations, LANE, Spool, Tail, remove_dir};
use crate::journal::manifest::{Manifest, Record, State};
use crate::journal::salvage;

/// A database that is the generation no more.
pub(super) struct Replaced {
    dir: PathBuf,
    held: Weak<Tail>,
}

impl Replaced {
    /// Removes it when nobody reads in it any more; `false`: somebody does, or it cannot be removed just now.
    pub(super) fn removed(&self) -> bool {
        self.held.strong_count() == 0 && remove_dir(&self.dir).is_ok()
    }
}

impl Spool {
    /// Where the next database of a generation is made, and its revision. A leftover of an earlier attempt is removed.
    ///
    /// # Errors
    /// When the leftover cannot be removed.
    pub fn next_revision(&self, number: u32) -> io::Result<(u32, PathBuf)> {
        let revision = self.state().manifest.revision(number).saturating_add(1);
        let dir = self.generation_dir(number, revision);
        remove_dir(&dir)?;
        Ok((revision, dir))
    }

    /// Makes the database of `revision` the generation and applies `change` to its record, in one step. The new
    /// database must be on disk with its directory.
    ///
    /// # Errors
    /// When the manifest cannot be written; the old database is the generation then. [`io::ErrorKind::NotFound`] when
    /// there is no such generation any more, or it is not there to be read.
    pub fn swap(&self, number: u32, revision: u32, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        self.swap_if(|| true, number, revision, change).map(|_| ())
    }

    /// As [`Spool::swap`], if `may` says so; it is asked while nobody can begin to read the generation. `false`: it said
    /// no, and nothing has changed.
    ///
    /// # Errors
    /// As [`Spool::swap`].
    pub fn swap_if(
        &self,
        may: impl FnOnce() -> bool,
        number: u32,
        revision: u32,
        change: impl FnOnce(&mut Record),
    ) -> io::Result<bool> {
        self.replace(may, |record| record.state == State::Sealed, number, revision, change)
    }

    /// Puts what was salvaged of a quarantined generation in its place, as [`Spool::swap`] does.
    ///
    /// # Errors
    /// As [`Spool::swap`].
    pub(super) fn put_back(
        &self,
        number: u32,
        revision: u32,
        change: impl FnOnce(&mut Record),
    ) -> io::Result<()> {
        self.replace(|| true, |record| record.damage.is_some(), number, revision, change).map(|_| ())
    }

    fn replace(
        &self,
        may: impl FnOnce() -> bool,
        is_there: impl FnOnce(&Record) -> bool,
        number: u32,
        revision: u32,
        change: impl FnOnce(&mut Record),
    ) -> io::Result<bool> {
        let mut state = self.state();
        if !may() {
            return Ok(false);
        }
        let old = self.dir_of(&state, number);
        let mut manifest = state.manifest.clone();
        let record = manifest.generations.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        if !is_there(record) {
            // Evicted, or found damaged, or salvaged meanwhile.
            return Err(io::ErrorKind::NotFound.into());
        }
        record.revision = revision;
        change(record);
        manifest.store(&*self.disk, &self.dir)?;
        state.manifest = manifest;
        self.retire(state, number, old);
        Ok(true)
    }

    /// Removes the database in `dir`, which is the generation no more; later, if somebody is reading in it.
    pub(super) fn retire(&self, mut state: MutexGuard<'_, Generations>, number: u32, dir: PathBuf) {
        let held = state.handles.remove(&number).unwrap_or_default();
        let at = state.tails.iter().position(|tail| tail.generation.number() == number);
        let tail = at.map(|at| state.tails.remove(at));
        drop(state);
        // sled may write and sync when it is closed: not under the lock.
        drop(tail);
        let replaced = Replaced { dir, held };
        if !replaced.removed() {
            self.state().replaced.push(replaced);
        }
    }

    /// Removes databases that a crash left beside the one that is the generation.
    pub(super) fn remove_replaced(&self, manifest: &Manifest) -> io::Result<()> {
        for entry in fs::read_dir(self.dir.join(LANE))? {
            let entry = entry?;
            let Some((number, revision)) = salvage::directory(&entry.file_name()) else { continue };
            let known = manifest.generations.get(&number);
            if known.is_some_and(|record| record.state == State::Evicted || record.revision != revision) {
                remove_dir(&entry.path())?;
            }
        }
        Ok(())
    }
}
