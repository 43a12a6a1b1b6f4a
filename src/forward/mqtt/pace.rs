//! How fast may be published. Pure.
//!
//! Two budgets that fill with time: publishes and bytes. A publish goes when neither is overdrawn, whatever its size;
//! it may overdraw the budget of bytes, and what comes next waits until that is filled again. So over any time the sum
//! is at most rate x time, what was saved up, and one publish. When the other side says that its quota is exceeded,
//! both rates are halved, and come back step by step while it says so no more.

use std::time::Duration;

use tokio::time::Instant;

/// What a broker takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rates {
    /// A second; `None`: as fast as it acknowledges.
    pub(crate) publishes: Option<f64>,
    pub(crate) bytes: Option<f64>,
}

/// AWS IoT Core Developer Guide, quotas per connection: 100 publishes and 512 KiB a second. 90 a second and a burst of
/// [`PUBLISH_BURST`] never make more than 100 in any second.
pub(super) const IOT_CORE: Rates = Rates { publishes: Some(90.0), bytes: Some(500.0 * 1024.0) };

const PUBLISH_BURST: f64 = 10.0;
/// What a pause of the sender may save up: a round trip's worth.
const BYTE_BURST: f64 = 64.0 * 1024.0;
/// Where a broker without known rates begins to be slowed down.
const UNKNOWN_PUBLISHES: f64 = 100.0;
const LEAST_SHARE: f64 = 1.0 / 32.0;
/// Complaints about publishes that were under way together count once.
const COMPLAINT: Duration = Duration::from_secs(1);
/// The share that comes back after each [`CALM`] without a complaint.
const RECOVERY: f64 = 0.1;
const CALM: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Budget {
    level: f64,
    depth: f64,
}

pub(super) struct Pace {
    rates: Rates,
    publishes: Budget,
    bytes: Budget,
    at: Instant,
    /// Of the rates, what is used at present: 1 unless the other side complained.
    share: f64,
    changed: Instant,
}

impl Pace {
    pub(super) fn new(rates: Rates, now: Instant) -> Self {
        let full = |depth| Budget { level: depth, depth };
        Self {
            rates,
            publishes: full(PUBLISH_BURST),
            bytes: full(BYTE_BURST),
            at: now,
            share: 1.0,
            changed: now,
        }
    }

