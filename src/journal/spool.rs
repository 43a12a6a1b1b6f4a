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

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use super::block::{self, BlockError};
use super::disk::Disk;
use super::generation::{Generation, GenerationError, Stored};
use super::identity;
use super::manifest::{Found, Manifest, Record, State};
use super::mark::Mark;
use super::types::{Entry, GapCause, Page, ReadError, Seq};
use crate::clock::{BootId, Clock};
use crate::reading::Reading;

/// Sealed generations that readers keep open at a time; with the head that bounds the memory of sled's caches.
const OPEN_TAILS: usize = 2;
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
    #[error(transparent)]
    Cursors(#[from] super::types::CursorError),
}

pub struct Spool {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    name: Arc<str>,
    state: Mutex<Generations>,
}

struct Generations {
    manifest: Manifest,
    /// The head, while it is open.
    head: Option<Arc<Generation>>,
    /// Handles that somebody may still hold: a database opens once only.
    handles: HashMap<u32, Weak<Tail>>,
    /// The last few used, newest last.
    tails: Vec<Arc<Tail>>,
    /// When each generation was found delivered to everybody.
    delivered: BTreeMap<u32, Instant>,
}

/// A generation under a reader's eyes.
struct Tail {
    generation: Arc<Generation>,
    /// Read when the first of them is asked for.
    names: OnceLock<HashMap<u32, Arc<str>>>,
}

/// Whether a handle can still be read through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Sound,
    /// sled has reported an error through it, and goes on reporting it.
    Failed,
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

