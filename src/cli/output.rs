//! Data on standard output; what is under way, on standard error.

use std::io::{self, Write};
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::ProgressBar;
use serde_json::Value;

use super::Failure;
use crate::reading::rfc3339;

/// Writes text as it is. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::unavailable(error)),
        _ => Ok(()),
    }
}

/// Says on standard error what is under way, for as long as it is held; nothing where that is no terminal.
pub struct Working(ProgressBar);

impl Working {
    pub fn on(what: String) -> Self {
        let spinner = ProgressBar::new_spinner();
        spinner.set_message(what);
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self(spinner)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// One JSON document, for scripts.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", serde_json::to_string_pretty(value).map_err(Failure::defect)?))
}

/// The same document for people: one fact per line, what belongs together indented.
pub fn outline(value: &Value) -> String {
    let mut text = String::new();
    write_outline(&mut text, value, 0);
    text
}

fn write_outline(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                let (label, shown) = match in_units(key, value) {
                    Some((stem, shown)) => (stem.replace('_', " "), Some(shown)),
                    None => (key.replace('_', " "), plain(value)),
                };
                match shown {
                    Some(shown) => text.push_str(&format!("{indent}{label}: {shown}\n")),
                    None => {
                        text.push_str(&format!("{indent}{label}:\n"));
                        write_outline(text, value, depth + 1);
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match plain(item) {
                    Some(shown) => text.push_str(&format!("{indent}- {shown}\n")),
                    None => {
                        let mut inner = String::new();
                        write_outline(&mut inner, item, depth + 1);
                        let bullet = inner.get(indent.len() + 2..).unwrap_or_default();
                        text.push_str(&format!("{indent}- {bullet}"));
                    }
                }
            }
        }
        other => text.push_str(&format!("{indent}{}\n", plain(other).unwrap_or_default())),
    }
}

/// A number whose key names its unit, as people write it, and the key without the unit: `_s` a duration, `time_ms` a
/// moment, `bytes` a size.
fn in_units<'a>(key: &'a str, value: &Value) -> Option<(&'a str, String)> {
    if key == "bytes" || key.ends_with("_bytes") {
        return Some((key, ByteSize(value.as_u64()?).display().iec().to_string()));
    }
    if let Some(stem) = key.strip_suffix("_ms").filter(|stem| *stem == "time" || stem.ends_with("_time")) {
        let mut text = Vec::new();
        rfc3339::write(&mut text, value.as_i64()?);
        return Some((stem, String::from_utf8(text).ok()?));
    }
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0)?;
    let stem = key.strip_suffix("_s").or_else(|| key.strip_suffix("_seconds").map(|_| key))?;
    let shown = if seconds < 10.0 {
        format!("{} s", (seconds * 10.0).round() / 10.0)
    } else {
        humantime::format_duration(Duration::from_secs(seconds as u64)).to_string()
    };
    Some((stem, shown))
}

/// What fits on one line.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) if fields.is_empty() => Some("none".to_owned()),
        Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        Value::Object(_) | Value::Array(_) => None,
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_the_units_their_keys_name() {
        let value = serde_json::json!({
            "spool_bytes": 1_572_864, "oldest_s": 3_725, "confirmed_s": 1.25, "time_ms": 1_790_000_000_123_i64, "readings": 7,
        });
        let shown = "confirmed: 1.3 s\noldest: 1h 2m 5s\nreadings: 7\nspool bytes: 1.5 MiB\ntime: 2026-09-21T14:13:20.123Z\n";
        assert_eq!(outline(&value), shown);
    }

    #[test]
    fn an_outline_has_one_fact_per_line() {
        let value = serde_json::json!({
            "phase": "running",
            "uplinks": [{ "name": "cloud", "last_error": null, "queued": 3 }],
            "late": [],
            "clock": { "synced": true },
        });
        let shown =
            "clock:\n  synced: true\nlate: none\nphase: running\nuplinks:\n  - name: cloud\n    queued: 3\n";
        assert_eq!(outline(&value), shown);
    }
}
