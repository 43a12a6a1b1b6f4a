//! The decision whether systemd's watchdog is fed, once a second: only while the runtime turns, commits are made, the
//! listener accepts, and the radio's and every uplink's task get on, each within its own deadline. Whoever is late is
//! named in the log, at `/health` and in `STATUS=`; when it stays so for the unit's `WatchdogSec`, systemd starts the
//! gateway anew.
//!
//! Not judged: an uplink that is refused or cannot be reached, and a disk that is known to be full or read-only. Both
//! are told, and a restart would mend neither.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::forward;
use crate::health::Health;
use crate::source::{bluetooth, mqtt};

const RUNTIME: &str = "runtime";
const JOURNAL: &str = "journal";
/// A runtime that does not run its main task for so long is stuck.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(10);
/// How long beyond the commit interval a reading may wait for the disk; a worn SD card stalls for seconds.
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);
/// The task that accepts turns every two seconds, however many connections come.
const LISTENER_DEADLINE: Duration = Duration::from_secs(30);
/// Bluetooth's stack may keep its task waiting for 40 s, not longer.
const BLUETOOTH_DEADLINE: Duration = Duration::from_secs(120);

/// How the commits stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commits {
    /// How long the oldest reading has waited for its commit.
    pub waiting: Option<Duration>,
    /// The journal knows that the disk takes nothing.
    pub trouble: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Watchdog {
    health: Arc<Health>,
    /// Who was late at the last look.
    late: Vec<String>,
}

impl Watchdog {
    pub fn new(health: Arc<Health>, commit_interval: Duration, now: Instant) -> Self {
        health.announce(RUNTIME, RUNTIME_DEADLINE, now);
        health.announce(JOURNAL, commit_interval + COMMIT_DEADLINE, now);
        Self { health, late: Vec::new() }
    }

    /// From now on the listener has to turn.
    pub fn listener(&self, listener: &mqtt::Handle) {
        self.health.watch("listener", LISTENER_DEADLINE, listener.mark());
    }

    /// From now on the radio's task has to turn.
    pub fn bluetooth(&self, source: &bluetooth::Handle) {
        self.health.watch("bluetooth", BLUETOOTH_DEADLINE, source.mark());
    }

    /// From now on this uplink's task has to get on.
    pub fn uplink(&self, uplink: &forward::Watcher) {
        self.health.watch(&format!("uplink {}", uplink.name()), uplink.deadline(), uplink.mark());
    }

    /// Once a second: who makes no progress. The watchdog is fed when there is nobody.
    pub fn judge(&mut self, commits: Commits, now: Instant) -> &[String] {
        self.health.beat(RUNTIME, now);
        // A journal where nothing waits has nothing to do; else it last got on when the oldest reading came.
        let waited = commits.waiting.filter(|_| !commits.trouble).unwrap_or_default();
        self.health.beat(JOURNAL, now.checked_sub(waited).unwrap_or(now));
        let late = self.health.late(now);
        if late != self.late {
            if late.is_empty() {
                tracing::info!("every stage makes progress again");
            } else {
                tracing::error!(late = %late.join(", "), "no progress: without it the watchdog is not fed");
            }
            self.late = late;
        }
        &self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Mark;

    const IDLE: Commits = Commits { waiting: None, trouble: false };

    struct Rig {
        watchdog: Watchdog,
        start: Instant,
        listener: Mark,
        uplink: Mark,
    }

    /// A gateway with marks in the place of its tasks.
    fn rig() -> Rig {
        let start = Instant::now();
        let watchdog = Watchdog::new(Arc::default(), Duration::from_secs(1), start);
        let (listener, uplink) = (Mark::new(start), Mark::new(start));
        watchdog.health.watch("listener", LISTENER_DEADLINE, listener.clone());
        watchdog.health.watch("uplink cloud", Duration::from_secs(360), uplink.clone());
        Rig { watchdog, start, listener, uplink }
    }

    impl Rig {
        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        /// The first second at which the watchdog is not fed, and who is late then. The tasks in `wedged` set no mark.
        fn first_hunger(&mut self, commits: impl Fn(u64) -> Commits, wedged: &[&str]) -> (u64, Vec<String>) {
            for second in 1..1_000 {
                let now = self.at(second);
                if !wedged.contains(&"listener") {
                    self.listener.set(now);
                }
                if !wedged.contains(&"uplink") {
                    self.uplink.set(now);
                }
                let late = self.watchdog.judge(commits(second), now);
                if !late.is_empty() {
                    return (second, late.to_vec());
                }
            }
            (0, Vec::new())
        }
    }

    #[test]
    fn it_is_fed_while_all_get_on() {
        assert_eq!(rig().first_hunger(|_| IDLE, &[]), (0, vec![]));
    }

    #[test]
    fn each_stage_has_its_own_deadline() {
        assert_eq!(rig().first_hunger(|_| IDLE, &["listener"]), (31, vec!["listener".to_owned()]));
        assert_eq!(rig().first_hunger(|_| IDLE, &["uplink"]), (361, vec!["uplink cloud".to_owned()]));
        let waits = |since: u64| {
            move |now: u64| Commits { waiting: Some(Duration::from_secs(now - since)), trouble: false }
        };
        assert_eq!(rig().first_hunger(waits(1), &[]), (33, vec!["journal".to_owned()]));
    }

    #[test]
    fn a_full_disk_is_no_reason_for_a_restart() {
        let full = |now| Commits { waiting: Some(Duration::from_secs(now)), trouble: true };
        assert_eq!(rig().first_hunger(full, &[]), (0, vec![]));
    }

    #[test]
    fn it_is_fed_again_when_the_stage_gets_on() {
        let mut rig = rig();
        assert_eq!(rig.first_hunger(|_| IDLE, &["listener"]).0, 31);
        rig.listener.set(rig.at(32));
        let later = rig.at(32);
        assert!(rig.watchdog.judge(IDLE, later).is_empty());
    }

    #[test]
    fn a_runtime_that_stood_still_is_late_once_and_only_once() {
        let mut rig = rig();
        // Stopped for a minute and continued: the marks are old, and the tasks set them before the next look.
        let (later, next) = (rig.at(60), rig.at(61));
        assert_eq!(rig.watchdog.judge(IDLE, later), ["listener"]);
        rig.listener.set(rig.at(60));
        rig.uplink.set(rig.at(60));
        assert!(rig.watchdog.judge(IDLE, next).is_empty());
    }
}
