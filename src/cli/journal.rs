//! `fogbeat journal`: a look into the durable buffer. The journal has one owner: a running gateway is asked and looks
//! itself; without one, the command locks the state directory and does.

use std::path::PathBuf;

use clap::Subcommand;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Common, Failure, Kind, key, offline, output, status};
use crate::config::Config;
use crate::control::{self, Request};
use crate::gateway::look::{self, Page, Verdict};
use crate::journal::{Facts, Journal, Readable};
use crate::reading::validity::DeviceTimeWindow;
use crate::state::StateDir;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the generations on disk and where each uplink stands
    #[command(after_help = "Example: fogbeat journal inspect --json | jq '.generations[].readings'")]
    Inspect {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read every value, check its sum, and prove that every number is accounted for; exit code 69 when not
    #[command(after_help = "Example: fogbeat journal verify")]
    Verify {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write every reading that is kept as JSON lines, delivered or not; moves no cursor
    #[command(after_help = "Example: fogbeat journal export | gzip > readings.json.gz")]
    Export,
    /// Manage the keys that the journal is encrypted with
    #[command(subcommand, after_help = "Example: fogbeat journal key new /etc/fogbeat/journal.keys")]
    Key(key::Command),
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    if let Command::Key(command) = command {
        return key::run(common, command);
    }
    let config = common.load()?;
    let looker = Looker::find(&config)?;
    match command {
        Command::Inspect { json } => show(&looker.inspect()?, *json),
        Command::Verify { json } => verify(&looker, *json),
        Command::Export => export(&looker),
        Command::Key(_) => Ok(()),
    }
}

/// Who looks.
enum Looker {
    Daemon(PathBuf),
    Own { gateway: String, site: Option<String>, window: DeviceTimeWindow, journal: Journal, _lock: StateDir },
}

impl Looker {
    fn find(config: &Config) -> Result<Self, Failure> {
        if let Some(socket) = status::daemon(&config.gateway.state_dir)? {
            return Ok(Self::Daemon(socket));
        }
        let (state, journal) = offline::journal(config)?;
        let gateway = state.gateway_id(config.gateway.id.as_deref())?;
        let window = DeviceTimeWindow::new(config.clock.device_past, config.clock.device_future);
        Ok(Self::Own { gateway, site: config.gateway.site.clone(), window, journal, _lock: state })
    }

    fn inspect(&self) -> Result<Value, Failure> {
        match self {
            Self::Daemon(socket) => Ok(control::ask(socket, &Request::JournalInspect)?),
            Self::Own { journal, .. } => Ok(look::inspect(journal)),
        }
    }

    /// `None`: the generation was delivered and removed meanwhile.
    fn verify(&self, generation: u32) -> Result<Option<Verdict>, Failure> {
        match self {
            Self::Daemon(socket) => understood(control::ask(socket, &Request::JournalVerify { generation })?),
            Self::Own { journal, .. } => Ok(look::verify(journal, generation)),
        }
    }

    fn page(&self, from: u64) -> Result<Page, Failure> {
        match self {
            Self::Daemon(socket) => understood(control::ask(socket, &Request::JournalPage { from })?),
            Self::Own { gateway, site, window, journal, .. } => {
                look::page(journal, gateway, site.as_deref(), *window, from).map_err(Failure::unavailable)
            }
        }
    }
}

fn understood<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(Failure::defect)
}

fn show(document: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json { output::print_json(document) } else { output::print(&output::outline(document)) }
}

fn verify(looker: &Looker, as_json: bool) -> Result<(), Failure> {
    let mut inspected = looker.inspect()?;
    let facts: Facts = understood(inspected.get_mut("facts").map(Value::take).unwrap_or_default())?;
    let mut reports = Vec::new();
    let mut damaged = 0;
    let mut readable = Readable::new();
    for generation in facts.generations.iter().map(|given| given.generation) {
        if let Some(verdict) = looker.verify(generation)? {
            damaged += usize::from(!verdict.sound);
            reports.push(verdict.report);
            readable.insert(generation, verdict.found);
        }
    }
    let proofs = facts.prove(&readable);
    let broken: Vec<&str> = proofs.iter().filter(|p| !p.adds_up).map(|p| p.uplink.as_str()).collect();
    show(&json!({ "spool": inspected.get("spool"), "generations": reports, "uplinks": proofs }), as_json)?;
    let failed = |what: anyhow::Error| Err(Failure::new(Kind::Unavailable, what));
    match (damaged, broken.as_slice()) {
        (0, []) => Ok(()),
        (count, []) => failed(anyhow::anyhow!(
            "{count} generations are damaged; what is lost is delivered as `gap` lines"
        )),
        (_, broken) => failed(anyhow::anyhow!(
            "the account of {} does not add up: see `faults` above, and please report it with the spool's manifest.json \
             and cursors/",
            broken.join(", ")
        )),
    }
}

fn export(looker: &Looker) -> Result<(), Failure> {
    let mut from = 0;
    loop {
        let page = looker.page(from)?;
        output::print(&page.lines)?;
        if page.next == from {
            return Ok(());
        }
        from = page.next;
    }
}
