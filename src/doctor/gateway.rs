//! The running gateway, as it sees itself.

use serde_json::Value;

use super::Finding;
use super::scene::{Daemon, Scene};

const NAME: &str = "gateway";

pub fn findings(scene: &Scene) -> Vec<Finding> {
    let dir = scene.state_dir().display();
    match &scene.daemon {
        Daemon::Answers { status, .. } => judge(status),
        Daemon::Silent { pid, why } => {
            let pid = pid.as_deref().unwrap_or("of an unknown number");
            let reason = format!("process {pid} works in {dir} and tells nothing: {why}");
            vec![Finding::error(
                NAME,
                reason,
                "try it with sudo; if that is no better: `systemctl restart fogbeat`",
            )]
        }
        Daemon::Dead(_) | Daemon::Fresh => {
            let reason = format!("none is running with the state directory {dir}");
            vec![Finding::skipped(NAME, reason).next("`systemctl start fogbeat`, or `fogbeat run`")]
        }
        Daemon::Unknown(why) => {
            vec![
                Finding::skipped(NAME, why.clone())
                    .next("try it with sudo, or as a member of the group fogbeat"),
            ]
        }
    }
}

fn judge(status: &Value) -> Vec<Finding> {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str);
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let mut found = Vec::new();
    let late: Vec<&str> = list(status, "/late").filter_map(Value::as_str).collect();
    if let Some(trouble) = text("/trouble") {
        let remedy = text("/journal/quota/remedy").unwrap_or("`fogbeat status` tells more");
        found.push(Finding::error(NAME, format!("it takes no readings: {trouble}"), remedy));
    }
    if !late.is_empty() {
        let reason = format!("no progress in: {}", late.join(", "));
        found.push(Finding::error(NAME, reason, "`systemctl restart fogbeat`, and look into its log"));
    }
    if found.is_empty() {
        let since = humantime::format_duration(std::time::Duration::from_secs(number("/uptime_s")));
        let reason = match text("/phase") {
            Some("running") => format!("runs since {since}, {} readings stored", number("/journal/readings")),
            phase => format!("is {}", phase.unwrap_or("in an unknown state")),
        };
        found.push(Finding::ok(NAME, reason));
    }
    let running = text("/version").unwrap_or("?");
    if running != env!("CARGO_PKG_VERSION") {
        let reason = format!("version {running} is running, this is {}", env!("CARGO_PKG_VERSION"));
        found.push(Finding::warning(NAME, reason, "`systemctl restart fogbeat`"));
    }
    for place in list(status, "/left_behind") {
        let name = place.get("name").and_then(Value::as_str).unwrap_or("?");
        let reason = format!("uplink {name} is gone from the configuration and still holds its place");
        found.push(Finding::warning(NAME, reason, format!("put it back, or `fogbeat uplink forget {name}`")));
    }
    if status.pointer("/accounts/adds_up") == Some(&Value::Bool(false)) {
        found.push(Finding::error(
            NAME,
            "its accounts do not add up",
            "please report this with a support bundle",
        ));
    }
    found
}

fn list<'a>(status: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    status.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    fn verdicts(change: Value) -> Vec<(Verdict, String)> {
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"), "phase": "running", "late": [], "uptime_s": 3_700,
            "journal": { "readings": 12 }, "left_behind": [],
        });
        for (key, value) in change.as_object().unwrap() {
            status[key] = value.clone();
        }
        judge(&status).into_iter().map(|finding| (finding.verdict, finding.reason)).collect()
    }

    #[test]
    fn what_the_gateway_says_of_itself_is_told() {
        let fine = "runs since 1h 1m 40s, 12 readings stored".to_owned();
        assert_eq!(verdicts(json!({})), [(Verdict::Ok, fine.clone())]);
        let told = verdicts(json!({ "trouble": "the journal's disk is full", "late": ["journal"] }));
        assert_eq!(told.iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>(), [Verdict::Error; 2]);
        let told = verdicts(json!({ "version": "0.0.1", "left_behind": [{ "name": "old" }] }));
        assert_eq!(told[0], (Verdict::Ok, fine));
        assert_eq!((told[1].0, told[2].0), (Verdict::Warning, Verdict::Warning));
        assert!(told[2].1.contains("uplink old"), "{told:?}");
        assert_eq!(verdicts(json!({ "accounts": { "adds_up": false } }))[1].0, Verdict::Error);
    }
}
