//! Where each uplink stands: one small file per uplink, replaced whole.
//!
//! A cursor is the first number the uplink has not confirmed. The bounds of a batch are written before it is first sent,
//! so that after a crash it is sent again as the same batch. Confirmations are written with the next bounds, or at most
//! every [`WRITE_EVERY`]: losing one costs a batch that is sent twice with the same ids, never a reading.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::types::{Bounds, CursorError, Seq};

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
}

struct Kept {
    place: Place,
    /// The furthest generation of which this uplink has taken something, if only into its memory.
    reached: u32,
    /// End of the furthest confirmed batch: confirmations may come out of order.
    furthest: Seq,
    written: bool,
    written_at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    cursor: Seq,
    #[serde(default)]
    open: Vec<Bounds>,
}

/// All uplinks that have a place, whether they are configured or not.
pub struct Cursors {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    known: Mutex<BTreeMap<String, UplinkCursor>>,
}

// === impl Cursors ===

impl Cursors {
    /// Reads every cursor file.
    ///
    /// # Errors
    /// When one cannot be read or understood: guessing a place would lose or repeat readings.
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
            let broken = |cause: String| CursorError::Read { path: path.clone(), cause };
            let bytes = std::fs::read(&path).map_err(|error| broken(error.to_string()))?;
            let place: Place = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
            let cursor = UplinkCursor::new(name, path.clone(), Arc::clone(&disk), place, true);
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
        let place = Place { cursor: start(), open: Vec::new() };
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

// === impl UplinkCursor ===

impl UplinkCursor {
    fn new(name: &str, path: PathBuf, disk: Arc<dyn Disk>, place: Place, written: bool) -> Self {
        let furthest = place.cursor;
        let ends = place.open.iter().map(|open| open.to).chain([place.cursor]);
        let reached = ends.map(Seq::last_generation).max().unwrap_or(0);
        let place = Mutex::new(Kept { place, reached, furthest, written, written_at: Instant::now() });
        Self(Arc::new(Shared { name: name.to_owned(), path, disk, place }))
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

    /// Fixes a batch's bounds, on disk before it returns. Blocking.
    ///
    /// # Errors
    /// When the file cannot be written; the batch must not be sent then.
    pub fn begin(&self, bounds: Bounds) -> Result<(), CursorError> {
        let mut kept = self.kept();
        kept.reached = kept.reached.max(bounds.to.last_generation());
        kept.place.open.push(bounds);
        if let Err(error) = self.write(&mut kept) {
            kept.place.open.retain(|open| *open != bounds);
            return Err(error);
        }
        Ok(())
    }

    /// The uplink has confirmed the batch. Blocking at times.
    ///
    /// # Errors
    /// When the file cannot be written; the confirmation is remembered and written with the next one.
    pub fn confirm(&self, bounds: Bounds) -> Result<(), CursorError> {
        let mut kept = self.kept();
        kept.place.open.retain(|open| *open != bounds);
        kept.furthest = kept.furthest.max(bounds.to);
        let reached = kept.place.open.iter().map(|open| open.from).min().unwrap_or(kept.furthest);
        kept.place.cursor = kept.place.cursor.max(reached);
        kept.written = false;
        if kept.written_at.elapsed() >= WRITE_EVERY { self.write(&mut kept) } else { Ok(()) }
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
        let bytes = serde_json::to_vec(&kept.place).map_err(|error| failed(io::Error::other(error)))?;
        self.0.disk.replace(&self.0.path, &bytes).map_err(failed)?;
        kept.written = true;
        kept.written_at = Instant::now();
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
