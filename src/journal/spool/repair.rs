//! Generations that are damaged: moved aside, salvaged, put back as a new database.
//!
//! A damaged generation is `quarantined` in the manifest first and its directory moved after that; a crash in between is
//! made up for when it is salvaged. Readers wait at it until it is; then they get what was kept, and gaps for the rest.
//! They never wait for ever: one that cannot be salvaged for [`PATIENCE`] (the disk is full) is told as lost.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{Generations, Spool, remove_dir, update};
use crate::journal::block::{self, Kind};
use crate::journal::cursor::Cursors;
use crate::journal::generation::GenerationError;
use crate::journal::manifest::{Damage, Missing, Record, State};
use crate::journal::salvage::{self, ChildError, Held, Job, Program, Shelf, Survey};
use crate::journal::types::{GapCause, ReadError};

/// How long a generation may wait to be salvaged.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a generation whose files the device does not give is tried again before it counts as damaged.
const DEVICE_PATIENCE: Duration = Duration::from_secs(30);
/// A generation that is found damaged more often in one run is read as far as it can be.
const MOST_REPAIRS: u32 = 3;
/// How often a child is started that does not come to its end.
const MOST_TRIES: u32 = 3;
/// Salvaged generations that `status` tells of.
const MOST_TOLD: usize = 16;
/// What Linux says when a device cannot read a place.
const EIO: i32 = 5;

/// What one run knows of damaged generations.
#[derive(Default)]
pub(super) struct Repairs {
    /// How often each was moved aside.
    times: BTreeMap<u32, u32>,
    /// Since when each waits.
    waiting: BTreeMap<u32, Instant>,
    /// How often the child that salvages it did not come to its end.
    tries: BTreeMap<u32, u32>,
    /// Since when the device refuses.
    refused: BTreeMap<u32, Instant>,
    /// The head gave something unsound: it has to end before it can be repaired.
    head: Option<u32>,
    /// The last few that were salvaged.
    done: VecDeque<Repaired>,
}

