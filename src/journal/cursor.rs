//! Where each uplink stands: one small file per uplink, replaced whole.
//!
//! A cursor is the first number the uplink has not confirmed. The bounds of a batch are written before it is first sent,
//! so that after a crash it is sent again as the same batch. Confirmations are written with the next bounds, or at most
//! every [`WRITE_EVERY`]: losing one costs a batch that is sent twice with the same ids, never a reading.
//!
//! Beside the cursor stands what became of the numbers before it ([`super::tally`]), counted batch by batch as the cursor
//! passes them: a batch that is sent again after a crash counts once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::debts::{ClockNote, Debts};
use super::disk::Disk;
use super::proof;
use super::tally::{Around, Began, Tally, UplinkAccount};
use super::types::{Bounds, CursorError, Seq};
use crate::clock::BootId;
use crate::files;

const WRITE_EVERY: Duration = Duration::from_secs(5);
const EXTENSION: &str = "json";

/// An uplink's place in the journal; clones share it.
#[derive(Clone)]
pub struct UplinkCursor(Arc<Shared>);

struct Shared {
    name: String,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    place: Mutex<Kept>,
    /// Loses first at the quota.
    optional: AtomicBool,
}

struct Kept {
    place: Place,
    /// The furthest generation of which this uplink has taken something, if only into its memory.
    reached: u32,
    /// Confirmed, but not yet behind the cursor: confirmations may come out of order.
    confirmed: Vec<(Bounds, Tally)>,
    written: bool,
    written_at: Instant,
    /// Generations whose contents have changed since the batch under way was begun to be read.
    changed: BTreeSet<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    cursor: Seq,
    #[serde(default)]
    open: Vec<Bounds>,
    /// What it has to be told about clocks.
    #[serde(default, skip_serializing_if = "Debts::is_empty")]
    clocks: Debts,
    /// What became of the numbers before the cursor.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    tally: Tally,
    /// Where the tally begins; `None` in a file of a fogbeat that kept none.
    #[serde(default)]
    began: Option<Began>,
}

/// All uplinks that have a place, whether they are configured or not.
pub struct Cursors {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    known: Mutex<BTreeMap<String, UplinkCursor>>,
}

// === impl Cursors ===

