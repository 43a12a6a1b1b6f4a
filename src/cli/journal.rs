//! `fogbeat journal`: a look into the durable buffer. The journal has one owner: a running gateway is asked and looks
//! itself; without one, the command locks the state directory and does.

use std::path::PathBuf;

use clap::Subcommand;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Common, Failure, Kind, key, offline, output, record, status};
use crate::audit::Act;
use crate::config::Config;
use crate::control::{self, Request};
use crate::gateway::look::{self, Page, Verdict};
use crate::journal::salvage;
use crate::journal::{Facts, Journal, Readable, SalvageError};
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
    /// Keep what can be kept of damaged generations; a running gateway does it by itself
    #[command(
        after_help = "What cannot be kept is delivered as `gap` lines. The damaged files stay in the spool's \
        quarantine/ for a look, within [journal] quarantine.\nExample: fogbeat journal salvage"
    )]
    Salvage {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The child in which a damaged generation is read; started by fogbeat itself
    #[command(name = salvage::WORKER, hide = true, after_help = "Example: fogbeat journal salvage")]
    SalvageWorker(Job),
    /// Manage the keys that the journal is encrypted with
    #[command(subcommand, after_help = "Example: fogbeat journal key new /etc/fogbeat/journal.keys")]
    Key(key::Command),
}

/// What the child is to do.
#[derive(Debug, clap::Args)]
pub struct Job {
    #[arg(long)]
    generation: u32,
    #[arg(long)]
    count: u32,
    #[arg(long)]
    source: PathBuf,
    #[arg(long)]
    target: PathBuf,
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    if let Command::Key(command) = command {
        return key::run(common, command);
    }
    if let Command::SalvageWorker(Job { generation, count, source, target }) = command {
        let (source, target) = (source.clone(), target.clone());
        let job = salvage::Job { generation: *generation, source, target, count: *count };
        return salvage::work(&job).map_err(Failure::unavailable);
    }
    let config = common.load()?;
    let looker = Looker::find(&config)?;
    match command {
        Command::Inspect { json } => show(&looker.inspect()?, *json),
        Command::Verify { json } => verify(&looker, *json),
        Command::Salvage { json } => salvage(&looker, *json),
        // Done above, without a configuration.
        Command::SalvageWorker(_) => Ok(()),
        Command::Export => {
            if matches!(looker, Looker::Own { .. }) {
                record::done(&config, |_| Act::Export);
            }
            export(&looker)
        }
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

    fn damaged(&self) -> Result<Vec<u32>, Failure> {
        match self {
            Self::Daemon(_) => {
                let inspected = self.inspect()?;
                understood(inspected.pointer("/damage/waiting").cloned().unwrap_or_else(|| json!([])))
            }
            Self::Own { journal, .. } => Ok(journal.damaged()),
        }
    }

    /// `None`: somebody else has done it meanwhile.
    fn salvage(&self, generation: u32, look: &mut dyn FnMut()) -> Result<Option<Value>, Failure> {
        match self {
            Self::Daemon(socket) => {
                Ok(Some(control::ask(socket, &Request::JournalSalvage { generation })?)
                    .filter(|v| !v.is_null()))
            }
            Self::Own { journal, .. } => loop {
                break match journal.salvage(generation, look) {
                    Ok(repaired) => Ok(Some(serde_json::to_value(repaired).map_err(Failure::defect)?)),
                    Err(SalvageError::NotDamaged(_)) => Ok(None),
                    Err(SalvageError::Child(error)) => {
                        tracing::warn!(generation, %error, "once more");
                        continue;
                    }
                    Err(error) => Err(Failure::unavailable(error)),
                };
            },
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
    let all = facts.generations.len();
    for (at, generation) in facts.generations.iter().map(|given| given.generation).enumerate() {
        let _working = output::Working::on(format!("reading generation {} of {all}", at + 1));
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

fn salvage(looker: &Looker, as_json: bool) -> Result<(), Failure> {
    let mut reports = Vec::new();
    for generation in looker.damaged()? {
        let _working = output::Working::on(format!("salvaging generation {generation}"));
        reports.extend(looker.salvage(generation, &mut || {})?);
    }
    if reports.is_empty() && !as_json {
        eprintln!("fogbeat: nothing waits to be salvaged");
        return Ok(());
    }
    show(&json!({ "salvaged": reports }), as_json)
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
