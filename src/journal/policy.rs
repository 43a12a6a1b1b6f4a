//! When the open group is committed. Pure: a function of what is in the group and the time.
//!
//! One commit costs about 18 KB of device writes whatever its size, so `commit_interval` is a budget of mean wear. A
//! group is closed
//! - at once when it holds [`FULL`] readings or something urgent, or when the interval is 0;
//! - one interval after its first reading;
//! - earlier, when a publisher stands still and waits for its acknowledgements, as long as the budget has room: one
//!   commit per interval, saved up to [`BURST`];
//! - earlier, beyond the budget, for a publisher that is *proven* to wait (it answered its last acknowledgements with
//!   new readings at once, so its in-flight window is what holds it back): at most [`PROVEN_PER_INTERVAL`] commits per
//!   interval. Without this a publisher with a window smaller than its rate x interval would fall behind for ever.

use std::time::{Duration, Instant};

/// A group of this size is closed at once: its commit is paid for.
pub const FULL: usize = 1000;
/// Commits that can be saved up while little happens.
const BURST: f64 = 10.0;
/// Commits per interval that proven waiting may add to the budget.
const PROVEN_PER_INTERVAL: f64 = 4.0;

/// Somebody waits for the open group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waiting {
    Nobody,
    /// A publisher has gone quiet with unacknowledged readings.
    Quiet,
    /// A publisher whose in-flight window is known to hold it back.
    Proven,
}

/// The open group, as far as the policy cares.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    pub count: usize,
    pub first_at: Option<Instant>,
    pub urgent: bool,
    pub waiting: Waiting,
}

/// What to do with the open group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is empty.
    Rest,
    Close,
    /// Look again then, or when something changes.
    Until(Instant),
}

pub struct Policy {
    interval: Duration,
    budget: Bucket,
    proven: Bucket,
}

/// A token bucket, filled at `per_interval` tokens an interval up to `most`.
struct Bucket {
    tokens: f64,
    most: f64,
    per_interval: f64,
    filled_at: Instant,
}

// === impl Policy ===

impl Policy {
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            budget: Bucket::full(BURST, 1.0, now),
            proven: Bucket::full(PROVEN_PER_INTERVAL, PROVEN_PER_INTERVAL, now),
        }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Decides, and pays for the commit when the answer is [`Decision::Close`].
    pub fn decide(&mut self, group: Group, now: Instant) -> Decision {
        let Some(first_at) = group.first_at.filter(|_| group.count > 0) else {
            return Decision::Rest;
        };
        if self.interval.is_zero() {
            return Decision::Close;
        }
        self.budget.fill(self.interval, now);
        self.proven.fill(self.interval, now);
        let due = first_at + self.interval;
        if group.urgent || group.count >= FULL || now >= due {
            self.budget.take_what_is_there();
            return Decision::Close;
        }
        let early = match group.waiting {
            Waiting::Nobody => false,
            Waiting::Quiet => self.budget.take(),
            Waiting::Proven => self.budget.take() || self.proven.take(),
        };
        if early {
            return Decision::Close;
        }
        let retry = match group.waiting {
            Waiting::Nobody => None,
            Waiting::Quiet => Some(self.budget.next(self.interval, now)),
            Waiting::Proven => {
                Some(self.budget.next(self.interval, now).min(self.proven.next(self.interval, now)))
            }
        };
        Decision::Until(retry.map_or(due, |at| at.min(due)))
    }
}

// === impl Bucket ===

impl Bucket {
    fn full(most: f64, per_interval: f64, now: Instant) -> Self {
        Self { tokens: most, most, per_interval, filled_at: now }
    }

    fn fill(&mut self, interval: Duration, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at);
        self.filled_at = now;
        let gained = passed.as_secs_f64() / interval.as_secs_f64() * self.per_interval;
        self.tokens = (self.tokens + gained).min(self.most);
    }

    fn take(&mut self) -> bool {
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    fn take_what_is_there(&mut self) {
        self.tokens = (self.tokens - 1.0).max(0.0);
    }

    /// When the next token is there.
    fn next(&self, interval: Duration, now: Instant) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0);
        // A millisecond on top, so that rounding never makes the caller look a moment too early.
        now + interval.mul_f64(missing / self.per_interval) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn group(count: usize, first_at: Instant, waiting: Waiting) -> Group {
        Group { count, first_at: Some(first_at), urgent: false, waiting }
    }

    /// Commits in `seconds` when a group always holds something and `waiting` is always so.
    fn commits(waiting: Waiting, seconds: u32) -> usize {
        let start = Instant::now();
        let mut policy = Policy::new(SECOND, start);
        let mut commits = 0;
        let mut first_at = start;
        for step in 0..seconds * 1000 {
            let now = start + Duration::from_millis(u64::from(step));
            if policy.decide(group(1, first_at, waiting), now) == Decision::Close {
                commits += 1;
                first_at = now;
            }
        }
        commits
    }

    #[test]
    fn an_empty_group_is_left_alone() {
        let now = Instant::now();
        let mut policy = Policy::new(Duration::ZERO, now);
        let nothing = Group { count: 0, first_at: None, urgent: true, waiting: Waiting::Proven };
        assert_eq!(policy.decide(nothing, now), Decision::Rest);
    }

    #[test]
    fn interval_zero_closes_at_once() {
        let now = Instant::now();
        assert_eq!(
            Policy::new(Duration::ZERO, now).decide(group(1, now, Waiting::Nobody), now),
            Decision::Close
        );
    }

    #[test]
    fn an_urgent_or_full_group_does_not_wait() {
        let now = Instant::now();
        let mut policy = Policy::new(SECOND, now);
        assert_eq!(policy.decide(group(FULL, now, Waiting::Nobody), now), Decision::Close);
        let alert = Group { urgent: true, ..group(1, now, Waiting::Nobody) };
        assert_eq!(policy.decide(alert, now), Decision::Close);
    }

    #[test]
    fn without_anybody_waiting_there_is_one_commit_per_interval() {
        assert!((59..=61).contains(&commits(Waiting::Nobody, 60)));
    }

    #[test]
    fn quiet_publishers_cannot_raise_the_mean_wear() {
        let commits = commits(Waiting::Quiet, 60);
        assert!((60..=71).contains(&commits), "{commits} commits in 60 s");
    }

    #[test]
    fn a_proven_publisher_gets_a_bounded_multiple() {
        let commits = commits(Waiting::Proven, 60);
        assert!((240..=320).contains(&commits), "{commits} commits in 60 s");
    }
}
