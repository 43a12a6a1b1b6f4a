//! What readers see: pages of one generation, gaps and ends among them.

use std::sync::Arc;
use std::sync::Weak;
use std::time::Instant;

use super::repair::is_damage;
use super::{READ_BLOCKS, Spool, Tail};
use crate::clock::BootId;
use crate::journal::block::{self, BlockError};
use crate::journal::generation::{Generation, GenerationError, Stored};
use crate::journal::manifest::{Damage, Missing, Record, State};
use crate::journal::types::{Entry, GapCause, Page, ReadError, Seq, unnamed};
use crate::reading::Reading;

impl Spool {
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
                // Nothing is in it yet: whoever went past it would miss what comes.
                State::Creating => return Ok(self.empty(from)),
                State::Dead => from = after,
                State::Void => {
                    let entries = vec![Entry::End { generation: number, count: 0 }];
                    return Ok(page(&record, entries, after));
                }
                State::Quarantined if record.damage.is_some() => {
                    return Err(ReadError::Damaged { generation: number });
                }
                State::Quarantined | State::Evicted => return Ok(gone(number, &record, from, after)),
                State::Open if number < watermark.generation() => self.recover_late(number)?,
                State::Open => {
                    if watermark <= from || watermark.generation() != number {
                        return Ok(self.empty(from));
                    }
                    return self.read_generation(number, &record, from, watermark.n(), max, Some(head_names));
                }
                State::Sealed => {
                    let mut page = match record.summaries {
                        None => self.read_generation(number, &record, from, record.count, max, None)?,
                        Some(summaries) => self.read_summaries(number, &record, summaries, from, max)?,
                    };
                    if page.next.n() >= record.count {
                        self.let_go(number);
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
        let read = self.try_read(number, record, from, limit, max, head_names);
        read.map_err(|trouble| match trouble {
            Trouble::Damage(cause) if head_names.is_some() => self.head_is_damaged(number, &cause),
            Trouble::Damage(cause) => self.condemn(number, &cause),
            Trouble::Other(error) => error,
        })
    }

    fn try_read(
        &self,
        number: u32,
        record: &Record,
        from: Seq,
        limit: u32,
        max: usize,
        head_names: Option<&dyn Fn(u32) -> Option<Arc<str>>>,
    ) -> Result<Page, Trouble> {
        let failed = |error: GenerationError| match is_damage(&error) {
            true => Trouble::Damage(error.to_string()),
            false => Trouble::Other(ReadError::Read { generation: number, cause: error.to_string() }),
        };
        let mut page = page(record, Vec::new(), from);
        let mut n = from.n();
        if n >= limit {
            return Ok(page);
        }
        let tail = self.tail(number)?;
        // Found damaged again and again: then it is read as far as it can be.
        let strict = self.may_condemn(number);
        let keys = self.keyring.keys();
        let mut readings = Vec::new();
        // Whether a block was sound and could not be understood: there is nothing to salvage then.
        let mut foreign = false;
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
                let opened = block::decode(&stored.value, &keys, &mut readings);
                match opened.and_then(|header| is_at(header, number, stored.first_n)) {
                    Ok(_) => {}
                    Err(BlockError::Sealed(_)) => {
                        let count = block::header(&stored.value).map_or(0, |header| header.count);
                        let end = stored.first_n.saturating_add(count).min(limit);
                        if end > n {
                            if stored.first_n > n {
                                if strict && !foreign {
                                    explained(record, n, stored.first_n - 1)?;
                                }
                                push_gaps(&mut page.entries, number, record, n, stored.first_n - 1);
                            }
                            push_withheld(&mut page.entries, number, n.max(stored.first_n), end - 1);
                            n = end;
                        }
                        continue;
                    }
                    Err(BlockError::Checksum | BlockError::Malformed) if strict => {
                        return Err(Trouble::Damage(format!("the value at {} is damaged", stored.first_n)));
                    }
                    Err(error) => {
                        // The next block's first number, or the end, tells how many are gone with this one.
                        tracing::error!(generation = number, n = stored.first_n, %error, "a block cannot be read");
                        foreign = true;
                        continue;
                    }
                }
                let end = stored.first_n.saturating_add(readings.len() as u32).min(limit);
                if end <= n {
                    continue;
                }
                if stored.first_n > n {
                    if strict && !foreign {
                        explained(record, n, stored.first_n - 1)?;
                    }
                    push_gaps(&mut page.entries, number, record, n, stored.first_n - 1);
                    n = stored.first_n;
                }
                let skip = (n - stored.first_n) as usize;
                let take = (end - n) as usize;
                for (index, reading) in readings.drain(..).enumerate().skip(skip).take(take) {
                    let device = match head_names {
                        Some(names) => names(reading.device.0),
                        None => tail.name(reading.device.0, &keys).map_err(failed)?,
                    };
                    if strict && device.is_none() && record.revision == 0 {
                        return Err(Trouble::Damage(format!("device {} has no name", reading.device.0)));
                    }
                    let device = device.unwrap_or_else(|| unnamed(number, reading.device.0));
                    let seq = Seq::new(number, stored.first_n + index as u32);
                    page.entries.push(Entry::Reading { seq, device, reading });
                }
                n = end;
            }
            if n == before {
                // Nothing further is stored: the rest, up to the limit, is gone.
                if strict && !foreign {
                    explained(record, n, limit - 1)?;
                }
                push_gaps(&mut page.entries, number, record, n, limit - 1);
                n = limit;
            }
        }
        page.next = Seq::new(number, n);
        Ok(page)
    }

    /// A handle on a generation, opened at most once at a time.
    pub(super) fn tail(&self, number: u32) -> Result<Arc<Tail>, ReadError> {
        let mut state = self.state();
        if let Some(at) = state.tails.iter().position(|tail| tail.generation.number() == number) {
            let tail = state.tails.remove(at);
            tail.touch();
            state.tails.push(Arc::clone(&tail));
            return Ok(tail);
        }
        if let Some(head) = state.head.as_ref().filter(|head| head.number() == number) {
            let tail = Tail::new(Arc::clone(head));
            state.head_read = Some(Instant::now());
            return Ok(tail);
        }
        if let Some(tail) = state.handles.get(&number).and_then(Weak::upgrade) {
            return Ok(tail);
        }
        let record = state.manifest.generations.get(&number);
        let Some((count, damage)) = record.map(|record| (record.count, kept(record))) else {
            return Err(ReadError::Damaged { generation: number });
        };
        let damage = damage.ok_or(ReadError::Damaged { generation: number })?;
        // Opening under the lock: a sealed generation opens in tens of milliseconds, and nobody opens it twice.
        let generation = match Generation::recover(&*self.disk, &self.dir_of(&state, number), number) {
            Ok(generation) => generation,
            Err(error) if is_damage(&error) || state.repairs.has_had_patience(number, &error) => {
                let moved = self.set_aside(&mut state, number, &error.to_string(), damage, count);
                return Err(moved.map_or_else(
                    |error| ReadError::Open { generation: number, cause: error.to_string() },
                    |()| ReadError::Damaged { generation: number },
                ));
            }
            Err(error) => return Err(ReadError::Open { generation: number, cause: error.to_string() }),
        };
        let tail = Tail::new(Arc::new(generation));
        state.keep_open(&tail);
        Ok(tail)
    }

    /// A reader has come to a generation's end: one less open database. Another reader opens it again.
    pub(super) fn let_go(&self, number: u32) {
        let mut state = self.state();
        let at = state.tails.iter().position(|tail| tail.generation.number() == number);
        let tail = at.map(|at| state.tails.remove(at));
        drop(state);
        // sled may write and sync when it is closed: not under the lock.
        drop(tail);
    }

    /// The newest stored readings, newest blocks first: those that arrived within `span_ms` of the very newest, at most
    /// about `most`; for the windows of known stamps. Not measured from now: a sender that has waited an hour for the
    /// gateway to come back sends again what it sent just before.
    pub fn newest(&self, most: usize, span_ms: i64, mut each: impl FnMut(&Reading, Option<Arc<str>>)) {
        let numbers: Vec<(u32, u32)> = {
            let state = self.state();
            let sealed = state.manifest.generations.iter().rev();
            sealed
                .filter(|(_, r)| r.state == State::Sealed && r.summaries.is_none())
                .map(|(&n, r)| (n, r.count))
                .collect()
        };
        let keys = self.keyring.keys();
        let mut seen = 0;
        let mut newest_ms = None;
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
                    match block::decode(value, &keys, &mut readings) {
                        Ok(header) => {
                            let newest = *newest_ms.get_or_insert(header.latest_ms);
                            if header.latest_ms < newest.saturating_sub(span_ms) {
                                return;
                            }
                        }
                        Err(_) => continue,
                    }
                    seen += readings.len();
                    for reading in &readings {
                        each(reading, tail.name(reading.device.0, &keys).ok().flatten());
                    }
                    if seen >= most {
                        return;
                    }
                }
            }
        }
    }
}

