//! The state directory: who owns it, and who this gateway is.
//!
//! Promise: at most one process works in a state directory (`lock`, an advisory lock that dies with its owner, which
//! holds the owner's process id and the address of its control socket), and a gateway without a configured id keeps
//! the one it made up (`gateway-id`). Whatever a command run by root leaves behind belongs to the directory's owner, so
//! that the daemon's user can work with it.

mod handover;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::journal::Trouble;

const LOCK_FILE: &str = "lock";
const ID_FILE: &str = "gateway-id";
/// The same once more: with another id, everything that is delivered would seem to come from elsewhere.
const ID_COPY: &str = "gateway-id.copy";
/// The lock file holds a number and a path; more is not ours.
const LOCK_FILE_LIMIT: u64 = 4096;

/// How long a lock is waited for whose owner is dead: a program that it was just starting still has it.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(5);

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "another fogbeat (process {pid}) works in {dir}; stop it, or set gateway.state_dir to another directory"
    )]
    InUse { dir: PathBuf, pid: String },
    #[error(
        "the state directory {dir} cannot be written ({source}); make it writable for this user, or choose another \
         with --config FILE or FOGBEAT__GATEWAY__STATE_DIR=/path"
    )]
    Unusable { dir: PathBuf, source: io::Error },
    #[error("the gateway's id in {path} is not usable ({source}); set gateway.id")]
    Id { path: PathBuf, source: io::Error },
}

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Held, and let go with this. `None` while the disk is too full for it: then nothing is ours yet.
    lock: Option<File>,
}

/// What the lock file says about the process that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub pid: String,
    /// Where it answers, if it does.
    pub socket: Option<PathBuf>,
}

impl StateDir {
    /// Makes the directory if it is missing (mode 0700) and locks it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let unusable = |source| StateError::Unusable { dir: path.to_owned(), source };
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        }
        let writing =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut lock = match writing.open(path.join(LOCK_FILE)) {
            // A disk that is read-only may come back; until then the lock holds all the same.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                File::open(path.join(LOCK_FILE))
            }
            lock => lock,
        }
        .map_err(unusable)?;
        let started = Instant::now();
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let owner = read_owner(&mut lock);
                    let gone =
                        owner.as_ref().is_some_and(|owner| !Path::new("/proc").join(&owner.pid).exists());
                    if !gone || started.elapsed() >= ORPHAN_PATIENCE {
                        let pid = owner.map_or_else(|| "unknown".to_owned(), |owner| owner.pid);
                        return Err(StateError::InUse { dir: path.to_owned(), pid });
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(errno) => return Err(unusable(errno.into())),
            }
        }
        let state = Self { path: path.to_owned(), lock: Some(lock) };
        match state.announce(None) {
            // On a full or read-only disk nobody can be told: what needs the disk will say so.
            Err(error) if Trouble::of(&error).is_none() => Err(unusable(error)),
            _ => Ok(state),
        }
    }

    /// As [`Self::open`], for a daemon that waits for its disk: where the directory or its lock cannot be made because
    /// the disk is full, [`Self::claim`] does it later.
    pub fn open_or_wait(path: &Path) -> Result<Self, StateError> {
        match Self::open(path) {
            Err(StateError::Unusable { source, .. }) if Trouble::of(&source) == Some(Trouble::DiskFull) => {
                Ok(Self { path: path.to_owned(), lock: None })
            }
            opened => opened,
        }
    }

    /// Makes the directory ours, if it is not yet.
    pub fn claim(&mut self) -> Result<(), StateError> {
        if self.lock.is_none() {
            *self = Self::open(&self.path)?;
        }
        Ok(())
    }

    /// Writes into the lock file who holds it and where it answers.
    pub fn announce(&self, socket: Option<&Path>) -> io::Result<()> {
        let socket = socket.map(|path| format!("{}\n", path.display())).unwrap_or_default();
        let text = format!("{}\n{socket}", std::process::id());
        // Not through the lock's own handle: on a disk that was read-only that one cannot write.
        let mut file = OpenOptions::new().write(true).open(self.path.join(LOCK_FILE))?;
        // Over the old text first: its block is there, also on a full disk.
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id that was made and kept in `dir`, if one was. Takes no lock.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn known_id(dir: &Path) -> io::Result<Option<String>> {
        for file in [ID_FILE, ID_COPY] {
            if let Kept::Whole(id) = read_id(&dir.join(file))? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The configured id, or the one made once and kept here. Never the host name: every Pi has the same.
    pub fn gateway_id(&self, configured: Option<&str>) -> Result<String, StateError> {
        if let Some(id) = configured {
            return Ok(id.to_owned());
        }
        let (path, copy) = (self.path.join(ID_FILE), self.path.join(ID_COPY));
        let failed = |source| StateError::Id { path: path.clone(), source };
        let (known, kept) = (read_id(&path).map_err(failed)?, read_id(&copy).map_err(failed)?);
        let found = match (known, kept) {
            (Kept::Whole(id), Kept::Whole(same)) if id == same => return Ok(id),
            (Kept::Whole(id), _) => id,
            (Kept::Damaged, Kept::Whole(id)) => {
                tracing::error!(
                    "the file with the gateway's id is damaged: its copy takes its place; check the disk"
                );
                id
            }
            (Kept::Nothing, Kept::Whole(id)) => id,
            (Kept::Nothing, Kept::Nothing) => make_id().map_err(failed)?,
            (_, _) => {
                let id = make_id().map_err(failed)?;
                tracing::error!(
                    id,
                    "the gateway's id is damaged and cannot be restored: it has a new one from now on; set gateway.id to \
                     give it back the old one"
                );
                id
            }
        };
        let bytes = crate::files::with_sum(found.clone().into_bytes());
        for place in [&path, &copy] {
            crate::files::replace(place, &bytes).map_err(failed)?;
        }
        Ok(found)
    }
}

/// The id that a gateway without a configured one goes by, if it has made one and it can be read. Makes none.
pub fn known_id(dir: &Path) -> Option<String> {
    [ID_FILE, ID_COPY].into_iter().find_map(|file| match read_id(&dir.join(file)) {
        Ok(Kept::Whole(id)) => Some(id),
        _ => None,
    })
}

/// What a file with an id holds.
enum Kept {
    Whole(String),
    Nothing,
    Damaged,
}

fn read_id(path: &Path) -> io::Result<Kept> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::Nothing),
        Err(error) => return Err(error),
    };
    let text = crate::files::without_sum(&bytes).ok().and_then(|text| std::str::from_utf8(text).ok());
    Ok(match text.map(str::trim).filter(|id| is_made_id(id)) {
        Some(id) => Kept::Whole(id.to_owned()),
        None => Kept::Damaged,
    })
}

