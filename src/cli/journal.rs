//! `fogbeat journal`: a look into the durable buffer. A running gateway must be stopped first: the journal has one
//! owner; `fogbeat status` asks a running one.

use clap::Subcommand;
use serde_json::json;

use super::{Common, Failure, Kind, offline, output};
use crate::config::Config;
use crate::forward::batch::cause_label;
use crate::journal::{Entry, Journal, Seq};
use crate::reading::line::LineContext;
use crate::state::StateDir;

/// Readings held in memory at once while they are written out.
const PAGE: usize = 4096;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the generations on disk and where each uplink stands
    #[command(after_help = "Example: fogbeat journal inspect --json | jq '.generations[].readings'")]
    Inspect {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every value and check its sum; exit code 69 when something is damaged
    #[command(after_help = "Example: fogbeat journal verify")]
    Verify {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write every reading that is kept as JSON lines, delivered or not; moves no cursor
    #[command(after_help = "Example: fogbeat journal export | gzip > readings.json.gz")]
    Export,
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let config = common.load()?;
    let (state, journal) = offline::journal(&config)?;
    match command {
        Command::Inspect { json } => inspect(&journal, *json),
        Command::Verify { json } => verify(&journal, *json),
        Command::Export => export(&config, &state, &journal),
    }
}

fn inspect(journal: &Journal, as_json: bool) -> Result<(), Failure> {
    let uplinks: Vec<_> = journal
        .uplinks()
        .iter()
        .map(|uplink| {
            let cursor = uplink.cursor();
            let queued = journal.backlog(cursor);
            json!({ "name": uplink.name(), "cursor": cursor.0, "open": uplink.open(), "queued_readings": queued })
        })
        .collect();
    let document =
        json!({ "spool": journal.spool(), "generations": journal.generations(), "uplinks": uplinks });
    if as_json { output::print_json(&document) } else { output::print(&output::outline(&document)) }
}

fn verify(journal: &Journal, as_json: bool) -> Result<(), Failure> {
    let mut reports = Vec::new();
    let mut damaged = 0;
    for generation in journal.generations() {
        let report = match journal.verify(&generation) {
            Ok(verified) => {
                damaged += usize::from(!verified.damaged.is_empty() || verified.missing > 0);
                let places: Vec<_> = verified
                    .damaged
                    .iter()
                    .map(|(place, error)| json!({ "at": place, "error": error.to_string() }))
                    .collect();
                json!({
                    "generation": verified.generation, "blocks": verified.blocks, "readings": verified.readings,
                    "bytes": verified.bytes, "missing": verified.missing, "damaged": places,
                })
            }
            Err(error) => {
                damaged += 1;
                json!({ "generation": generation.generation, "error": error.to_string() })
            }
        };
        reports.push(report);
    }
    let document = json!({ "spool": journal.spool(), "generations": reports });
    if as_json {
        output::print_json(&document)?
    } else {
        output::print(&output::outline(&document))?
    }
    match damaged {
        0 => Ok(()),
        count => Err(Failure::new(
            Kind::Unavailable,
            anyhow::anyhow!("{count} generations are damaged; what is lost is delivered as `gap` lines"),
        )),
    }
}

fn export(config: &Config, state: &StateDir, journal: &Journal) -> Result<(), Failure> {
    let gateway = state.gateway_id(config.gateway.id.as_deref())?;
    let mut text = Vec::new();
    let mut from = Seq(0);
    loop {
        let page = journal.read(from, PAGE).map_err(Failure::unavailable)?;
        // A cloned card has readings of two spools.
        let lines = LineContext::new(&page.spool, &gateway, config.gateway.site.as_deref());
        text.clear();
        for entry in &page.entries {
            match entry {
                Entry::Reading { seq, device, reading } => {
                    lines.write_reading(&mut text, seq.0, page.boot, device, reading);
                }
                Entry::End { generation, count } => lines.write_end(&mut text, *generation, *count),
                Entry::Gap { first, last, cause } => {
                    lines.write_gap(&mut text, first.0, last.0, cause_label(*cause))
                }
            }
        }
        output::print(&String::from_utf8_lossy(&text))?;
        if page.next == from {
            return Ok(());
        }
        from = page.next;
    }
}
