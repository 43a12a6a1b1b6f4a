//! A gateway in one file, to move it to new hardware.
//!
//! The file is a tar archive (mode 0600): first `backup.json`, which says what else there is, where it belongs and its
//! SHA-256, then the contents. It holds the configuration, the files that the configuration names (certificates, keys,
//! passwords), the service's credentials, and of the state directory what makes the gateway the one it is ([`STATE`]).
//! It holds secrets; who has it can be this gateway.
//!
//! Not in it: readings and where the uplinks stand (the journal), and the record of who did what (`audit.jsonl`), which
//! belong to the machine. A restored gateway begins a journal of its own with a new spool name, so that no id ever has two
//! contents, also where the old machine goes on running.
//!
//! [`take`] looks at files that are replaced whole, so it works beside a running gateway. [`put_back`] checks the whole
//! file before it changes anything; one that was interrupted is repeated.

mod archive;
mod contents;
mod place;

use std::io;
use std::path::PathBuf;

pub use archive::{Archive, Entry, Origin, Owner};
pub use contents::take;
pub use place::{Restored, Target, put_back};

/// What of the state directory is moved.
pub const STATE: [&str; 11] = [
    "gateway-id",
    "gateway-id.copy",
    "devices.toml",
    "bluetooth.toml",
    "pseudonyms.jsonl",
    "remote.json",
    "iot/certificate.pem",
    "iot/private.key",
    "tls/ca.key",
    "tls/ca.pem",
    "tls/server.pem",
];

/// Where the service's secrets are, by the unit's `LoadCredential=`.
pub const CREDENTIALS: [&str; 3] = [
    "/etc/credstore/fogbeat.journal-key",
    "/etc/credstore/fogbeat.pseudonym-key",
    "/etc/credstore/fogbeat.aws",
];

/// Why a backup was not made, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path}: {source}{}", remedy(.source))]
    File { path: PathBuf, source: io::Error },
    #[error("this is no backup of fogbeat, or a damaged one ({0}); nothing was changed")]
    Damaged(String),
    #[error(
        "the backup is of format {0}, which a newer fogbeat has made: install that version; nothing was changed"
    )]
    Newer(u32),
    #[error(
        "{path} is there already and is another one; nothing was changed. --force replaces it (and keeps it as {})",
        crate::init::kept(.path).display()
    )]
    There { path: PathBuf },
    #[error(
        "the gateway in {dir} has {readings} in its journal, delivered or not; nothing was changed. Take them with `fogbeat \
         journal export` if they are needed; --force moves them aside"
    )]
    Readings { dir: PathBuf, readings: String },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run it as root (sudo)",
        io::ErrorKind::StorageFull => "; free some space on that disk and do it again",
        _ => "",
    }
}

fn failed(path: &std::path::Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path, source }
}