impl Drop for StateDir {
    /// Still under the lock, which is given up after this.
    fn drop(&mut self) {
        if self.lock.is_none() {
            return;
        }
        if let Err(error) = handover::to_owner(&self.path) {
            tracing::warn!(%error, dir = %self.path.display(),
                "files made by root could not be given to the directory's owner: do it with chown -R");
        }
    }
}

/// The process that works in `dir` at the moment, if there is one.
pub fn owner(dir: &Path) -> io::Result<Option<Owner>> {
    let mut file = match File::open(dir.join(LOCK_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(read_owner(&mut file)),
        Ok(()) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn read_owner(file: &mut File) -> Option<Owner> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(LOCK_FILE_LIMIT).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let pid = lines.next().filter(|pid| pid.parse::<u32>().is_ok())?.to_owned();
    Some(Owner { pid, socket: lines.next().map(PathBuf::from) })
}

/// RFC 4648 base32 in small letters: no pair of characters that people mistake for each other.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn make_id() -> io::Result<String> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let letters = bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 31)));
    Ok("gw-".chars().chain(letters.map(|letter| char::from(*letter))).collect())
}

fn is_made_id(id: &str) -> bool {
    id.strip_prefix("gw-").is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|b| ALPHABET.contains(&b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_owner_who_can_be_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(owner(dir.path()).unwrap(), None);
        let first = StateDir::open(dir.path()).unwrap();
        first.announce(Some(Path::new("/run/x.sock"))).unwrap();
        let me = std::process::id().to_string();
        let told = StateDir::open(dir.path()).unwrap_err().to_string();
        assert!(told.contains(&format!("process {me}")), "{told}");
        let found = owner(dir.path()).unwrap().unwrap();
        assert_eq!(found, Owner { pid: me, socket: Some("/run/x.sock".into()) });
        drop(first);
        assert_eq!(owner(dir.path()).unwrap(), None);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn an_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let id = state.gateway_id(None).unwrap();
        assert!(is_made_id(&id), "{id}");
        assert_eq!(state.gateway_id(None).unwrap(), id);
        assert_eq!(state.gateway_id(Some("gym-12")).unwrap(), "gym-12");
        for damage in ["", "gw-aaaaaaaa\n{\"crc32c\":\"00000000\"}\n"] {
            std::fs::write(dir.path().join(ID_FILE), damage).unwrap();
            assert_eq!(state.gateway_id(None).unwrap(), id, "its copy is whole");
        }
        std::fs::remove_file(dir.path().join(ID_FILE)).unwrap();
        assert_eq!(state.gateway_id(None).unwrap(), id);
        for file in [ID_FILE, ID_COPY] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let another = state.gateway_id(None).unwrap();
        assert_ne!(another, id);
        assert_eq!(state.gateway_id(None).unwrap(), another);
    }

    /// A daemon that was killed while it started another program: that one has the lock until it runs.
    #[test]
    fn a_lock_that_outlives_its_owner_for_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        // As if it were another process's, one that is no more.
        std::fs::write(dir.path().join(LOCK_FILE), "4194305\n").unwrap();
        let path = dir.path().to_owned();
        let second = std::thread::spawn(move || StateDir::open(&path).map(drop));
        std::thread::sleep(Duration::from_millis(100));
        drop(first);
        second.join().unwrap().unwrap();
    }
}