/// One generation, for `journal inspect`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct GenerationStatus {
    pub generation: u32,
    pub state: State,
    pub spool: String,
    pub boot: String,
    pub created_ms: i64,
    pub readings: u32,
    pub lost: u64,
    pub bytes: u64,
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
            handles: HashMap::new(),
            tails: Vec::new(),
            delivered: BTreeMap::new(),
        };
        let spool = Self { dir: dir.to_owned(), disk, clock, name: name.into(), state: Mutex::new(state) };
        spool.recover(mark, &mut recovered).map_err(unusable)?;
        Ok((spool, recovered))
    }

    fn recover(&self, mark: &Mark, recovered: &mut Recovered) -> io::Result<()> {
        let mut state = self.state();
        let numbers: Vec<(u32, State)> =
            state.manifest.generations.iter().map(|(&number, record)| (number, record.state)).collect();
        for (number, was) in numbers {
            match was {
                State::Creating => {
                    remove_dir(&self.generation_dir(number))?;
                    update(&mut state.manifest, number, |record| record.state = State::Void);
                }
                State::Open => self.recover_head(&mut state, number, mark, recovered)?,
                State::Dead => {
                    remove_dir(&self.generation_dir(number))?;
                    state.manifest.generations.remove(&number);
                }
                State::Sealed | State::Void | State::Quarantined => {}
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
        let dir = self.generation_dir(number);
        let marked = mark.read().filter(|seq| seq.generation() == number).map_or(0, Seq::n);
        let found = Generation::recover(&*self.disk, &dir, number).and_then(|generation| {
            let last = generation.last()?;
            let end = last.map_or(0, |stored| {
                stored.first_n + block::header(&stored.value).map_or(0, |header| header.count)
            });
            Ok((end, generation.bytes()))
        });
        match found {
            Ok((end, bytes)) => {
                let lost: Vec<(u32, u32)> = if marked > end { vec![(end, marked - 1)] } else { Vec::new() };
                recovered.lost += lost.iter().map(|(a, b)| u64::from(b - a) + 1).sum::<u64>();
                update(&mut state.manifest, number, |record| {
                    record.state = State::Sealed;
                    record.count = end.max(marked);
                    record.lost = lost;
                    record.bytes = bytes;
                });
            }
            Err(error) if is_damage(&error) => {
                tracing::error!(generation = number, %error, "generation moved to quarantine: it cannot be opened");
                self.quarantine(number)?;
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

    // --- the head -------------------------------------------------------------------------------------------------

    /// Makes the next generation, on disk and ready, but not yet the head.
    ///
    /// # Errors
    /// When the disk refuses; the number is then void and never used again.
    pub fn create(&self) -> Result<Arc<Generation>, GenerationError> {
        let boot = self.clock.boot();
        let now = self.clock.now();
        let number = {
            let mut state = self.state();
            let number = state.manifest.next_generation;
            let record = Record {
                state: State::Creating,
                spool: self.name.to_string(),
                boot: hex::encode(boot.0),
                created_ms: now.wall_ms,
                count: 0,
                lost: Vec::new(),
                bytes: 0,
            };
            state.manifest.next_generation += 1;
            state.manifest.generations.insert(number, record);
            if let Err(error) = state.manifest.store(&*self.disk, &self.dir) {
                state.manifest.generations.remove(&number);
                state.manifest.next_generation = number;
                return Err(error.into());
            }
            number
        };
        let about = serde_json::json!({
            "spool": &*self.name,
            "boot": hex::encode(boot.0),
            "created_ms": now.wall_ms,
            "fogbeat": env!("CARGO_PKG_VERSION"),
        });
        let made = Generation::create(
            &*self.disk,
            &self.generation_dir(number),
            number,
            about.to_string().as_bytes(),
        );
        if made.is_err() {
            let mut state = self.state();
            update(&mut state.manifest, number, |record| record.state = State::Void);
        }
        made.map(Arc::new)
    }

    /// Makes a created generation the head; the one before it is sealed with `count` readings.
    ///
    /// # Errors
    /// When the manifest cannot be written; nothing has changed then.
    pub fn promote(&self, generation: &Arc<Generation>, before: Option<(u32, u32)>) -> io::Result<()> {
        let mut state = self.state();
        let mut manifest = state.manifest.clone();
        self.seal_in(&mut manifest, before, state.head.as_deref());
        update(&mut manifest, generation.number(), |record| record.state = State::Open);
        manifest.store(&*self.disk, &self.dir)?;
        state.manifest = manifest;
        state.retire_head(Health::Sound);
        state.head = Some(Arc::clone(generation));
        Ok(())
    }

    /// Seals the head with `count` readings and leaves the spool without one.
    ///
    /// # Errors
    /// When the manifest cannot be written; the next start seals it then.
    pub fn seal(&self, number: u32, count: u32, health: Health) -> io::Result<()> {
        let mut state = self.state();
        let mut manifest = state.manifest.clone();
        self.seal_in(&mut manifest, Some((number, count)), state.head.as_deref());
        let stored = manifest.store(&*self.disk, &self.dir);
        // In memory it is sealed in any case: nothing may be appended to it any more.
        state.manifest = manifest;
        state.retire_head(health);
        stored
    }

    fn seal_in(&self, manifest: &mut Manifest, before: Option<(u32, u32)>, head: Option<&Generation>) {
        if let Some((number, count)) = before {
            let bytes = head.filter(|head| head.number() == number).map_or(0, Generation::bytes);
            update(manifest, number, |record| {
                record.state = State::Sealed;
                record.count = count;
                record.bytes = bytes;
            });
        }
    }

    // --- readers --------------------------------------------------------------------------------------------------

    /// Reads on from `from`: one generation's entries, at most about `max`, never past `watermark`.
    ///
    /// # Errors
    /// When a generation cannot be opened or read. The caller tries again later.
    pub fn read(
        &self,
        from: Seq,
        watermark: Seq,
        max: usize,
        head_names: &dyn Fn(u32) -> Option<Arc<str>>,
    ) -> Result<Page, ReadError> {
        let mut from = from;
        loop {
            let Some((number, record)) = self.record_at_or_after(from.generation()) else {
                return Ok(self.empty(from));
            };
            if number != from.generation() {
                from = Seq::new(number, 0);
            }
            let after = Seq::new(number.saturating_add(1), 0);
            match record.state {
                State::Creating | State::Dead => from = after,
                State::Void => {
                    let entries = vec![Entry::End { generation: number, count: 0 }];
                    return Ok(page(&record, entries, after));
                }
                State::Quarantined => return Ok(quarantined(number, &record, from, after)),
                State::Open if number < watermark.generation() => self.recover_late(number)?,
                State::Open => {
                    if watermark <= from || watermark.generation() != number {
                        return Ok(self.empty(from));
                    }
                    return self.read_generation(number, &record, from, watermark.n(), max, Some(head_names));
                }
                State::Sealed => {
                    let mut page = self.read_generation(number, &record, from, record.count, max, None)?;
                    if page.next.n() >= record.count {
                        page.entries.push(Entry::End { generation: number, count: record.count });
                        page.next = after;
                    }
                    return Ok(page);
                }
            }
        }
    }

    fn empty(&self, next: Seq) -> Page {
        Page { spool: Arc::clone(&self.name), boot: self.clock.boot(), entries: Vec::new(), next }
    }

    fn read_generation(
        &self,
        number: u32,
        record: &Record,
        from: Seq,
        limit: u32,
        max: usize,
        head_names: Option<&dyn Fn(u32) -> Option<Arc<str>>>,
    ) -> Result<Page, ReadError> {
        let failed =
            |error: GenerationError| ReadError::Read { generation: number, cause: error.to_string() };
        let mut page = page(record, Vec::new(), from);
        let mut n = from.n();
        if n >= limit {
            return Ok(page);
        }
        let tail = self.tail(number)?;
        let mut readings = Vec::new();
        'blocks: while n < limit && page.entries.len() < max {
            let blocks = tail.generation.blocks(n, READ_BLOCKS).map_err(failed)?;
            let before = n;
            for stored in blocks {
                if n >= limit || page.entries.len() >= max {
                    break 'blocks;
                }
                if stored.first_n >= limit {
                    break;
                }
                readings.clear();
                match block::decode(&stored.value, &mut readings) {
                    Ok(_) => {}
                    Err(error) => {
                        // The next block's first number, or the end, tells how many are gone with this one.
                        tracing::error!(generation = number, n = stored.first_n, %error, "a block cannot be read");
                        continue;
                    }
                }
                let end = stored.first_n.saturating_add(readings.len() as u32).min(limit);
                if end <= n {
                    continue;
                }
                if stored.first_n > n {
                    page.entries.push(gap(number, n, stored.first_n - 1));
                    n = stored.first_n;
                }
                let skip = (n - stored.first_n) as usize;
                let take = (end - n) as usize;
                for (index, reading) in readings.drain(..).enumerate().skip(skip).take(take) {
                    let device = match head_names {
                        Some(names) => names(reading.device.0),
                        None => tail.name(reading.device.0),
                    };
                    let device = device.unwrap_or_else(|| unnamed(number, reading.device.0));
                    let seq = Seq::new(number, stored.first_n + index as u32);
                    page.entries.push(Entry::Reading { seq, device, reading });
                }
                n = end;
            }
            if n == before {
                // Nothing further is stored: the rest, up to the limit, is gone.
                page.entries.push(gap(number, n, limit - 1));
                n = limit;
            }
        }
        page.next = Seq::new(number, n);
        Ok(page)
    }

    /// A handle on a generation, opened at most once at a time.
    fn tail(&self, number: u32) -> Result<Arc<Tail>, ReadError> {
        let mut state = self.state();
        if let Some(at) = state.tails.iter().position(|tail| tail.generation.number() == number) {
            let tail = state.tails.remove(at);
            state.tails.push(Arc::clone(&tail));
            return Ok(tail);
        }
        if let Some(head) = state.head.as_ref().filter(|head| head.number() == number) {
            return Ok(Tail::new(Arc::clone(head)));
        }
        if let Some(tail) = state.handles.get(&number).and_then(Weak::upgrade) {
            return Ok(tail);
        }
        // Opening under the lock: a sealed generation opens in tens of milliseconds, and nobody opens it twice.
        let generation = match Generation::recover(&*self.disk, &self.generation_dir(number), number) {
            Ok(generation) => generation,
            Err(error) if is_damage(&error) => {
                tracing::error!(generation = number, %error, "generation moved to quarantine: it cannot be opened");
                let moved = self.quarantine(number).and_then(|()| {
                    update(&mut state.manifest, number, |record| record.state = State::Quarantined);
                    state.manifest.store(&*self.disk, &self.dir)
                });
                let cause = moved.err().map_or_else(|| error.to_string(), |error| error.to_string());
                return Err(ReadError::Open { generation: number, cause });
            }
            Err(error) => return Err(ReadError::Open { generation: number, cause: error.to_string() }),
        };
        let tail = Tail::new(Arc::new(generation));
        state.keep_open(&tail);
        Ok(tail)
    }

    /// The newest stored readings, newest blocks first, at most about `most`, for the windows of known stamps.
    pub fn newest(&self, most: usize, since_ms: i64, mut each: impl FnMut(&Reading, Option<Arc<str>>)) {
        let numbers: Vec<(u32, u32)> = {
            let state = self.state();
            let sealed = state.manifest.generations.iter().rev();
            sealed.filter(|(_, r)| r.state == State::Sealed).map(|(&n, r)| (n, r.count)).collect()
        };
        let mut seen = 0;
        for (number, count) in numbers {
            if count == 0 {
                continue;
            }
            let Ok(tail) = self.tail(number) else { continue };
            let mut before = count;
            loop {
                let Ok(blocks) = tail.generation.blocks_before(before, READ_BLOCKS) else { break };
                let Some(oldest) = blocks.last() else { break };
                before = oldest.first_n;
                for Stored { value, .. } in &blocks {
                    let mut readings = Vec::new();
                    match block::decode(value, &mut readings) {
                        Ok(header) if header.latest_ms < since_ms => return,
                        Ok(_) => {}
                        Err(_) => continue,
                    }
                    seen += readings.len();
                    for reading in &readings {
                        each(reading, tail.name(reading.device.0));
                    }
                    if seen >= most {
                        return;
                    }
                }
            }
        }
    }

    // --- housekeeping ---------------------------------------------------------------------------------------------

    /// First number that is kept.
    pub fn oldest(&self) -> Option<Seq> {
        self.record_at_or_after(0).map(|(number, _)| Seq::new(number, 0))
    }

    /// Readings at or after `cursor` and before `watermark`.
    pub fn backlog(&self, cursor: Seq, watermark: Seq) -> u64 {
        let state = self.state();
        let records = state.manifest.generations.range(cursor.generation()..);
        let counts = records.map(|(&number, record)| {
            let count = if record.state == State::Open && number == watermark.generation() {
                watermark.n()
            } else {
                record.count
            };
            let from = if number == cursor.generation() { cursor.n() } else { 0 };
            u64::from(count.saturating_sub(from))
        });
        counts.sum()
    }

    /// Removes generations that every uplink has passed, once they are older than the time in which a re-sent reading
    /// must still be recognised; `keep` of the newest stay that long, the others go at once.
    ///
    /// # Errors
    /// When the manifest or a directory cannot be changed; tried again the next time.
    pub fn remove_delivered(
        &self,
        lowest: Seq,
        patience: std::time::Duration,
        keep: usize,
    ) -> io::Result<usize> {
        let mut state = self.state();
        let delivered: Vec<u32> = {
            let records = state.manifest.generations.range(..lowest.generation());
            records
                .filter(|(_, r)| !matches!(r.state, State::Creating | State::Open))
                .map(|(&n, _)| n)
                .collect()
        };
        let now = Instant::now();
        for &number in &delivered {
            state.delivered.entry(number).or_insert(now);
        }
        let newest = delivered.len().saturating_sub(keep);
        let due: Vec<u32> = delivered
            .iter()
            .enumerate()
            .filter(|(index, number)| {
                let since = state.delivered.get(number).copied().unwrap_or(now);
                *index < newest || now.duration_since(since) >= patience
            })
            .map(|(_, &number)| number)
            .collect();
        if due.is_empty() {
            return Ok(0);
        }
        for &number in &due {
            update(&mut state.manifest, number, |record| record.state = State::Dead);
            state.tails.retain(|tail| tail.generation.number() != number);
        }
        state.manifest.store(&*self.disk, &self.dir)?;
        for &number in &due {
            if state.handles.get(&number).is_some_and(|handle| handle.strong_count() > 0) {
                continue;
            }
            remove_dir(&self.generation_dir(number))?;
            state.manifest.generations.remove(&number);
            state.delivered.remove(&number);
            state.handles.remove(&number);
        }
        state.manifest.store(&*self.disk, &self.dir)?;
        Ok(due.len())
    }

    pub fn status(&self, watermark: Seq) -> Vec<GenerationStatus> {
        let state = self.state();
        let head_bytes = state.head.as_ref().map_or(0, |head| head.bytes());
        let records = state.manifest.generations.iter();
        let status = records.map(|(&generation, record)| {
            let open = record.state == State::Open;
            GenerationStatus {
                generation,
                state: record.state,
                spool: record.spool.clone(),
                boot: record.boot.clone(),
                created_ms: record.created_ms,
                readings: if open && watermark.generation() == generation {
                    watermark.n()
                } else {
                    record.count
                },
                lost: record.lost.iter().map(|(a, b)| u64::from(b - a) + 1).sum(),
                bytes: if open { head_bytes } else { record.bytes },
            }
        });
        status.collect()
    }

    /// Files in any open generation's `blobs/`: always 0, or durability is gone.
    pub fn blobs(&self) -> usize {
        let state = self.state();
        let head = state.head.iter().map(|head| head.blobs());
        head.chain(state.tails.iter().map(|tail| tail.generation.blobs())).sum()
    }

    /// Checks every value of every generation.
    ///
    /// # Errors
    /// When a generation cannot be opened or read at all.
    pub fn verify(&self, number: u32, limit: u32) -> Result<Verified, ReadError> {
        let failed =
            |error: GenerationError| ReadError::Read { generation: number, cause: error.to_string() };
        let tail = self.tail(number)?;
        let mut verified = Verified { generation: number, ..Verified::default() };
        let mut n = 0;
        loop {
            let blocks = tail.generation.blocks(n, READ_BLOCKS).map_err(failed)?;
            let before = n;
            for stored in blocks {
                if stored.first_n < n || stored.first_n >= limit {
                    continue;
                }
                verified.missing += u64::from(stored.first_n - n);
                verified.blocks += 1;
                verified.bytes += stored.value.len() as u64;
                match block::decode(&stored.value, &mut Vec::new()) {
                    Ok(header) => {
                        verified.readings += u64::from(header.count);
                        n = stored.first_n + header.count;
                    }
                    Err(error) => {
                        verified.damaged.push((stored.first_n, error));
                        n = stored.first_n + 1;
                    }
                }
            }
            if n == before {
                verified.missing += u64::from(limit.saturating_sub(n));
                return Ok(verified);
            }
        }
    }

    fn record_at_or_after(&self, number: u32) -> Option<(u32, Record)> {
        self.state().manifest.at_or_after(number).map(|(number, record)| (number, record.clone()))
    }

    fn quarantine(&self, number: u32) -> io::Result<()> {
        let aside = self.dir.join("quarantine");
        fs::create_dir_all(&aside)?;
        let target = aside.join(format!("gen-{number}"));
        remove_dir(&target)?;
        match fs::rename(self.generation_dir(number), target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.disk.sync_path(&aside),
        }
    }

    fn generation_dir(&self, number: u32) -> PathBuf {
        self.dir.join(LANE).join(format!("gen-{number}"))
    }

    fn state(&self) -> MutexGuard<'_, Generations> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// Takes the head away. A sound handle serves the readers that follow it on; a failed one is let go in a thread of
    /// its own, because sled writes and syncs when it is dropped.
    fn retire_head(&mut self, health: Health) {
        let Some(head) = self.head.take() else { return };
        match health {
            Health::Sound => self.keep_open(&Tail::new(head)),
            Health::Failed => {
                let _ = std::thread::Builder::new().name("journal-close".into()).spawn(move || drop(head));
            }
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

/// The result of checking one generation.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    pub generation: u32,
    pub blocks: u64,
    pub readings: u64,
    /// Bytes of the values, headers included.
    pub bytes: u64,
    pub missing: u64,
    pub damaged: Vec<(u32, BlockError)>,
}

impl Tail {
    fn new(generation: Arc<Generation>) -> Arc<Self> {
        Arc::new(Self { generation, names: OnceLock::new() })
    }

    fn name(&self, device: u32) -> Option<Arc<str>> {
        let names = self.names.get_or_init(|| self.generation.names().unwrap_or_default());
        names.get(&device).cloned()
    }
}

fn page(record: &Record, entries: Vec<Entry>, next: Seq) -> Page {
    let mut boot = [0u8; 16];
    // A boot id that cannot be read stays zero: stamps of that generation can then not be told apart by boot.
    let _ = hex::decode_to_slice(&record.boot, &mut boot);
    Page { spool: record.spool.as_str().into(), boot: BootId(boot), entries, next }
}

fn quarantined(number: u32, record: &Record, from: Seq, after: Seq) -> Page {
    let mut entries = Vec::new();
    if from.n() < record.count {
        entries.push(gap(number, from.n(), record.count - 1));
    }
    entries.push(Entry::End { generation: number, count: record.count });
    page(record, entries, after)
}

fn gap(generation: u32, first: u32, last: u32) -> Entry {
    Entry::Gap { first: Seq::new(generation, first), last: Seq::new(generation, last), cause: GapCause::Lost }
}

/// A device whose name is damaged is still told apart from the others.
fn unnamed(generation: u32, device: u32) -> Arc<str> {
    format!("unnamed-{generation}-{device}").into()
}

/// Errors that a later attempt will meet again.
fn is_damage(error: &GenerationError) -> bool {
    match error {
        GenerationError::Panicked(_) | GenerationError::Deadline => true,
        GenerationError::Sled(error) => !matches!(error, sled::Error::Io(_)),
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

/// A manifest from what lies in the directory: every generation found is treated as if it had been open.
fn rebuild(dir: &Path, name: &str, recovered: &mut Recovered) -> io::Result<Manifest> {
    let mut manifest = Manifest::default();
    for entry in fs::read_dir(dir.join(LANE))? {
        let file_name = entry?.file_name();
        let number =
            file_name.to_str().and_then(|name| name.strip_prefix("gen-")).and_then(|n| n.parse().ok());
        let Some(number) = number else { continue };
        let record = Record {
            state: State::Open,
            spool: name.to_owned(),
            boot: String::new(),
            created_ms: 0,
            count: 0,
            lost: Vec::new(),
            bytes: 0,
        };
        manifest.generations.insert(number, record);
        manifest.next_generation = manifest.next_generation.max(number + 1);
        recovered.manifest_rebuilt = true;
    }
    Ok(manifest)
}
