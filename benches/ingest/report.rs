//! Medians, the markdown table and the JSON.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use crate::Options;
use crate::support::finding::{Finding, median};

/// One run of one system.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub rate: f64,
    pub cpu_us: f64,
    pub peak_kib: u64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.0} msg/s {:7.2} us CPU {:6.1} MB", self.rate, self.cpu_us, self.peak_mb())
    }
}

impl Run {
    fn peak_mb(&self) -> f64 {
        self.peak_kib as f64 * 1024.0 / 1e6
    }
}

/// All runs of one load.
pub struct Ingest {
    pub clients: usize,
    pub window: usize,
    pub fogbeat: Vec<Run>,
    pub mosquitto: Vec<Run>,
}

impl Ingest {
    /// The project's bounds for this load: least ratio of rates, most ratio of CPU time per message.
    fn bounds(&self) -> (Option<f64>, Option<f64>) {
        match (self.clients, self.window) {
            (100, 20) => (Some(5.0), Some(0.25)),
            (500, 10) => (Some(4.0), None),
            _ => (None, None),
        }
    }
}

pub struct Report {
    head: String,
    ingest: Vec<Ingest>,
    findings: Vec<(String, Finding)>,
}

impl Report {
    pub fn new(options: &Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let head = format!(
            "{cores} cores shared with the load generator; QoS 1, 50-byte JSON payload, commit_interval 0 ms, \
             {} s a run, medians of {}, uplink {}.",
            options.seconds,
            options.rounds,
            if options.forwarding { "at work" } else { "blocked" },
        );
        Self { head, ingest: Vec::new(), findings: Vec::new() }
    }

    pub fn ingest(&mut self, result: Ingest) {
        self.ingest.push(result);
    }

    pub fn finding(&mut self, name: &str, finding: Finding) {
        self.findings.push((name.to_owned(), finding));
    }

    pub fn markdown(&self) -> String {
        let mut out = format!("{}\n", self.head);
        if !self.ingest.is_empty() {
            out.push_str(
                "\n| clients x in flight | Mosquitto msg/s · us CPU · MB | fogbeat msg/s · us CPU · MB \
                 | rate ratio (worst run) | CPU ratio | bound |\n|---|---|---|---|---|---|\n",
            );
        }
        for load in &self.ingest {
            let (m, f) = (middle(&load.mosquitto), middle(&load.fogbeat));
            let verdict = match load.bounds() {
                (None, _) => "-".to_owned(),
                (Some(rate), cpu) => {
                    let met = f.rate / m.rate >= rate && cpu.is_none_or(|c| f.cpu_us / m.cpu_us <= c);
                    let cpu = cpu.map_or(String::new(), |c| format!(", CPU <= {c}x"));
                    format!("rate >= {rate}x{cpu}: {}", if met { "met" } else { "**missed**" })
                }
            };
            let slowest = load.fogbeat.iter().map(|r| r.rate).fold(f64::INFINITY, f64::min);
            let fastest = load.mosquitto.iter().map(|r| r.rate).fold(0.0, f64::max);
            let _ = writeln!(
                out,
                "| {} x {} | {:.0} · {:.2} · {:.1} | {:.0} · {:.2} · {:.1} | {:.2} ({:.2}) | {:.3} | {verdict} |",
                load.clients,
                load.window,
                m.rate,
                m.cpu_us,
                m.peak_mb(),
                f.rate,
                f.cpu_us,
                f.peak_mb(),
                f.rate / m.rate,
                slowest / fastest,
                f.cpu_us / m.cpu_us,
            );
        }
        for (_, finding) in &self.findings {
            out.push_str(&finding.markdown());
        }
        out
    }

    pub fn json(&self) -> String {
        let runs = |runs: &[Run]| -> Vec<Value> {
            runs.iter()
                .map(|r| json!({"msg_per_s": r.rate, "cpu_us_per_msg": r.cpu_us, "peak_kib": r.peak_kib}))
                .collect()
        };
        let loads: Vec<Value> = self
            .ingest
            .iter()
            .map(|l| {
                json!({"clients": l.clients, "in_flight": l.window,
                       "fogbeat": runs(&l.fogbeat), "mosquitto": runs(&l.mosquitto)})
            })
            .collect();
        let findings: serde_json::Map<String, Value> =
            self.findings.iter().map(|(name, finding)| (name.clone(), finding.json())).collect();
        json!({"conditions": self.head, "ingest": loads, "findings": findings}).to_string()
    }
}

/// The median of each figure.
fn middle(runs: &[Run]) -> Run {
    let of = |figure: fn(&Run) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
    Run { rate: of(|r| r.rate), cpu_us: of(|r| r.cpu_us), peak_kib: of(|r| r.peak_kib as f64) as u64 }
}
