//! What generations there are and how far each has come: `manifest.json` in the spool, outside sled.
//!
//! A generation goes `creating -> open -> sealed -> dead`; a state is written before the act it announces. Two states
//! stand beside that way: `void` (given a number, never held a reading: its creation was cut off), `quarantined` (it
//! could not be opened and was moved aside) and `evicted` (dropped at the quota; the record stays until every uplink has
//! been told). Once sealed, the record holds the exact count, so that a database that sled silently shortened is noticed.
//!
//! A generation's database is never changed once it is sealed, but it can be replaced by another one: the new one is
//! made beside it, and the record's `revision` decides which of the two is the generation.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::keys::KeyId;
use super::types::{DeviceCounts, GapCause};

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
    /// How many of them each device gave; empty when that is not known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, u64>,
}

/// Summaries that a generation was thinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summaries {
    /// Length of their windows, s.
    pub window_s: u16,
    /// They are numbered 0 to `count` - 1.
    pub count: u32,
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

/// What a start finds.
pub enum Found {
    Nothing,
    Manifest(Manifest),
    /// It is there and cannot be understood.
    Damaged(String),
}

fn gaps_at_end(missing: &[Missing], count: u32) -> impl Iterator<Item = (u32, &Missing)> {
    (count.saturating_sub(missing.len() as u32)..).zip(missing)
}

/// Numbers that a thinned generation of `count` readings accounts for before position `n`: its summaries account for
/// none, the gaps behind them for all, in order.
pub fn told_by_gaps(missing: &[Missing], count: u32, n: u32) -> u32 {
    let told = gaps_at_end(missing, count).take_while(|(at, _)| *at < n).last();
    told.map_or(0, |(_, missing)| missing.last.saturating_add(1))
}

impl Record {
    /// The gaps of a generation that was thinned, each with its position (as an n): the last ones before its end, in
    /// order. The summaries before them are fewer than the readings were, so that there is always room.
    pub fn gaps_behind_summaries(&self) -> impl Iterator<Item = (u32, &Missing)> {
        gaps_at_end(&self.missing, self.count)
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
        for missing in self.missing.iter().filter(|missing| missing.last >= first && missing.first < end) {
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
    /// # Errors
    /// Whatever keeps an existing file from being read.
    pub fn load(spool: &Path) -> io::Result<Found> {
        let bytes = match std::fs::read(path(spool)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        Ok(match serde_json::from_slice::<Self>(&bytes) {
            Ok(manifest) if manifest.version == VERSION => Found::Manifest(manifest),
            Ok(manifest) => Found::Damaged(format!("version {} is not known", manifest.version)),
            Err(error) => Found::Damaged(error.to_string()),
        })
    }

    /// # Errors
    /// When the file could not be replaced; the old one is still whole then.
    pub fn store(&self, disk: &dyn Disk, spool: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        disk.replace(&path(spool), &bytes)
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