    /// When the next publish may go; `None`: now.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        let (publishes, bytes) = self.current();
        // A whole publish must be there; of bytes it is enough that none is owed.
        let lack = |level: f64, rate: Option<f64>| rate.map_or(0.0, |rate| (-level / rate).max(0.0));
        let wait = lack(self.publishes.level - 1.0, publishes).max(lack(self.bytes.level, bytes));
        // Time is counted in nanoseconds: less than one is none.
        (wait > 1e-9).then(|| now + Duration::from_secs_f64(wait))
    }

    /// Whether something small and urgent may go now: it waits for no bytes, but for the number of publishes.
    pub(super) fn may_urgent(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.current().0.is_none() || self.publishes.level >= 1.0
    }

    /// A publish of so many bytes goes.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) {
        self.fill(now);
        self.publishes.level -= 1.0;
        self.bytes.level -= bytes as f64;
    }

    /// The other side said that its quota is exceeded.
    pub(super) fn slow(&mut self, now: Instant) {
        self.fill(now);
        if self.share < 1.0 && now.saturating_duration_since(self.changed) < COMPLAINT {
            return;
        }
        self.share = (self.share / 2.0).max(LEAST_SHARE);
        self.changed = now;
        // What was saved up is not to be spent at once.
        self.publishes.level = self.publishes.level.min(0.0);
        self.bytes.level = self.bytes.level.min(0.0);
    }

    /// Whether the other side has complained and is being spared.
    pub(super) fn is_slowed(&self) -> bool {
        self.share < 1.0
    }

    fn current(&self) -> (Option<f64>, Option<f64>) {
        let slowed = self.is_slowed().then_some(UNKNOWN_PUBLISHES);
        let publishes = self.rates.publishes.or(slowed).map(|rate| rate * self.share);
        (publishes, self.rates.bytes.map(|rate| rate * self.share))
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let (publishes, bytes) = self.current();
        let fill = |budget: &mut Budget, rate: Option<f64>| {
            let gained = rate.map_or(budget.depth, |rate| rate * passed);
            budget.level = (budget.level + gained).min(budget.depth);
            if rate.is_none() {
                budget.level = budget.depth;
            }
        };
        fill(&mut self.publishes, publishes);
        fill(&mut self.bytes, bytes);
        self.at = now;
        while self.share < 1.0 && now.saturating_duration_since(self.changed) >= CALM {
            self.share = (self.share + RECOVERY).min(1.0);
            self.changed += CALM;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishes as fast as it is allowed; the moments at which publishes of `bytes` went.
    fn run(pace: &mut Pace, bytes: usize, from: Instant, seconds: u64) -> Vec<Duration> {
        let mut now = from;
        let mut went = Vec::new();
        while now < from + Duration::from_secs(seconds) {
            match pace.wait(now) {
                Some(at) => now = at,
                None => {
                    pace.take(bytes, now);
                    went.push(now - from);
                }
            }
        }
        went
    }

    fn most_in_a_second(went: &[Duration]) -> usize {
        let second = Duration::from_secs(1);
        let within = |from: Duration| went.iter().filter(|at| (from..from + second).contains(*at)).count();
        went.iter().map(|from| within(*from)).max().unwrap_or(0)
    }

    #[test]
    fn small_publishes_keep_to_the_services_100_in_any_second() {
        let now = Instant::now();
        let went = run(&mut Pace::new(IOT_CORE, now), 100, now, 20);
        assert!(most_in_a_second(&went) <= 100, "{}", most_in_a_second(&went));
        assert!(went.len() >= 20 * 90, "{}", went.len());
    }

    #[test]
    fn large_ones_come_within_a_tenth_of_512_kib_a_second_and_never_above_it() {
        let now = Instant::now();
        for bytes in [1_000, 90 << 10, 128 << 10] {
            let went = run(&mut Pace::new(IOT_CORE, now), bytes, now, 100);
            let rate = (went.len() * bytes) as f64 / 100.0 / 1024.0;
            let most = if bytes == 1_000 { 88.0 } else { 512.0 };
            assert!(rate <= most && rate >= 0.9 * most.min(512.0), "{bytes}: {rate} KiB/s");
        }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_the_burst() {
        let now = Instant::now();
        let mut pace = Pace::new(IOT_CORE, now);
        run(&mut pace, 64 << 10, now, 10);
        let later = now + Duration::from_secs(3600);
        let went = run(&mut pace, 1_000, later, 1);
        assert!(went.len() <= 100, "{}", went.len());
    }

    #[test]
    fn a_complaint_halves_the_rate_once_and_it_comes_back() {
        let now = Instant::now();
        let mut pace = Pace::new(IOT_CORE, now);
        for _ in 0..50 {
            pace.slow(now);
        }
        let went = run(&mut pace, 100, now, 5);
        assert!((200..=230).contains(&went.len()), "{}", went.len());
        let went = run(&mut pace, 100, now + Duration::from_secs(60), 10);
        assert!(went.len() >= 880, "{}", went.len());
        assert!(!pace.is_slowed());
    }

    #[test]
    fn a_broker_without_rates_is_only_slowed_by_its_own_word() {
        let now = Instant::now();
        let mut pace = Pace::new(Rates { publishes: None, bytes: None }, now);
        for _ in 0..10_000 {
            assert_eq!(pace.wait(now), None);
            pace.take(1 << 20, now);
        }
        pace.slow(now);
        let went = run(&mut pace, 100, now, 2);
        assert!((95..=105).contains(&went.len()), "{}", went.len());
    }
}
