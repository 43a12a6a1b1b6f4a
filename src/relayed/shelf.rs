//! One file per member, and which uplink has which.
//!
//! ```text
//! relayed/<n>-<stored ms>-<spool>-<first>-<last>-<crc32c>.gz   the member, as it came
//! relayed/<uplink>.place                                       which numbers the uplink has (JSON, with a sum)
//! ```
//!
//! Numbers count up and are never used twice as long as one uplink's place is there. A file is written whole and synced,
//! with its directory, before [`Kept`] is given. A place is written at most every [`WRITE_EVERY`]: after a crash an
//! uplink gets some members once more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::member::{self, NotAMember};
use crate::config::From;
use crate::files;

const WRITE_EVERY: Duration = Duration::from_secs(5);
/// What the file system must keep free beside the limit.
const RESERVE: u64 = 32 << 20;

/// Proof that a member is on disk. Only the shelf makes it.
#[derive(Debug, Clone, Copy)]
pub struct Kept(());

/// Why a member was not kept.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error(transparent)]
    NotAMember(#[from] NotAMember),
    #[error("a member of {bytes} bytes is larger than the {largest} that an uplink of this gateway takes")]
    TooLarge { bytes: usize, largest: usize },
    #[error("there is no room for members: their limit is reached, or the disk is full")]
    Full,
    #[error("a member cannot be written: {0}")]
    Write(#[source] io::Error),
}

/// What is to be known of the shelf, for `fogbeat status`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub members: usize,
    pub bytes: u64,
    pub limit_bytes: u64,
    pub received: u64,
    pub duplicates: u64,
}

/// Counters of the shelf.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    received: Counter,
    duplicates: Counter,
    refused: Counter,
    lost: Counter,
    bytes: Gauge,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "relayed_members",
            "Members of other gateways that were kept",
            self.received.clone(),
        );
        registry.register("relayed_duplicates", "Members that were here already", self.duplicates.clone());
        registry.register("relayed_refused", "Members that were not kept", self.refused.clone());
        registry.register("relayed_lost", "Kept members that cannot be read any more", self.lost.clone());
        registry.register("relayed_bytes", "Bytes of members on disk", self.bytes.clone());
    }
}

/// What a member is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) spool: String,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) sum: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) stored_ms: i64,
    pub(super) identity: Identity,
    pub(super) bytes: u64,
    /// Since when every uplink has it, in this run.
    delivered: Option<Instant>,
}

/// Which members an uplink has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// It has all before this number.
    below: u64,
    /// And these.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    beyond: BTreeSet<u64>,
}

struct Uplink {
    place: Place,
    /// Handed out and not confirmed, in this run.
    given: BTreeSet<u64>,
    written: Place,
    written_at: Instant,
}

struct State {
    next: u64,
    items: BTreeMap<u64, Item>,
    known: HashMap<Identity, u64>,
    bytes: u64,
    uplinks: BTreeMap<String, Uplink>,
}

pub(super) struct Inner {
    dir: PathBuf,
    limit: u64,
    /// Largest member that every uplink takes.
    largest: Mutex<usize>,
    /// How long a delivered member is still recognised.
    window: Duration,
    state: Mutex<State>,
    /// One member is written at a time: a second copy waits for the first one's file.
    writing: Mutex<()>,
    newest: watch::Sender<u64>,
    metrics: Metrics,
}

/// The members that are kept; clones share them.
#[derive(Clone)]
pub struct Shelf(pub(super) Arc<Inner>);

