//! What became of the numbers an uplink was to get, for as long as the spool lives.
//!
//! durable = delivered + queued + thinned + evicted + lost + withheld + erased, in numbers given since the uplink began.
//! The two sides are kept in different files and counted in different places. How many numbers were given is the
//! manifest's: counts of its generations, and a running total of those that are gone. What the uplink confirmed, and what
//! it was told never to expect, is tallied from the batches' own lines and kept in the cursor file, in the same write as
//! the cursor, so that a batch that is sent again after a crash counts once. What lies ahead of the cursor is told by the
//! manifest, and by `fogbeat journal verify` from the blocks themselves.
//!
//! When the manifest had to be rebuilt its totals begin anew, and with them the account; what was tallied before stays
//! known as [`Began::earlier`] and is not part of the proof.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::Missing;
use super::types::GapCause;

/// Numbers by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Readings the other side has confirmed.
    pub delivered: u64,
    /// Numbers it was told never to expect, by cause.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<GapCause, u64>,
}

/// Where an uplink's account begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Began {
    /// Which count of numbers `given` belongs to: the manifest's epoch.
    pub epoch: u32,
    /// Numbers that had been given before.
    pub given: u64,
    /// Tallied before the manifest had to be rebuilt.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub earlier: Tally,
}

/// What the manifest says of the numbers around a cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Around {
    pub epoch: u32,
    /// Numbers given since the spool began.
    pub given: u64,
    /// ... of these before the cursor.
    pub behind: u64,
    /// Numbers at and after the cursor that can be read.
    pub queued: u64,
    /// Numbers at and after the cursor that cannot, by cause.
    pub missing: BTreeMap<GapCause, u64>,
    /// The same per device, where the manifest knows.
    pub devices: BTreeMap<String, BTreeMap<GapCause, u64>>,
}

/// One uplink's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UplinkAccount {
    pub uplink: String,
    /// Numbers given since the uplink's account began.
    pub durable: u64,
    pub delivered: u64,
    /// Readable, and not confirmed yet.
    pub queued: u64,
    /// Not to be had any more, by cause: told already, or to be told when the uplink comes to them.
    pub missing: BTreeMap<GapCause, u64>,
    /// Of the missing that the uplink has not been told of yet: how many each device gave, where that is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, BTreeMap<GapCause, u64>>,
    /// Delivered before the count of numbers began anew, and not part of the sum.
    #[serde(skip_serializing_if = "is_zero")]
    pub delivered_earlier: u64,
    pub adds_up: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

// === impl Tally ===

impl Tally {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Numbers in all.
    pub fn numbers(&self) -> u64 {
        self.delivered + self.told.values().sum::<u64>()
    }

    pub fn tell(&mut self, cause: GapCause, count: u64) {
        if count > 0 {
            *self.told.entry(cause).or_default() += count;
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        other.told.iter().for_each(|(cause, count)| self.tell(*cause, *count));
    }
}

// === impl Around ===

impl Around {
    /// Adds numbers that are missing ahead of the cursor.
    pub(super) fn tell(&mut self, missing: &Missing) {
        *self.missing.entry(missing.cause).or_default() += missing.count();
        for (device, count) in &missing.devices {
            *self.devices.entry(device.clone()).or_default().entry(missing.cause).or_default() += count;
        }
    }
}

// === impl Began ===

impl Began {
    /// Goes on in another count of numbers if the manifest's is not the one this account began in.
    pub(super) fn rebase(&mut self, tally: &mut Tally, around: &Around) -> bool {
        if self.epoch == around.epoch {
            return false;
        }
        self.earlier.add(tally);
        *tally = Tally::default();
        self.epoch = around.epoch;
        self.given = around.behind;
        true
    }
}

// === impl UplinkAccount ===

impl UplinkAccount {
    pub fn new(uplink: &str, began: &Began, tally: &Tally, around: Around) -> Self {
        let durable = around.given.saturating_sub(began.given);
        let mut missing = around.missing;
        for (cause, count) in &tally.told {
            *missing.entry(*cause).or_default() += count;
        }
        // Behind the cursor and ahead of it each for itself: two faults do not make up for each other.
        let behind = around.behind.checked_sub(began.given) == Some(tally.numbers());
        let sum = tally.delivered + around.queued + missing.values().sum::<u64>();
        Self {
            uplink: uplink.to_owned(),
            durable,
            delivered: tally.delivered,
            queued: around.queued,
            missing,
            devices: around.devices,
            delivered_earlier: began.earlier.delivered,
            adds_up: behind && began.epoch == around.epoch && durable == sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(given: u64, behind: u64, queued: u64, evicted: u64) -> Around {
        Around { given, behind, queued, missing: [(GapCause::Evicted, evicted)].into(), ..Around::default() }
    }

    #[test]
    fn an_account_adds_up_on_both_sides_of_the_cursor() {
        let began = Began { given: 10, ..Began::default() };
        let mut tally = Tally { delivered: 70, ..Tally::default() };
        tally.tell(GapCause::Lost, 5);
        let account = UplinkAccount::new("a", &began, &tally, around(100, 85, 10, 5));
        assert!(account.adds_up, "{account:?}");
        assert_eq!((account.durable, account.delivered, account.queued), (90, 70, 10));
        assert_eq!(account.missing, [(GapCause::Lost, 5), (GapCause::Evicted, 5)].into());
        // One counted twice.
        let twice = Tally { delivered: 71, ..tally.clone() };
        assert!(!UplinkAccount::new("a", &began, &twice, around(100, 85, 10, 5)).adds_up);
        // One too many behind, one too few ahead.
        assert!(!UplinkAccount::new("a", &began, &twice, around(100, 85, 9, 5)).adds_up);
        // One ahead that nobody can read and nobody has told of.
        assert!(!UplinkAccount::new("a", &began, &tally, around(100, 85, 9, 5)).adds_up);
    }

    #[test]
    fn a_rebuilt_manifest_begins_the_account_anew() {
        let (mut began, mut tally) = (Began::default(), Tally { delivered: 7, ..Tally::default() });
        let fresh = Around { epoch: 9, given: 20, behind: 12, queued: 8, ..Around::default() };
        assert!(began.rebase(&mut tally, &fresh));
        assert!(!began.rebase(&mut tally, &fresh));
        let account = UplinkAccount::new("a", &began, &tally, fresh);
        assert!(account.adds_up, "{account:?}");
        assert_eq!((account.durable, account.delivered, account.delivered_earlier), (8, 0, 7));
    }
}
