//! What generations there are and how far each has come: `manifest.json` in the spool, outside sled.
//!
//! A generation goes `creating -> open -> sealed -> dead`; a state is written before the act it announces. Two states
//! stand beside that way: `void` (given a number, never held a reading: its creation was cut off), `quarantined` (it
//! is damaged and was moved aside; `damage` says that it waits to be salvaged) and `evicted` (dropped at the quota; the record stays until every uplink has
//! been told). Once sealed, the record holds the exact count, so that a database that sled silently shortened is noticed.
//!
//! A generation's database is never changed once it is sealed, but it can be replaced by another one: the new one is
//! made beside it, and the record's `revision` decides which of the two is the generation.
//!
//! The file carries a sum and is kept twice (`manifest.json`, `manifest.copy`), so that neither a flipped bit nor a
//! deleted file can make the journal use a number again or forget what was missing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::keys::KeyId;
use super::types::{DeviceCounts, GapCause};
use crate::files;

const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Creating,
    Open,
    Sealed,
    Void,
    Quarantined,
    Evicted,
    Dead,
}

/// Numbers that were given and cannot be had any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// First n.
    pub first: u32,
    /// Last n.
    pub last: u32,
    pub cause: GapCause,
    /// How many of them each device gave; empty when that is not known. Of lost readings it never is: counts for every
    /// device and generation, kept somewhere else than the readings, would have to be written with each commit to hold
    /// for the head too, and every store of the manifest would carry them all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, u64>,
}

/// What a generation in quarantine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// To be salvaged; its count is exact.
    Sealed,
    /// To be salvaged; it was being written, so that `count` is only the least that was given.
    Torn,
}

/// Summaries that a generation was thinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summaries {
    /// Length of their windows, s.
    pub window_s: u16,
    /// They are numbered 0 to `count` - 1.
    pub count: u32,
    /// Some of these numbers have none: it was lost, or erased.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sparse: bool,
}

/// How a generation is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub key: KeyId,
    /// An uplink was told that readings in it are withheld, because the key was not at hand. It is not removed as
    /// delivered then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub withheld: bool,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub state: State,
    /// The spool its numbers belong to (a cloned card gets a new one).
    pub spool: String,
    /// Boot id, 32 hex digits.
    pub boot: String,
    pub created_ms: i64,
    /// Numbers given: 0 to `count` - 1. Exact once sealed.
    #[serde(default)]
    pub count: u32,
    /// What is known to be missing, in order and without overlap. What else is not in the database is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// Only while it is quarantined and not salvaged yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
    /// What stands in the database in place of readings; every number is in `missing` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summaries: Option<Summaries>,
    /// How often its database was replaced.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u32,
    /// `None`: not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
    /// Real bytes on disk when it was sealed.
    #[serde(default)]
    pub bytes: u64,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    pub next_generation: u32,
    /// Tells counts of numbers apart: another one whenever the manifest had to be made anew.
    #[serde(default)]
    pub epoch: u32,
    /// Numbers given in generations that are not listed any more.
    #[serde(default)]
    pub gone: u64,
    pub generations: BTreeMap<u32, Record>,
}

/// The file the manifest lives in.
pub fn path(spool: &Path) -> PathBuf {
    spool.join("manifest.json")
}

fn copy(spool: &Path) -> PathBuf {
    spool.join("manifest.copy")
}

/// `Err(None)`: it is not there.
fn read(path: &Path) -> Result<Manifest, Option<String>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(None),
        Err(error) => return Err(Some(error.to_string())),
    };
    let text = files::without_sum(&bytes).map_err(|error| Some(error.to_string()))?;
    match serde_json::from_slice::<Manifest>(text) {
        Ok(manifest) if manifest.version == VERSION => Ok(manifest),
        Ok(manifest) => Err(Some(format!("version {} is not known", manifest.version))),
        Err(error) => Err(Some(error.to_string())),
    }
}

/// What a start finds.
pub enum Found {
    /// Neither the file nor its copy is there.
    Nothing,
    Manifest(Manifest),
    /// The file is lost or damaged. Its copy may be older by one change.
    Copy(Manifest, String),
    /// Both are damaged.
    Damaged(String),
}

impl Record {
    /// Numbers that were removed because a person asked for it.
    pub fn erased(&self) -> u64 {
        self.missing.iter().filter(|missing| missing.cause == GapCause::Erased).map(Missing::count).sum()
    }

