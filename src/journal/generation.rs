//! One generation: a sled database of its own, behind a fence.
//!
//! Keys are big-endian u64: below 2^63 a block's first n; from 2^63 on a device's name under its number ([`names`] keeps
//! them a second time); the last key says what the generation is. Keys are never removed one by one.
//!
//! What sled 0.34.7 does not do by itself, and is done here:
//! - `flush()` never syncs, so every commit ends with `fdatasync` on a descriptor of our own;
//! - a crash or a full disk inside `open()` leaves `snap.*.generating` files that make every later open fail, so they are
//!   removed first;
//! - damage makes it panic or spin, in `open()` and later, so every call runs behind [`fence`]; a database whose opening
//!   ended the process again and again ([`MOST_DEATHS`]) is salvaged instead.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::block::{self, BlockError, Encoder, Header, Kind};
use super::disk::Disk;
use super::fence::{self, Fenced};
use super::keys::{KeyId, Keys, Sealer};
use super::names;
use super::quota::Trouble;
use super::salvage::{self, Soundness};

/// First key that is no block.
const NAMES: u64 = 1 << 63;
const META: u64 = u64::MAX;
/// Page cache of one open database. Reads do not evict: what bounds them is the generation's size.
const CACHE: u64 = 2 << 20;
/// Says in the directory how often the process ended while this database was being opened.
pub const OPENING: &str = "opening";
/// After so many in a row, sled is believed to take the process with it. Kills from outside hit an opening by chance: two in
/// a row were seen in one of fifty restarts under a kill test, and while a sound generation is salvaged for nothing, what
/// was re-sent out of it is not recognised.
const MOST_DEATHS: u8 = 4;
/// How long a lock that our own closing handle still holds is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// A snapshot shorter than this cannot be one.
const LEAST_SNAPSHOT: u64 = 13;

#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("sled panicked: {0}")]
    Panicked(String),
    #[error("sled did not open the database in {} s, {} s of them at work", .waited.as_secs(), .worked.as_secs())]
    Deadline { waited: Duration, worked: Duration },
    #[error("fogbeat ended {MOST_DEATHS} times while sled was opening the database")]
    Deadly,
    #[error("at byte {at} of `db` {what}")]
    Damaged { at: u64, what: &'static str },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Block(#[from] BlockError),
}

impl From<Fenced> for GenerationError {
    fn from(fenced: Fenced) -> Self {
        match fenced {
            Fenced::Sled(error) => Self::Sled(error),
            Fenced::Panicked(what) => Self::Panicked(what),
            Fenced::Deadline { waited, worked } => Self::Deadline { waited, worked },
            Fenced::Start(error) => Self::Io(error),
        }
    }
}

impl GenerationError {
    /// What is wrong with the disk, if that is the cause.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Sled(sled::Error::Io(error)) | Self::Io(error) => Trouble::of(error),
            Self::Sled(_)
            | Self::Panicked(_)
            | Self::Deadline { .. }
            | Self::Deadly
            | Self::Damaged { .. }
            | Self::Block(_) => None,
        }
    }
}

pub struct Generation {
    number: u32,
    dir: PathBuf,
    /// Only taken away by `drop`.
    db: Option<sled::Db>,
    /// Our own descriptor of `<dir>/db`: sled gives none away, and fdatasync works on the inode.
    file: File,
    /// Where names are kept once more; only in one that is being written.
    names: Option<File>,
    /// Seals everything in it, if there was a key when it was made.
    sealer: Option<Arc<Sealer>>,
}

/// A stored value and the number it starts with.
pub struct Stored {
    pub first_n: u32,
    pub value: sled::IVec,
}

