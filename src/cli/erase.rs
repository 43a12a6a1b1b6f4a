//! `fogbeat erase`: a running gateway does it; without one, the command locks the state directory and does.

use std::io::{self, BufRead, IsTerminal};

use serde_json::Value;

use super::{Common, Failure, Kind, offline, output, record, status};
use crate::audit::Who;
use crate::config::Config;
use crate::control::{self, Request};
use crate::privacy::Pseudonyms;
use crate::privacy::erase::{self, Place, Wish};

pub const AFTER_HELP: &str = "Its numbers become `gap` lines with the cause \"erased\", so that the account stays whole; damaged \
    generations in quarantine go whole. What was delivered to a bucket is not reached from here: the statements that remove \
    it there are printed.\nExample: fogbeat erase --device strap-17 --dry-run";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The name the device's readings are stored under (see `fogbeat device list`)
    #[arg(long, value_name = "NAME")]
    device: String,
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Let the device go on publishing: its next readings are new ones, of its next wearer
    #[arg(long)]
    keep_login: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    let wish =
        Wish { device: options.device.clone(), dry_run: options.dry_run, keep_login: options.keep_login };
    if !wish.dry_run && !options.yes {
        confirm(&wish.device)?;
    }
    let working = output::Working::on(format!("reading everything that is kept, for {}", wish.device));
    let report = match status::daemon(&config.gateway.state_dir)? {
        Some(socket) => control::ask(&socket, &Request::Erase(wish))?,
        None => offline(&config, &wish)?,
    };
    drop(working);
    if options.json { output::print_json(&report) } else { output::print(&shown(&report)) }
}

/// Asks at a terminal; a script has to say `--yes`.
fn confirm(device: &str) -> Result<(), Failure> {
    let refused = |what: String| Failure::new(Kind::Usage, anyhow::anyhow!(what));
    if !io::stdin().is_terminal() {
        return Err(refused("this cannot be undone: say --yes, or look first with --dry-run".to_owned()));
    }
    eprintln!("Everything of device {device} on this gateway will be removed. This cannot be undone.");
    eprint!("Type its name to go on: ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::unavailable)?;
    match answer.trim_end_matches('\n') == device {
        true => Ok(()),
        false => Err(refused("that was another name; nothing was removed".to_owned())),
    }
}

fn offline(config: &Config, wish: &Wish) -> Result<Value, Failure> {
    let (state, journal) = offline::journal(config)?;
    let gateway = state.gateway_id(config.gateway.id.as_deref())?;
    // Names are found by what was noted down; the key finds those as well that were never used.
    let pseudonyms = Pseudonyms::configured(config).map_err(Failure::unavailable)?;
    let place = Place {
        state_dir: state.path().to_owned(),
        gateway: &gateway,
        journal: &journal,
        uplinks: &[],
        lakes: &config.lakes(),
        pseudonyms: pseudonyms.as_ref(),
    };
    let scribe = record::scribe(config).map_err(Failure::unavailable)?;
    let report = erase::recorded(&place, wish, &scribe, &Who::me()).map_err(Failure::unavailable)?;
    serde_json::to_value(report).map_err(Failure::defect)
}

/// For people: what was removed, then the statements as they are.
fn shown(report: &Value) -> String {
    let mut facts = report.clone();
    let mut statements = Vec::new();
    if let Some(facts) = facts.as_object_mut() {
        for (key, what) in
            [("sql_iceberg", "An Iceberg table"), ("sql_objects", "The table over the delivered objects")]
        {
            if let Some(Value::String(sql)) = facts.remove(key) {
                statements.push(format!("\n-- {what} (Athena):\n{sql}"));
            }
        }
    }
    format!("{}{}", output::outline(&facts), statements.concat())
}
