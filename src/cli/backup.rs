//! `fogbeat backup`

use std::io::Write as _;
use std::path::PathBuf;

use super::{Common, Failure, Kind, record};
use crate::audit::Act;
use crate::backup::{BackupError, take};
use crate::config::{self, DEFAULT_FILE};
use crate::files::{self, Access};

pub const AFTER_HELP: &str = "The file holds SECRETS: the CA's and the gateway's private keys, passwords, hashes of devices' \
    secrets, names behind pseudonyms. Whoever has it can be this gateway: keep it as you keep passwords, or encrypt it: \
    sudo fogbeat backup - | age -p > gym-12.tar.age\n\
    Not in it: readings (let them be delivered, or take them with `fogbeat journal export`), the lake, and the audit log, \
    which stays with this machine. It may be taken while the gateway runs.\n\
    Example: fogbeat backup gym-12.tar";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The file to be written (mode 0600); - for standard output
    file: PathBuf,
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    let path = common.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        // Everything may come from the environment, or be at its default.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && common.config.is_none() => {
            String::new()
        }
        Err(source) => return Err(BackupError::File { path, source }.into()),
    };
    if std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("FOGBEAT__")) {
        eprintln!("fogbeat: settings from the environment (FOGBEAT__..) are not in the backup");
    }
    let (archive, missing) = take(&text, &config, common.config.is_none())?;
    for path in missing {
        eprintln!(
            "fogbeat: {} is named in the configuration and not there: it is not in the backup",
            path.display()
        );
    }
    // Before it is out of our hands.
    let files = archive.entries.len();
    record::done(&config, |_| Act::Backup { files });
    let bytes = archive.write().map(zeroize::Zeroizing::new).map_err(Failure::defect)?;
    if options.file.as_os_str() == "-" {
        let mut out = std::io::stdout().lock();
        return out.write_all(&bytes).and_then(|()| out.flush()).map_err(Failure::unavailable);
    }
    let written = files::replace_with(&options.file, &bytes, Access { mode: 0o600, owner: None });
    written.map_err(|source| BackupError::File { path: options.file.clone(), source })?;
    eprintln!(
        "{}: {files} files of {}. It holds secrets: keep it where only you can read it.",
        options.file.display(),
        archive.gateway.as_deref().unwrap_or("a gateway that has not run yet")
    );
    Ok(())
}

/// The configuration that a backup brings, as it will be in force here.
pub(super) fn configured(text: &str) -> Result<config::Config, Failure> {
    config::parse("the backup's configuration", text, crate::source::judge).map_err(Failure::from)
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let kind = match error {
            BackupError::There { .. } | BackupError::Readings { .. } => Kind::Usage,
            BackupError::File { .. } | BackupError::Damaged(_) | BackupError::Newer(_) => Kind::Unavailable,
        };
        Self::new(kind, error)
    }
}
