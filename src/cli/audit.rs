//! `fogbeat audit`: who did what to this gateway.

use std::collections::HashMap;
use std::path::Path;

use clap::Subcommand;
use serde_json::Value;

use super::{Common, Failure, Kind, output};
use crate::audit::{Audit, Audited};
use crate::privacy::Names;
use crate::source::mqtt::users::Store;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what is on record, oldest first; devices are named where they are still known
    #[command(
        after_help = "A device is on record under a keyed hash; --device finds it by its name, also after it was erased.\n\
        Example: fogbeat audit show --device strap-17"
    )]
    Show {
        /// Only what concerns this device
        #[arg(long, value_name = "NAME")]
        device: Option<String>,
        /// Print the lines as they are stored
        #[arg(long)]
        json: bool,
    },
    /// Check that no entry was changed or removed; exit code 69 when one was
    #[command(
        after_help = "The hash it prints must be one that the gateway has logged or shown in `fogbeat status`.\n\
        Example: fogbeat audit verify"
    )]
    Verify {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let config = common.load()?;
    let dir = &config.gateway.state_dir;
    let audited = Audited::read(dir).map_err(|error| {
        let dir = dir.display();
        Failure::unavailable(anyhow::anyhow!(
            "the audit log in {dir} cannot be read ({error}); try it as the gateway's user or with sudo"
        ))
    })?;
    match command {
        Command::Show { device, json } => show(dir, &audited, device.as_deref(), *json),
        Command::Verify { json } => {
            let verdict = serde_json::to_value(&audited.verdict).map_err(Failure::defect)?;
            if *json {
                output::print_json(&verdict)?
            } else {
                output::print(&output::outline(&verdict))?
            }
            match audited.verdict.sound {
                true => Ok(()),
                false => Err(Failure::new(Kind::Unavailable, anyhow::anyhow!("the audit log is not whole"))),
            }
        }
    }
}

fn show(dir: &Path, audited: &Audited, device: Option<&str>, as_json: bool) -> Result<(), Failure> {
    if audited.lines.is_empty() {
        return Ok(());
    }
    let audit = Audit::open(dir).map_err(Failure::unavailable)?;
    let tag = |name: &str| serde_json::to_value(audit.device(name)).ok();
    let wanted = device.map(tag);
    let mut names: HashMap<String, String> = HashMap::new();
    if !as_json {
        let users = Store::new(dir).list().unwrap_or_default().into_iter().map(|user| user.name);
        let mapped = Names::new(dir).list().unwrap_or_default().into_iter().map(|known| known.device);
        for name in users.chain(mapped).chain(device.map(str::to_owned)) {
            if let Some(Value::String(tag)) = tag(&name) {
                names.insert(tag, name);
            }
        }
    }
    let mut text = String::new();
    for line in &audited.lines {
        let entry: Value = serde_json::from_str(line).unwrap_or_default();
        if wanted.as_ref().is_some_and(|wanted| entry.get("device") != wanted.as_ref()) {
            continue;
        }
        text.push_str(&if as_json { line.clone() } else { sentence(&entry, &names) });
        text.push('\n');
    }
    output::print(&text)
}

/// One entry on one line: when, who, what, how it ended.
fn sentence(entry: &Value, names: &HashMap<String, String>) -> String {
    let field = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let who = entry.get("who");
    let uid = who.and_then(|who| who.get("uid")).and_then(Value::as_u64).unwrap_or_default();
    let user = who.and_then(|who| who.get("name")).and_then(Value::as_str);
    let user = user.map_or_else(|| format!("uid {uid}"), str::to_owned);
    let login = who.and_then(|who| who.get("login_uid")).and_then(Value::as_u64);
    let login = login.map(|login| format!(" (logged in as uid {login})")).unwrap_or_default();
    let known = ["n", "prev", "time", "time_quality", "boot", "uptime_ms", "who", "act", "outcome"];
    let mut facts = String::new();
    for (key, value) in
        entry.as_object().into_iter().flatten().filter(|(key, _)| !known.contains(&key.as_str()))
    {
        let shown = match value {
            Value::String(text) => match names.get(text) {
                Some(name) => format!("{text} ({name})"),
                None => text.clone(),
            },
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        facts.push_str(&format!(" {key}={shown}"));
    }
    let guess = if field("time_quality").is_empty() { "" } else { " (clock not synchronised)" };
    format!("{}{guess} {user}{login}: {}{facts}, {}", field("time"), field("act"), field("outcome"))
}
