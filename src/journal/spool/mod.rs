//! All generations of one lane: which there are, the head that is written, and what readers see of them.
//!
//! ```text
//! spool/
//!   id.json         the spool's name, bound to this machine
//!   manifest.json   every generation's state and count; manifest.copy: once more
//!   mark            last durable number of the head
//!   cursors/        one small file per uplink
//!   raw/gen-<n>/    one sled database each
//!   quarantine/     what is damaged, bounded in bytes
//! ```

mod account;
mod erase;
mod evict;
mod head;
mod house;
mod keyed;
mod read;
mod recover;
mod repair;
mod swap;
mod thin;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::generation::{Generation, GenerationError};
use super::keys::{Keyring, Keys};
use super::manifest::{Manifest, Record};
use super::quota::Trouble;
use super::types::CursorError;
use crate::clock::Clock;

pub use evict::Evicted;
pub use head::Health;
pub use house::{GenerationStatus, Verified};
pub use keyed::Encryption;
pub use recover::{Known, Recovered};
pub use repair::{Repaired, SalvageError};
pub use thin::{ThinnedGeneration, Thinning};

/// Sealed generations that readers keep open at a time; with the head that bounds the memory of sled's caches.
const OPEN_TAILS: usize = 2;
/// A reader that read from the head within this time follows it.
const FOLLOWED: Duration = Duration::from_secs(1);
/// Blocks taken from sled at a time.
const READ_BLOCKS: usize = 64;
const LANE: &str = "raw";

/// Why the journal cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "cannot use the spool directory {path}: {source}; check that it exists and belongs to fogbeat's user"
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot start a new generation in {path}: {source}; check free space and permissions")]
    Head { path: PathBuf, source: GenerationError },
    #[error("{trouble}, and the journal in {path} cannot be opened; {}", .trouble.remedy())]
    NoRoom { path: PathBuf, trouble: Trouble },
    #[error(transparent)]
    Keys(#[from] super::keys::KeyError),
    #[error(transparent)]
    Cursors(#[from] CursorError),
}

impl OpenError {
    /// What is wrong with the disk, if that is the cause: it is worth trying again when the disk is well.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Directory { source, .. } => Trouble::of(source),
            Self::Head { source, .. } => source.trouble(),
            Self::NoRoom { trouble, .. } => Some(*trouble),
            Self::Cursors(CursorError::Write { source, .. }) => Trouble::of(source),
            Self::Cursors(_) | Self::Keys(_) => None,
        }
    }
}

pub struct Spool {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    name: Arc<str>,
    /// What was known of the generations' ends before this run.
    known: Known,
    keyring: Keyring,
    state: Mutex<Generations>,
    /// Held while a generation is salvaged: one at a time.
    salvaging: Mutex<()>,
    spared: Mutex<thin::Spared>,
}

struct Generations {
    manifest: Manifest,
    /// The head, while it is open.
    head: Option<Arc<Generation>>,
    /// When somebody last read from the head.
    head_read: Option<Instant>,
    /// Handles that somebody may still hold: a database opens once only.
    handles: HashMap<u32, Weak<Tail>>,
    /// The last few used, newest last.
    tails: Vec<Arc<Tail>>,
    /// Databases that were replaced while somebody was reading in them.
    replaced: Vec<swap::Replaced>,
    /// When each generation was found delivered to everybody.
    delivered: BTreeMap<u32, Instant>,
    repairs: repair::Repairs,
}

/// A generation under a reader's eyes.
struct Tail {
    generation: Arc<Generation>,
    /// Read when the first of them is asked for.
    names: OnceLock<HashMap<u32, Arc<str>>>,
    used: Mutex<Instant>,
}

impl Spool {
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    #[cfg(test)]
    pub fn database(&self, number: u32) -> Arc<Generation> {
        Arc::clone(&self.tail(number).unwrap().generation)
    }

    fn record_at_or_after(&self, number: u32) -> Option<(u32, Record)> {
        self.state().manifest.at_or_after(number).map(|(number, record)| (number, record.clone()))
    }

    fn generation_dir(&self, number: u32, revision: u32) -> PathBuf {
        let name = match revision {
            0 => format!("gen-{number}"),
            revision => format!("gen-{number}.r{revision}"),
        };
        self.dir.join(LANE).join(name)
    }

    /// Where the database that is the generation now lies.
    fn dir_of(&self, state: &Generations, number: u32) -> PathBuf {
        self.generation_dir(number, state.manifest.revision(number))
    }

    fn state(&self) -> MutexGuard<'_, Generations> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// Takes the head away. A handle that readers follow stays with them; any other is let go in a thread of its own,
    /// because sled writes and syncs when it is dropped. During an outage nobody follows, and open databases would only
    /// take memory.
    fn retire_head(&mut self, health: Health) {
        let Some(head) = self.head.take() else { return };
        let followed = self.head_read.take().is_some_and(|read| read.elapsed() < FOLLOWED);
        if followed && health == Health::Sound {
            self.keep_open(&Tail::new(head));
        } else {
            let _ = std::thread::Builder::new().name("journal-close".into()).spawn(move || drop(head));
        }
    }

    fn keep_open(&mut self, tail: &Arc<Tail>) {
        self.handles.retain(|_, handle| handle.strong_count() > 0);
        self.handles.insert(tail.generation.number(), Arc::downgrade(tail));
        self.tails.push(Arc::clone(tail));
        if self.tails.len() > OPEN_TAILS {
            self.tails.remove(0);
        }
    }
}

impl Tail {
    fn new(generation: Arc<Generation>) -> Arc<Self> {
        Arc::new(Self { generation, names: OnceLock::new(), used: Mutex::new(Instant::now()) })
    }

    /// Notes that somebody reads in it.
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// `keys` must be those that have opened a reading of that device: names stay with the tail.
    fn name(&self, device: u32, keys: &Keys) -> Result<Option<Arc<str>>, GenerationError> {
        if self.names.get().is_none() {
            // Two readers may both look; they find the same.
            let _ = self.names.set(self.generation.names(keys)?);
        }
        Ok(self.names.get().and_then(|names| names.get(&device).cloned()))
    }
}

fn update(manifest: &mut Manifest, number: u32, change: impl FnOnce(&mut Record)) {
    if let Some(record) = manifest.generations.get_mut(&number) {
        change(record);
    }
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
