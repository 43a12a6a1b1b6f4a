//! The committer: a thread of its own that writes one group after the other and proves it durable.
//!
//! A group becomes columnar blocks, sorted by device; the blocks, and the names of devices new to the generation, go in
//! under one sled flush and one fdatasync. Whatever goes wrong on the way, the group is kept and tried again in a new
//! generation, and nobody is acknowledged meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::{Duration, Instant};

use super::block::{self, BlockError, Encoder, MAX_READINGS, MAX_VALUE, Place};
use super::disk::Disk;
use super::generation::{Generation, GenerationError};
use super::mark::Mark;
use super::quota::{self, Trouble};
use super::spool::{Health, Spool};
use super::types::Seq;
use super::{Inner, metrics::CommitState};
use crate::clock::Clock;
use crate::reading::Reading;

/// How long the committer stays awake for the next order after it has carried out one.
const LOOK_OUT: Duration = Duration::from_micros(100);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// Numbers of one generation stay below this, far from the end of 32 bits.
const MOST_NUMBERS: u32 = 1 << 30;

/// What the driver asks of the committer.
pub enum Order {
    Commit,
    /// Goes on in a new generation, if this one is still the head.
    Leave(u32),
    /// Commits, and goes on in a new generation unless the head is empty.
    Roll,
    /// Ends the generation; nothing is appended after it.
    Seal,
}

pub struct Committer {
    inner: Arc<Inner>,
    spool: Arc<Spool>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    mark: Mark,
    encoder: Encoder,
    head: Head,
    generation_size: u64,
    /// The next generation, made ahead so that a roll-over does not wait for it.
    prepared: Prepared,
    order: Vec<u64>,
}

enum Head {
    None,
    Open { generation: Arc<Generation>, next_n: u32, named: Vec<bool> },
}

enum Prepared {
    No,
    Making(std::thread::JoinHandle<Result<Arc<Generation>, GenerationError>>),
}

impl Committer {
    pub fn new(
        inner: Arc<Inner>,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        mark: Mark,
        generation_size: u64,
    ) -> Self {
        let spool = Arc::clone(&inner.spool);
        Self {
            inner,
            spool,
            disk,
            clock,
            mark,
            encoder: Encoder::new(None),
            head: Head::None,
            generation_size,
            prepared: Prepared::No,
            order: Vec::new(),
        }
    }

    /// Opens the first generation of this run.
    ///
    /// # Errors
    /// When the disk refuses: better noticed at the start than with the first reading.
    pub fn start(&mut self) -> Result<(), GenerationError> {
        self.next_head(None)
    }

