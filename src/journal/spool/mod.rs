//! All generations of one lane: which there are, the head that is written, and what readers see of them.
//!
//! ```text
//! spool/
//!   id.json         the spool's name, bound to this machine
//!   manifest.json   every generation's state and count
//!   mark            last durable number of the head
//!   cursors/        one small file per uplink
//!   raw/gen-<n>/    one sled database each
//!   quarantine/     what could not be opened
//! ```

mod account;
mod evict;
mod head;
mod house;
mod keyed;
mod read;
mod swap;
mod thin;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::block;
use super::disk::Disk;
use super::generation::{Generation, GenerationError};
use super::identity;
use super::keys::{Keyring, Keys};
use super::manifest::{Found, Manifest, Missing, Record, Sealed, State};
use super::mark::Mark;
use super::quota::Trouble;
use super::types::{CursorError, GapCause, ReadError, Seq};
use crate::clock::Clock;

pub use evict::Evicted;
pub use head::Health;
pub use house::{GenerationStatus, Verified};
pub use keyed::Encryption;
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
    keyring: Keyring,
    state: Mutex<Generations>,
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
}

/// A generation under a reader's eyes.
struct Tail {
    generation: Arc<Generation>,
    /// Read when the first of them is asked for.
    names: OnceLock<HashMap<u32, Arc<str>>>,
    used: Mutex<Instant>,
}

/// What a start found and did; for the log and `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    pub generations: usize,
    pub readings: u64,
    /// Numbers that were made durable once and are not there any more.
    pub lost: u64,
    pub quarantined: Vec<u32>,
    pub manifest_rebuilt: bool,
}

impl Spool {
    /// Takes stock of what a former run left: whatever was open is sealed with what is found in it.
    ///
    /// # Errors
    /// Only when the directory itself cannot be used. Damaged generations are moved aside, never an error.
    pub fn open(
        dir: &Path,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        mark: &Mark,
        keyring: Keyring,
    ) -> Result<(Self, Recovered), OpenError> {
        let unusable = |source| OpenError::Directory { path: dir.to_owned(), source };
        fs::create_dir_all(dir.join(LANE)).map_err(unusable)?;
        let name = identity::spool_name(&*disk, dir).map_err(unusable)?;
        let mut recovered = Recovered::default();
        let manifest = match Manifest::load(dir).map_err(unusable)? {
            Found::Manifest(manifest) => manifest,
            Found::Nothing => rebuild(dir, &name, &mut recovered).map_err(unusable)?,
            Found::Damaged(cause) => {
                tracing::error!(cause, "the manifest is damaged: rebuilding it from the generations found");
                rebuild(dir, &name, &mut recovered).map_err(unusable)?
            }
        };
        let state = Generations {
            manifest,
            head: None,
            head_read: None,
            handles: HashMap::new(),
            tails: Vec::new(),
            replaced: Vec::new(),
            delivered: BTreeMap::new(),
        };
        let spool = Self {
            dir: dir.to_owned(),
            disk,
            clock,
            name: name.into(),
            keyring,
            state: Mutex::new(state),
            spared: Mutex::default(),
        };
        spool.recover(mark, &mut recovered).map_err(unusable)?;
        Ok((spool, recovered))
    }

    fn recover(&self, mark: &Mark, recovered: &mut Recovered) -> io::Result<()> {
        let mut state = self.state();
        self.remove_replaced(&state.manifest)?;
        let numbers: Vec<(u32, State)> =
            state.manifest.generations.iter().map(|(&number, record)| (number, record.state)).collect();
        for (number, was) in numbers {
            match was {
                State::Creating => {
                    remove_dir(&self.dir_of(&state, number))?;
                    update(&mut state.manifest, number, |record| record.state = State::Void);
                }
                State::Open => self.recover_head(&mut state, number, mark, recovered)?,
                State::Dead => {
                    remove_dir(&self.dir_of(&state, number))?;
                    state.manifest.forget(number);
                }
                State::Sealed | State::Void | State::Quarantined | State::Evicted => {}
            }
        }
        recovered.generations = state.manifest.generations.len();
        recovered.readings = state.manifest.generations.values().map(|record| u64::from(record.count)).sum();
        state.manifest.store(&*self.disk, &self.dir)
    }

