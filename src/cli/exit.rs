//! Exit codes (those of sysexits.h) and the one report of a failure.

use std::fmt;
use std::process::ExitCode;

use crate::config::Problems;
use crate::control::AskError;
use crate::gateway::GatewayError;
use crate::journal::OpenError;
use crate::state::StateError;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage = 64,
    /// Something needed is not there: a port, a directory, a daemon.
    Unavailable = 69,
    /// A defect of fogbeat.
    Defect = 70,
    /// The configuration is wrong.
    Config = 78,
}

/// How a command that judges ended, where it did not fail itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Fine = 0,
    Warnings = 1,
    Errors = 69,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Self {
        Self { kind, error: error.into() }
    }

    pub fn unavailable(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Kind::Unavailable, error)
    }

    pub fn defect(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Kind::Defect, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::new(Kind::Config, problems)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::unavailable(error)
    }
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        let kind = match &error {
            GatewayError::Journal(OpenError::Keys(_)) => Kind::Config,
            error if error.is_defect() => Kind::Defect,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error)
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let kind = if matches!(error, AskError::Garbled { .. }) { Kind::Defect } else { Kind::Unavailable };
        Self::new(kind, error)
    }
}

/// Reports a failure on standard error, in one place.
pub fn report(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("fogbeat: {failure}");
            if failure.kind == Kind::Defect {
                eprintln!("fogbeat: this is a defect; what was acknowledged is on disk all the same");
            }
            ExitCode::from(failure.kind as u8)
        }
    }
}

/// The same for a command that judges.
pub fn report_outcome(done: Result<Outcome, Failure>) -> ExitCode {
    match done {
        Ok(outcome) => ExitCode::from(outcome as u8),
        Err(failure) => report(Err(failure)),
    }
}

/// clap's answers: help and version are no failures.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Standard output or error may be closed: there is nobody left to tell.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(Kind::Usage as u8) } else { ExitCode::SUCCESS }
}
