//! `fogbeat device`: who may publish, and what uplinks call whom. A running gateway sees changes by itself.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Common, Failure, Kind, output, record};
use crate::audit::Act;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::privacy::{Names, Pseudonyms};
use crate::source::mqtt::users::{Listed, Store, UsersError};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a device and print its secret, once; it publishes below its own name
    #[command(after_help = "The device logs in with NAME as the user name and the secret as the password.\n\
        Example: fogbeat device add strap-17")]
    Add {
        name: String,
        /// A further topic filter it may publish to; can be given several times
        #[arg(long, value_name = "FILTER")]
        publish: Vec<String>,
        /// A topic filter it may subscribe to; can be given several times
        #[arg(long, value_name = "FILTER")]
        subscribe: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the devices and their pseudonyms; secrets are not kept and cannot be shown
    #[command(after_help = "Example: fogbeat device list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a device; its connections end within seconds
    #[command(after_help = "Example: fogbeat device remove strap-17")]
    Remove { name: String },
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let config = common.load()?;
    let state_dir = &config.gateway.state_dir;
    let store = Store::new(state_dir);
    match command {
        Command::Add { name, publish, subscribe, json } => {
            if !state_dir.is_dir() {
                let dir = state_dir.display();
                return Err(Failure::unavailable(anyhow::anyhow!(
                    "there is no state directory {dir} yet; start the gateway once, or name the right configuration \
                     with --config FILE"
                )));
            }
            let now = SystemClock::new(&config.clock, state_dir).now().wall_ms / 1000;
            let secret = store.add(name, publish, subscribe, now)?;
            record::done(&config, |scribe| Act::DeviceAdd {
                device: scribe.device(name),
                publish: publish.len(),
                subscribe: subscribe.len(),
            });
            if *json {
                return output::print_json(&json!({ "name": name, "secret": secret }));
            }
            eprintln!("Device {name} added. Its secret is not kept and cannot be shown again:");
            output::print(&format!("{secret}\n"))
        }
        Command::List { json } => {
            let devices = listed(&config, store.list()?)?;
            if !devices.is_empty() {
                record::done(&config, |_| Act::Access { what: "device_list", repeated: 0 });
            }
            if *json {
                return output::print_json(&devices);
            }
            output::print(&devices.iter().map(Row::line).collect::<String>())
        }
        Command::Remove { name } => {
            store.remove(name)?;
            record::done(&config, |scribe| Act::DeviceRemove { device: scribe.device(name) });
            eprintln!("Device {name} removed.");
            Ok(())
        }
    }
}

/// A device that may connect, or that an uplink was told a pseudonym for.
#[derive(Debug, serde::Serialize)]
struct Row {
    name: String,
    /// Seconds since the epoch; left out for one that was never added here (anonymous, external broker, recording).
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
    publish: Vec<String>,
    subscribe: Vec<String>,
    /// What uplinks call it, or called it under an earlier key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pseudonyms: Vec<String>,
}

impl Row {
    fn line(&self) -> String {
        let created = self.created.and_then(|created| OffsetDateTime::from_unix_timestamp(created).ok());
        let created = created.and_then(|time| time.format(&Rfc3339).ok());
        let created = created.map_or_else(|| "not added here".to_owned(), |time| format!("added {time}"));
        let grants =
            [("publish", &self.publish), ("subscribe", &self.subscribe), ("pseudonym", &self.pseudonyms)];
        let grants =
            grants.iter().flat_map(|(word, each)| each.iter().map(move |one| format!(" {word} {one}")));
        format!("{} {created}{}\n", self.name, grants.collect::<String>())
    }
}

/// The devices of the store and those with a pseudonym, by name.
fn listed(config: &Config, store: Vec<Listed>) -> Result<Vec<Row>, Failure> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let row = |name: &str| Row {
        name: name.to_owned(),
        created: None,
        publish: Vec::new(),
        subscribe: Vec::new(),
        pseudonyms: Vec::new(),
    };
    for device in store {
        let Listed { name, created, publish, subscribe } = device;
        rows.insert(name.clone(), Row { created: Some(created), publish, subscribe, ..row(&name) });
    }
    for known in Names::new(&config.gateway.state_dir).list().map_err(Failure::unavailable)? {
        rows.entry(known.device.clone())
            .or_insert_with(|| row(&known.device))
            .pseudonyms
            .push(known.pseudonym);
    }
    // What was noted down is enough where this user may not read the key.
    if let Ok(Some(pseudonyms)) = Pseudonyms::configured(config) {
        for row in rows.values_mut() {
            let pseudonym = pseudonyms.compute(&row.name);
            if !row.pseudonyms.contains(&pseudonym) {
                row.pseudonyms.push(pseudonym);
            }
        }
    }
    Ok(rows.into_values().collect())
}

impl From<UsersError> for Failure {
    fn from(error: UsersError) -> Self {
        let kind = match error {
            UsersError::Name(_) | UsersError::Filter(_) | UsersError::Exists(_) | UsersError::Unknown(_) => {
                Kind::Usage
            }
            UsersError::Io { .. } | UsersError::Damaged { .. } | UsersError::Random(_) => Kind::Unavailable,
        };
        Self::new(kind, error)
    }
}
