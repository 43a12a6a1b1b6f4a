//! `fogbeat device`: who may publish. A running gateway sees changes by itself.

use clap::Subcommand;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Common, Failure, Kind, output};
use crate::clock::{Clock, SystemClock};
use crate::source::mqtt::users::{Store, UsersError};

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
    /// List the devices; secrets are not kept and cannot be shown
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
            if *json {
                return output::print_json(&json!({ "name": name, "secret": secret }));
            }
            eprintln!("Device {name} added. Its secret is not kept and cannot be shown again:");
            output::print(&format!("{secret}\n"))
        }
        Command::List { json } => {
            let devices = store.list()?;
            if *json {
                return output::print_json(&devices);
            }
            let mut text = String::new();
            for device in devices {
                let created = OffsetDateTime::from_unix_timestamp(device.created).ok();
                let created = created.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
                let grants = [("publish", &device.publish), ("subscribe", &device.subscribe)];
                let grants = grants
                    .iter()
                    .flat_map(|(word, filters)| filters.iter().map(move |f| format!(" {word} {f}")));
                text.push_str(&format!("{} added {created}{}\n", device.name, grants.collect::<String>()));
            }
            output::print(&text)
        }
        Command::Remove { name } => {
            store.remove(name)?;
            eprintln!("Device {name} removed.");
            Ok(())
        }
    }
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