/// What became of a damaged generation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Repaired {
    pub generation: u32,
    /// Numbers that were given, as far as it is known.
    pub count: u32,
    /// Readings that were kept, or summaries where readings had given way to them.
    pub salvaged: u64,
    /// Numbers that are gone.
    pub lost: u64,
    /// Of the salvaged readings, those whose device's name is lost: they are delivered under a stand-in for it.
    #[serde(skip_serializing_if = "is_zero")]
    pub unnamed: u64,
    /// Why the child that looked for them did not come to its end; it may have found less for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Why a generation is not salvaged yet. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error(
        "there is no generation {0} that waits to be salvaged; `fogbeat journal inspect` shows those there are"
    )]
    NotDamaged(u32),
    #[error("the database for what was salvaged cannot be made ({0}); make room on the disk")]
    Rebuild(#[from] GenerationError),
    #[error("{0}; what it found is taken after {MOST_TRIES} tries")]
    Child(#[from] ChildError),
    #[error("{0}; check that the spool directory can be written")]
    Io(#[from] io::Error),
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Repairs {
    /// The child did not come to its end: whether it is started another time.
    fn may_try_again(&mut self, number: u32) -> bool {
        let tries = self.tries.entry(number).or_default();
        *tries += 1;
        *tries < MOST_TRIES
    }

    /// Whether the device has refused this generation for so long that it will not change its mind.
    pub(super) fn has_had_patience(&mut self, number: u32, error: &GenerationError) -> bool {
        let io = match error {
            GenerationError::Io(error) | GenerationError::Sled(sled::Error::Io(error)) => error,
            _ => return false,
        };
        let since = self.refused.entry(number).or_insert_with(Instant::now);
        io.raw_os_error() == Some(EIO) && since.elapsed() >= DEVICE_PATIENCE
    }
}

impl Spool {
    /// Moves a generation aside, to be salvaged. `count` is what is known to have been given.
    ///
    /// # Errors
    /// When the manifest cannot be written or the directory cannot be moved.
    pub(super) fn set_aside(
        &self,
        state: &mut Generations,
        number: u32,
        cause: &str,
        damage: Damage,
        count: u32,
    ) -> io::Result<()> {
        let mut manifest = state.manifest.clone();
        update(&mut manifest, number, |record| {
            record.state = State::Quarantined;
            record.damage = Some(damage);
            record.count = count;
        });
        manifest.store(&*self.disk, &self.dir)?;
        state.manifest = manifest;
        tracing::error!(
            generation = number,
            cause,
            "a generation is damaged: it is moved to quarantine and salvaged; check or replace the disk"
        );
        *state.repairs.times.entry(number).or_default() += 1;
        state.repairs.waiting.insert(number, Instant::now());
        let at = state.tails.iter().position(|tail| tail.generation.number() == number);
        let tail = at.map(|at| state.tails.remove(at));
        state.handles.remove(&number);
        // Damaged databases take their time to close, or panic: in a thread of its own.
        let _ = std::thread::Builder::new().name("journal-close".into()).spawn(move || drop(tail));
        let revision = state.manifest.revision(number);
        // From before the manifest was lost: its name is needed.
        remove_dir(&self.quarantined_dir(number, revision))?;
        self.move_to_quarantine(number, revision)
    }

    /// A sealed generation gave something unsound. Returns what its reader is told.
    pub(super) fn condemn(&self, number: u32, cause: &str) -> ReadError {
        let mut state = self.state();
        let record = state.manifest.generations.get(&number);
        let Some(count) = record.filter(|r| r.state == State::Sealed).map(|r| r.count) else {
            return ReadError::Damaged { generation: number };
        };
        match self.set_aside(&mut state, number, cause, Damage::Sealed, count) {
            Ok(()) => ReadError::Damaged { generation: number },
            Err(error) => ReadError::Read { generation: number, cause: error.to_string() },
        }
    }

    /// Whether it is worth looking for what a reader misses.
    pub(super) fn may_condemn(&self, number: u32) -> bool {
        self.state().repairs.times.get(&number).is_none_or(|times| *times < MOST_REPAIRS)
    }

    /// The head gave something unsound; the committer has to begin another one.
    pub fn head_is_damaged(&self, number: u32, cause: &str) -> ReadError {
        tracing::error!(
            generation = number,
            cause,
            "the head is damaged: a new one is begun; check the disk"
        );
        self.state().repairs.head = Some(number);
        ReadError::Damaged { generation: number }
    }

    /// The head that has to end, if there is one; asked once.
    pub fn take_damaged_head(&self) -> Option<u32> {
        self.state().repairs.head.take()
    }

    /// The generations that wait to be salvaged, oldest first.
    pub fn damaged(&self) -> Vec<u32> {
        let state = self.state();
        let records = state.manifest.generations.iter();
        records.filter(|(_, record)| record.damage.is_some()).map(|(&number, _)| number).collect()
    }

    /// What was salvaged in this run, the last few.
    pub fn repaired(&self) -> Vec<Repaired> {
        self.state().repairs.done.iter().cloned().collect()
    }

    fn move_to_quarantine(&self, number: u32, revision: u32) -> io::Result<()> {
        let shelf = self.dir.join(salvage::QUARANTINE);
        fs::create_dir_all(&shelf)?;
        let from = self.generation_dir(number, revision);
        let to = self.quarantined_dir(number, revision);
        if to.exists() {
            // Moved already, in one go. What is there again comes from sled, which was given up while it was opening the
            // database and went on: a snapshot without one.
            return remove_dir(&from);
        }
        if !from.exists() {
            return Ok(());
        }
        fs::rename(from, to)?;
        self.disk.sync_path(&shelf)
    }

    fn quarantined_dir(&self, number: u32, revision: u32) -> PathBuf {
        let name = self.generation_dir(number, revision).file_name().unwrap_or_default().to_owned();
        self.dir.join(salvage::QUARANTINE).join(name)
    }

    /// Salvages one generation. Blocking: seconds to minutes; `look` is called now and then meanwhile.
    ///
    /// # Errors
    /// See [`SalvageError`]; the generation stays as it is.
    pub fn salvage(
        &self,
        number: u32,
        cursors: &Cursors,
        program: &Program,
        look: &mut dyn FnMut(),
    ) -> Result<Repaired, SalvageError> {
        let _alone = self.salvaging.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.state().manifest.generations.get(&number).cloned();
        let damaged = record.and_then(|record| record.damage.map(|damage| (record, damage)));
        let (record, damage) = damaged.ok_or(SalvageError::NotDamaged(number))?;
        let since = *self.state().repairs.waiting.entry(number).or_insert_with(Instant::now);
        let source = self.quarantined_dir(number, record.revision);
        let job = Job {
            generation: number,
            target: self.dir.join(salvage::QUARANTINE).join(format!("gen-{number}.values")),
            source,
            count: record.summaries.map_or(record.count, |summaries| summaries.count),
        };
        let done = self.salvage_from(&job, &record, damage, cursors, program, look);
        // Whatever is left of the work; the source stays for a look.
        let _ = fs::remove_file(&job.target);
        let _ = fs::remove_dir_all(job.target.with_extension("copy"));
        let repaired = match done {
            Err(error) if since.elapsed() >= PATIENCE => {
                let why = Some(error.to_string());
                self.give_up(number, &record, &Survey::default(), record.count, why)?
            }
            done => done?,
        };
        if repaired.count > record.count {
            cursors.found_more(number, u64::from(repaired.count - record.count));
        }
        let repairs = &mut self.state().repairs;
        repairs.waiting.remove(&number);
        repairs.tries.remove(&number);
        if repairs.done.len() >= MOST_TOLD {
            repairs.done.pop_front();
        }
        repairs.done.push_back(repaired.clone());
        Ok(repaired)
    }

    fn salvage_from(
        &self,
        job: &Job,
        record: &Record,
        damage: Damage,
        cursors: &Cursors,
        program: &Program,
        look: &mut dyn FnMut(),
    ) -> Result<Repaired, SalvageError> {
        let number = job.generation;
        self.move_to_quarantine(number, record.revision)?;
        let trouble = match program.run(job, look) {
            Ok(()) => None,
            // Killed for want of memory, or starved: another time it may find more.
            Err(error) if self.state().repairs.may_try_again(number) => return Err(error.into()),
            Err(error) => Some(error.to_string()),
        };
        let limit = match damage {
            Damage::Sealed => Some(job.count),
            Damage::Torn => None,
        };
        let survey = match Survey::of(&job.target, number, limit) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Survey::default(),
            survey => survey?,
        };
        let count = match damage {
            Damage::Sealed => record.count,
            Damage::Torn => record.count.max(survey.end()),
        };
        if survey.values == 0 {
            return Ok(self.give_up(number, record, &survey, count, trouble)?);
        }
        let (revision, dir) = self.next_revision(number)?;
        let own = about(record);
        let bytes = salvage::build(&*self.disk, &dir, number, &own, &job.target, limit)?;
        let about = self.own_word(&survey);
        let held = Held::of(&job.target, number, limit, &self.keyring.keys())?;
        let mut missing = survey.missing(count, record);
        // Whoever stands between two gaps has had all summaries, and must find the gaps where they were.
        if record.summaries.is_some() && !cursors.within(number, record.between_gaps()) {
            missing = held.tell_lost(missing);
        }
        let repaired =
            Repaired { unnamed: held.unnamed(), ..account(number, count, &survey, &missing, trouble) };
        self.put_back(number, revision, |record| {
            record.state = State::Sealed;
            record.damage = None;
            record.count = count;
            record.missing = missing;
            record.summaries = record.summaries.map(|known| survey.left_of(known));
            record.bytes = bytes;
            if let Some(about) = about {
                tell_about(record, &about);
            }
        })?;
        Ok(repaired)
    }

    /// Nothing could be kept: all numbers are told as lost.
    fn give_up(
        &self,
        number: u32,
        record: &Record,
        survey: &Survey,
        count: u32,
        trouble: Option<String>,
    ) -> io::Result<Repaired> {
        let missing = without_summaries(survey.missing(count, record));
        let repaired = account(number, count, survey, &missing, trouble);
        let about = self.own_word(survey);
        let mut state = self.state();
        let mut manifest = state.manifest.clone();
        update(&mut manifest, number, |record| {
            record.state = if count == 0 { State::Void } else { State::Quarantined };
            record.damage = None;
            record.count = count;
            // Uplinks stand where they stood, also among summaries that are gone.
            record.missing = missing;
            if let Some(about) = about {
                tell_about(record, &about);
            }
        });
        manifest.store(&*self.disk, &self.dir)?;
        state.manifest = manifest;
        Ok(repaired)
    }

    /// What the generation said of itself, if it was found and can be opened.
    fn own_word(&self, survey: &Survey) -> Option<Vec<u8>> {
        let value = survey.about.as_deref()?;
        block::decode_plain(value, &self.keyring.keys(), Kind::Generation).ok().map(Cow::into_owned)
    }

    /// Keeps the quarantine within `most` bytes.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn trim_quarantine(&self, most: u64) -> io::Result<()> {
        let waiting = self.damaged();
        Shelf::of(&self.dir).trim(most, |number| waiting.contains(&number))
    }

    /// Real bytes in quarantine.
    pub fn quarantine_bytes(&self) -> u64 {
        Shelf::of(&self.dir).bytes()
    }
}

/// Readings that had given way to summaries are lost when the summaries are.
fn without_summaries(mut missing: Vec<Missing>) -> Vec<Missing> {
    for part in missing.iter_mut().filter(|part| part.cause == GapCause::Thinned) {
        part.cause = GapCause::Lost;
    }
    missing
}

fn account(
    generation: u32,
    count: u32,
    survey: &Survey,
    missing: &[Missing],
    trouble: Option<String>,
) -> Repaired {
    let lost = missing.iter().filter(|missing| missing.cause == GapCause::Lost).map(Missing::count).sum();
    let salvaged = survey.found();
    Repaired { generation, count, salvaged, lost, unnamed: 0, trouble }
}

/// What a generation says of itself, when its own word was lost.
fn about(record: &Record) -> Vec<u8> {
    let about = serde_json::json!({
        "spool": record.spool, "boot": record.boot, "created_ms": record.created_ms,
    });
    about.to_string().into_bytes()
}

/// Fills in what only the manifest knew, from what the generation says of itself.
pub(super) fn tell_about(record: &mut Record, about: &[u8]) {
    #[derive(serde::Deserialize)]
    struct About {
        spool: String,
        boot: String,
        created_ms: i64,
    }
    if record.boot.is_empty()
        && let Ok(About { spool, boot, created_ms }) = serde_json::from_slice(about)
    {
        *record = Record { spool, boot, created_ms, ..record.clone() };
    }
}

/// Errors that a later attempt will meet again.
pub(super) fn is_damage(error: &GenerationError) -> bool {
    match error {
        GenerationError::Panicked(_)
        | GenerationError::Deadline { .. }
        | GenerationError::Deadly
        | GenerationError::Damaged { .. } => true,
        GenerationError::Sled(sled::Error::Io(error)) | GenerationError::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
        ),
        GenerationError::Sled(_) => true,
        GenerationError::Block(_) => false,
    }
}
