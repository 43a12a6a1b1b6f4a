//! Metrics in OpenMetrics text: our own, with those labels readable that name causes and states.

use super::Redactor;

/// Labels whose values the program itself has chosen from a fixed list.
const SHOWN: [&str; 5] = ["cause", "kind", "le", "state", "step"];

impl Redactor {
    /// The text with only what may leave in it; a line that is not understood is left out.
    pub fn metrics(&self, text: &str) -> String {
        let mut kept = String::new();
        for line in text.lines() {
            if let Some(line) = self.metric(line) {
                kept.push_str(&line);
                kept.push('\n');
            }
        }
        kept
    }

    fn metric(&self, line: &str) -> Option<String> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        value.parse::<f64>().ok()?;
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}')?),
            None => (series, ""),
        };
        let plain =
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !(name.starts_with("fogbeat_") && plain) {
            return None;
        }
        let mut shown = Vec::new();
        let mut rest = labels;
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"")?;
            let end = closing(after)?;
            let (value, more) = after.split_at_checked(end)?;
            let value = if SHOWN.contains(&label) { self.text(value) } else { self.tag(value) };
            shown.push(format!("{}=\"{value}\"", self.text(label)));
            rest = more.get(1..)?.trim_start_matches(',');
        }
        let labels = if shown.is_empty() { String::new() } else { format!("{{{}}}", shown.join(",")) };
        Some(format!("{name}{labels} {value}"))
    }
}

/// Where the quote is that ends a label's value.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}
