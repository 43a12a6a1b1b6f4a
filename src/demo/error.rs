//! Why the demo could not be shown to its end.

use std::path::PathBuf;
use std::process::ExitStatus;

use super::lake::LakeError;
use super::{EX_SOFTWARE, INTERRUPTED};
use crate::source::replay::LineProblem;

/// Wrong usage, and something needed is unavailable (sysexits `EX_USAGE`, `EX_UNAVAILABLE`).
const EX_USAGE: u8 = 64;
const EX_UNAVAILABLE: u8 = 69;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("{} is not empty; give --keep a new or empty folder", .0.display())]
    NotEmpty(PathBuf),
    #[error("cannot use {}: {source}; run the demo in a folder you may write to, or give one with --keep", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("no free port on 127.0.0.1: {0}")]
    Port(std::io::Error),
    #[error("cannot start the demo's tasks: {0}")]
    Runtime(std::io::Error),
    #[error("cannot run this program as a gateway: {0}")]
    Program(std::io::Error),
    #[error("the gateway's configuration cannot be written as TOML: {0}; this is a defect, please report it")]
    Settings(String),
    #[error(
        "the built-in recording {name} cannot be read (line {line}: {problem}); this is a defect, please report it"
    )]
    Recording { name: &'static str, line: usize, problem: LineProblem },
    #[error("the gateway ended unasked with {status}; its last words in {}:\n{last_words}", log.display())]
    Ended { status: ExitStatus, log: PathBuf, last_words: String },
    #[error("the gateway does not take connections; its last words in {}:\n{last_words}", log.display())]
    NotReady { log: PathBuf, last_words: String },
    #[error("the gateway does not end after SIGTERM; its last words in {}:\n{last_words}", log.display())]
    DoesNotStop { log: PathBuf, last_words: String },
    #[error("the delivered files cannot be read: {0}")]
    Lake(#[from] LakeError),
    #[error("a part of the demo ended early: {0}; this is a defect, please report it")]
    Task(String),
    #[error("interrupted; nothing was kept")]
    Interrupted,
}

impl DemoError {
    /// Exit code of the program.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotEmpty(_) => EX_USAGE,
            Self::Folder { .. } | Self::Port(_) | Self::Runtime(_) | Self::Program(_) => EX_UNAVAILABLE,
            Self::Interrupted => INTERRUPTED,
            Self::Settings(_)
            | Self::Recording { .. }
            | Self::Ended { .. }
            | Self::NotReady { .. }
            | Self::DoesNotStop { .. }
            | Self::Lake(_)
            | Self::Task(_) => EX_SOFTWARE,
        }
    }
}