/// Why a page could not be made.
enum Trouble {
    /// What is stored is not sound: to be salvaged.
    Damage(String),
    Other(ReadError),
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        Self::Other(error)
    }
}

/// What a database that is there would be, if it turned out to be damaged; `None`: it is not there.
fn kept(record: &Record) -> Option<Damage> {
    match record.state {
        State::Sealed => Some(Damage::Sealed),
        State::Open => Some(Damage::Torn),
        State::Creating | State::Void | State::Quarantined | State::Evicted | State::Dead => None,
    }
}

/// Numbers that are not stored must be known to be missing; else the database has lost them in silence.
fn explained(record: &Record, first: u32, last: u32) -> Result<(), Trouble> {
    let mut n = first;
    for missing in &record.missing {
        if missing.first <= n && n <= missing.last {
            n = missing.last.saturating_add(1);
        }
    }
    if n > last { Ok(()) } else { Err(Trouble::Damage(format!("the readings from {n} on are not there"))) }
}

pub(super) fn page(record: &Record, entries: Vec<Entry>, next: Seq) -> Page {
    let mut boot = [0u8; 16];
    // A boot id that cannot be read stays zero: stamps of that generation can then not be told apart by boot.
    let _ = hex::decode_to_slice(&record.boot, &mut boot);
    Page { spool: record.spool.as_str().into(), boot: BootId(boot), entries, next }
}

