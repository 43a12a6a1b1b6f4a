//! The journal: whether every value can be read and every number is accounted for, as far as the time allows; what was
//! damaged before. A running gateway looks itself; of one that does not run the journal is opened as a start would.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use rustix::fs::{StatVfsMountFlags, statvfs};
use serde_json::Value;

use super::Finding;
use super::scene::{Daemon, Scene};
use crate::clock::SystemClock;
use crate::control::{self, Request};
use crate::gateway::look::{self, Verdict};
use crate::journal::{Facts, Journal, Readable, RealDisk, least_free};

const NAME: &str = "journal";
const QUARANTINE: &str = "quarantine";
/// How long values are read at most; a generation that was begun is read to its end.
const READING: Duration = Duration::from_secs(12);

pub fn findings(scene: &Scene) -> Vec<Finding> {
    match &scene.daemon {
        Daemon::Answers { socket, .. } => {
            let ask = |request| {
                control::ask_within(socket, &request, scene.left(READING).max(Duration::from_secs(1)))
            };
            match ask(Request::JournalInspect) {
                Ok(inspected) => examined(scene, inspected, |generation| {
                    let verdict =
                        ask(Request::JournalVerify { generation }).map_err(|error| error.to_string())?;
                    serde_json::from_value(verdict).map_err(|error| error.to_string())
                }),
                Err(error) => {
                    let reason = format!("the gateway does not tell: {error}");
                    vec![Finding::warning(NAME, reason, "`fogbeat journal inspect` asks again")]
                }
            }
        }
        Daemon::Dead(Ok(_)) => offline(scene),
        Daemon::Dead(Err(why)) => vec![Finding::skipped(NAME, why.clone()).next("`sudo fogbeat doctor`")],
        Daemon::Fresh => vec![Finding::skipped(NAME, "there is none yet: the first start makes it")],
        Daemon::Silent { .. } | Daemon::Unknown(_) => {
            vec![
                Finding::skipped(NAME, format!("is not looked at: {}", scene.daemon.absence()))
                    .next("try it with sudo"),
            ]
        }
    }
}

fn offline(scene: &Scene) -> Vec<Finding> {
    if !scene.state_dir().join("spool").is_dir() {
        return vec![Finding::skipped(NAME, "there is none yet: the first start makes it")];
    }
    // An open that a full disk cuts off leaves things half done.
    let room = statvfs(scene.state_dir()).is_ok_and(|found| {
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        !found.f_flag.contains(StatVfsMountFlags::RDONLY)
            && bytes(found.f_bavail) >= least_free(bytes(found.f_blocks))
    });
    if !room {
        return vec![Finding::skipped(NAME, "is not opened while its disk is full or read-only")];
    }
    let clock = Arc::new(SystemClock::new(&scene.config.clock, scene.state_dir()));
    let settings = &scene.config.journal;
    match Journal::open_offline(settings, scene.state_dir(), clock, Arc::new(RealDisk)) {
        Ok((journal, _)) => {
            examined(scene, look::inspect(&journal), |generation| Ok(look::verify(&journal, generation)))
        }
        Err(error) => {
            let next =
                "correct what it names, then `fogbeat journal verify`; readings that are whole are kept";
            vec![Finding::error(NAME, format!("cannot be opened: {error}"), next)]
        }
    }
}

/// Verifies the newest generations first, until the time is over.
fn examined(
    scene: &Scene,
    mut inspected: Value,
    mut verify: impl FnMut(u32) -> Result<Option<Verdict>, String>,
) -> Vec<Finding> {
    let facts = inspected.get_mut("facts").map(Value::take).unwrap_or_default();
    let Ok(facts) = serde_json::from_value::<Facts>(facts) else {
        return vec![Finding::warning(
            NAME,
            "what it says of itself is not understood",
            "use the gateway's own version of fogbeat",
        )];
    };
    let end = std::time::Instant::now() + scene.left(READING);
    let without_keys = scene.config.journal.key_file.is_none() && scene.daemon.status().is_none();
    let mut seen = Seen { generations: facts.generations.len(), without_keys, ..Seen::default() };
    let mut readable = Readable::new();
    for given in facts.generations.iter().rev() {
        if std::time::Instant::now() >= end {
            break;
        }
        match verify(given.generation) {
            // Delivered and removed meanwhile.
            Ok(None) => {}
            Ok(Some(verdict)) => {
                if !verdict.sound {
                    seen.damaged.push(given.generation);
                }
                let number = |key: &str| verdict.report.get(key).and_then(Value::as_u64).unwrap_or(0);
                seen.readings += number("readings");
                seen.sealed += number("sealed_without_key");
                readable.insert(given.generation, verdict.found);
            }
            Err(why) => {
                seen.stopped = Some(why);
                break;
            }
        }
        seen.verified += 1;
    }
    // A proof takes all of them.
    if seen.verified == seen.generations {
        let broken = facts.prove(&readable).into_iter().filter(|proof| !proof.adds_up);
        seen.broken = broken.map(|proof| proof.uplink).collect();
    }
    let mut found = judge(&seen);
    found.extend(judge_damage(inspected.get("damage")));
    found
}

/// What was verified.
#[derive(Debug, Clone, Default)]
struct Seen {
    generations: usize,
    verified: usize,
    readings: u64,
    /// Readings whose key is not at hand.
    sealed: u64,
    /// Nobody has told us of a key: a credential of the service's is not ours.
    without_keys: bool,
    damaged: Vec<u32>,
    /// Uplinks whose account does not add up.
    broken: Vec<String>,
    stopped: Option<String>,
}