    /// Serves orders until the driver is gone.
    pub fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = next(orders) {
            match order {
                Order::Commit => self.commit(),
                Order::Leave(number) => self.leave(number),
                Order::Roll => {
                    self.commit();
                    self.roll();
                }
                Order::Seal => self.seal(),
            }
            self.inner.committed.notify_one();
        }
    }

    fn commit(&mut self) {
        let group = self.inner.intake.take();
        self.order.clear();
        if !group.readings.is_empty() {
            let started = Instant::now();
            self.write(&group.readings);
            self.inner.metrics.committed(group.readings.len(), started.elapsed());
        }
        self.inner.durable.store(group.ticket.0, Ordering::Release);
        self.inner.intake.settle(group.readings, &self.order);
    }

    /// Writes until it is durable.
    fn write(&mut self, readings: &[Reading]) {
        sort_by_device(readings, &mut self.order);
        let mut wait = RETRY_FIRST;
        loop {
            // sled's errors are for ever: what would fail is not begun.
            if let Err(trouble) = self.room(quota::need(readings.len())) {
                self.inner.keeper.committed(Some(trouble));
                self.inner.metrics.state(CommitState::Failing(trouble.to_string()));
                std::thread::sleep(RETRY_FIRST);
                continue;
            }
            match self.try_write(readings) {
                Ok(()) => {
                    self.inner.keeper.committed(None);
                    self.inner.metrics.state(CommitState::Working);
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "the journal cannot commit");
                    self.inner.keeper.committed(Some(error.trouble().unwrap_or(Trouble::Failing)));
                    self.inner.metrics.state(CommitState::Failing(error.to_string()));
                    if let Head::Open { generation, next_n, .. } =
                        std::mem::replace(&mut self.head, Head::None)
                        && let Err(error) = self.spool.seal(generation.number(), next_n, Health::Failed)
                    {
                        tracing::debug!(%error, "the manifest cannot be written");
                    }
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(RETRY_MOST);
                }
            }
        }
    }

    fn try_write(&mut self, readings: &[Reading]) -> Result<(), GenerationError> {
        self.keep_to_one_key();
        if matches!(self.head, Head::None) {
            self.next_head(None)?;
        }
        let Head::Open { generation, next_n, named } = &mut self.head else {
            return Ok(());
        };
        let mut entries = Vec::with_capacity(readings.len() / MAX_READINGS + 2);
        let mut new_names = Vec::new();
        for key in &self.order {
            let device = (key >> 32) as usize;
            if device >= named.len() {
                named.resize(device + 1, false);
            }
            if let Some(named) = named.get_mut(device)
                && !std::mem::replace(named, true)
            {
                new_names.push(device);
                let id = crate::reading::DeviceId(device as u32);
                if let Some(name) = self.inner.devices.name(id) {
                    entries.push(generation.name_entry(&self.encoder, device as u32, &name)?);
                }
            }
        }
        let place = Place {
            boot_tag: block::boot_tag(self.clock.boot()),
            clock_epoch: self.clock.anchors().revision(),
            generation: generation.number(),
            first_n: *next_n,
        };
        encode(&mut self.encoder, place, readings, &self.order, &mut entries)?;
        if let Err(error) = generation.commit(&*self.disk, &entries) {
            for device in new_names {
                if let Some(named) = named.get_mut(device) {
                    *named = false;
                }
            }
            return Err(error);
        }
        if *next_n == 0 {
            self.inner.rolls.begun();
        }
        *next_n += readings.len() as u32;
        let (number, next) = (generation.number(), *next_n);
        self.inner.watermark.send_replace(Seq::new(number, next));
        // The mark only tells what is missing after a crash; readings do not depend on it.
        if let Err(error) = self.mark.write(&*self.disk, Seq::new(number, next)) {
            tracing::debug!(%error, "the mark cannot be written");
        }
        let bytes = generation.bytes();
        self.inner.metrics.head_bytes(bytes);
        if bytes >= self.generation_size || next >= MOST_NUMBERS {
            self.roll_over(number, next);
        } else if bytes >= self.generation_size / 16 * 15 {
            self.prepare();
        }
        Ok(())
    }

    /// Whether quota and disk have room for `need` bytes, and for a new head if there is none.
    fn room(&self, need: u64) -> Result<(), Trouble> {
        let head = match &self.head {
            Head::None => None,
            Head::Open { generation, .. } => Some((generation.number(), generation.bytes())),
        };
        let fresh = if head.is_none() { quota::FRESH } else { 0 };
        self.inner.keeper.room(head, need + fresh)
    }

    /// A generation is sealed with one key: when another one has come into force, the head ends. Once more if a
    /// generation was made ahead with the old one.
    fn keep_to_one_key(&mut self) {
        for _ in 0..2 {
            let Head::Open { generation, next_n, .. } = &self.head else { return };
            let sealed_with = generation.sealer().map(|sealer| sealer.id());
            if sealed_with == self.spool.keyring().keys().sealing() {
                return;
            }
            let (number, count) = (generation.number(), *next_n);
            self.roll_over(number, count);
        }
    }

    /// Starts making the next generation in a thread of its own.
    fn prepare(&mut self) {
        if matches!(self.prepared, Prepared::No) && self.room(quota::FRESH).is_ok() {
            let (spool, inner) = (Arc::clone(&self.spool), Arc::clone(&self.inner));
            let making = std::thread::Builder::new().name("journal-prepare".into()).spawn(move || {
                let made = spool.create();
                inner.keeper.walk(&spool);
                made
            });
            if let Ok(making) = making {
                self.prepared = Prepared::Making(making);
            }
        }
    }

    fn roll(&mut self) {
        if let Head::Open { generation, next_n, .. } = &self.head
            && *next_n > 0
        {
            let (number, count) = (generation.number(), *next_n);
            self.roll_over(number, count);
        }
    }

    /// The group is durable already: a roll-over that fails is tried again at the next look.
    fn roll_over(&mut self, number: u32, count: u32) {
        if matches!(self.prepared, Prepared::No) && self.room(quota::FRESH).is_err() {
            return;
        }
        if let Err(error) = self.next_head(Some((number, count))) {
            tracing::warn!(%error, "no new generation could be opened; the journal goes on in the old one");
        }
    }

    fn leave(&mut self, damaged: u32) {
        if let Head::Open { generation, next_n, .. } = &self.head
            && generation.number() == damaged
        {
            let count = *next_n;
            self.roll_over(damaged, count);
        }
    }

    fn next_head(&mut self, before: Option<(u32, u32)>) -> Result<(), GenerationError> {
        let made = match std::mem::replace(&mut self.prepared, Prepared::No) {
            Prepared::Making(thread) => thread.join().unwrap_or_else(|_| self.spool.create()),
            Prepared::No => self.spool.create(),
        };
        let generation = made?;
        self.spool.promote(&generation, before)?;
        if let Some((sealed, readings)) = before {
            tracing::info!(target: "flight::journal", generation = sealed, readings, "a generation was sealed");
        }
        self.inner.watermark.send_replace(Seq::new(generation.number(), 0));
        self.inner.rolls.emptied();
        self.encoder.seal_with(generation.sealer().cloned());
        self.head = Head::Open { generation, next_n: 0, named: Vec::new() };
        // From here on another database grows.
        self.inner.keeper.walk(&self.spool);
        Ok(())
    }

    fn seal(&mut self) {
        if let Head::Open { generation, next_n, .. } = std::mem::replace(&mut self.head, Head::None) {
            let number = generation.number();
            drop(generation);
            if let Err(error) = self.spool.seal(number, next_n, Health::Sound) {
                tracing::warn!(%error, "the generation could not be sealed; the next start does it");
            } else {
                self.inner.watermark.send_replace(Seq::new(number + 1, 0));
            }
        }
    }
}