/// A generation that is not there any more: what became of its numbers, and its end.
fn gone(number: u32, record: &Record, from: Seq, after: Seq) -> Page {
    let mut entries = Vec::new();
    if record.summaries.is_some() {
        // Where an uplink stands among positions is the same with the summaries gone.
        let gaps = record.gaps_behind_summaries().filter(|(at, _)| *at >= from.n());
        entries.extend(gaps.map(|(at, missing)| gap(number, at, missing)));
    } else if from.n() < record.count {
        push_gaps(&mut entries, number, record, from.n(), record.count - 1);
    }
    entries.push(Entry::End { generation: number, count: record.count });
    page(record, entries, after)
}

/// Tells why `first` to `last` are not there: by what the record knows; what it does not know of is lost.
fn push_gaps(entries: &mut Vec<Entry>, generation: u32, record: &Record, first: u32, last: u32) {
    let mut gaps = Vec::new();
    record.tell_missing(first, last.saturating_add(1), &mut gaps);
    entries.extend(gaps.iter().map(|missing| gap(generation, missing.first, missing)));
}

/// A gap at position `at` of its generation.
pub(super) fn gap(generation: u32, at: u32, missing: &Missing) -> Entry {
    Entry::Gap {
        at: Seq::new(generation, at),
        first: Seq::new(generation, missing.first),
        last: Seq::new(generation, missing.last),
        cause: missing.cause,
        devices: missing.device_counts(),
    }
}

/// A block is where its header says: one that was put elsewhere would give its readings other numbers.
pub(super) fn is_at(
    header: block::Header,
    generation: u32,
    first_n: u32,
) -> Result<block::Header, BlockError> {
    let right = header.generation == generation && header.first_n == first_n;
    if right { Ok(header) } else { Err(BlockError::Malformed) }
}

/// Adds a gap of readings whose key is not at hand; one gap for blocks that follow each other.
fn push_withheld(entries: &mut Vec<Entry>, generation: u32, first: u32, last: u32) {
    let (first, last) = (Seq::new(generation, first), Seq::new(generation, last));
    match entries.last_mut() {
        Some(Entry::Gap { last: before, cause: GapCause::Withheld, .. })
            if before.0.saturating_add(1) == first.0 =>
        {
            *before = last;
        }
        _ => {
            let (at, cause, devices) = (first, GapCause::Withheld, Arc::default());
            entries.push(Entry::Gap { at, first, last, cause, devices });
        }
    }
}
