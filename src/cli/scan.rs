//! `fogbeat scan`: who is on the air, and whom to allow.

mod air;
mod table;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::{Common, Failure, Kind, output, record};
use crate::audit::Act;
use crate::config::{BleDevice, Config};
use crate::control::{self, Request};
use crate::source::bluetooth::{AllowError, Allowed, Sight};
use crate::state::StateDir;
use air::Air;

/// How often the table is drawn anew.
const EVERY: Duration = Duration::from_secs(1);
/// A wearable that is to be allowed is waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Allow the wearable that the table shows under this id (Polar id, address or name), from now on
    #[arg(long, value_name = "ID", conflicts_with = "forget")]
    allow: Option<String>,
    /// What the allowed wearable is called on every line
    #[arg(long, value_name = "NAME", requires = "allow")]
    alias: Option<String>,
    /// Who gets a connection when there are too few: 1 first
    #[arg(long, value_name = "N", requires = "allow", default_value_t = 1)]
    priority: u8,
    /// Pair with the allowed wearable before use
    #[arg(long, requires = "allow")]
    pair: bool,
    /// Take back an --allow; ID is its alias, Polar id, address or name
    #[arg(long, value_name = "ID")]
    forget: Option<String>,
    /// End after this time; default: when interrupted
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// Print JSON lines, as in a pipe
    #[arg(long)]
    json: bool,
}

pub const AFTER_HELP: &str = "Shows strangers only while it runs, and keeps none. In a pipe: a JSON line for each \
    wearable whenever something about it changes.\nExample: fogbeat scan --allow 75087320 --alias bike-12";

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    if let Some(id) = &options.forget {
        return forget(&config, id);
    }
    let mut air = Air::open(&config)?;
    let result = match &options.allow {
        Some(id) => allow(&config, &mut air, id, options),
        None => watch(&mut air, options),
    };
    air.close();
    result
}

fn watch(air: &mut Air<'_>, options: &Options) -> Result<(), Failure> {
    let end = options.time.map(|time| Instant::now() + time);
    let terminal = io::stdout().is_terminal() && !options.json;
    let mut screen = table::Screen::default();
    let mut lines = table::Lines::default();
    loop {
        let rows = air.look(EVERY)?;
        let text =
            if terminal { screen.draw(&rows, console::Term::stdout().size()) } else { lines.changed(&rows) };
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader that went away (`| head`) has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.map_err(Failure::unavailable)?,
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
    }
}

fn allow(config: &Config, air: &mut Air<'_>, id: &str, options: &Options) -> Result<(), Failure> {
    let row = find(air, id)?;
    let Some(entry) = row.entry() else {
        let message =
            format!("{id} has an address that changes and no name: nothing would tell it from others");
        return Err(Failure::unavailable(anyhow::anyhow!(message)));
    };
    let device =
        BleDevice { alias: options.alias.clone(), priority: options.priority, pair: options.pair, ..entry };
    match air.daemon() {
        Some(socket) => drop(control::ask(socket, &Request::BleAllow { device: device.clone() })?),
        None => {
            // Held while the file is changed: a gateway that starts reads it before or after.
            let state = StateDir::open(&config.gateway.state_dir)?;
            let listed = Allowed::new(state.path()).allow(&device, &config.ble.devices)?;
            record::done(config, |scribe| Act::BleAllow { device: scribe.device(&listed.name()) });
        }
    }
    let called = device.alias.as_deref().unwrap_or("its own name");
    eprintln!("{id} is allowed from now on and goes by {called}.");
    output::print_json(&device)
}

/// Waits until the wearable is heard.
fn find(air: &mut Air<'_>, id: &str) -> Result<Sight, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let rows = air.look(EVERY)?;
        let mut found: Vec<Sight> = rows.into_iter().filter(|row| row.goes_by(id)).collect();
        match (found.pop(), found.is_empty()) {
            (Some(row), true) => return Ok(row),
            (Some(_), false) => {
                let message =
                    format!("several wearables in reach are called {id:?}; name one by its address");
                return Err(Failure::new(Kind::Usage, anyhow::anyhow!(message)));
            }
            (None, _) if Instant::now() >= until => {
                let message = format!(
                    "{id:?} was not heard within {}; is it worn, and in reach? A wearable that is not there is listed by \
                     [[ble.device]] in the configuration",
                    humantime::format_duration(PATIENCE)
                );
                return Err(Failure::unavailable(anyhow::anyhow!(message)));
            }
            (None, _) => {}
        }
    }
}

fn forget(config: &Config, id: &str) -> Result<(), Failure> {
    match super::status::daemon(&config.gateway.state_dir)? {
        Some(socket) => drop(control::ask(&socket, &Request::BleForget { id: id.to_owned() })?),
        None => {
            let state = StateDir::open(&config.gateway.state_dir)?;
            let listed = Allowed::new(state.path()).forget(id)?;
            record::done(config, |scribe| Act::BleForget { device: scribe.device(&listed.name()) });
        }
    }
    eprintln!("{id} is allowed no more.");
    Ok(())
}

impl From<AllowError> for Failure {
    fn from(error: AllowError) -> Self {
        let kind = match error {
            AllowError::Io { .. } | AllowError::Damaged { .. } | AllowError::TooMany => Kind::Unavailable,
            _ => Kind::Usage,
        };
        Self::new(kind, error)
    }
}
