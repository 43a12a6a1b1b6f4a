//! The files of the lake: written whole, counted by day, pruned by day. Blocking.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use time::{Date, OffsetDateTime};

use crate::files;
use crate::forward::Member;
use crate::forward::label::UplinkLabel;
use crate::forward::member::extension;

/// The lake leaves this much of the disk free, or a twentieth of a small disk: the journal must never meet a full
/// one because of it.
const RESERVE: u64 = 256 << 20;
const RESERVE_SHARE: u64 = 20;
/// Default share of the disk.
const DEFAULT_SHARE: u64 = 4;
/// Lies in a day that was written to while the clock was a guess, so that its name says nothing of its age. Empty, or
/// the first day that was right since: from that one on its age counts. Readers of the lake do not look at it.
const GUESSED: &str = ".guessed";
/// Name part of a file that is not complete.
pub(super) const TEMPORARY: &str = ".tmp";

/// The lake could not take a member.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {act} {path}: {source}")]
    Io { act: &'static str, path: PathBuf, source: io::Error },
    #[error("the disk of {path} has {free} bytes free, of which {reserve} are kept for the journal")]
    Full { path: PathBuf, free: u64, reserve: u64 },
    #[error("the lake {path} is at its max_bytes of {max_bytes} with the deliveries of a single day")]
    Quota { path: PathBuf, max_bytes: u64 },
}

impl StoreError {
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => "permission",
                io::ErrorKind::ReadOnlyFilesystem => "read_only",
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "disk_full",
                _ => "io",
            },
            Self::Full { .. } => "disk_full",
            Self::Quota { .. } => "max_bytes",
        }
    }

    pub(super) fn needs_someone(&self) -> bool {
        self.cause() != "io"
    }

    pub fn remedy(&self) -> String {
        match self {
            Self::Io { path, .. } => match self.cause() {
                "permission" => format!("give the daemon's user write access to {}", path.display()),
                "read_only" => "mount the file system read-write, or check the disk (dmesg)".to_owned(),
                "disk_full" => "free space, or lower [[uplink]].max_bytes".to_owned(),
                _ => "check the disk (dmesg) and [[uplink]].path".to_owned(),
            },
            Self::Full { .. } => "free space, or lower [[uplink]].max_bytes or keep".to_owned(),
            Self::Quota { .. } => "raise [[uplink]].max_bytes above what one day brings".to_owned(),
        }
    }
}

/// Counters of the directory uplinks.
#[derive(Debug, Clone, Default)]
pub struct StoreMetrics {
    pruned_days: Family<UplinkLabel, Counter>,
    pruned_bytes: Family<UplinkLabel, Counter>,
    bytes: Family<UplinkLabel, Gauge>,
}

impl StoreMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("lake_pruned_days", "Days removed from the lake", self.pruned_days.clone());
        registry.register("lake_pruned_bytes", "Bytes removed from the lake", self.pruned_bytes.clone());
        registry.register("lake_bytes", "Bytes in the lake", self.bytes.clone());
    }
}

/// One lake.
pub(super) struct Store {
    name: String,
    root: PathBuf,
    /// First part of every file name.
    gateway: String,
    max_bytes: Option<u64>,
    keep: Duration,
    metrics: StoreMetrics,
    /// Known once the lake was walked through.
    ledger: Option<Ledger>,
}

/// What lies in the lake.
struct Ledger {
    /// Bytes of each day's directory, by its name (`dt=YYYY-MM-DD` sorts by date).
    days: BTreeMap<String, u64>,
    total: u64,
    max_bytes: u64,
    reserve: u64,
}

/// Room on the file system, bytes.
struct Room {
    total: u64,
    free: u64,
}

impl Store {
    pub(super) fn new(
        name: &str,
        path: PathBuf,
        gateway: String,
        max_bytes: Option<u64>,
        keep: Duration,
        metrics: StoreMetrics,
    ) -> Self {
        let root = path.join("readings");
        Self { name: name.to_owned(), root, gateway, max_bytes, keep, metrics, ledger: None }
    }

    /// One result per member, in order.
    pub(super) fn put(&mut self, members: &[Member]) -> Vec<Result<(), StoreError>> {
        let mut results: Vec<_> = Vec::with_capacity(members.len());
        for member in members {
            let result = self.put_one(member);
            if result.is_err() {
                // What the disk holds now is looked up again before the next attempt.
                self.ledger = None;
            }
            results.push(result);
        }
        results
    }

