//! A backup becomes a gateway.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Archive, BackupError, Entry, Origin, Owner, failed};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::files::{self, Access};
use crate::init;
use crate::journal::{Journal, RealDisk};
use crate::state::StateDir;

/// Where it is to be put.
#[derive(Debug)]
pub struct Target<'a> {
    /// The configuration's file.
    pub file: &'a Path,
    /// What follows from the backup's configuration here.
    pub config: &'a Config,
    /// Locked by whoever calls, so that no gateway works in it.
    pub state: &'a StateDir,
    /// What is there gives way.
    pub force: bool,
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Restored {
    pub files: usize,
    /// Where readings were moved that were here before.
    pub aside: Vec<PathBuf>,
}

/// Puts a backup in place. The configuration comes last: until then what was there starts as before. Blocking.
///
/// # Errors
/// [`BackupError`]. Refusals come before anything is changed; where the disk is full, do it again with some room.
pub fn put_back(archive: &Archive, target: &Target<'_>) -> Result<Restored, BackupError> {
    let state_dir = target.state.path();
    let meta = std::fs::metadata(state_dir).map_err(failed(state_dir))?;
    let service = (meta.uid(), meta.gid());
    if !target.force {
        for entry in &archive.entries {
            refuse_another(entry, target.file)?;
        }
        refuse_readings(target.config, state_dir)?;
    }
    let mut aside = Vec::new();
    // A name of its own for what comes: no spool, no name.
    for place in ["spool", "relayed"] {
        aside.extend(clear(&state_dir.join(place), target.force)?);
    }
    for entry in archive.entries.iter().filter(|entry| entry.origin != Origin::Configuration) {
        put(entry, state_dir, service)?;
    }
    if let Some(text) = archive.configuration() {
        init::put(target.file, text).map_err(|error| match error {
            init::PlaceError::File { path, source } => BackupError::File { path, source },
            init::PlaceError::Edited(path) => BackupError::There { path },
        })?;
    }
    Ok(Restored { files: archive.entries.len(), aside })
}

/// Whether a file would take the place of another one that is not ours to judge.
fn refuse_another(entry: &Entry, file: &Path) -> Result<(), BackupError> {
    let path = match &entry.origin {
        Origin::Configuration => file,
        Origin::Named(path) => path,
        // The state directory of a gateway without readings has nothing that is worth keeping.
        Origin::State(_) => return Ok(()),
    };
    let there = match std::fs::read(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BackupError::File { path: path.to_owned(), source }),
    };
    let packaged = entry.origin == Origin::Configuration && there == init::PACKAGED.as_bytes();
    match packaged || there == entry.bytes.as_slice() {
        true => Ok(()),
        false => Err(BackupError::There { path: path.to_owned() }),
    }
}

fn refuse_readings(config: &Config, state_dir: &Path) -> Result<(), BackupError> {
    let refused = |readings: String| BackupError::Readings { dir: state_dir.to_owned(), readings };
    if has_files(&state_dir.join("relayed")).map_err(failed(state_dir))? {
        return Err(refused("batches of other gateways".to_owned()));
    }
    if !state_dir.join("spool").is_dir() {
        return Ok(());
    }
    let clock = Arc::new(SystemClock::new(&config.clock, state_dir));
    // Without its key it still says how many there are.
    let settings = crate::config::Journal { key_file: None, ..config.journal.clone() };
    match Journal::open_offline(&settings, state_dir, clock, Arc::new(RealDisk)) {
        Ok((journal, _)) => {
            match journal.generations().iter().map(|one| u64::from(one.readings)).sum::<u64>() {
                0 => Ok(()),
                1 => Err(refused("1 reading".to_owned())),
                many => Err(refused(format!("{many} readings"))),
            }
        }
        Err(error) => Err(refused(format!("something that cannot be read ({error})"))),
    }
}

fn has_files(dir: &Path) -> io::Result<bool> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if !entry.file_type()?.is_dir() || has_files(&entry.path())? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// Makes room for a new directory: moves the old one aside where it may hold something, removes it where nothing is lost.
fn clear(dir: &Path, keep: bool) -> Result<Option<PathBuf>, BackupError> {
    if !dir.is_dir() {
        return Ok(None);
    }
    if !keep {
        return std::fs::remove_dir_all(dir).map(|()| None).map_err(failed(dir));
    }
    let free = (1..).map(|n| dir.with_extension(format!("before-restore-{n}"))).find(|path| !path.exists());
    let aside = free.unwrap_or_else(|| dir.with_extension("before-restore"));
    std::fs::rename(dir, &aside).map_err(failed(dir))?;
    Ok(Some(aside))
}

fn put(entry: &Entry, state_dir: &Path, service: (u32, u32)) -> Result<(), BackupError> {
    let path = match &entry.origin {
        Origin::State(name) => state_dir.join(name),
        Origin::Named(path) => path.clone(),
        Origin::Configuration => return Ok(()),
    };
    let inside = matches!(entry.origin, Origin::State(_));
    let owner = (inside || entry.owner == Owner::Service).then_some(service);
    if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
        let mode = if inside { 0o700 } else { 0o755 };
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
        made.map_err(failed(directory))?;
        if let (true, true) = (inside, rustix::process::geteuid().is_root()) {
            std::os::unix::fs::chown(directory, Some(service.0), Some(service.1))
                .map_err(failed(directory))?;
        }
    }
    let before = std::fs::read(&path).ok().filter(|before| before != entry.bytes.as_slice());
    if let (Some(before), false) = (before, inside) {
        let kept = init::kept(&path);
        files::replace_with(&kept, &before, Access { mode: entry.mode, owner }).map_err(failed(&kept))?;
    }
    files::replace_with(&path, &entry.bytes, Access { mode: entry.mode, owner }).map_err(failed(&path))
}
