//! What a start does: takes stock of what a former run left.
//!
//! Whatever was open is sealed with what is found in it. Nothing that is damaged stops a start: a generation is moved
//! aside and salvaged later, a lost manifest is replaced by its copy or made anew from the directories. A number is never
//! used twice: where the manifest is lost, new readings get a new spool name, so that their ids differ in any case.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::repair::{Repairs, is_damage, tell_about};
use super::{Generations, LANE, OpenError, Spool, remove_dir, update};
use crate::clock::Clock;
use crate::journal::block;
use crate::journal::disk::Disk;
use crate::journal::generation::{Generation, GenerationError};
use crate::journal::identity;
use crate::journal::keys::{KeyId, Keyring, Keys};
use crate::journal::manifest::{self, Damage, Found, Manifest, Record, Sealed, State};
use crate::journal::salvage;
use crate::journal::types::{ReadError, Seq};

/// Time that a start spends on generations that were open; what is left over is looked at while the gateway runs.
const START_BUDGET: Duration = Duration::from_secs(4);

/// What a start found and did; for the log and `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    pub generations: usize,
    pub readings: u64,
    /// Numbers that were made durable once and are known to be gone.
    pub lost: u64,
    /// Generations that wait to be salvaged.
    pub quarantined: Vec<u32>,
    pub manifest_rebuilt: bool,
}

/// First number behind those that are known to have been given, per generation: by the mark, by the uplinks' places.
#[derive(Debug, Clone, Default)]
pub struct Known(BTreeMap<u32, u32>);

impl Known {
    /// Everything before `seq` has been given.
    pub fn given(&mut self, seq: Seq) {
        let end = self.0.entry(seq.generation()).or_default();
        *end = (*end).max(seq.n());
    }

    fn end(&self, generation: u32) -> u32 {
        self.0.get(&generation).copied().unwrap_or(0)
    }

    /// The first generation's number that nobody can have used.
    fn next_generation(&self) -> u32 {
        let used = self.0.iter().map(|(&generation, &end)| generation.saturating_add(u32::from(end > 0)));
        used.max().unwrap_or(0)
    }
}

impl Spool {
    /// Takes stock of what a former run left: whatever was open is sealed with what is found in it.
    ///
    /// # Errors
    /// Only when the directory itself cannot be used. Damage is moved aside, never an error.
    pub fn open(
        dir: &Path,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        known: Known,
        keyring: Keyring,
    ) -> Result<(Self, Recovered), OpenError> {
        let unusable = |source| OpenError::Directory { path: dir.to_owned(), source };
        fs::create_dir_all(dir.join(LANE)).map_err(unusable)?;
        let mut recovered = Recovered::default();
        let (mut manifest, lost) = load(dir, &known, &mut recovered).map_err(unusable)?;
        let name = identity::spool_name(&*disk, dir, lost).map_err(unusable)?;
        for record in manifest.generations.values_mut().filter(|record| record.spool.is_empty()) {
            record.spool.clone_from(&name);
        }
        let state = Generations {
            manifest,
            head: None,
            head_read: None,
            handles: HashMap::new(),
            tails: Vec::new(),
            replaced: Vec::new(),
            delivered: BTreeMap::new(),
            repairs: Repairs::default(),
        };
        let (name, state) = (name.into(), Mutex::new(state));
        let salvaging = Mutex::new(());
        let spared = Mutex::default();
        let spool = Self { dir: dir.to_owned(), disk, clock, name, known, keyring, state, salvaging, spared };
        spool.recover(&mut recovered).map_err(unusable)?;
        Ok((spool, recovered))
    }

    fn recover(&self, recovered: &mut Recovered) -> io::Result<()> {
        let started = Instant::now();
        let mut state = self.state();
        self.remove_replaced(&state.manifest)?;
        let numbers: Vec<(u32, State)> =
            state.manifest.generations.iter().map(|(&number, record)| (number, record.state)).collect();
        for (number, was) in numbers.into_iter().rev() {
            match was {
                State::Creating => {
                    remove_dir(&self.dir_of(&state, number))?;
                    update(&mut state.manifest, number, |record| record.state = State::Void);
                }
                // The newest first: they are asked for re-sent readings. What is left over, its first reader opens.
                State::Open if started.elapsed() < START_BUDGET => self.recover_head(&mut state, number)?,
                State::Dead => {
                    remove_dir(&self.dir_of(&state, number))?;
                    state.manifest.forget(number);
                }
                State::Open | State::Sealed | State::Void | State::Quarantined | State::Evicted => {}
            }
        }
        let records = &state.manifest.generations;
        recovered.generations = records.len();
        recovered.readings = records.values().map(|record| u64::from(record.count)).sum();
        recovered.quarantined =
            records.iter().filter(|(_, record)| record.damage.is_some()).map(|(&number, _)| number).collect();
        state.manifest.store(&*self.disk, &self.dir)
    }