    /// The gaps of a generation that was thinned, each with its position (as an n): the last ones before its end, in
    /// order. The summaries before them are fewer than the readings were, so that there is always room.
    pub fn gaps_behind_summaries(&self) -> impl Iterator<Item = (u32, &Missing)> {
        let first = self.count.saturating_sub(self.missing.len() as u32);
        (first..).zip(&self.missing)
    }

    /// Positions between two of these gaps.
    pub fn between_gaps(&self) -> std::ops::Range<u32> {
        let first = self.count.saturating_sub(self.missing.len() as u32);
        first.saturating_add(1)..self.count
    }

    /// Why the numbers from `first` up to `end` are missing, each once: by what is known, else they are lost.
    pub fn tell_missing(&self, first: u32, end: u32, out: &mut Vec<Missing>) {
        let lost = |first: u32, end: u32| Missing {
            first,
            last: end - 1,
            cause: GapCause::Lost,
            devices: BTreeMap::new(),
        };
        let mut n = first;
        // In order; after an erasure there are many.
        let known = self.missing.partition_point(|missing| missing.last < first);
        for missing in self.missing.iter().skip(known).take_while(|missing| missing.first < end) {
            if missing.first > n {
                out.push(lost(n, missing.first));
            }
            let (from, to) = (missing.first.max(first), missing.last.min(end - 1));
            // Of a part it is not known how many each device gave.
            let whole = (from, to) == (missing.first, missing.last);
            let devices = if whole { missing.devices.clone() } else { BTreeMap::new() };
            out.push(Missing { first: from, last: to, cause: missing.cause, devices });
            n = to.saturating_add(1);
        }
        if n < end {
            out.push(lost(n, end));
        }
    }

    /// Numbers that are accounted for before position `n`. That is `n` where readings are; summaries account for none,
    /// the gaps behind them for all.
    pub fn told_before(&self, n: u32) -> u64 {
        match self.summaries {
            None => u64::from(n.min(self.count)),
            Some(_) => {
                let gaps = self.gaps_behind_summaries().take_while(|(at, _)| *at < n);
                gaps.map(|(_, missing)| missing.count()).sum()
            }
        }
    }

    /// Numbers that the storage lost.
    pub fn lost(&self) -> u64 {
        self.gone_by(GapCause::Lost)
    }

    /// Numbers whose readings gave way to summaries.
    pub fn thinned(&self) -> u64 {
        self.gone_by(GapCause::Thinned)
    }

    fn gone_by(&self, cause: GapCause) -> u64 {
        self.missing.iter().filter(|missing| missing.cause == cause).map(Missing::count).sum()
    }
}

impl Missing {
    pub fn device_counts(&self) -> DeviceCounts {
        self.devices.iter().map(|(name, count)| (name.as_str().into(), *count)).collect()
    }

    pub fn count(&self) -> u64 {
        u64::from(self.last.saturating_sub(self.first)) + 1
    }
}

impl Default for Manifest {
    fn default() -> Self {
        // 0 stays unused, so that a number is never below 2^32: easy to tell from a counter.
        Self { version: VERSION, next_generation: 1, epoch: 0, gone: 0, generations: BTreeMap::new() }
    }
}

impl Manifest {
    pub fn load(spool: &Path) -> Found {
        match (read(&path(spool)), read(&copy(spool))) {
            (Ok(manifest), _) => Found::Manifest(manifest),
            (Err(None), Err(None)) => Found::Nothing,
            (Err(why), Ok(manifest)) => Found::Copy(manifest, why.unwrap_or_else(|| "it is gone".into())),
            (Err(why), Err(other)) => Found::Damaged(why.or(other).unwrap_or_default()),
        }
    }

    /// # Errors
    /// When the file could not be replaced; the old one is still whole then.
    pub fn store(&self, disk: &dyn Disk, spool: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let bytes = files::with_sum(text);
        disk.replace(&path(spool), &bytes)?;
        if let Err(error) = disk.replace(&copy(spool), &bytes) {
            tracing::debug!(%error, "the manifest's copy cannot be written");
        }
        Ok(())
    }

    /// Takes a generation off the list; how many numbers it gave stays known.
    pub fn forget(&mut self, number: u32) {
        if let Some(record) = self.generations.remove(&number) {
            self.gone += u64::from(record.count);
        }
    }

    /// Which of a generation's databases is the generation.
    pub fn revision(&self, number: u32) -> u32 {
        self.generations.get(&number).map_or(0, |record| record.revision)
    }

    /// The first generation at or after `number`.
    pub fn at_or_after(&self, number: u32) -> Option<(u32, &Record)> {
        self.generations.range(number..).next().map(|(&number, record)| (number, record))
    }
}