fn judge(seen: &Seen) -> Vec<Finding> {
    let Seen { generations, verified, readings, .. } = seen;
    let mut found = Vec::new();
    if !seen.damaged.is_empty() {
        let numbers: Vec<String> = seen.damaged.iter().map(ToString::to_string).collect();
        let reason = format!("generations {} are damaged", numbers.join(", "));
        let next = "`fogbeat journal verify` tells what is lost; a running gateway salvages by itself; check or replace the card";
        found.push(Finding::error(NAME, reason, next));
    }
    if !seen.broken.is_empty() {
        let reason = format!("the account of {} does not add up", seen.broken.join(", "));
        found.push(Finding::error(NAME, reason, "`fogbeat journal verify` says why; please report it"));
    }
    if seen.sealed > 0 && seen.without_keys {
        let reason =
            format!("{} readings are sealed with the service's key, which only the service has", seen.sealed);
        found.push(Finding::skipped(NAME, reason).next("start the gateway and ask again"));
    } else if seen.sealed > 0 {
        let reason = format!("{} readings are sealed with a key that is not at hand", seen.sealed);
        found.push(Finding::error(
            NAME,
            reason,
            "put the key's line back into journal.key_file (`fogbeat journal inspect`)",
        ));
    }
    let rest = generations - verified;
    let told = format!("{verified} of {generations} generations verified, {readings} readings");
    if let Some(why) = &seen.stopped {
        let next = "`fogbeat journal verify` takes its time";
        found.push(Finding::warning(NAME, format!("{told}; then it stopped: {why}"), next));
    } else if rest > 0 {
        let reason = format!("{told}; the {rest} oldest were not verified for want of time");
        found.push(Finding::ok(NAME, reason).next("`fogbeat journal verify` reads all of it"));
    } else if found.is_empty() {
        let reason = match generations {
            0 => "is empty".to_owned(),
            _ => format!("{told}, every number accounted for"),
        };
        found.push(Finding::ok(NAME, reason));
    }
    found
}

fn judge_damage(damage: Option<&Value>) -> Option<Finding> {
    let damage = damage.filter(|damage| !damage.is_null())?;
    let list = |key: &str| damage.get(key).and_then(Value::as_array).map_or(0, Vec::len);
    let bytes = damage.get("quarantine_bytes").and_then(Value::as_u64).unwrap_or(0);
    let (waiting, salvaged) = (list("waiting"), list("salvaged"));
    let kept = ByteSize(bytes).display().iec();
    let next = "the card is failing: check the power supply, make a backup, replace the card";
    if waiting > 0 {
        let reason = format!("{waiting} damaged generations wait to be salvaged, {kept} are kept for a look");
        return Some(Finding::error(
            QUARANTINE,
            reason,
            format!("a running gateway does it, or `fogbeat journal salvage`; {next}"),
        ));
    }
    (bytes > 0 || salvaged > 0).then(|| {
        let reason = format!(
            "{salvaged} damaged generations were salvaged since the start, {kept} are kept for a look"
        );
        Finding::warning(QUARANTINE, reason, next)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn what_was_verified_is_judged_and_what_was_not_is_said() {
        let fine = Seen { generations: 3, verified: 3, readings: 70, ..Seen::default() };
        let verdicts =
            |seen: &Seen| judge(seen).into_iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(&fine), [Verdict::Ok]);
        assert_eq!(verdicts(&Seen::default()), [Verdict::Ok]);
        let hasty = Seen { verified: 1, ..fine.clone() };
        assert!(judge(&hasty)[0].reason.contains("the 2 oldest were not verified"), "{:?}", judge(&hasty));
        assert_eq!(verdicts(&Seen { damaged: vec![2], ..fine.clone() }), [Verdict::Error]);
        assert_eq!(verdicts(&Seen { damaged: vec![2], ..hasty }), [Verdict::Error, Verdict::Ok]);
        assert_eq!(verdicts(&Seen { broken: vec!["cloud".into()], ..fine.clone() }), [Verdict::Error]);
        assert_eq!(verdicts(&Seen { sealed: 4, ..fine.clone() }), [Verdict::Error]);
        let keyless = Seen { sealed: 4, without_keys: true, ..fine.clone() };
        assert_eq!(verdicts(&keyless), [Verdict::Skipped]);
        assert_eq!(verdicts(&Seen { stopped: Some("x".into()), verified: 2, ..fine }), [Verdict::Warning]);
    }

    #[test]
    fn damage_that_was_is_told() {
        assert_eq!(judge_damage(None), None);
        assert_eq!(judge_damage(Some(&Value::Null)), None);
        let verdict = |value: Value| judge_damage(Some(&value)).map(|finding| finding.verdict);
        assert_eq!(verdict(json!({ "waiting": [], "salvaged": [], "quarantine_bytes": 0 })), None);
        assert_eq!(
            verdict(json!({ "waiting": [4], "salvaged": [], "quarantine_bytes": 9 })),
            Some(Verdict::Error)
        );
        assert_eq!(
            verdict(json!({ "waiting": [], "salvaged": [{}], "quarantine_bytes": 9 })),
            Some(Verdict::Warning)
        );
    }
}
