//! `fogbeat uplink`: the places that uplinks hold in the journal.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Common, Failure, Kind, offline, output, record, status};
use crate::audit::Act;
use crate::config::Config;
use crate::control::{self, Request};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the uplinks and how much waits for each, those that are gone from the configuration included
    #[command(after_help = "Example: fogbeat uplink list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give up the place of an uplink that is gone from the configuration; what only it waited for may be deleted
    #[command(after_help = "Example: fogbeat uplink forget old-cloud")]
    Forget { name: String },
}

/// By the configuration an uplink of this name has a place in the journal.
fn holds_place(config: &Config, name: &str) -> bool {
    config.uplinks.iter().any(|uplink| uplink.name() == name && uplink.carries_batches())
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let config = common.load()?;
    let daemon = status::daemon(&config.gateway.state_dir)?;
    match (command, daemon) {
        (Command::List { json }, Some(socket)) => show(&control::ask(&socket, &Request::UplinkList)?, *json),
        (Command::List { json }, None) => {
            let (_lock, journal) = offline::journal(&config)?;
            let configured = |name: &str| holds_place(&config, name);
            let (known, left): (Vec<_>, Vec<_>) =
                journal.uplinks().into_iter().partition(|uplink| configured(uplink.name()));
            let told = |uplinks: Vec<crate::journal::UplinkCursor>| -> Vec<Value> {
                let queued = |cursor| journal.backlog(cursor);
                uplinks
                    .iter()
                    .map(
                        |uplink| json!({ "name": uplink.name(), "queued_readings": queued(uplink.cursor()) }),
                    )
                    .collect()
            };
            show(&json!({ "uplinks": told(known), "left_behind": told(left) }), *json)
        }
        (Command::Forget { name }, Some(socket)) => {
            let answer = control::ask(&socket, &Request::UplinkForget { name: name.clone() })?;
            told_forgotten(name, answer.get("queued_readings").and_then(Value::as_u64).unwrap_or(0));
            Ok(())
        }
        (Command::Forget { name }, None) => {
            if holds_place(&config, name) {
                let error =
                    anyhow::anyhow!("uplink {name} is configured; take it out of the configuration first");
                return Err(Failure::new(Kind::Usage, error));
            }
            let (_lock, journal) = offline::journal(&config)?;
            let place = journal.uplinks().into_iter().find(|uplink| uplink.name() == name);
            let queued = place.map_or(0, |place| journal.backlog(place.cursor()));
            if !journal.forget_uplink(name).map_err(Failure::unavailable)? {
                let error =
                    anyhow::anyhow!("there is no uplink {name}; `fogbeat uplink list` shows those there are");
                return Err(Failure::new(Kind::Usage, error));
            }
            record::done(&config, |_| Act::UplinkForget { uplink: name.clone() });
            told_forgotten(name, queued);
            Ok(())
        }
    }
}

fn show(list: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json { output::print_json(list) } else { output::print(&output::outline(list)) }
}

fn told_forgotten(name: &str, queued: u64) {
    eprintln!("Uplink {name} is forgotten; {queued} readings were still waiting for it.");
}