impl Generation {
    /// Makes a new database, to be sealed with `sealer`; when this returns it is on disk together with its directory
    /// entry.
    ///
    /// # Errors
    /// When the directory cannot be made or sled cannot open it.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        number: u32,
        about: &[u8],
        sealer: Option<Arc<Sealer>>,
    ) -> Result<Self, GenerationError> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(dir)?,
        }
        let mut generation = Self::open(dir, number)?;
        generation.sealer = sealer.clone();
        generation.names = Some(names::create(dir)?);
        let value = Encoder::new(sealer).encode_plain(Kind::Generation, number, 0, about)?;
        generation.commit(disk, &[(META, value)])?;
        for entry in fs::read_dir(dir)? {
            disk.sync_path(&entry?.path())?;
        }
        disk.sync_path(dir)?;
        if let Some(parent) = dir.parent() {
            disk.sync_path(parent)?;
        }
        Ok(generation)
    }

    /// Opens what a former run left, and syncs it before anything is read: what is shown from now on stays. Its log is read
    /// through first, because sled overwrites what it takes for torn.
    ///
    /// # Errors
    /// When it is damaged, or sled cannot open it.
    pub fn recover(disk: &dyn Disk, dir: &Path, number: u32) -> Result<Self, GenerationError> {
        match salvage::soundness(dir, number)? {
            Soundness::Sound => Self::recover_as_it_is(disk, dir, number),
            Soundness::Damaged(at, what) => Err(GenerationError::Damaged { at, what }),
        }
    }

    /// As [`Generation::recover`], whatever its log looks like. sled may destroy what could be salvaged.
    ///
    /// # Errors
    /// When sled cannot open it.
    pub fn recover_as_it_is(disk: &dyn Disk, dir: &Path, number: u32) -> Result<Self, GenerationError> {
        let generation = Self::open(dir, number)?;
        disk.sync_data(&generation.file)?;
        disk.sync_path(dir)?;
        Ok(generation)
    }

    fn open(dir: &Path, number: u32) -> Result<Self, GenerationError> {
        remove_broken_snapshots(dir)?;
        let note = dir.join(OPENING);
        let deaths = fs::read(&note).ok().and_then(|note| note.first().copied()).unwrap_or(0);
        if deaths >= MOST_DEATHS {
            return Err(GenerationError::Deadly);
        }
        // A process that dies is what it is for: the page cache outlives it, so nothing is synced.
        let _ = fs::write(&note, [deaths + 1]);
        let opened = Self::open_patiently(dir);
        let _ = fs::remove_file(&note);
        let db = Some(opened?);
        let file = File::options().read(true).write(true).open(dir.join("db"))?;
        Ok(Self { number, dir: dir.to_owned(), db, file, names: None, sealer: None })
    }

    fn open_patiently(dir: &Path) -> Result<sled::Db, GenerationError> {
        let started = Instant::now();
        let mut snapshots = Snapshots::InPlace;
        loop {
            match open_fenced(dir) {
                // A snapshot only spares sled a look through its log.
                Err(GenerationError::Sled(sled::Error::Corruption { .. }))
                    if snapshots == Snapshots::InPlace =>
                {
                    snapshots = Snapshots::Aside;
                    set_snapshots_aside(dir)?;
                }
                // Our own handle of a moment ago still holds the lock while it closes.
                Err(GenerationError::Sled(sled::Error::Io(error)))
                    if error.kind() == io::ErrorKind::Other && started.elapsed() < LOCK_PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    fn db(&self) -> Result<&sled::Db, sled::Error> {
        self.db.as_ref().ok_or_else(|| sled::Error::Unsupported("closed".to_owned()))
    }

    /// What seals the values of a generation that is being written.
    pub fn sealer(&self) -> Option<&Arc<Sealer>> {
        self.sealer.as_ref()
    }

    /// The key its values are sealed with, by what is stored; needs no key.
    ///
    /// # Errors
    /// When sled fails, or the value that tells it is damaged.
    pub fn sealed_with(&self) -> Result<Option<KeyId>, GenerationError> {
        match fenced(|| self.db()?.get(META.to_be_bytes()))? {
            Some(value) => Ok(block::key(&value)?),
            None => Ok(None),
        }
    }

    /// Stores the entries and returns once they are on the device.
    ///
    /// # Errors
    /// Any error is final for this handle: sled's errors are sticky.
    pub fn commit(&self, disk: &dyn Disk, entries: &[(u64, Vec<u8>)]) -> Result<(), GenerationError> {
        if let Some(file) = &self.names {
            let values = entries.iter().filter(|(key, _)| (NAMES..META).contains(key));
            if let Err(error) = names::append(disk, file, values.map(|(_, value)| value.as_slice())) {
                // The database has them as well.
                tracing::debug!(generation = self.number, %error, "names cannot be kept twice");
            }
        }
        fenced(|| {
            let db = self.db()?;
            for (key, value) in entries {
                db.insert(key.to_be_bytes(), value.as_slice())?;
            }
            db.flush()?;
            Ok(())
        })?;
        disk.sync_data(&self.file)?;
        Ok(())
    }

    /// Real bytes of the database file.
    pub fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.blocks() * 512)
    }

    /// Files that sled never syncs; there must be none.
    pub fn blobs(&self) -> usize {
        fs::read_dir(self.dir.join("blobs")).map_or(0, |entries| entries.count())
    }

    /// The last block.
    pub fn last(&self) -> Result<Option<Stored>, GenerationError> {
        fenced(|| match self.db()?.range(..NAMES.to_be_bytes()).next_back() {
            Some(item) => Ok(Some(stored(item?))),
            None => Ok(None),
        })
    }

    /// Up to `most` blocks in order, the first being the one that holds `n` (or the next one, if none does).
    pub fn blocks(&self, n: u32, most: usize) -> Result<Vec<Stored>, GenerationError> {
        fenced(|| {
            let from = u64::from(n).to_be_bytes();
            let mut blocks = Vec::new();
            if let Some(item) = self.db()?.range(..=from).next_back() {
                blocks.push(stored(item?));
            }
            let after = u64::from(n).saturating_add(1).to_be_bytes();
            let more = most.saturating_sub(blocks.len());
            for item in self.db()?.range(after..NAMES.to_be_bytes()).take(more) {
                blocks.push(stored(item?));
            }
            Ok(blocks)
        })
    }

    /// The last `most` blocks before `n`, newest first.
    pub fn blocks_before(&self, n: u32, most: usize) -> Result<Vec<Stored>, GenerationError> {
        fenced(|| {
            let before = u64::from(n).to_be_bytes();
            self.db()?.range(..before).rev().take(most).map(|item| Ok(stored(item?))).collect()
        })
    }

    /// Up to `most` values of any kind with keys from `from` on, in order.
    pub fn values(&self, from: u64, most: usize) -> Result<Vec<(u64, sled::IVec)>, GenerationError> {
        fenced(|| {
            let mut values = Vec::new();
            for item in self.db()?.range(from.to_be_bytes()..).take(most) {
                let (key, value) = item?;
                values.push((number_of(&key), value));
            }
            Ok(values)
        })
    }

    /// Device names by their number in this generation, from either of their two places. Damaged ones, and those whose
    /// key is not among `keys`, are left out.
    pub fn names(&self, keys: &Keys) -> Result<HashMap<u32, Arc<str>>, GenerationError> {
        let mut names = HashMap::new();
        let mut take = |number: u32, value: &[u8]| {
            let name = block::decode_plain(value, keys, Kind::Name).ok();
            if let Some(name) = name.as_deref().and_then(|name| std::str::from_utf8(name).ok()) {
                names.insert(number, Arc::from(name));
            }
        };
        names::read(&self.dir, self.number, &mut |header, value| take(header.first_n, value));
        fenced(|| {
            for item in self.db()?.range(NAMES.to_be_bytes()..META.to_be_bytes()) {
                let (key, value) = item?;
                take(number_of(&key) as u32, &value);
            }
            Ok(())
        })?;
        Ok(names)
    }

    /// What the generation says of itself (JSON), as it was given to [`Generation::create`].
    /// `None` when it is damaged, or its key is not among `keys`.
    pub fn about(&self, keys: &Keys) -> Result<Option<Vec<u8>>, GenerationError> {
        let value = fenced(|| self.db()?.get(META.to_be_bytes()))?;
        let about =
            value.as_deref().and_then(|value| block::decode_plain(value, keys, Kind::Generation).ok());
        Ok(about.map(Cow::into_owned))
    }

    /// Everything that is no block, with its key.
    pub fn others(&self) -> Result<Vec<(u64, sled::IVec)>, GenerationError> {
        fenced(|| {
            let items = self.db()?.range(NAMES.to_be_bytes()..);
            items.map(|item| item.map(|(key, value)| (number_of(&key), value))).collect()
        })
    }

    /// The entry that keeps a device's name.
    ///
    /// # Errors
    /// When it cannot be sealed.
    pub fn name_entry(
        &self,
        encoder: &Encoder,
        device: u32,
        name: &str,
    ) -> Result<(u64, Vec<u8>), GenerationError> {
        let value = encoder.encode_plain(Kind::Name, self.number, device, name.as_bytes())?;
        Ok((NAMES | u64::from(device), value))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // sled writes when its last handle goes, and panics there as elsewhere.
        let db = self.db.take();
        let _ = fenced(|| {
            drop(db);
            Ok(())
        });
    }
}

