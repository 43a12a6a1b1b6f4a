//! `fogbeat restore`

use std::fs::File;
use std::path::PathBuf;

use super::{Common, Failure, backup, record};
use crate::audit::Act;
use crate::backup::{Archive, BackupError, Target, put_back};
use crate::config::DEFAULT_FILE;
use crate::state::StateDir;

pub const AFTER_HELP: &str = "The gateway has to be stopped. Configuration, devices, certificates and keys become those of the \
    backup; the journal begins anew under another spool name, so that no id is ever used twice. A gateway that has readings, \
    and files that were edited here, are left alone without --force.\n\
    Two gateways of one name are two that nobody can tell apart: switch the old one off.\n\
    Example: fogbeat restore gym-12.tar";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What `fogbeat backup` wrote; - for standard input
    file: PathBuf,
    /// Moves readings that are here aside, and keeps files that are replaced with .old at their end
    #[arg(long)]
    force: bool,
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let archive = if options.file.as_os_str() == "-" {
        Archive::read(std::io::stdin().lock())?
    } else {
        let opened = File::open(&options.file);
        Archive::read(opened.map_err(|source| BackupError::File { path: options.file.clone(), source })?)?
    };
    let text =
        archive.configuration().ok_or_else(|| BackupError::Damaged("it has no configuration".to_owned()))?;
    let config = backup::configured(text)?;
    let state = StateDir::open(&config.gateway.state_dir)?;
    let place = common.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let target = Target { file: &place, config: &config, state: &state, force: options.force };
    let restored = put_back(&archive, &target)?;
    record::done(&config, |_| Act::Restore { files: restored.files });
    let name = archive.gateway.as_deref().unwrap_or("a gateway without a name yet");
    eprintln!("{} files restored: this is {name} now.", restored.files);
    for path in &restored.aside {
        eprintln!("What was here before is in {}: remove it when nobody needs it.", path.display());
    }
    let start = match common.config {
        None => "sudo systemctl start fogbeat".to_owned(),
        Some(_) => format!("fogbeat run --config {}", place.display()),
    };
    eprintln!("Switch the old one off for good, then: {start}");
    Ok(())
}
