//! What an uplink still has to be told about clocks: boots of which it got lines with a guessed time.
//!
//! A boot is owed from the moment a batch with such lines is begun, and no longer once the batch that carries its
//! `clock` line is confirmed. It stands in the uplink's cursor file, written together with the bounds, so that a batch
//! that is sent again carries the same `clock` lines, and no restart sends one twice or not at all.

use serde::{Deserialize, Serialize};

use super::types::{Bounds, Seq};
use crate::clock::BootId;

/// Boots that are remembered; beyond it the oldest is forgotten, and its lines stay what they are: a guess.
const MOST: usize = 1_000;

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Debts(Vec<Debt>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Debt {
    /// Boot id, 32 hex digits.
    boot: String,
    /// Start of the open batch that carries its `clock` line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<Seq>,
}

/// What a batch says about clocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClockNote {
    /// Boots of which it has lines with a guessed time.
    pub guessed: Vec<BootId>,
    /// Boots whose `clock` line it carries.
    pub told: Vec<BootId>,
}

impl Debts {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Boots whose `clock` line is in no batch yet.
    pub fn owed(&self) -> Vec<BootId> {
        self.boots(None)
    }

    /// Boots whose `clock` line the batch carries.
    pub fn carried(&self, batch: Bounds) -> Vec<BootId> {
        self.boots(Some(batch.from))
    }

    fn boots(&self, batch: Option<Seq>) -> Vec<BootId> {
        self.0.iter().filter(|debt| debt.batch == batch).filter_map(Debt::id).collect()
    }

    /// It is not known what it has been told: every one of these boots is owed.
    pub fn owe(&mut self, boots: &[BootId]) {
        for boot in boots.iter().map(name) {
            if !self.0.iter().any(|debt| debt.boot == boot) {
                self.0.push(Debt { boot, batch: None });
            }
        }
    }

    /// A batch is begun.
    pub fn begin(&mut self, batch: Bounds, note: &ClockNote) {
        for boot in note.told.iter().map(name) {
            self.0.iter_mut().filter(|debt| debt.boot == boot).for_each(|debt| debt.batch = Some(batch.from));
        }
        self.owe(&note.guessed);
        let beyond = self.0.len().saturating_sub(MOST);
        self.0.drain(..beyond);
    }

    /// A batch is confirmed: what it told is told.
    pub fn confirm(&mut self, batch: Bounds) {
        self.0.retain(|debt| debt.batch != Some(batch.from));
    }
}

impl Debt {
    fn id(&self) -> Option<BootId> {
        let mut id = [0; 16];
        hex::decode_to_slice(&self.boot, &mut id).ok()?;
        Some(BootId(id))
    }
}

fn name(boot: &BootId) -> String {
    hex::encode(boot.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(from: u64) -> Bounds {
        Bounds { from: Seq(from), to: Seq(from + 10), fixed_ms: 0, clock: 0, guessed: false }
    }

    #[test]
    fn a_debt_is_paid_once_by_the_batch_that_was_confirmed() {
        let (one, two) = (BootId([1; 16]), BootId([2; 16]));
        let mut debts = Debts::default();
        debts.begin(batch(0), &ClockNote { guessed: vec![one, two], told: Vec::new() });
        debts.begin(batch(10), &ClockNote { guessed: vec![one], told: Vec::new() });
        assert_eq!(debts.owed(), [one, two]);
        debts.begin(batch(20), &ClockNote { guessed: Vec::new(), told: vec![one] });
        assert_eq!((debts.owed(), debts.carried(batch(20))), (vec![two], vec![one]));
        debts.confirm(batch(10));
        assert_eq!(debts.carried(batch(20)), [one], "another batch says nothing of it");
        debts.confirm(batch(20));
        assert_eq!(debts.carried(batch(20)), []);
        assert_eq!(debts.owed(), [two]);
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut debts = Debts::default();
        for n in 0..=MOST as u128 {
            let guessed = vec![BootId(n.to_be_bytes())];
            debts.begin(batch(0), &ClockNote { guessed, told: Vec::new() });
        }
        assert_eq!(debts.owed().len(), MOST);
        assert_eq!(debts.owed()[0], BootId(1u128.to_be_bytes()));
    }
}
