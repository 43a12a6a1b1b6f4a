//! Writing the log.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::event::{Act, Device, Outcome};
use super::who::Who;
use super::{MOST_BYTES, MOST_FILES};
use crate::clock::{Clock, WallQuality};
use crate::privacy::{Key, KeyError, tag};
use crate::reading::rfc3339;

pub(super) const FILE: &str = "audit.jsonl";
const HEAD: &str = "audit.head";
const LOCK: &str = "audit.lock";
const KEY: &str = "audit.key";
/// The same access by the same user is written down this often.
const ACCESS_EVERY: Duration = Duration::from_secs(3600);
/// Longer than any line.
const LONGEST_LINE: u64 = 64 << 10;

/// The log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit log {path} cannot be used: {source}; check free space and permissions")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Where the log ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the last line; 0: there is none.
    pub n: u64,
    /// SHA-256 of the last line, in hexadecimal digits.
    pub hash: String,
    /// Number of the first line that is kept.
    pub first: u64,
    /// What the key makes of nothing: tells whether it is still the one that devices were called by.
    #[serde(default)]
    key: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { n: 0, hash: "0".repeat(64), first: 1, key: String::new() }
    }
}

/// The log of one state directory. Several processes may write it at a time.
pub struct Audit {
    dir: PathBuf,
    key: Key,
}

#[derive(Serialize)]
struct Written<'a> {
    n: u64,
    prev: &'a str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_quality: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_ms: Option<u64>,
    who: &'a Who,
    #[serde(flatten)]
    act: &'a Act,
    outcome: Outcome,
}

impl Audit {
    /// Makes `audit.key` where there is none. Blocking.
    ///
    /// # Errors
    /// When the key cannot be read or made.
    pub fn open(state_dir: &Path) -> Result<Self, AuditError> {
        let path = state_dir.join(KEY);
        let key = match Key::read_or_make(&path) {
            Err(KeyError::Format(_)) => {
                fs::remove_file(&path).map_err(|source| AuditError::Io { path: path.clone(), source })?;
                Key::read_or_make(&path)?
            }
            key => key?,
        };
        let audit = Self { dir: state_dir.to_owned(), key };
        let known = fs::read(state_dir.join(HEAD)).ok().and_then(|text| parse(&text)).map(|head| head.key);
        if known.is_some_and(|known| !known.is_empty() && known != audit.key_id()) {
            tracing::error!(path = %path.display(),
                "the key of the audit log is not the one it was: devices are called otherwise in it from now on");
        }
        if audit.is_broken() {
            tracing::error!(
                "the audit log does not end where it ended: it is damaged, or somebody has changed it; `fogbeat audit verify` \
                 tells what is missing"
            );
        }
        Ok(audit)
    }

    fn key_id(&self) -> String {
        tag(&self.key, "", "")
    }

    /// Whether the last line and the head do not belong together. What a power cut leaves is no fault.
    fn is_broken(&self) -> bool {
        // Not between another process's line and its head. Without a lock (a disk that is read-only) it is not judged.
        let Ok(lock) = self.open_file(LOCK) else { return false };
        if flock(&lock, FlockOperation::LockShared).is_err() {
            return false;
        }
        let Ok(text) = fs::read(self.dir.join(HEAD)) else {
            return fs::metadata(self.dir.join(FILE)).is_ok_and(|file| file.len() > 0);
        };
        let Some(head) = parse(&text) else { return true };
        let Ok(mut file) = File::open(self.dir.join(FILE)) else { return head.n > 0 };
        let Ok((end, _)) = tail(&mut file) else { return true };
        match last_line(&end).map(|last| (last, serde_json::from_slice::<super::Line>(last))) {
            Some((last, Ok(line))) => {
                let same = line.n == head.n && hash(last) == head.hash;
                let after = line.n == head.n + 1 && line.prev == head.hash;
                !same && !after
            }
            Some((_, Err(_))) => true,
            // Just begun behind one that was closed.
            None => head.n > 0 && !self.dir.join(closed_name(head.n)).exists(),
        }
    }