/// The next order. Looks out for it before it sleeps: a sender with one reading in flight comes back within this time,
/// and a thread that sleeps meanwhile costs it a quarter of its rate.
fn next(orders: &Receiver<Order>) -> Result<Order, RecvError> {
    let patience = Instant::now();
    loop {
        match orders.try_recv() {
            Ok(order) => return Ok(order),
            Err(TryRecvError::Disconnected) => return Err(RecvError),
            Err(TryRecvError::Empty) if patience.elapsed() >= LOOK_OUT => return orders.recv(),
            Err(TryRecvError::Empty) => std::thread::yield_now(),
        }
    }
}

/// The order in which readings get their numbers: by device, within a device as they came. As `device << 32 | index`.
fn sort_by_device(readings: &[Reading], order: &mut Vec<u64>) {
    order.clear();
    order.extend(
        readings.iter().enumerate().map(|(index, reading)| u64::from(reading.device.0) << 32 | index as u64),
    );
    order.sort_unstable();
}

/// Splits a group into blocks; one that grows beyond the limit of a value is cut in halves.
fn encode(
    encoder: &mut Encoder,
    place: Place,
    readings: &[Reading],
    order: &[u64],
    entries: &mut Vec<(u64, Vec<u8>)>,
) -> Result<(), BlockError> {
    let mut first_n = place.first_n;
    let mut rest = order;
    let mut most = MAX_READINGS;
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(rest.len().min(most));
        let chosen = Chosen { readings, order: chunk.iter() };
        let value = encoder.encode(Place { first_n, ..place }, chosen)?;
        if value.len() > MAX_VALUE && chunk.len() > 1 {
            most = chunk.len() / 2;
            continue;
        }
        entries.push((u64::from(first_n), value));
        first_n += chunk.len() as u32;
        rest = later;
    }
    Ok(())
}

/// Readings in a given order.
#[derive(Clone)]
struct Chosen<'a> {
    readings: &'a [Reading],
    order: std::slice::Iter<'a, u64>,
}

impl<'a> Iterator for Chosen<'a> {
    type Item = &'a Reading;

    fn next(&mut self) -> Option<&'a Reading> {
        self.order.next().and_then(|key| self.readings.get(*key as u32 as usize))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.order.size_hint()
    }
}

impl ExactSizeIterator for Chosen<'_> {}
