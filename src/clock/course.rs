//! How wall time follows from uptime, read by every stamp: a line, and what stamps are still ahead of it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering, fence};

use super::Anchor;

/// A stamp, or a change of the course, may be under way for so long: a busy machine lets a thread wait.
const MARGIN_MS: u64 = 1_000;
/// Time runs at 1 - 1/this while stamps are ahead.
const SLOWER: u64 = 2;

/// How wall time follows from uptime.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Course {
    /// Wall clock minus uptime, ms.
    pub(super) offset: i64,
    /// From this uptime on, what stamps are ahead melts away.
    pub(super) ahead_from: u64,
    pub(super) ahead_ms: u64,
    pub(super) synced: bool,
}

impl Course {
    /// The course that a daemon before this one was on.
    pub(super) const fn through(anchor: Anchor) -> Self {
        let Anchor { uptime_ms, wall_ms, ahead_ms, .. } = anchor;
        let offset = wall_ms.wrapping_sub(uptime_ms as i64);
        Self { offset, ahead_from: uptime_ms.saturating_add(MARGIN_MS), ahead_ms, synced: true }
    }

    pub(super) const fn ahead_at(&self, uptime_ms: u64) -> u64 {
        self.ahead_ms.saturating_sub(uptime_ms.saturating_sub(self.ahead_from) / SLOWER)
    }

    pub(super) const fn wall_at(&self, uptime_ms: u64) -> i64 {
        let ahead = self.ahead_at(uptime_ms) as i64;
        self.offset.wrapping_add(uptime_ms as i64).wrapping_add(ahead)
    }

    /// The course from `now` on towards another offset: never backward, also for stamps that are under way.
    pub(super) const fn turn_to(&self, offset: i64, now: u64) -> Self {
        // Two courses that both run slower agree from where they part, so that one lies a little back; from full speed
        // the turn lies a little ahead.
        let from = if self.ahead_at(now) > 0 {
            let back = now.saturating_sub(MARGIN_MS);
            if back > self.ahead_from { back } else { self.ahead_from }
        } else {
            now.saturating_add(MARGIN_MS)
        };
        let ahead = self.wall_at(from).wrapping_sub(offset.wrapping_add(from as i64));
        let ahead_ms = if ahead > 0 { ahead as u64 } else { 0 };
        Self { offset, ahead_from: from, ahead_ms, synced: true }
    }
}

/// A course that is read without a lock: a sequence lock of atomics. Writers take turns (the keeper's mutex).
#[derive(Default)]
pub(super) struct Line {
    /// Odd while a course is written.
    turn: AtomicU64,
    offset: AtomicI64,
    ahead_from: AtomicU64,
    ahead_ms: AtomicU64,
    synced: AtomicBool,
}

impl Line {
    pub(super) fn get(&self) -> Course {
        loop {
            let turn = self.turn.load(Ordering::Acquire);
            let course = Course {
                offset: self.offset.load(Ordering::Relaxed),
                ahead_from: self.ahead_from.load(Ordering::Relaxed),
                ahead_ms: self.ahead_ms.load(Ordering::Relaxed),
                synced: self.synced.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if turn.is_multiple_of(2) && turn == self.turn.load(Ordering::Relaxed) {
                return course;
            }
            std::hint::spin_loop();
        }
    }

    pub(super) fn set(&self, course: Course) {
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.offset.store(course.offset, Ordering::Relaxed);
        self.ahead_from.store(course.ahead_from, Ordering::Relaxed);
        self.ahead_ms.store(course.ahead_ms, Ordering::Relaxed);
        self.synced.store(course.synced, Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(2), Ordering::Release);
    }
}