    /// Seals a generation that was being written when the gateway stopped.
    fn recover_head(
        &self,
        state: &mut Generations,
        number: u32,
        mark: &Mark,
        recovered: &mut Recovered,
    ) -> io::Result<()> {
        let dir = self.dir_of(state, number);
        let marked = mark.read().filter(|seq| seq.generation() == number).map_or(0, Seq::n);
        let found = Generation::recover(&*self.disk, &dir, number).and_then(|generation| {
            let last = generation.last()?;
            let end = last.map_or(0, |stored| {
                stored.first_n + block::header(&stored.value).map_or(0, |header| header.count)
            });
            Ok((end, generation.bytes(), generation.sealed_with().ok().flatten()))
        });
        match found {
            Ok((end, bytes, key)) => {
                let lost = (marked > end).then(|| Missing {
                    first: end,
                    last: marked - 1,
                    cause: GapCause::Lost,
                    devices: BTreeMap::new(),
                });
                recovered.lost += lost.as_ref().map_or(0, Missing::count);
                update(&mut state.manifest, number, |record| {
                    record.state = State::Sealed;
                    record.count = end.max(marked);
                    // A manifest that was rebuilt does not know.
                    record.sealed = record.sealed.or(key.map(|key| Sealed { key, withheld: false }));
                    record.missing = lost.into_iter().collect();
                    record.bytes = bytes;
                });
            }
            Err(error) if is_damage(&error) => {
                tracing::error!(generation = number, %error, "generation moved to quarantine: it cannot be opened");
                self.quarantine(state, number)?;
                recovered.quarantined.push(number);
                recovered.lost += u64::from(marked);
                update(&mut state.manifest, number, |record| {
                    record.state = State::Quarantined;
                    record.count = marked;
                });
            }
            Err(error) => {
                // It stays `open`; the first reader that comes to it tries again.
                tracing::warn!(generation = number, %error, "generation cannot be opened now; it is tried again");
            }
        }
        Ok(())
    }

    /// Seals, late, what could not be opened at the start.
    fn recover_late(&self, number: u32) -> Result<(), ReadError> {
        let failed = |error: io::Error| ReadError::Open { generation: number, cause: error.to_string() };
        let mark = Mark::open(&self.dir).map_err(failed)?;
        let mut state = self.state();
        self.recover_head(&mut state, number, &mark, &mut Recovered::default()).map_err(failed)?;
        state.manifest.store(&*self.disk, &self.dir).map_err(failed)?;
        match state.manifest.generations.get(&number) {
            Some(record) if record.state == State::Open => {
                Err(ReadError::Open { generation: number, cause: "see the log".into() })
            }
            _ => Ok(()),
        }
    }

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

    fn quarantine(&self, state: &Generations, number: u32) -> io::Result<()> {
        let aside = self.quarantine_dir();
        fs::create_dir_all(&aside)?;
        let target = aside.join(format!("gen-{number}"));
        remove_dir(&target)?;
        match fs::rename(self.dir_of(state, number), target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.disk.sync_path(&aside),
        }
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

    fn quarantine_dir(&self) -> PathBuf {
        self.dir.join("quarantine")
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
    fn name(&self, device: u32, keys: &Keys) -> Option<Arc<str>> {
        let names = self.names.get_or_init(|| self.generation.names(keys).unwrap_or_default());
        names.get(&device).cloned()
    }
}

/// Errors that a later attempt will meet again.
fn is_damage(error: &GenerationError) -> bool {
    match error {
        GenerationError::Panicked(_) | GenerationError::Deadline => true,
        GenerationError::Sled(error) => !matches!(error, sled::Error::Io(_)),
        GenerationError::Block(_) => false,
        GenerationError::Io(error) => error.kind() == io::ErrorKind::NotFound,
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

/// Number and revision of a generation's directory.
fn directory(name: &std::ffi::OsStr) -> Option<(u32, u32)> {
    let name = name.to_str()?.strip_prefix("gen-")?;
    match name.split_once(".r") {
        Some((number, revision)) => Some((number.parse().ok()?, revision.parse().ok()?)),
        None => Some((name.parse().ok()?, 0)),
    }
}

/// A manifest from what lies in the directory: every generation found is treated as if it had been open.
fn rebuild(dir: &Path, name: &str, recovered: &mut Recovered) -> io::Result<Manifest> {
    // Without randomness an uplink's account may not notice that the count begins anew; then it says that it does not add up.
    let mut manifest = Manifest::default();
    manifest.epoch = getrandom::u32().unwrap_or(0);
    for entry in fs::read_dir(dir.join(LANE))? {
        let Some((number, revision)) = directory(&entry?.file_name()) else { continue };
        // Of two databases the older one is whole: it goes only after the newer one has taken its place.
        if manifest.generations.get(&number).is_some_and(|known| known.revision < revision) {
            continue;
        }
        let record = Record {
            state: State::Open,
            spool: name.to_owned(),
            boot: String::new(),
            created_ms: 0,
            count: 0,
            missing: Vec::new(),
            summaries: None,
            revision,
            sealed: None,
            bytes: 0,
        };
        manifest.generations.insert(number, record);
        manifest.next_generation = manifest.next_generation.max(number + 1);
        recovered.manifest_rebuilt = true;
    }
    Ok(manifest)
}
