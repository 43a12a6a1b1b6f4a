//! What fogbeat costs the machine that it runs on: size, memory, processor, time until it is ready.
//!
//! `tests/heavy.sh footprint` builds what is shipped (profile `dist`), packs it and runs this on it. By hand:
//! `FOGBEAT_BIN=target/dist/fogbeat cargo bench --profile dev --bench footprint -- [--only NAME].. [--rounds N]
//! [--readings N] [--package FILE] [--json FILE]`. Exits with 1 when a bound is missed.
//!
//! The binary is a process of its own in every run, on an empty state directory (a real disk: below the target
//! directory), with default settings: a commit a second, gzip batches of a minute to a directory, pages on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench stops at the first surprise, and its table goes to standard output"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod gym;
mod scenarios;
mod start;
#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../../tests/support/venv.rs"]
mod venv;

use std::path::PathBuf;
use std::process::ExitCode;

use support::finding::Finding;

/// What the command line asks for.
pub struct Options {
    only: Vec<String>,
    pub rounds: usize,
    pub readings: u64,
    pub package: Option<PathBuf>,
    json: Option<PathBuf>,
}

impl Options {
    fn parse() -> Self {
        let mut options =
            Self { only: Vec::new(), rounds: 3, readings: 10_000_000, package: None, json: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            // cargo's own.
            if word == "--bench" {
                continue;
            }
            let value = words.next().unwrap_or_else(|| panic!("{word} wants a value"));
            match word.as_str() {
                "--only" => options.only.push(value),
                "--rounds" => options.rounds = value.parse().expect("--rounds N"),
                "--readings" => options.readings = value.parse().expect("--readings N"),
                "--package" => options.package = Some(value.into()),
                "--json" => options.json = Some(value.into()),
                other => panic!("unknown argument {other}: see the head of benches/footprint/main.rs"),
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == name)
    }
}

type Scenario = fn(&Options) -> Finding;

fn main() -> ExitCode {
    let options = Options::parse();
    let all: [(&str, Scenario); 6] = [
        ("size", scenarios::size),
        ("idle", scenarios::idle),
        ("start", start::empty),
        ("mqtt", scenarios::mqtt),
        ("bluetooth", scenarios::bluetooth),
        ("backlog", start::backlog),
    ];
    let findings: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| options.wants(name))
        .map(|(name, scenario)| {
            let finding = scenario(&options);
            print!("{}", finding.markdown());
            (name, finding)
        })
        .collect();
    if let Some(path) = &options.json {
        let all: serde_json::Map<_, _> =
            findings.iter().map(|(name, finding)| ((*name).to_owned(), finding.json())).collect();
        std::fs::write(path, serde_json::Value::Object(all).to_string()).expect("write the JSON report");
    }
    if findings.iter().all(|(_, finding)| finding.holds()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
