//! The open group: where readings wait for the next commit, and where one that was sent twice is noticed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::Devices;
use super::accounts::{Accounts, Counters, Refusal};
use super::policy::{FULL, Group, Waiting};
use super::types::{Appended, Ticket};
use super::window::{Seen, Windows};
use crate::reading::Reading;

/// Readings that may wait while a commit is under way (about 4 MB): beyond it sources wait, and with them the senders.
const MOST_WAITING: usize = 32_768;
/// So many RR intervals that do not fit into a reading itself take as much room as another reading.
const RR_PER_READING: usize = 32;

pub struct Intake {
    open: Mutex<Open>,
    /// Something changed that the commit policy should look at.
    pub changed: Notify,
    /// The group was taken away: there is room again.
    room: Notify,
}

struct Open {
    ticket: Ticket,
    readings: Vec<Reading>,
    /// Readings, and what their RR intervals take beside them, as if they were readings.
    weight: usize,
    /// The buffer of the group before, given back empty.
    spare: Vec<Reading>,
    first_at: Option<Instant>,
    urgent: bool,
    waiting: Waiting,
    windows: Windows,
    counters: Counters,
    /// The group that is being written.
    under_way: Option<Arc<Vec<Reading>>>,
    /// When its first reading came.
    under_way_from: Option<Instant>,
}

/// A group on its way to the disk.
pub struct Taken {
    pub ticket: Ticket,
    pub readings: Arc<Vec<Reading>>,
}

impl Intake {
    /// Ticket 0 stands for what former runs left on disk.
    pub fn new() -> Self {
        let open = Open {
            ticket: Ticket(1),
            readings: Vec::new(),
            weight: 0,
            spare: Vec::new(),
            first_at: None,
            urgent: false,
            waiting: Waiting::Nobody,
            windows: Windows::default(),
            counters: Counters::default(),
            under_way: None,
            under_way_from: None,
        };
        Self { open: Mutex::new(open), changed: Notify::new(), room: Notify::new() }
    }

    /// Remembers a reading that a former run stored.
    pub fn remember(&self, reading: &Reading) {
        self.open().windows.check(reading, Ticket(0));
    }

    /// Moves `readings` into the open group; waits only while there is no room.
    pub async fn append(&self, readings: &mut Vec<Reading>, out: &mut Vec<Appended>) {
        loop {
            // Registered before the look, so that a group taken in between is not missed.
            let room = self.room.notified();
            let worth_a_look = {
                let mut open = self.open();
                if open.weight >= MOST_WAITING { None } else { Some(open.append(readings, out)) }
            };
            match worth_a_look {
                Some(true) => return self.changed.notify_one(),
                Some(false) => return,
                None => room.await,
            }
        }
    }

    /// Is there no room in the open group?
    pub fn full(&self) -> bool {
        self.open().weight >= MOST_WAITING
    }

    /// A publisher stands still and waits for what is in the open group.
    pub fn publisher_waits(&self, ticket: Ticket, proven: bool) {
        let mut open = self.open();
        if ticket != open.ticket {
            return;
        }
        let waiting = if proven { Waiting::Proven } else { Waiting::Quiet };
        if waiting > open.waiting {
            open.waiting = waiting;
            self.changed.notify_one();
        }
    }

    /// Closes the open group at the next look, whatever the policy says.
    pub fn hurry(&self) {
        self.open().urgent = true;
        self.changed.notify_one();
    }

    /// The open group as the policy sees it.
    pub fn group(&self) -> Group {
        let open = self.open();
        Group {
            count: open.readings.len(),
            first_at: open.first_at,
            urgent: open.urgent,
            waiting: open.waiting,
        }
    }

    /// Since when the oldest reading waits that is not durable.
    pub fn waiting_from(&self) -> Option<Instant> {
        let open = self.open();
        open.under_way_from.or(open.first_at)
    }

    /// Takes the open group away and opens the next one.
    pub fn take(&self) -> Taken {
        let mut open = self.open();
        let ticket = open.ticket;
        open.ticket = Ticket(ticket.0 + 1);
        open.under_way_from = open.first_at.take();
        open.weight = 0;
        open.urgent = false;
        open.waiting = Waiting::Nobody;
        let spare = std::mem::take(&mut open.spare);
        let readings = Arc::new(std::mem::replace(&mut open.readings, spare));
        open.under_way = Some(Arc::clone(&readings));
        drop(open);
        self.room.notify_waiters();
        Taken { ticket, readings }
    }

    /// The group is on disk; `written` tells its readings as the committer wrote them, sorted by device. Its buffer is
    /// used again for the group after next.
    pub fn settle(&self, readings: Arc<Vec<Reading>>, written: &[u64]) {
        {
            let mut open = self.open();
            open.counters.durable(written);
            open.under_way = None;
            open.under_way_from = None;
        }
        // Snapshots look at it under the lock only: nobody else holds it now.
        if let Some(mut buffer) = Arc::into_inner(readings) {
            buffer.clear();
            // After a burst the memory goes back to the system.
            buffer.shrink_to(4 * FULL);
            self.open().spare = buffer;
        }
    }

    /// Counts what sources did not take.
    pub fn refuse(&self, refusals: &[Refusal]) {
        self.open().counters.refused(refusals);
    }

    /// What became of every reading so far.
    pub fn accounts(&self, devices: &Devices) -> Accounts {
        let open = self.open();
        let under_way = open.under_way.iter().flat_map(|group| group.iter());
        open.counters.snapshot(open.readings.iter().chain(under_way), devices)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Returns whether the commit policy has something to decide now.
    fn append(&mut self, readings: &mut Vec<Reading>, out: &mut Vec<Appended>) -> bool {
        let before = self.readings.len();
        self.counters.received(readings);
        for reading in readings.drain(..) {
            match self.windows.check(&reading, self.ticket) {
                Seen::New => {
                    out.push(Appended { ticket: self.ticket, duplicate: false });
                    self.weight += 1;
                    if reading.rr.values.spilled() {
                        self.weight += reading.rr.values.len().div_ceil(RR_PER_READING);
                    }
                    self.readings.push(reading);
                }
                Seen::Before(ticket) => {
                    self.counters.duplicate(reading.device);
                    out.push(Appended { ticket, duplicate: true });
                }
            }
        }
        let now = self.readings.len();
        if before == 0 && now > 0 {
            self.first_at = Some(Instant::now());
            return true;
        }
        before < FULL && now >= FULL
    }
}