impl Shelf {
    /// Takes stock of what the last run left. Blocking.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(state_dir: &Path, limit: u64, window: Duration) -> io::Result<Self> {
        let dir = state_dir.join("relayed");
        std::fs::create_dir_all(&dir)?;
        let mut state = State {
            next: 0,
            items: BTreeMap::new(),
            known: HashMap::new(),
            bytes: 0,
            uplinks: BTreeMap::new(),
        };
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some((number, item)) = read_name(name, entry.metadata()?.len()) {
                state.next = state.next.max(number + 1);
                state.bytes += item.bytes;
                state.known.insert(item.identity.clone(), number);
                state.items.insert(number, item);
            } else if name.ends_with(".new") {
                // Not finished, not acknowledged.
                std::fs::remove_file(entry.path())?;
            } else if let Some(place) = name.strip_suffix(".place").and_then(|_| read_place(&entry.path())) {
                let beyond = place.beyond.last().map_or(0, |last| last + 1);
                state.next = state.next.max(place.below).max(beyond);
            }
        }
        let metrics = Metrics::default();
        metrics.bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        let newest = watch::Sender::new(state.next);
        Ok(Self(Arc::new(Inner {
            dir,
            limit,
            largest: Mutex::new(usize::MAX),
            window,
            state: Mutex::new(state),
            writing: Mutex::new(()),
            newest,
            metrics,
        })))
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub fn status(&self) -> Status {
        let state = self.0.state();
        Status {
            members: state.items.len(),
            bytes: state.bytes,
            limit_bytes: self.0.limit,
            received: self.0.metrics.received.get(),
            duplicates: self.0.metrics.duplicates.get(),
        }
    }

    /// A configured uplink that takes members of at most `largest` bytes finds its place. Blocking.
    pub(super) fn enter(&self, uplink: &str, from: From, largest: usize) {
        let mut most = self.0.largest.lock().unwrap_or_else(PoisonError::into_inner);
        *most = largest.min(*most);
        drop(most);
        let mut state = self.0.state();
        let written = read_place(&self.0.place_path(uplink));
        let place = written.clone().unwrap_or_else(|| match from {
            From::Oldest => Place::default(),
            From::Now => Place { below: state.next, ..Place::default() },
        });
        let fresh = Uplink {
            written: written.unwrap_or_default(),
            place,
            given: BTreeSet::new(),
            written_at: Instant::now(),
        };
        state.uplinks.insert(uplink.to_owned(), fresh);
    }

    /// Keeps a member. Blocking; returns when it is on disk.
    ///
    /// # Errors
    /// [`PutError`]: then it must not be acknowledged as kept.
    pub fn put(&self, bytes: &[u8], wall_ms: i64) -> Result<Kept, PutError> {
        let kept = self.try_put(bytes, wall_ms);
        if kept.is_err() {
            self.0.metrics.refused.inc();
        }
        kept
    }

    fn try_put(&self, bytes: &[u8], wall_ms: i64) -> Result<Kept, PutError> {
        let inner = &self.0;
        let largest = *inner.largest.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() > largest {
            return Err(PutError::TooLarge { bytes: bytes.len(), largest });
        }
        let parsed = member::parse(bytes)?;
        let identity = Identity {
            spool: parsed.spool,
            first: parsed.first,
            last: parsed.last,
            sum: crc32c::crc32c(bytes),
        };
        let _writing = inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.state().known.contains_key(&identity) {
            inner.metrics.duplicates.inc();
            return Ok(Kept(()));
        }
        if !inner.has_room(bytes.len()) {
            inner.sweep();
            if !inner.has_room(bytes.len()) {
                return Err(PutError::Full);
            }
        }
        // Nobody else writes now.
        let number = inner.state().next;
        let room = rustix::fs::statvfs(&inner.dir).map_err(|error| PutError::Write(error.into()))?;
        if room.f_bavail.saturating_mul(room.f_frsize) < RESERVE.saturating_add(bytes.len() as u64) {
            return Err(PutError::Full);
        }
        let item = Item { stored_ms: wall_ms, identity, bytes: bytes.len() as u64, delivered: None };
        files::replace(&inner.dir.join(file_name(number, &item)), bytes).map_err(PutError::Write)?;
        let mut state = inner.state();
        state.next = number + 1;
        state.bytes += item.bytes;
        state.known.insert(item.identity.clone(), number);
        state.items.insert(number, item);
        inner.metrics.received.inc();
        inner.metrics.bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        drop(state);
        inner.newest.send_replace(number + 1);
        Ok(Kept(()))
    }

    /// Removes what every uplink has had for long enough. Blocking; to be called now and then.
    pub fn sweep(&self) {
        self.0.sweep();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.state().bytes.saturating_add(bytes as u64) <= self.limit
    }

    fn place_path(&self, uplink: &str) -> PathBuf {
        self.dir.join(format!("{uplink}.place"))
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Whether there is a member that an uplink has not been given.
    pub(super) fn is_waiting(&self, uplink: &str) -> bool {
        let state = self.state();
        let place = state.uplinks.get(uplink);
        place.is_some_and(|place| {
            let mut rest = state.items.range(place.place.below..);
            rest.any(|(n, _)| !place.place.beyond.contains(n) && !place.given.contains(n))
        })
    }

    /// How many members an uplink has not confirmed.
    pub(super) fn unconfirmed(&self, uplink: &str) -> usize {
        let state = self.state();
        let Some(place) = state.uplinks.get(uplink) else { return 0 };
        state.items.range(place.place.below..).filter(|(n, _)| !place.place.beyond.contains(n)).count()
    }

    /// The next member that an uplink has not got and was not given in this run.
    pub(super) fn give(&self, uplink: &str) -> io::Result<Option<(u64, Item, Bytes)>> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(place) = state.uplinks.get_mut(uplink) else { return Ok(None) };
        let mut open = state.items.range(place.place.below..);
        let next = open.find(|(n, _)| !place.place.beyond.contains(n) && !place.given.contains(n));
        let Some((&number, item)) = next else { return Ok(None) };
        let item = item.clone();
        place.given.insert(number);
        drop(guard);
        match std::fs::read(self.dir.join(file_name(number, &item))) {
            Ok(bytes) => Ok(Some((number, item, Bytes::from(bytes)))),
            Err(error) => {
                self.take_back(uplink, number);
                Err(error)
            }
        }
    }

    /// The disk has not kept it: it is put aside, and the others go on.
    pub(super) fn lose(&self, number: u64, item: &Item) {
        let path = self.dir.join(file_name(number, item));
        tracing::error!(file = %path.display(), spool = item.identity.spool,
            "a member of another gateway is damaged and cannot be delivered; check or replace the disk");
        self.metrics.lost.inc();
        // Where even this fails the file is met again at the next start.
        let _ = std::fs::rename(&path, path.with_extension("damaged"));
        let mut state = self.state();
        state.items.remove(&number);
        state.known.remove(&item.identity);
        state.bytes = state.bytes.saturating_sub(item.bytes);
    }

    fn take_back(&self, uplink: &str, number: u64) {
        if let Some(place) = self.state().uplinks.get_mut(uplink) {
            place.given.remove(&number);
        }
    }

    /// Nothing that was given is held any more.
    pub(super) fn let_go(&self, uplink: &str) {
        if let Some(place) = self.state().uplinks.get_mut(uplink) {
            place.given.clear();
        }
    }

    /// The other side has it.
    pub(super) fn confirm(&self, uplink: &str, number: u64) -> io::Result<()> {
        let due = {
            let mut guard = self.state();
            let state = &mut *guard;
            let Some(place) = state.uplinks.get_mut(uplink) else { return Ok(()) };
            place.given.remove(&number);
            place.place.beyond.insert(number);
            place.place.settle(&state.items, state.next);
            place.written_at.elapsed() >= WRITE_EVERY
        };
        if due { self.write(uplink) } else { Ok(()) }
    }

    /// Writes an uplink's place if it has changed.
    pub(super) fn write(&self, uplink: &str) -> io::Result<()> {
        let place = {
            let state = self.state();
            let Some(place) = state.uplinks.get(uplink).filter(|place| place.place != place.written) else {
                return Ok(());
            };
            place.place.clone()
        };
        let text = serde_json::to_vec(&place).map_err(io::Error::other)?;
        files::replace(&self.place_path(uplink), &files::with_sum(text))?;
        if let Some(uplink) = self.state().uplinks.get_mut(uplink) {
            uplink.written = place;
            uplink.written_at = Instant::now();
        }
        Ok(())
    }

    fn sweep(&self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        {
            let mut guard = self.state();
            let state = &mut *guard;
            let uplinks = &state.uplinks;
            // What stands in a file only: what an uplink has must not be forgotten together with the member.
            let has = |uplink: &Uplink, number: u64| {
                number < uplink.written.below || uplink.written.beyond.contains(&number)
            };
            for (&number, item) in &mut state.items {
                if uplinks.is_empty() || !uplinks.values().all(|uplink| has(uplink, number)) {
                    continue;
                }
                let since = *item.delivered.get_or_insert(now);
                if now.saturating_duration_since(since) >= self.window {
                    gone.push((number, item.clone()));
                }
            }
        }
        for (number, item) in gone {
            if let Err(error) = std::fs::remove_file(self.dir.join(file_name(number, &item))) {
                tracing::debug!(%error, number, "a delivered member cannot be removed yet");
                continue;
            }
            let mut state = self.state();
            state.items.remove(&number);
            state.known.remove(&item.identity);
            state.bytes = state.bytes.saturating_sub(item.bytes);
            self.metrics.bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        }
    }
}