/// The key under which a value with this header lies.
pub fn key(header: &Header) -> u64 {
    match header.kind {
        Kind::Readings | Kind::Summaries => u64::from(header.first_n),
        Kind::Name => NAMES | u64::from(header.first_n),
        Kind::Generation => META,
    }
}

/// What has become of the snapshots while a database is opened.
#[derive(PartialEq)]
enum Snapshots {
    InPlace,
    Aside,
}

fn set_snapshots_aside(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(rest) = name.to_string_lossy().strip_prefix("snap.") {
            fs::rename(entry.path(), dir.join(format!("refused-snap.{rest}")))?;
        }
    }
    tracing::info!(dir = %dir.display(), "sled does not take its snapshot: trying without it");
    Ok(())
}

fn stored((key, value): (sled::IVec, sled::IVec)) -> Stored {
    Stored { first_n: number_of(&key) as u32, value }
}

fn number_of(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

fn fenced<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, GenerationError> {
    Ok(fence::fenced(call)?)
}

fn open_fenced(dir: &Path) -> Result<sled::Db, GenerationError> {
    let config = sled::Config::default()
        .path(dir)
        .cache_capacity(CACHE)
        .flush_every_ms(None)
        .print_profile_on_drop(false);
    Ok(fence::patiently(move || config.open())?)
}

/// A snapshot that was being written when the power went is taken for the real one by sled, and fails every open.
fn remove_broken_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let broken = name.ends_with(".generating") || entry.metadata()?.len() < LEAST_SNAPSHOT;
        if name.starts_with("snap.") && broken {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