    /// Seals a generation that was being written when the gateway stopped; the manifest is not stored yet.
    fn recover_head(&self, state: &mut Generations, number: u32) -> io::Result<()> {
        let known = self.known.end(number);
        match Stock::of(&*self.disk, &self.keyring.keys(), &self.dir_of(state, number), number) {
            Ok(stock) if stock.end >= known => {
                update(&mut state.manifest, number, |record| {
                    record.state = State::Sealed;
                    record.count = stock.end;
                    record.bytes = stock.bytes;
                    // A manifest that was rebuilt does not know.
                    record.sealed = record.sealed.or(stock.key.map(|key| Sealed { key, withheld: false }));
                    if let Some(about) = &stock.about {
                        tell_about(record, about);
                    }
                });
            }
            Ok(stock) => {
                let cause = format!("sled shows {} readings of {known} that were made durable", stock.end);
                self.set_aside(state, number, &cause, Damage::Torn, known)?;
            }
            Err(error) if is_damage(&error) => {
                self.set_aside(state, number, &error.to_string(), Damage::Torn, known)?;
            }
            Err(error) if state.repairs.has_had_patience(number, &error) => {
                self.set_aside(state, number, &error.to_string(), Damage::Torn, known)?;
            }
            Err(error) => {
                // It stays `open`; the first reader that comes to it tries again.
                tracing::warn!(generation = number, %error, "generation cannot be opened now; it is tried again");
            }
        }
        Ok(())
    }

    /// Seals, late, what could not be opened at the start.
    pub(super) fn recover_late(&self, number: u32) -> Result<(), ReadError> {
        let failed = |error: io::Error| ReadError::Open { generation: number, cause: error.to_string() };
        let mut state = self.state();
        self.recover_head(&mut state, number).map_err(failed)?;
        state.manifest.store(&*self.disk, &self.dir).map_err(failed)?;
        match state.manifest.generations.get(&number) {
            Some(record) if record.state == State::Open => {
                Err(ReadError::Open { generation: number, cause: "see the log".into() })
            }
            _ => Ok(()),
        }
    }
}

/// What is in a generation that nobody sealed.
struct Stock {
    /// The number behind the last one that sled shows.
    end: u32,
    bytes: u64,
    about: Option<Vec<u8>>,
    key: Option<KeyId>,
}

impl Stock {
    fn of(disk: &dyn Disk, keys: &Keys, dir: &Path, number: u32) -> Result<Self, GenerationError> {
        let generation = Generation::recover(disk, dir, number)?;
        let last = generation.last()?;
        let end = last.map_or(0, |stored| {
            stored.first_n + block::header(&stored.value).map_or(0, |header| header.count)
        });
        let (about, key) = (generation.about(keys)?, generation.sealed_with().ok().flatten());
        Ok(Self { end, bytes: generation.bytes(), about, key })
    }
}

/// The manifest, and whether it had to be made anew without knowing which numbers were used.
fn load(dir: &Path, known: &Known, recovered: &mut Recovered) -> io::Result<(Manifest, bool)> {
    let (mut manifest, lost) = match Manifest::load(dir) {
        Found::Manifest(manifest) => (manifest, false),
        Found::Copy(manifest, cause) => {
            tracing::error!(cause, "the manifest is damaged: its copy takes its place; check the disk");
            repair_aside(dir, &manifest::path(dir));
            (with_directories(manifest, dir)?, false)
        }
        Found::Nothing => {
            let manifest = with_directories(Manifest::default(), dir)?;
            let lost = !manifest.generations.is_empty() || !known.0.is_empty();
            if lost {
                tracing::error!("the manifest is gone: made anew from the generations found; check the disk");
            }
            (manifest, lost)
        }
        Found::Damaged(cause) => {
            tracing::error!(
                cause,
                "the manifest and its copy are damaged: made anew from the generations found; check the disk"
            );
            repair_aside(dir, &manifest::path(dir));
            (with_directories(Manifest::default(), dir)?, true)
        }
    };
    if lost {
        // Without randomness an uplink's account may not notice that the count begins anew; then it does not add up.
        manifest.epoch = getrandom::u32().unwrap_or(0);
    }
    recovered.manifest_rebuilt = lost;
    manifest.next_generation = manifest.next_generation.max(known.next_generation());
    Ok((manifest, lost))
}

fn repair_aside(dir: &Path, path: &Path) {
    if let Err(error) = salvage::put_aside(dir, path) {
        tracing::warn!(%error, file = %path.display(), "the damaged file cannot be kept for a look");
    }
}

/// Takes up what lies in the directory and the manifest does not know, or takes for unused: it may hold readings.
fn with_directories(mut manifest: Manifest, dir: &Path) -> io::Result<Manifest> {
    // Of two databases the older one is whole: it goes only after the newer one has taken its place.
    let mut seen = BTreeMap::new();
    let there = salvage::directories(&dir.join(LANE))?;
    for lane in [LANE, salvage::QUARANTINE] {
        let mut here = salvage::directories(&dir.join(lane))?;
        here.sort_unstable();
        for (number, revision) in here {
            seen.entry(number).or_insert(revision);
        }
    }
    for (number, revision) in seen {
        manifest.next_generation = manifest.next_generation.max(number.saturating_add(1));
        let known = manifest.generations.get_mut(&number);
        match known {
            Some(record) if matches!(record.state, State::Creating | State::Void) => {
                record.state = State::Open
            }
            // A copy of the manifest may not know of the last replacement: what is there counts, or it would be removed.
            Some(record) if !there.contains(&(number, record.revision)) => record.revision = revision,
            Some(_) => {}
            None => {
                let record = Record {
                    state: State::Open,
                    spool: String::new(),
                    boot: String::new(),
                    created_ms: 0,
                    count: 0,
                    missing: Vec::new(),
                    damage: None,
                    summaries: None,
                    sealed: None,
                    revision,
                    bytes: 0,
                };
                manifest.generations.insert(number, record);
            }
        }
    }
    Ok(manifest)
}
