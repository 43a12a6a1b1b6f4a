//! `fogbeat status`

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Common, Failure, output};
use crate::control::{self, Request};

/// Devices whose accounts are shown to people.
const MOST_DEVICES: usize = 12;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    let Some(socket) = daemon(&config.gateway.state_dir)? else {
        let dir = config.gateway.state_dir.display();
        return Err(Failure::unavailable(anyhow::anyhow!(
            "no gateway is running with the state directory {dir}; start one with `fogbeat run`, or give its \
             --config FILE"
        )));
    };
    let mut status = control::ask(&socket, &Request::Status)?;
    if options.json {
        return output::print_json(&status);
    }
    if let Some(devices) = status.pointer_mut("/accounts/run/devices") {
        shorten(devices);
    }
    if let Some(uplinks) = status.get_mut("uplinks").and_then(Value::as_array_mut) {
        uplinks.iter_mut().filter_map(|uplink| uplink.get_mut("failure")).for_each(tell);
    }
    output::print(&output::outline(&status))
}

/// What is wrong and what can be done about it, on one line; its label for metrics is for scripts.
fn tell(failure: &mut Value) {
    let part = |name: &str| failure.get(name).and_then(Value::as_str);
    let told = match (part("message"), part("remedy")) {
        (Some(message), Some(remedy)) => format!("{message}; {remedy}"),
        (Some(message), None) => format!("{message}; it is tried again by itself"),
        _ => return,
    };
    *failure = Value::String(told);
}

/// Many devices are for scripts: people are told how many there are.
fn shorten(devices: &mut Value) {
    let count = devices.as_object().map_or(0, serde_json::Map::len);
    if count > MOST_DEVICES {
        *devices = serde_json::json!(format!("{count} devices; --json shows each"));
    }
}

/// Where the daemon that works in `state_dir` answers; `None`: there is no daemon.
pub(super) fn daemon(state_dir: &Path) -> Result<Option<PathBuf>, Failure> {
    control::find(state_dir).map_err(|error| {
        let dir = state_dir.display();
        Failure::unavailable(anyhow::anyhow!(
            "the state directory {dir} cannot be read ({error}); try it with sudo, or as a member of the group fogbeat"
        ))
    })
}
