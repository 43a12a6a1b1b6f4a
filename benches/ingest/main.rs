//! Durable QoS 1 ingest, measured on the real binary with Mosquitto beside it in the same run.
//!
//! `cargo bench --bench ingest -- [--only NAME]... [--seconds N] [--rounds N] [--forwarding] [--json FILE]`
//!
//! The table goes to standard output, progress to standard error. Every run starts a fresh process on an empty state
//! directory (a real disk: below the target directory); the two systems take turns. fogbeat runs with
//! `commit_interval = "0ms"` and a directory uplink. Unless `--forwarding` is given the uplink is blocked by a file in
//! its way, so that what is measured is ingest and not gzip; `--forwarding` measures both together.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench stops at the first surprise, and its table goes to standard output"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod broker;
mod report;
mod scenarios;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;

use report::Report;
use support::finding::Finding;

/// What the command line asks for.
pub struct Options {
    only: Vec<String>,
    pub seconds: u64,
    pub rounds: usize,
    pub forwarding: bool,
    json: Option<PathBuf>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self { only: Vec::new(), seconds: 4, rounds: 5, forwarding: false, json: None };
        let mut words = std::env::args().skip(1);
        let value = |words: &mut dyn Iterator<Item = String>, name: &str| {
            words.next().unwrap_or_else(|| panic!("{name} wants a value"))
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--only" => options.only.push(value(&mut words, "--only")),
                "--seconds" => options.seconds = value(&mut words, "--seconds").parse().expect("--seconds N"),
                "--rounds" => options.rounds = value(&mut words, "--rounds").parse().expect("--rounds N"),
                "--forwarding" => options.forwarding = true,
                "--json" => options.json = Some(value(&mut words, "--json").into()),
                // cargo's own.
                "--bench" => {}
                other => panic!("unknown argument {other}: see the head of benches/ingest/main.rs"),
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == name)
    }
}

/// A measurement with figures of its own.
type Scenario = fn(&Options) -> Finding;

fn main() {
    let options = Options::parse();
    let mut report = Report::new(&options);
    for (clients, window) in [(1, 1), (1, 100), (100, 20), (500, 10)] {
        if options.wants(&format!("{clients}x{window}")) {
            report.ingest(scenarios::ingest(&options, clients, window));
        }
    }
    let single: [(&str, Scenario); 4] = [
        ("fdatasync", scenarios::against_fdatasync),
        ("memory", scenarios::ten_million),
        ("default", scenarios::default_settings),
        ("wear", scenarios::wear),
    ];
    for (name, scenario) in single {
        if options.wants(name) {
            report.finding(name, scenario(&options));
        }
    }
    print!("{}", report.markdown());
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()).expect("write the JSON report");
    }
}
