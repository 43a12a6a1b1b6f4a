//! Figures with the bounds that the project promises, as a table in Markdown and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// What a figure has to be.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    fn verdict(self, value: f64) -> String {
        let (sense, limit) = match self {
            Self::AtLeast(limit) => ("at least", limit),
            Self::AtMost(limit) => ("at most", limit),
        };
        format!("{sense} {limit}: {}", if self.holds(value) { "met" } else { "**missed**" })
    }
}

struct Row {
    name: String,
    /// One value for each run; the median is what counts.
    runs: Vec<f64>,
    bound: Option<Bound>,
}

/// The figures of one scenario.
pub struct Finding {
    title: String,
    rows: Vec<Row>,
}

impl Finding {
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    pub fn row(self, name: &str, value: f64) -> Self {
        self.runs(name, vec![value], None)
    }

    pub fn bound(self, name: &str, value: f64, bound: Bound) -> Self {
        self.runs(name, vec![value], Some(bound))
    }

    /// A figure that was measured several times.
    pub fn runs(mut self, name: &str, runs: Vec<f64>, bound: Option<Bound>) -> Self {
        self.rows.push(Row { name: name.to_owned(), runs, bound });
        self
    }

    /// Whether every bound is kept.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.bound.is_none_or(|bound| bound.holds(median(&row.runs))))
    }

    pub fn markdown(&self) -> String {
        let mut out = format!("\n{}\n\n| figure | value | bound |\n|---|---|---|\n", self.title);
        for Row { name, runs, bound } in &self.rows {
            let value = median(runs);
            let verdict = bound.map_or("-".to_owned(), |bound| bound.verdict(value));
            let spread = match runs.len() {
                0 | 1 => String::new(),
                _ => {
                    let least = runs.iter().copied().fold(f64::INFINITY, f64::min);
                    let most = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    format!(" ({least:.2} to {most:.2})")
                }
            };
            let _ = writeln!(out, "| {name} | {value:.2}{spread} | {verdict} |");
        }
        out
    }

    pub fn json(&self) -> Value {
        let rows: Map<String, Value> =
            self.rows.iter().map(|row| (row.name.clone(), json!(median(&row.runs)))).collect();
        Value::Object(rows)
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// KiB as MB.
pub fn mb(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}
