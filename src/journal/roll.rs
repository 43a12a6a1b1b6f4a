//! When the head is sealed before it is full: because somebody asks for it, or because of its age.
//!
//! Readings leave the journal with their generation. Without this a gateway with one strap would keep what it delivered
//! for months, until 16 MB are full.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Rolls {
    age: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Counts what was asked, and what was done of it.
    asked: u64,
    done: u64,
    /// When the head got its first reading.
    begun: Option<Instant>,
}

impl Rolls {
    pub(super) fn new(age: Duration) -> Self {
        Self { age, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The head got its first reading.
    pub(super) fn begun(&self) {
        self.state().begun = Some(Instant::now());
    }

    /// There is a new head.
    pub(super) fn emptied(&self) {
        self.state().begun = None;
    }

    /// The head holds readings that are too old for it.
    pub(super) fn aged(&self) -> bool {
        self.state().begun.is_some_and(|begun| begun.elapsed() >= self.age)
    }

    /// Asks for the head to be sealed; the driver has to be woken. Returns what to [`Rolls::wait`] for.
    pub(super) fn ask(&self) -> u64 {
        let mut state = self.state();
        state.asked += 1;
        state.asked
    }

    /// What has to be done, if anything.
    pub(super) fn due(&self) -> Option<u64> {
        let state = self.state();
        (state.asked > state.done).then_some(state.asked)
    }

    /// Everything asked up to `roll` was tried.
    pub(super) fn done(&self, roll: u64) {
        self.state().done = roll;
        self.changed.notify_all();
    }

    /// Waits until `roll` was tried. Blocking. `false`: not within `patience`.
    pub(super) fn wait(&self, roll: u64, patience: Duration) -> bool {
        let waiting = self.changed.wait_timeout_while(self.state(), patience, |state| state.done < roll);
        let (state, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        state.done >= roll
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