    /// A device as it stands in the log.
    pub fn device(&self, name: &str) -> Device {
        Device(tag(&self.key, "d-", name))
    }

    /// Adds an entry; on disk when it returns. Blocking.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn record(
        &self,
        clock: &dyn Clock,
        who: &Who,
        act: &Act,
        outcome: Outcome,
    ) -> Result<(), AuditError> {
        self.append(clock, who, act, outcome)
            .map_err(|source| AuditError::Io { path: self.dir.join(FILE), source })
    }

    /// Where the log ends. Blocking.
    pub fn head(&self) -> io::Result<Head> {
        head(&self.dir)
    }

    fn append(&self, clock: &dyn Clock, who: &Who, act: &Act, outcome: Outcome) -> io::Result<()> {
        let lock = self.open_file(LOCK)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let mut head = head(&self.dir)?;
        let mut file = self.open_file(FILE)?;
        self.take_up(&mut file, &mut head)?;
        if file.metadata()?.len() >= MOST_BYTES {
            file = self.rotate(&mut head)?;
        }
        let now = clock.now();
        let unsynced = now.quality == WallQuality::Unsynced;
        let mut time = Vec::new();
        rfc3339::write(&mut time, now.wall_ms);
        let written = Written {
            n: head.n + 1,
            prev: &head.hash,
            time: String::from_utf8_lossy(&time).into_owned(),
            time_quality: unsynced.then_some("unsynced"),
            boot: unsynced.then(|| hex::encode(clock.boot().0)),
            uptime_ms: unsynced.then_some(now.uptime_ms),
            who,
            act,
            outcome,
        };
        let mut line = serde_json::to_vec(&written).map_err(io::Error::other)?;
        let hash = hash(&line);
        line.push(b'\n');
        file.write_all(&line)?;
        crate::files::sync_data(&file)?;
        head.n += 1;
        head.hash = hash;
        head.key = self.key_id();
        self.store(&head)
    }

    fn open_file(&self, name: &str) -> io::Result<File> {
        let path = self.dir.join(name);
        let made = !path.exists();
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        if made {
            let dir = File::open(&self.dir)?;
            let owner = dir.metadata()?;
            if rustix::process::geteuid().is_root() && owner.uid() != 0 {
                fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            dir.sync_all()?;
        }
        Ok(file)
    }

    fn store(&self, head: &Head) -> io::Result<()> {
        let text = serde_json::to_vec(head).map_err(io::Error::other)?;
        crate::files::replace(&self.dir.join(HEAD), &crate::files::with_sum(text))
    }

    /// What a crash left: a line that was cut off goes, one that was written after the head becomes the head.
    fn take_up(&self, file: &mut File, head: &mut Head) -> io::Result<()> {
        let (end, length) = tail(file)?;
        let whole = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < end.len() {
            file.set_len(length - (end.len() - whole) as u64)?;
        }
        let last = last_line(&end).unwrap_or_default();
        if let Ok(line) = serde_json::from_slice::<super::Line>(last)
            && line.n == head.n + 1
            && line.prev == head.hash
        {
            head.n = line.n;
            head.hash = hash(last);
        }
        Ok(())
    }

    /// Closes the file under the number after its last line; the oldest go.
    fn rotate(&self, head: &mut Head) -> io::Result<File> {
        fs::rename(self.dir.join(FILE), self.dir.join(closed_name(head.n)))?;
        let mut closed = closed(&self.dir)?;
        let surplus = closed.len().saturating_sub(MOST_FILES);
        for path in closed.drain(..surplus) {
            let last: Option<u64> =
                path.file_stem().and_then(|stem| stem.to_str()?.strip_prefix("audit-")?.parse().ok());
            head.first = last.map_or(head.first, |last| last + 1);
            self.store(head)?;
            fs::remove_file(path)?;
        }
        self.open_file(FILE)
    }
}

