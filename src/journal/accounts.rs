//! What became of every reading of this run: per device, and for what belongs to no device.
//!
//! received = refused + duplicate + durable + unacknowledged, for each device and at every moment at which a snapshot is
//! taken. The terms are counted where each is decided, so that the sum is a check: `received` at the journal's door,
//! before anything is looked at; `duplicate` by the windows of known stamps; `durable` by the committer, from what it has
//! written and synced; `unacknowledged` is no counter at all but the readings that lie in the open group and in the one
//! under way. All of them change under the lock of the open group, once per batch or per commit.
//!
//! A reading is received when a source hands it over. A payload that cannot be taken is not taken in part, and nobody
//! can say how many readings it was meant to hold: it counts as one, received and refused, under the device its topic
//! names, else under no device. What a protocol repeats before it is read (QoS 2) and what never claimed to be a reading
//! (a topic without a mapping) is not received.
//!
//! Bounded by `[journal] max_devices`. Not kept beyond the run: what lasts is told by [`super::tally`].

use std::collections::BTreeMap;

use super::Devices;
use crate::reading::{DeviceId, Reading};

/// A payload that a source did not take: the device its topic names, if any, and how many such payloads.
pub type Refusal = (Option<DeviceId>, u64);

/// One account. Numbers of readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Account {
    pub received: u64,
    pub refused: u64,
    pub duplicate: u64,
    pub durable: u64,
    /// In the open group, or in the one that is being written.
    pub unacknowledged: u64,
}

/// All accounts of the run at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Accounts {
    pub total: Account,
    /// What belongs to no device.
    pub unattributed: Account,
    pub devices: BTreeMap<String, Account>,
}

/// The counters behind them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    unattributed: Account,
    /// By device number.
    devices: Vec<Account>,
}

// === impl Account ===

impl Account {
    /// Whether everything received is accounted for.
    pub const fn adds_up(&self) -> bool {
        self.received == self.refused + self.duplicate + self.durable + self.unacknowledged
    }

    fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.refused += other.refused;
        self.duplicate += other.duplicate;
        self.durable += other.durable;
        self.unacknowledged += other.unacknowledged;
    }
}

// === impl Accounts ===

impl Accounts {
    /// Whether every single account adds up.
    pub fn add_up(&self) -> bool {
        self.total.adds_up() && self.unattributed.adds_up() && self.devices.values().all(Account::adds_up)
    }
}

// === impl Counters ===

impl Counters {
    pub(super) fn received(&mut self, readings: &[Reading]) {
        for run in readings.chunk_by(|a, b| a.device == b.device) {
            if let Some(first) = run.first() {
                self.of(first.device).received += run.len() as u64;
            }
        }
    }

    pub(super) fn refused(&mut self, refusals: &[Refusal]) {
        for (device, count) in refusals {
            let account = match device {
                Some(device) => self.of(*device),
                None => &mut self.unattributed,
            };
            account.received += count;
            account.refused += count;
        }
    }

    pub(super) fn duplicate(&mut self, device: DeviceId) {
        self.of(device).duplicate += 1;
    }

    /// `written` is what the committer has synced, sorted by device (device << 32 | index).
    pub(super) fn durable(&mut self, written: &[u64]) {
        for run in written.chunk_by(|a, b| a >> 32 == b >> 32) {
            if let Some(first) = run.first() {
                self.of(DeviceId((first >> 32) as u32)).durable += run.len() as u64;
            }
        }
    }

    /// `held` are the readings that wait for the disk.
    pub(super) fn snapshot<'a>(
        &self,
        held: impl Iterator<Item = &'a Reading>,
        devices: &Devices,
    ) -> Accounts {
        let mut rows = self.devices.clone();
        for reading in held {
            row(&mut rows, reading.device).unacknowledged += 1;
        }
        let mut accounts = Accounts { unattributed: self.unattributed, ..Accounts::default() };
        accounts.total.add(&self.unattributed);
        for (number, account) in (0..).zip(&rows).filter(|(_, account)| **account != Account::default()) {
            accounts.total.add(account);
            let name = devices.name(DeviceId(number)).unwrap_or_else(|| format!("unnamed-{number}").into());
            accounts.devices.insert(name.to_string(), *account);
        }
        accounts
    }

    fn of(&mut self, device: DeviceId) -> &mut Account {
        row(&mut self.devices, device)
    }
}

/// The row of a device; made when it is new. Device numbers are dense and bounded.
#[allow(clippy::indexing_slicing, reason = "long enough once resized")]
fn row(rows: &mut Vec<Account>, device: DeviceId) -> &mut Account {
    let index = device.0 as usize;
    if index >= rows.len() {
        rows.resize(index + 1, Account::default());
    }
    &mut rows[index]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::reading_at;

    #[test]
    fn each_term_is_counted_in_its_own_place_and_a_lost_reading_shows() {
        let devices = Devices::new(10);
        let (a, b) = (devices.intern("a").unwrap(), devices.intern("b").unwrap());
        let mut counters = Counters::default();
        let group = [reading_at(a.0, 1, 60), reading_at(b.0, 1, 60), reading_at(a.0, 2, 60)];
        counters.received(&group);
        counters.received(&group[..1]);
        counters.duplicate(a);
        counters.refused(&[(Some(b), 2), (None, 1)]);

        let waiting = counters.snapshot(group.iter(), &devices);
        assert!(waiting.add_up(), "{waiting:?}");
        let a_waits = Account { received: 3, refused: 0, duplicate: 1, durable: 0, unacknowledged: 2 };
        assert_eq!(waiting.devices["a"], a_waits);
        assert_eq!(waiting.unattributed.refused, 1);
        assert_eq!(waiting.total.received, 7);

        // The committer has written only one of a's two readings, and the group is gone.
        counters.durable(&[u64::from(a.0) << 32, u64::from(b.0) << 32 | 1]);
        let short = counters.snapshot([].into_iter(), &devices);
        assert!(
            !short.add_up() && !short.devices["a"].adds_up() && short.devices["b"].adds_up(),
            "{short:?}"
        );
    }
}
