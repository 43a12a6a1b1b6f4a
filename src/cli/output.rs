//! Data on standard output.

use std::io::{self, Write};

use serde_json::Value;

use super::Failure;

/// Writes text as it is. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::unavailable(error)),
        _ => Ok(()),
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
                let label = key.replace('_', " ");
                match plain(value) {
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