/// Files that were closed, oldest first; each is named by the number of its last line.
pub(super) fn closed(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("audit-") && name.ends_with(".jsonl") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn head(dir: &Path) -> io::Result<Head> {
    match fs::read(dir.join(HEAD)) {
        // A damaged one counts as none; what is missing then is told by the chain.
        Ok(text) => Ok(parse(&text).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Head::default()),
        Err(error) => Err(error),
    }
}

fn parse(text: &[u8]) -> Option<Head> {
    serde_json::from_slice(crate::files::without_sum(text).ok()?).ok()
}

/// Name of a file whose last line is number `n`.
fn closed_name(n: u64) -> String {
    format!("audit-{n:012}.jsonl")
}

/// The end of the log, with its last line for certain, and the length of the whole.
fn tail(file: &mut File) -> io::Result<(Vec<u8>, u64)> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_LINE)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok((end, length))
}

/// The last line that is whole.
fn last_line(end: &[u8]) -> Option<&[u8]> {
    let whole = end.iter().rposition(|byte| *byte == b'\n')?;
    end.get(..whole)?.rsplit(|byte| *byte == b'\n').next()
}

pub(super) fn hash(line: &[u8]) -> String {
    hex::encode(Sha256::digest(line))
}

/// The log in the hands of a running gateway or a command: what cannot be written is told, and stops nothing.
#[derive(Clone)]
pub struct Scribe {
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    accesses: Arc<Mutex<Accesses>>,
}

type Accesses = HashMap<(u32, &'static str), (Instant, u64)>;

impl Scribe {
    pub fn new(audit: Audit, clock: Arc<dyn Clock>) -> Self {
        Self { audit: Arc::new(audit), clock, accesses: Arc::default() }
    }

    pub fn device(&self, name: &str) -> Device {
        self.audit.device(name)
    }

    /// Adds an entry. Blocking.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn try_note(&self, who: &Who, act: &Act, outcome: Outcome) -> Result<(), AuditError> {
        self.audit.record(&*self.clock, who, act, outcome)
    }

    /// Adds an entry. Blocking.
    pub fn note(&self, who: &Who, act: &Act, outcome: Outcome) {
        if let Err(error) = self.try_note(who, act, outcome) {
            tracing::error!(%error, "an entry of the audit log is missing");
        }
    }

    /// Adds an entry that somebody was shown names or readings, at most one an hour for each user and thing. Blocking.
    pub fn access(&self, who: &Who, what: &'static str) {
        let repeated = {
            let mut accesses = self.accesses.lock().unwrap_or_else(PoisonError::into_inner);
            match accesses.get_mut(&(who.uid, what)) {
                Some((since, repeated)) if since.elapsed() < ACCESS_EVERY => {
                    *repeated += 1;
                    return;
                }
                before => {
                    let repeated = before.map_or(0, |(_, repeated)| *repeated);
                    accesses.insert((who.uid, what), (Instant::now(), 0));
                    repeated
                }
            }
        };
        self.note(who, &Act::Access { what, repeated }, Outcome::Done);
    }

    /// Adds an entry that stored readings are written out from number `from` on: one for an export from the beginning,
    /// for one from elsewhere at most one an hour. Blocking.
    pub fn export(&self, who: &Who, from: u64) {
        const WHAT: &str = "journal_page";
        if from == 0 {
            let mut accesses = self.accesses.lock().unwrap_or_else(PoisonError::into_inner);
            accesses.insert((who.uid, WHAT), (Instant::now(), 0));
            drop(accesses);
            self.note(who, &Act::Export, Outcome::Done);
        } else {
            self.access(who, WHAT);
        }
    }

    /// Where the log ends. Blocking.
    pub fn head(&self) -> Option<Head> {
        self.audit.head().ok()
    }
}
