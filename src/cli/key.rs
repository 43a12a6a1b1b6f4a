//! `fogbeat journal key`: the keys that the journal is encrypted with.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Common, Failure, Kind, output};
use crate::journal::{KeyError, add_key};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a new key as the last line of a key file, which is made if it is not there; prints the key's id
    #[command(
        after_help = "The last key of the file encrypts what is new from the next start or SIGHUP on; the others \
        keep old readings readable. Keep a copy of the file elsewhere: without it the journal cannot be read.\n\
        Example: fogbeat journal key new /etc/fogbeat/journal.keys"
    )]
    New {
        /// Default: journal.key_file of the configuration
        file: Option<PathBuf>,
    },
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let Command::New { file } = command;
    let path = match file {
        Some(path) => path.clone(),
        None => common.load()?.journal.key_file.ok_or_else(|| {
            let remedy = "which file? Name it, or set journal.key_file in the configuration";
            Failure::new(Kind::Usage, anyhow::anyhow!(remedy))
        })?,
    };
    let id = add_key(&path)?;
    eprintln!(
        "A new key is the last line of {}. Keep a copy of the file elsewhere; then restart the gateway or send it SIGHUP. \
         The file must belong to the gateway's user.",
        path.display()
    );
    output::print(&format!("{id}\n"))
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::new(Kind::Config, error)
    }
}