    fn put_one(&mut self, member: &Member) -> Result<(), StoreError> {
        let when = OffsetDateTime::from_unix_timestamp(member.bounds.fixed_ms.div_euclid(1000))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let day = day_name(when.date());
        let mut ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => self.open()?,
        };
        let directory = self.root.join(&day).join(format!("hour={:02}", when.hour()));
        let (first, last, extension) = (member.first.0, member.last.0, extension(member.encoding));
        let name = format!("{}-{}-{first}-{last}{extension}", self.gateway, member.spool);
        let path = directory.join(&name);
        if fs::read(&path).is_ok_and(|there| there == member.bytes) {
            // A crash may have come between the rename and the fsync of the directory.
            sync_directory(&directory)?;
            self.ledger = Some(ledger);
            return Ok(());
        }
        let guessed = member.bounds.guessed;
        self.remove_aged(&mut ledger, &day, when.date(), guessed)?;
        self.make_room(&mut ledger, &day, member.bytes.len() as u64, guessed)?;
        make_directories(&self.root, &directory)?;
        let day_directory = self.root.join(&day);
        if guessed && !day_directory.join(GUESSED).exists() {
            write_whole(&day_directory, GUESSED, b"")?;
        }
        write_whole(&directory, &name, &member.bytes)?;
        let size = member.bytes.len() as u64;
        *ledger.days.entry(day).or_default() += size;
        ledger.total += size;
        self.metrics.bytes.get_or_create(&self.label()).set(i64::try_from(ledger.total).unwrap_or(i64::MAX));
        self.ledger = Some(ledger);
        Ok(())
    }

    /// Removes days that are too old or too much. Does nothing where there is no lake yet.
    pub(super) fn keep_house(&mut self, now_ms: i64) -> Result<(), StoreError> {
        if !self.root.is_dir() {
            return Ok(());
        }
        let today = OffsetDateTime::from_unix_timestamp(now_ms.div_euclid(1000));
        let today = today.unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
        // Walked through anew: it may have been changed by others, and by an erasure.
        let mut ledger = self.open()?;
        let name = day_name(today);
        let kept = self
            .remove_aged(&mut ledger, &name, today, false)
            .and_then(|()| self.make_room(&mut ledger, &name, 0, false));
        self.metrics.bytes.get_or_create(&self.label()).set(i64::try_from(ledger.total).unwrap_or(i64::MAX));
        self.ledger = Some(ledger);
        kept
    }

    /// Walks through the lake once: sums the days up and removes what an interrupted write left.
    fn open(&self) -> Result<Ledger, StoreError> {
        fs::create_dir_all(&self.root).map_err(failed("make", &self.root))?;
        let mut days = BTreeMap::new();
        for (name, day) in directories(&self.root)? {
            if !name.starts_with("dt=") {
                continue;
            }
            let mut bytes = 0;
            for (_, hour) in directories(&day)? {
                for entry in fs::read_dir(&hour).map_err(failed("read", &hour))? {
                    let entry = entry.map_err(failed("read", &hour))?;
                    let path = entry.path();
                    if entry.file_name().to_string_lossy().ends_with(TEMPORARY) {
                        fs::remove_file(&path).map_err(failed("remove", &path))?;
                    } else {
                        bytes += entry.metadata().map_err(failed("read", &path))?.len();
                    }
                }
            }
            days.insert(name, bytes);
        }
        let room = self.room()?;
        let total = days.values().sum();
        self.metrics.bytes.get_or_create(&self.label()).set(i64::try_from(total).unwrap_or(i64::MAX));
        Ok(Ledger {
            days,
            total,
            max_bytes: self.max_bytes.unwrap_or(room.total / DEFAULT_SHARE),
            reserve: RESERVE.min(room.total / RESERVE_SHARE),
        })
    }

    fn label(&self) -> UplinkLabel {
        UplinkLabel { uplink: self.name.clone() }
    }

    fn room(&self) -> Result<Room, StoreError> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|errno| failed("ask the free space of", &self.root)(errno.into()))?;
        Ok(Room {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    /// Removes days older than `keep`. A clock that is a guess cannot tell a day's age: then as many days stay as `keep`
    /// has.
    fn remove_aged(
        &self,
        ledger: &mut Ledger,
        today: &str,
        date: Date,
        guessed: bool,
    ) -> Result<(), StoreError> {
        let keep = time::Duration::try_from(self.keep).unwrap_or(time::Duration::MAX);
        if guessed {
            let most = usize::try_from(keep.whole_days()).unwrap_or(usize::MAX).saturating_add(1);
            while ledger.days.len() + usize::from(!ledger.days.contains_key(today)) > most
                && let Some(day) = self.oldest_but(ledger, today, guessed)
            {
                self.remove_day(ledger, &day)?;
            }
            return Ok(());
        }
        let oldest_kept = date.checked_sub(keep).map(day_name).unwrap_or_default();
        let old: Vec<String> = ledger.days.range(..oldest_kept.clone()).map(|(day, _)| day.clone()).collect();
        for day in old.iter().filter(|day| *day != today) {
            if self.counts_from(day, today)? < oldest_kept {
                self.remove_day(ledger, day)?;
            }
        }
        Ok(())
    }

    /// The day that goes first: the oldest before the one that is being written. One after it can be older only where
    /// one of the two was named by a guess.
    fn oldest_but(&self, ledger: &Ledger, today: &str, guessed: bool) -> Option<String> {
        let by_guess = |day: &str| guessed || self.root.join(day).join(GUESSED).exists();
        let mut days = ledger.days.keys().filter(|day| *day != today);
        days.find(|day| day.as_str() < today || by_guess(day)).cloned()
    }

    /// The day from which on a day's age counts.
    fn counts_from(&self, day: &str, today: &str) -> Result<String, StoreError> {
        let directory = self.root.join(day);
        let mark = directory.join(GUESSED);
        match fs::read_to_string(&mark) {
            Ok(since) if since.is_empty() => {
                write_whole(&directory, GUESSED, today.as_bytes())?;
                Ok(today.to_owned())
            }
            Ok(since) => Ok(since),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(day.to_owned()),
            Err(error) => Err(failed("read", &mark)(error)),
        }
    }

    /// Removes old days until `size` more bytes fit.
    fn make_room(
        &self,
        ledger: &mut Ledger,
        today: &str,
        size: u64,
        guessed: bool,
    ) -> Result<(), StoreError> {
        loop {
            let free = self.room()?.free;
            let over = ledger.total.saturating_add(size) > ledger.max_bytes;
            let full = free < ledger.reserve.saturating_add(size);
            if !(over || full) {
                return Ok(());
            }
            match self.oldest_but(ledger, today, guessed) {
                Some(day) => self.remove_day(ledger, &day)?,
                None if full => {
                    let path = self.root.clone();
                    return Err(StoreError::Full { path, free, reserve: ledger.reserve });
                }
                None => {
                    return Err(StoreError::Quota { path: self.root.clone(), max_bytes: ledger.max_bytes });
                }
            }
        }
    }

    fn remove_day(&self, ledger: &mut Ledger, day: &str) -> Result<(), StoreError> {
        let path = self.root.join(day);
        fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        let bytes = ledger.days.remove(day).unwrap_or(0);
        ledger.total = ledger.total.saturating_sub(bytes);
        self.metrics.pruned_days.get_or_create(&self.label()).inc();
        self.metrics.pruned_bytes.get_or_create(&self.label()).inc_by(bytes);
        tracing::info!(uplink = %self.name, day, bytes, "the oldest day of the lake was removed to keep its limits");
        Ok(())
    }
}

fn day_name(date: Date) -> String {
    format!("dt={:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}

pub(super) fn failed<'a>(act: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { act, path: path.to_owned(), source }
}

/// The directories in `path`, with their names.
pub(super) fn directories(path: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed("read", path))? {
        let entry = entry.map_err(failed("read", path))?;
        if entry.file_type().map_err(failed("read", path))?.is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    Ok(found)
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

/// Makes the day's and the hour's directory, durably.
fn make_directories(root: &Path, directory: &Path) -> Result<(), StoreError> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(failed("make", directory))?;
    let mut above = directory.parent();
    while let Some(path) = above {
        sync_directory(path)?;
        if path == root {
            break;
        }
        above = path.parent();
    }
    Ok(())
}

/// Temporary file, fsync, rename, fsync of the directory.
pub(super) fn write_whole(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = directory.join(format!("{name}{TEMPORARY}"));
    let path = directory.join(name);
    let write = || -> io::Result<File> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        Ok(file)
    };
    let file = write().map_err(|error| {
        // A full disk is not helped by half a file; the error that matters is the first one.
        drop(fs::remove_file(&temporary));
        failed("write", &path)(error)
    })?;
    sync_directory(directory)?;
    files::prove_sync(&file).map_err(failed("sync", &path))
}
