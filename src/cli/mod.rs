//! The command line: one file per subcommand.
//!
//! Promise: data goes to standard output, everything else to standard error; exit codes are those of [`exit`].

pub mod audit;
pub mod backup;
pub mod certificate;
pub mod check;
pub mod cloud;
pub mod completions;
pub mod device;
pub mod doctor;
pub mod enroll;
pub mod erase;
mod exit;
pub mod init;
pub mod journal;
pub mod key;
pub mod man;
mod offline;
mod output;
mod record;
pub mod restore;
pub mod scan;
pub mod status;
pub mod support_bundle;
pub mod uplink;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use exit::{Failure, Kind, Outcome, report, report_outcome, usage};

use crate::config::{self, Config, Problems};
use crate::demo;
use crate::telemetry::Format;

/// Edge gateway for heart-rate wearables: a reading that was acknowledged is on disk, arrives exactly accounted for,
/// and says truthfully when it was taken.
#[derive(Debug, Parser)]
#[command(name = "fogbeat", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 fine, 1 warnings only (doctor), 64 usage, 69 something needed is unavailable, 70 a defect of fogbeat, \
    78 configuration.\nExample: fogbeat run --config /etc/fogbeat/fogbeat.toml";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Read FILE in place of /etc/fogbeat/fogbeat.toml; the environment (FOGBEAT__SECTION__KEY) still comes on top
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines look on standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: Format,
    /// error, warn, info, debug, trace, or a filter such as info,fogbeat::forward=debug; wins over [log] level
    #[arg(long, global = true, env = "FOGBEAT_LOG", hide_env_values = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground until SIGTERM or SIGINT
    #[command(after_help = "SIGHUP reads the configuration again and says what needs a restart.\n\
        Example: fogbeat run --config gym.toml --log-level debug")]
    Run,
    /// Set a gateway up: asks a few questions, writes the configuration, makes the certificates
    #[command(after_help = init::AFTER_HELP)]
    Init(Box<init::Options>),
    /// Show the whole product at work on this machine, and prove that nothing is lost
    #[command(after_help = "Example: fogbeat demo --keep /tmp/fogbeat-demo")]
    Demo(demo::Options),
    /// Validate the configuration and print the settings in force
    #[command(after_help = "Example: fogbeat check --config gym.toml && systemctl restart fogbeat")]
    Check(check::Options),
    /// Show what the running gateway does
    #[command(after_help = "Example: fogbeat status --json | jq .uplinks")]
    Status(status::Options),
    /// Find out what is wrong with this gateway, and what to do about it
    #[command(after_help = doctor::AFTER_HELP)]
    Doctor(doctor::Options),
    /// Show which heart-rate wearables are on the air, and allow them
    #[command(after_help = scan::AFTER_HELP)]
    Scan(scan::Options),
    /// Manage the devices that may publish
    #[command(subcommand, after_help = "Example: fogbeat device add strap-17")]
    Device(device::Command),
    /// Manage the places that uplinks hold in the journal
    #[command(subcommand, after_help = "Example: fogbeat uplink list")]
    Uplink(uplink::Command),
    /// Look into the journal, salvage what is damaged, make keys
    #[command(subcommand, after_help = "Example: fogbeat journal inspect")]
    Journal(journal::Command),
    /// Get a certificate of its own for this gateway from AWS IoT, with a claim of the fleet
    #[command(after_help = enroll::AFTER_HELP)]
    Enroll(enroll::Options),
    /// The listener's own certificate, and the CA that devices need for it
    #[command(subcommand, after_help = "Example: fogbeat certificate show")]
    Certificate(certificate::Command),
    /// Write what makes this gateway into one file, to move it to new hardware
    #[command(after_help = backup::AFTER_HELP)]
    Backup(backup::Options),
    /// Make this machine the gateway that a backup was taken from
    #[command(after_help = restore::AFTER_HELP)]
    Restore(restore::Options),
    /// Remove a device from everything that this gateway keeps: journal, lake, login
    #[command(after_help = erase::AFTER_HELP)]
    Erase(erase::Options),
    /// Look into the record of who changed, exported or erased what
    #[command(subcommand, after_help = "Example: fogbeat audit show --device strap-17")]
    Audit(audit::Command),
    /// The cloud side: its template, what a gateway has to know of it, what it costs
    #[command(subcommand, after_help = "Example: fogbeat cloud cost --devices 40 --gateways 2")]
    Cloud(cloud::Command),
    /// Gather what is needed to find out what is wrong, with nobody's readings or names in it
    #[command(after_help = support_bundle::AFTER_HELP)]
    SupportBundle(support_bundle::Options),
    /// Print a completion script for a shell
    #[command(after_help = "Example: fogbeat completions bash > /etc/bash_completion.d/fogbeat")]
    Completions(completions::Options),
    /// Write the manual pages
    #[command(hide = true, after_help = "Example: fogbeat man target/man")]
    Man(man::Options),
}

impl Common {
    /// The configuration in force.
    pub fn load(&self) -> Result<Config, Failure> {
        Ok(self.read()?)
    }

    /// The configuration in force, or everything that is wrong with it.
    pub fn read(&self) -> Result<Config, Problems> {
        config::load(self.config.as_deref(), crate::source::judge)
    }

    /// The level in force: command line or `FOGBEAT_LOG`, then the configuration.
    pub fn level<'a>(&'a self, config: &'a Config) -> &'a str {
        self.log_level.as_deref().unwrap_or(&config.log.level)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_an_example() {
        fn walk(command: &clap::Command) {
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("Example: fogbeat"), "{} has no example", command.get_name());
            assert!(command.get_about().is_some(), "{} does not say what it does", command.get_name());
            command.get_subcommands().for_each(walk);
        }
        let command = Cli::command();
        command.clone().debug_assert();
        walk(&command);
    }
}
