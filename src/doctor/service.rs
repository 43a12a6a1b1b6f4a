//! What systemd thinks of the service: whether it has given up, how it ended last, how often it had to be started again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Finding;
use super::probe::{self, Ran};
use super::scene::Scene;

const NAME: &str = "service";
const UNIT: &str = "fogbeat.service";
const LIMIT: Duration = Duration::from_secs(5);
const PROPERTIES: &str =
    "LoadState,ActiveState,SubState,UnitFileState,Result,ExecMainCode,ExecMainStatus,NRestarts";

type Properties<'a> = BTreeMap<&'a str, &'a str>;

pub fn findings(_: &Scene) -> Vec<Finding> {
    let shown = match probe::run("systemctl", &["show", UNIT, "--property", PROPERTIES], LIMIT) {
        Ran::Said(shown) => shown,
        Ran::Missing => return vec![Finding::skipped(NAME, "there is no systemd on this machine")],
        Ran::Silent => {
            return vec![Finding::warning(
                NAME,
                format!("systemd did not answer within {} s", LIMIT.as_secs()),
                "look at the machine: `dmesg`, `journalctl -p err`",
            )];
        }
        Ran::Failed(why) => {
            let why = why.lines().next().unwrap_or("no reason given").to_owned();
            return vec![Finding::skipped(NAME, format!("systemd cannot be asked: {why}"))];
        }
    };
    judge(&probe::properties(&shown), watchdogs())
}

/// How often the watchdog ended the service in this boot, as far as this user may see it.
fn watchdogs() -> usize {
    // What systemd says of the unit; `--grep` is not built in everywhere.
    let of_unit = format!("UNIT={UNIT}");
    let words = ["-b", "-q", "-o", "cat", "-n", "2000", "--no-pager", &of_unit];
    let told = probe::run("journalctl", &words, LIMIT).said().unwrap_or_default();
    told.lines().filter(|line| line.contains("Watchdog timeout")).count()
}

fn judge(of: &Properties<'_>, watchdogs: usize) -> Vec<Finding> {
    let get = |key: &str| of.get(key).copied().unwrap_or_default();
    let error = |reason: String, next: &str| vec![Finding::error(NAME, reason, next)];
    match get("LoadState") {
        "loaded" => {}
        "not-found" | "" => {
            return vec![Finding::skipped(
                NAME,
                format!("systemd knows no {UNIT}: the gateway is run by hand"),
            )];
        }
        "masked" => return error(format!("{UNIT} is masked"), "`systemctl unmask fogbeat`"),
        other => {
            let next = "`systemd-analyze verify fogbeat.service` tells more";
            return error(format!("{UNIT} cannot be loaded ({other})"), next);
        }
    }
    let last = last_exit(get("Result"), get("ExecMainCode"), get("ExecMainStatus"));
    let restarts: u32 = get("NRestarts").parse().unwrap_or(0);
    let mut found = match (get("ActiveState"), get("SubState")) {
        _ if get("Result") == "start-limit-hit" => {
            return error(
                "systemd has given up: it failed too often in a row (start limit)".to_owned(),
                "find out why by `journalctl -u fogbeat`, then `systemctl reset-failed fogbeat && systemctl start fogbeat`",
            );
        }
        ("failed", _) => return error(format!("has failed: {}", last.what), last.next),
        (_, "auto-restart") => {
            return error(format!("is started again and again ({restarts} times): {}", last.what), last.next);
        }
        ("active", _) => Vec::new(),
        ("activating", _) => {
            let next = "`systemctl status fogbeat` says what it waits for";
            vec![Finding::warning(NAME, "is starting", next)]
        }
        (state, _) => {
            let next = "`systemctl enable --now fogbeat`";
            vec![Finding::warning(NAME, format!("is {state}: nobody takes readings"), next)]
        }
    };
    if watchdogs > 0 {
        let reason = format!("the watchdog had to end it {watchdogs} times since the boot");
        let next = "`journalctl -u fogbeat -p warning -b` says what got stuck; please report it";
        found.push(Finding::warning(NAME, reason, next));
    } else if restarts > 0 && found.is_empty() {
        let reason = format!("systemd had to start it again {restarts} times");
        let next = "`journalctl -u fogbeat -p warning -b` says why";
        found.push(Finding::warning(NAME, reason, next));
    }
    if matches!(get("UnitFileState"), "disabled" | "linked") {
        let next = "`systemctl enable fogbeat`";
        found.push(Finding::warning(NAME, "is not started when this machine boots", next));
    }
    if found.is_empty() {
        found.push(Finding::ok(NAME, "is active, and never had to be started again"));
    }
    found
}

