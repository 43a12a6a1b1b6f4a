//! The flight recorder's and the log's lines.

use serde_json::{Map, Value, json};

use super::{LARGEST, program};
use crate::flight::{Flight, Lane};
use crate::reading::rfc3339;
use crate::redact::{Redactor, Rule, rule};

/// Lines of the log that are asked for.
const LINES: &str = "3000";
/// Bytes of systemd's answer: some 2 KB a line.
const ANSWER: u64 = 16 << 20;
/// What systemd calls the least of our levels that is taken: tracing's `info` is its `notice`.
const NOTICE: u64 = 5;

/// One line of JSON for each record, oldest first; a last one tells what could not be read.
pub fn flight(redactor: &Redactor, flight: &Flight) -> Vec<u8> {
    let mut lines = Vec::new();
    for (n, lane, entry) in &flight.records {
        let mut fields = Map::new();
        for (name, value) in &entry.fields {
            let made_here = *lane == Lane::Life && matches!(name.as_str(), "version" | "configuration");
            let shown = if made_here { value.clone() } else { redactor.scalar(value, rule(name)) };
            fields.insert(name.clone(), shown);
        }
        let line = json!({
            "n": n, "time": moment(entry.time_ms), "uptime_ms": entry.uptime_ms, "boot": entry.boot, "level": entry.level,
            "from": entry.from, "text": redactor.text(&entry.text), "fields": fields, "again": entry.again, "dropped": entry.dropped,
        });
        lines.push(line);
    }
    if flight.damaged > 0 {
        lines.push(json!({ "damaged": flight.damaged }));
    }
    written(&lines)
}

/// The last lines of the service in systemd's journal.
///
/// # Errors
/// When there is none, or this user may not read it.
pub fn journal(redactor: &Redactor) -> Result<Vec<u8>, String> {
    let args = ["--unit=fogbeat", "--lines", LINES, "--output=json", "--no-pager", "--quiet"];
    let answer = program::ask("journalctl", &args, ANSWER)?;
    let lines: Vec<Value> = answer
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Map<String, Value>>(line).ok())
        .filter_map(|line| logged(redactor, &line))
        .collect();
    if lines.is_empty() {
        return Err(
            "the journal of systemd has nothing of fogbeat.service that this user may read; try it with sudo"
                .into(),
        );
    }
    Ok(written(&lines))
}

/// A line of systemd's journal; `None` for what may hold health data (below `info`).
fn logged(redactor: &Redactor, line: &Map<String, Value>) -> Option<Value> {
    let text = |field: &str| line.get(field).and_then(Value::as_str);
    let priority: u64 = text("PRIORITY").and_then(|digits| digits.parse().ok()).unwrap_or(NOTICE);
    let message = text("MESSAGE")?;
    // What comes by standard error has one priority for everything; its lines name their level themselves.
    let quiet = if text("_TRANSPORT") == Some("stdout") {
        message.split_whitespace().take(3).any(|word| matches!(word, "DEBUG" | "TRACE"))
            || message.starts_with('{')
    } else {
        priority > NOTICE && text("_PID") != Some("1")
    };
    if quiet {
        return None;
    }
    let time_ms = text("__REALTIME_TIMESTAMP").and_then(|us| us.parse::<i64>().ok()).map(|us| us / 1000);
    let mut fields = Map::new();
    for (name, value) in line {
        let Some(name) = name.strip_prefix("F_").map(str::to_ascii_lowercase) else { continue };
        if rule(&name) != Rule::Withhold {
            let shown = redactor.scalar(value, rule(&name));
            fields.insert(name, shown);
        }
    }
    let uptime_ms = text("__MONOTONIC_TIMESTAMP").and_then(|us| us.parse::<u64>().ok()).map(|us| us / 1000);
    Some(json!({
        "time": time_ms.map(moment), "uptime_ms": uptime_ms, "priority": priority,
        "from": text("TARGET").map(|target| redactor.text(target)), "text": redactor.text(message), "fields": fields,
    }))
}

fn moment(ms: i64) -> String {
    let mut text = Vec::new();
    rfc3339::write(&mut text, ms);
    String::from_utf8_lossy(&text).into_owned()
}

/// The newest that fit.
fn written(lines: &[Value]) -> Vec<u8> {
    let texts: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut room = LARGEST;
    let kept = texts.iter().rev().take_while(|text| {
        let fits = text.len() <= room;
        room = room.saturating_sub(text.len());
        fits
    });
    let skipped = texts.len() - kept.count();
    texts.iter().skip(skipped).flat_map(|text| text.bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_journal_are_taken_from_info_on_and_field_by_field() {
        let dir = tempfile::tempdir().unwrap();
        let redactor = Redactor::new(dir.path()).unwrap();
        let take = |line: Value| logged(&redactor, line.as_object().unwrap()).map(|line| line.to_string());
        let told = take(json!({
            "PRIORITY": "4", "MESSAGE": "the uplink Anna is back", "TARGET": "fogbeat::forward", "F_UPLINK": "Anna", "F_CAUSE": "network",
            "F_BPM": "173", "_HOSTNAME": "ward-7", "_CMDLINE": "x", "__REALTIME_TIMESTAMP": "1796047177559000", "_TRANSPORT": "journal",
        }));
        let told = told.unwrap();
        for gone in ["Anna", "173", "ward", "CMDLINE"] {
            assert!(!told.contains(gone), "{told}");
        }
        assert!(
            told.contains("2026-11-30T")
                && told.contains("is back")
                && told.contains("\"cause\":\"network\""),
            "{told}"
        );
        for quiet in [
            json!({ "PRIORITY": "6", "MESSAGE": "bpm", "_TRANSPORT": "journal", "_PID": "77" }),
            json!({ "PRIORITY": "6", "MESSAGE": "2026-11-30T13:59:37Z DEBUG payload 71", "_TRANSPORT": "stdout" }),
            json!({ "PRIORITY": "6", "MESSAGE": "{\"level\":\"DEBUG\"}", "_TRANSPORT": "stdout" }),
        ] {
            assert_eq!(take(quiet), None);
        }
        let systemd = json!({ "PRIORITY": "6", "MESSAGE": "fogbeat.service: Scheduled restart job", "_PID": "1", "_TRANSPORT": "journal" });
        assert!(take(systemd).unwrap().contains("Scheduled restart job"));
    }
}