impl Cursors {
    /// Reads every cursor file. One that is damaged is put aside, and its uplink begins at the oldest reading that is
    /// kept: what it had already is delivered once more, under the same ids, and nothing is left out.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(spool: &Path, disk: Arc<dyn Disk>) -> Result<Self, CursorError> {
        let dir = spool.join("cursors");
        let read = |cause: io::Error| CursorError::Read { path: dir.clone(), cause: cause.to_string() };
        std::fs::create_dir_all(&dir).map_err(read)?;
        let mut known = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.extension().and_then(|e| e.to_str()) != Some(EXTENSION) {
                continue;
            }
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            let (place, written) = match read_place(&path) {
                Ok(place) => (place, true),
                Err(cause) => {
                    tracing::error!(
                        uplink = name,
                        cause,
                        "an uplink's place is damaged: it begins at the oldest reading kept, so that some are delivered \
                         once more under the same ids; check the disk"
                    );
                    if let Err(error) = super::salvage::put_aside(spool, &path) {
                        tracing::warn!(%error, file = %path.display(), "the damaged file cannot be kept for a look");
                    }
                    (Place::at(Seq(0)), false)
                }
            };
            let cursor = UplinkCursor::new(name, path.clone(), Arc::clone(&disk), place, written);
            known.insert(name.to_owned(), cursor);
        }
        Ok(Self { dir, disk, known: Mutex::new(known) })
    }

    /// The named uplink's cursor, made at `start` if it is new.
    ///
    /// # Errors
    /// When the name is no file name or the file cannot be written.
    pub fn get(&self, name: &str, start: impl FnOnce() -> Seq) -> Result<UplinkCursor, CursorError> {
        let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(usable) || name.starts_with('.') {
            return Err(CursorError::Name(name.to_owned()));
        }
        if let Some(cursor) = self.known().get(name) {
            return Ok(cursor.clone());
        }
        let path = self.dir.join(format!("{name}.{EXTENSION}"));
        let place = Place::at(start());
        let cursor = UplinkCursor::new(name, path, Arc::clone(&self.disk), place, false);
        cursor.sync()?;
        self.known().insert(name.to_owned(), cursor.clone());
        Ok(cursor)
    }

    /// Drops an uplink's place; what only it was waiting for may go.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(&self, name: &str) -> Result<bool, CursorError> {
        let Some(cursor) = self.known().remove(name) else { return Ok(false) };
        match std::fs::remove_file(&cursor.0.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(CursorError::Write { path: cursor.0.path.clone(), source })
            }
            _ => Ok(true),
        }
    }

    pub fn list(&self) -> Vec<UplinkCursor> {
        self.known().values().cloned().collect()
    }

    /// The lowest number some uplink still needs; `None` without uplinks.
    pub fn lowest(&self) -> Option<Seq> {
        self.known().values().map(UplinkCursor::cursor).min()
    }

    /// Positions that readings are known to have been given up to.
    pub fn given(&self) -> Vec<Seq> {
        let places = self.known();
        let given = places.values().flat_map(|cursor| {
            let kept = cursor.kept();
            let open = kept.place.open.iter().map(|bounds| bounds.to);
            open.chain([kept.place.cursor]).collect::<Vec<_>>()
        });
        given.collect()
    }

    /// A generation turned out to have given so many numbers more. For uplinks that are past it they belong to what was
    /// given before their accounts began: the manifest was made anew, and nobody knew of them when the accounts did so.
    pub fn found_more(&self, generation: u32, numbers: u64) {
        for cursor in self.known().values().filter(|cursor| cursor.is_past(generation)) {
            let mut kept = cursor.kept();
            if let Some(began) = &mut kept.place.began {
                began.given = began.given.saturating_add(numbers);
                kept.written = false;
            }
        }
    }

    /// Whether some uplink stands at one of these positions of a generation.
    pub fn within(&self, generation: u32, positions: Range<u32>) -> bool {
        let within = |seq: Seq| seq.generation() == generation && positions.contains(&seq.n());
        self.known().values().any(|cursor| within(cursor.cursor()))
    }

    /// Whether every uplink is wholly before or wholly past a generation, and one at least before it.
    pub fn may_replace(&self, generation: u32) -> bool {
        let known = self.known();
        !known.values().any(|cursor| cursor.holds(generation))
            && (known.is_empty() || known.values().any(|cursor| !cursor.is_past(generation)))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, UplinkCursor>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Nothing done yet.
    fn at(cursor: Seq) -> Self {
        let (clocks, tally) = (Debts::default(), Tally::default());
        Self { cursor, open: Vec::new(), clocks, tally, began: None }
    }
}

fn read_place(path: &Path) -> Result<Place, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = files::without_sum(&bytes).map_err(|error| error.to_string())?;
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

// === impl UplinkCursor ===