struct Exit {
    what: String,
    next: &'static str,
}

/// systemd's `Result` and the status that waitid gave (1: exited, else the signal).
fn last_exit(result: &str, code: &str, status: &str) -> Exit {
    let log = "`journalctl -u fogbeat -b` says why";
    let (what, next) = match (result, code, status) {
        ("watchdog", ..) => ("the watchdog ended it".to_owned(), log),
        ("oom-kill", ..) => (
            "the kernel ended it for want of memory".to_owned(),
            "raise MemoryMax= (`systemctl edit fogbeat`) or lower [limits] memory",
        ),
        ("timeout", ..) => ("it was not ready, or did not stop, in time".to_owned(), log),
        ("resources", ..) => ("systemd could not set it up".to_owned(), log),
        (_, "1", "78") => (
            "it does not like its configuration (exit code 78)".to_owned(),
            "`fogbeat check` tells what is wrong; then `systemctl start fogbeat`",
        ),
        (_, "1", "64") => (
            "its command line is wrong (exit code 64)".to_owned(),
            "`systemctl cat fogbeat`: correct ExecStart=",
        ),
        (_, "1", "69") => ("something it needs was not there (exit code 69)".to_owned(), log),
        (_, "1", "70") => {
            ("a defect of fogbeat (exit code 70)".to_owned(), "please report it with a support bundle")
        }
        (_, "1", code) => (format!("it ended with exit code {code}"), log),
        (_, "2" | "3", signal) => (format!("signal {signal} ended it"), log),
        (result, ..) => (format!("systemd says {result}"), log),
    };
    Exit { what, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn told(changes: &str, watchdogs: usize) -> (Verdict, String) {
        let text = format!(
            "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nResult=success\n\
             ExecMainCode=0\nExecMainStatus=0\nNRestarts=0\n{changes}"
        );
        let found = judge(&probe::properties(&text), watchdogs);
        let worst = found.into_iter().max_by_key(|finding| finding.verdict).unwrap();
        (worst.verdict, worst.reason)
    }

    #[test]
    fn each_state_of_the_unit_has_its_verdict() {
        use Verdict::{Error, Ok, Skipped, Warning};
        for (changes, watchdogs, verdict, part) in [
            ("", 0, Ok, "active"),
            ("LoadState=not-found", 0, Skipped, "run by hand"),
            ("LoadState=masked", 0, Error, "masked"),
            ("LoadState=bad-setting", 0, Error, "bad-setting"),
            ("ActiveState=failed\nSubState=failed\nResult=start-limit-hit", 0, Error, "given up"),
            (
                "ActiveState=failed\nResult=exit-code\nExecMainCode=1\nExecMainStatus=78",
                0,
                Error,
                "configuration",
            ),
            ("ActiveState=failed\nResult=oom-kill", 0, Error, "memory"),
            (
                "ActiveState=activating\nSubState=auto-restart\nResult=watchdog\nNRestarts=4",
                0,
                Error,
                "(4 times): the watchdog",
            ),
            ("ActiveState=activating\nSubState=start", 0, Warning, "starting"),
            ("ActiveState=inactive\nSubState=dead", 0, Warning, "nobody takes"),
            ("NRestarts=3", 0, Warning, "3 times"),
            ("NRestarts=3", 2, Warning, "watchdog had to end it 2 times"),
            ("UnitFileState=disabled", 0, Warning, "boots"),
        ] {
            let (found, reason) = told(changes, watchdogs);
            assert!(found == verdict && reason.contains(part), "{changes:?}: {found:?} {reason}");
        }
    }
}