impl Place {
    /// Moves the lower bound past what is confirmed or not there any more.
    fn settle(&mut self, items: &BTreeMap<u64, Item>, next: u64) {
        let first_open = items.range(self.below..).map(|(n, _)| *n).find(|n| !self.beyond.contains(n));
        self.below = first_open.unwrap_or(next).max(self.below);
        self.beyond = self.beyond.split_off(&self.below);
    }
}

fn read_place(path: &Path) -> Option<Place> {
    let bytes = std::fs::read(path).ok()?;
    let place = files::without_sum(&bytes).ok().and_then(|text| serde_json::from_slice(text).ok());
    if place.is_none() {
        tracing::error!(file = %path.display(),
            "an uplink's place among members is damaged: some are delivered once more under the same ids");
    }
    place
}

fn file_name(number: u64, item: &Item) -> String {
    let Identity { spool, first, last, sum } = &item.identity;
    format!("{number:016x}-{}-{spool}-{first}-{last}-{sum:08x}.gz", item.stored_ms)
}

fn read_name(name: &str, bytes: u64) -> Option<(u64, Item)> {
    let mut parts = name.strip_suffix(".gz")?.split('-');
    let number = u64::from_str_radix(parts.next()?, 16).ok()?;
    let stored_ms = parts.next()?.parse().ok()?;
    let spool = parts.next()?.to_owned();
    let first = parts.next()?.parse().ok()?;
    let last = parts.next()?.parse().ok()?;
    let sum = u32::from_str_radix(parts.next()?, 16).ok()?;
    let identity = Identity { spool, first, last, sum };
    parts.next().is_none().then_some((number, Item { stored_ms, identity, bytes, delivered: None }))
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
