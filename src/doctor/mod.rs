//! What is wrong with this gateway, and what to do about it, without a network and without a running daemon.
//!
//! One file per check: pure judgements on values, tested as such, and beside them the thin part that gets the values. A
//! check that cannot look says why ([`Verdict::Skipped`]). All run at the same time, each with time limits of its own; what
//! is not back within [`Options::limit`] is told as such and left behind, so that neither a dead bus nor a silent server
//! nor a hanging disk holds anybody up.
//!
//! Promised: the running gateway is asked, never disturbed; nothing is sent to an uplink but what reads; what is written
//! here are files of its own that it removes (the speed of the disk), and what any start would write (a journal that no
//! gateway has open). A finding holds no reading, no secret, and no name or address of a wearable.

mod bluetooth;
mod card;
mod certificates;
mod clock;
mod configuration;
mod finding;
mod gateway;
mod journal;
mod listener;
mod network;
mod permit;
mod probe;
mod scene;
mod service;
mod state;
mod uplink;
mod user;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use finding::{Finding, Verdict};
use scene::Scene;

/// What is to be looked at, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file in place of the usual one.
    pub config: Option<PathBuf>,
    /// Nobody beyond this machine is asked.
    pub offline: bool,
    /// How long wearables are listened for; zero: not at all.
    pub listen: Duration,
    /// What the memory card can take over its life; default: [`card::CYCLES`] times its size.
    pub card_endurance: Option<ByteSize>,
    /// Nothing is written, locked or opened here: what is there is to stay as it is.
    pub hands_off: bool,
    /// When to stop waiting for checks.
    pub limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: None,
            offline: false,
            listen: Duration::from_secs(10),
            card_endurance: None,
            hands_off: false,
            limit: Duration::from_secs(28),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Of the program that looked.
    pub version: String,
    /// The worst of the findings'; [`Verdict::Ok`] where the rest was skipped.
    pub verdict: Verdict,
    pub findings: Vec<Finding>,
}

impl Report {
    fn new(findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        let verdict = if worst == Verdict::Skipped { Verdict::Ok } else { worst };
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), verdict, findings }
    }
}

/// One check: what it is called, and how it looks.
type Check = (String, Box<dyn FnOnce(&Scene) -> Vec<Finding> + Send>);

fn check(name: &str, look: fn(&Scene) -> Vec<Finding>) -> Check {
    (name.to_owned(), Box::new(look))
}

/// Everything there is to look at, in the order in which it is told.
fn checks(scene: &Scene) -> Vec<Check> {
    let mut checks = vec![
        check("configuration", configuration::findings),
        check("gateway", gateway::findings),
        check("service", service::findings),
        check("user", user::findings),
        check("state directory", state::findings),
        check("journal", journal::findings),
        check("card", card::findings),
        check("clock", clock::findings),
        check("bluetooth", bluetooth::findings),
        check("listener", listener::findings),
        check("certificate", certificates::findings),
        check("network", network::findings),
    ];
    if scene.problems.is_empty() {
        checks.extend(uplink::checks(scene));
    } else {
        checks.push(check("uplinks", |_| vec![configuration::needed("uplinks")]));
    }
    checks
}

/// Looks at everything. Blocks for at most a little longer than [`Options::limit`]. `progress` is told now and then which
/// checks are still under way.
pub fn examine(options: &Options, progress: &mut dyn FnMut(&[&str])) -> Report {
    let end = Instant::now() + options.limit;
    let scene = Arc::new(Scene::look(options));
    let checks = checks(&scene);
    let names: Vec<String> = checks.iter().map(|(name, _)| name.clone()).collect();
    let mut found: Vec<Option<Vec<Finding>>> = names.iter().map(|_| None).collect();
    let (sender, receiver) = mpsc::sync_channel(checks.len());
    for (place, (_, look)) in checks.into_iter().enumerate() {
        let (sender, scene) = (sender.clone(), Arc::clone(&scene));
        std::thread::spawn(move || {
            let findings = crate::panics::caught(|| look(scene.as_ref()));
            // Before the answer: whoever has all answers may end at once, and what the scene holds is given back by then.
            drop(scene);
            let _ = sender.send((place, findings));
        });
    }
    // What the scene holds goes with the last check.
    drop((scene, sender));
    loop {
        let waiting = || names.iter().zip(&found).filter(|(_, found)| found.is_none());
        let under_way: Vec<&str> = waiting().map(|(name, _)| name.as_str()).collect();
        let left = end.saturating_duration_since(Instant::now());
        if under_way.is_empty() || left.is_zero() {
            break;
        }
        progress(&under_way);
        match receiver.recv_timeout(left.min(Duration::from_millis(200))) {
            Ok((place, findings)) => {
                let name = names.get(place).map_or("", String::as_str);
                let findings = findings.unwrap_or_else(|panic| vec![defect(name, &panic)]);
                if let Some(entry) = found.get_mut(place) {
                    *entry = Some(findings);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let limit = options.limit;
    let findings =
        names.iter().zip(found).flat_map(|(name, found)| found.unwrap_or_else(|| vec![silent(name, limit)]));
    Report::new(findings.collect())
}

fn silent(check: &str, limit: Duration) -> Finding {
    let reason = format!("there was no answer within {} s", limit.as_secs());
    Finding::warning(
        check,
        reason,
        "something it needs hangs: look for it in `dmesg` and `systemctl --failed`",
    )
}

fn defect(check: &str, panic: &str) -> Finding {
    Finding::warning(check, format!("the check itself failed: {panic}"), "please report this")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_verdict_and_nothing_skipped_is() {
        let of = |findings: &[Finding]| Report::new(findings.to_vec()).verdict;
        let (ok, skipped) = (Finding::ok("a", ""), Finding::skipped("b", ""));
        let (warning, error) = (Finding::warning("c", "", ""), Finding::error("d", "", ""));
        assert_eq!(of(&[]), Verdict::Ok);
        assert_eq!(of(&[ok.clone(), skipped.clone()]), Verdict::Ok);
        assert_eq!(of(&[warning.clone(), skipped, ok]), Verdict::Warning);
        assert_eq!(of(&[error, warning]), Verdict::Error);
    }
}