impl UplinkCursor {
    fn new(name: &str, path: PathBuf, disk: Arc<dyn Disk>, place: Place, written: bool) -> Self {
        let ends = place.open.iter().map(|open| open.to).chain([place.cursor]);
        let reached = ends.map(Seq::last_generation).max().unwrap_or(0);
        let place = Mutex::new(Kept {
            place,
            reached,
            confirmed: Vec::new(),
            written,
            written_at: Instant::now(),
            changed: BTreeSet::new(),
        });
        let optional = AtomicBool::new(false);
        Self(Arc::new(Shared { name: name.to_owned(), path, disk, place, optional }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// First number this uplink has not confirmed.
    pub fn cursor(&self) -> Seq {
        self.kept().place.cursor
    }

    /// The furthest generation of which this uplink has taken something.
    pub(super) fn reached(&self) -> u32 {
        self.kept().reached
    }

    /// Says that something of `generation` is about to be taken. From now on until the cursor is past it, it stays as it
    /// is.
    pub(super) fn reach(&self, generation: u32) {
        let mut kept = self.kept();
        kept.reached = kept.reached.max(generation);
    }

    /// Whether this uplink is inside a generation: something of it was taken, and not everything confirmed.
    fn holds(&self, generation: u32) -> bool {
        let kept = self.kept();
        kept.reached >= generation && kept.place.cursor.generation() <= generation
    }

    fn is_past(&self, generation: u32) -> bool {
        self.cursor().generation() > generation
    }

    /// Batches that were begun and not confirmed, oldest first.
    pub fn open(&self) -> Vec<Bounds> {
        self.kept().place.open.clone()
    }

    /// Whether it keeps what it needs at the quota as long as any other.
    pub fn is_required(&self) -> bool {
        !self.0.optional.load(Ordering::Relaxed)
    }

    /// An uplink that is not required loses first at the quota. Every uplink is, until this says otherwise.
    pub fn set_required(&self, required: bool) {
        self.0.optional.store(!required, Ordering::Relaxed);
    }

    /// A new batch is going to be read: what has changed before does not matter to it.
    pub fn renew(&self) {
        self.kept().changed.clear();
    }

    /// Says that a generation's contents are about to change, under the lock of all generations; `false` when a batch
    /// under way has some of it. A batch that is being read meanwhile cannot be begun any more, and is read again.
    pub(super) fn claim(&self, generation: u32) -> bool {
        let mut kept = self.kept();
        // What was confirmed out of order is the other side's as well.
        let confirmed = kept.confirmed.iter().map(|(bounds, _)| bounds);
        if kept.place.open.iter().chain(confirmed).any(|bounds| has(bounds, generation)) {
            return false;
        }
        kept.changed.insert(generation);
        true
    }

    /// For an uplink that has no account yet, and may have been served before its place was lost: it is owed the `clock`
    /// line of each of these boots.
    pub(super) fn owe_clocks(&self, boots: &[BootId]) {
        let mut kept = self.kept();
        if kept.place.began.is_none() {
            kept.place.clocks.owe(boots);
        }
    }

    /// Boots that this uplink got guessed times of, and whose `clock` line is in no batch yet.
    pub fn clocks_owed(&self) -> Vec<BootId> {
        self.kept().place.clocks.owed()
    }

    /// Boots whose `clock` line the open batch carries.
    pub fn clocks_carried(&self, bounds: Bounds) -> Vec<BootId> {
        self.kept().place.clocks.carried(bounds)
    }

    /// Fixes a batch's bounds, on disk before it returns. Blocking.
    ///
    /// # Errors
    /// When the file cannot be written; the batch must not be sent then. [`CursorError::Changed`] when what was read for
    /// it is not so any more: read it again.
    pub fn begin(&self, bounds: Bounds) -> Result<(), CursorError> {
        self.begin_noting(bounds, &ClockNote::default())
    }

    /// As [`Self::begin`], with what the batch says about clocks.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn begin_noting(&self, bounds: Bounds, note: &ClockNote) -> Result<(), CursorError> {
        let mut kept = self.kept();
        if let Some(&generation) = kept.changed.iter().find(|&&generation| has(&bounds, generation)) {
            return Err(CursorError::Changed { generation });
        }
        let clocks = kept.place.clocks.clone();
        kept.reached = kept.reached.max(bounds.to.last_generation());
        kept.place.open.push(bounds);
        kept.place.clocks.begin(bounds, note);
        if let Err(error) = self.write(&mut kept) {
            kept.place.open.retain(|open| *open != bounds);
            kept.place.clocks = clocks;
            return Err(error);
        }
        Ok(())
    }

    /// The uplink has confirmed the batch; `tally` is what became of its numbers. Blocking at times.
    ///
    /// # Errors
    /// When the file cannot be written; the confirmation is remembered and written with the next one.
    pub fn confirm(&self, bounds: Bounds, tally: Tally) -> Result<(), CursorError> {
        let mut kept = self.kept();
        kept.place.clocks.confirm(bounds);
        // Asked again because the file could not be written: it is counted already.
        if kept.place.open.contains(&bounds) {
            kept.place.open.retain(|open| *open != bounds);
            kept.confirmed.push((bounds, tally));
            kept.pass_confirmed();
        }
        kept.written = false;
        if kept.written_at.elapsed() >= WRITE_EVERY { self.write(&mut kept) } else { Ok(()) }
    }

    /// The uplink's account. `around` tells what the manifest knows of a cursor.
    pub(super) fn account(&self, around: impl Fn(Seq) -> Around) -> UplinkAccount {
        let (kept, around) = self.settled(around);
        let began = kept.place.began.clone().unwrap_or_default();
        UplinkAccount::new(&self.0.name, &began, &kept.place.tally, around)
    }

    /// What stands in the file, for the proof.
    pub(super) fn place(&self) -> proof::Place {
        let kept = self.kept();
        let Place { cursor, began, tally, .. } = kept.place.clone();
        proof::Place { name: self.0.name.clone(), cursor, began: began.unwrap_or_default(), tally }
    }

    /// Writes what is not on disk yet. Blocking.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sync(&self) -> Result<(), CursorError> {
        let mut kept = self.kept();
        if kept.written { Ok(()) } else { self.write(&mut kept) }
    }

    fn write(&self, kept: &mut Kept) -> Result<(), CursorError> {
        let failed = |source| CursorError::Write { path: self.0.path.clone(), source };
        let text = serde_json::to_vec(&kept.place).map_err(|error| failed(io::Error::other(error)))?;
        self.0.disk.replace(&self.0.path, &files::with_sum(text)).map_err(failed)?;
        kept.written = true;
        kept.written_at = Instant::now();
        Ok(())
    }

    /// Begins the account where the cursor stands, if it has none in the manifest's present count of numbers.
    pub(super) fn begin_account(&self, around: impl Fn(Seq) -> Around) {
        drop(self.settled(around));
    }

    /// What is known around the cursor, and the place with that very cursor. The generations are looked at without this
    /// lock: whoever evicts or replaces one holds theirs while it asks for the uplinks' places.
    fn settled(&self, around: impl Fn(Seq) -> Around) -> (MutexGuard<'_, Kept>, Around) {
        let mut cursor = self.cursor();
        loop {
            let around = around(cursor);
            let mut kept = self.kept();
            // It moves once per batch, so that this ends.
            if kept.place.cursor == cursor {
                kept.settle(&around);
                return (kept, around);
            }
            cursor = kept.place.cursor;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Kept ===

impl Kept {
    /// Moves the cursor past what is confirmed and has nothing open before it.
    fn pass_confirmed(&mut self) {
        let open = self.place.open.iter().map(|open| open.from).min();
        self.confirmed.sort_by_key(|(bounds, _)| bounds.from);
        let passed = self.confirmed.partition_point(|(bounds, _)| open.is_none_or(|open| bounds.from < open));
        for (bounds, tally) in self.confirmed.drain(..passed) {
            self.place.cursor = self.place.cursor.max(bounds.to);
            self.place.tally.add(&tally);
        }
    }

    fn settle(&mut self, around: &Around) {
        match &mut self.place.began {
            Some(began) => {
                if began.rebase(&mut self.place.tally, around) {
                    self.written = false;
                }
            }
            None => {
                let (epoch, given) = (around.epoch, around.behind);
                self.place.began = Some(Began { epoch, given, ..Began::default() });
                self.written = false;
            }
        }
    }
}

/// Whether some of a generation lies within the bounds.
fn has(bounds: &Bounds, generation: u32) -> bool {
    bounds.to > Seq::new(generation, 0) && bounds.from < Seq::new(generation.saturating_add(1), 0)
}
