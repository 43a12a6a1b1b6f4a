//! The command line's side of the socket: blocking, one question.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{AnswerEnvelope, Envelope, Refusal, Request, VERSION, socket_path};
use crate::config::Config;
use crate::state;

/// A daemon that works answers at once; one that is stuck must not hold up a script.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reading a whole generation takes a worn card a while.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// Rewriting a journal and a lake.
const LONGEST_PATIENCE: Duration = Duration::from_secs(6 * 3600);
/// A status document with thousands of devices is a few megabytes.
const LONGEST_ANSWER: u64 = 16 << 20;

/// Where the service of the package answers those who may ask it, but may not look into its state directory.
const SERVICE: &str = "/run/fogbeat/fogbeat.sock";

/// Where the daemon that works in `state_dir` answers; `None`: there is no daemon.
///
/// # Errors
/// When the state directory cannot be looked into.
pub fn find(state_dir: &Path) -> io::Result<Option<PathBuf>> {
    match state::owner(state_dir) {
        Ok(owner) => Ok(owner.map(|owner| owner.socket.unwrap_or_else(|| socket_path(state_dir)))),
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                && state_dir == Config::default().gateway.state_dir
                && Path::new(SERVICE).exists() =>
        {
            Ok(Some(PathBuf::from(SERVICE)))
        }
        Err(error) => Err(error),
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "the daemon cannot be reached at {path} ({source}); is it running, and may this user ask it (try sudo)?"
    )]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the daemon at {path} gave an answer that is not understood: {why}")]
    Garbled { path: PathBuf, why: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks the daemon behind the socket at `path`. Blocks, at most some seconds (minutes where files are read through).
pub fn ask(path: &Path, request: &Request) -> Result<serde_json::Value, AskError> {
    let patience = match request {
        Request::JournalVerify { .. } | Request::JournalSalvage { .. } => LONG_PATIENCE,
        Request::Erase(_) => LONGEST_PATIENCE,
        _ => PATIENCE,
    };
    ask_within(path, request, patience)
}

/// As [`ask`], waiting for the answer for at most `patience`.
pub fn ask_within(path: &Path, request: &Request, patience: Duration) -> Result<serde_json::Value, AskError> {
    let garbled = |why: String| AskError::Garbled { path: path.to_owned(), why };
    let line = exchange(path, request, patience)
        .map_err(|source| AskError::Unreachable { path: path.to_owned(), source })?;
    let answer: AnswerEnvelope = serde_json::from_slice(&line).map_err(|error| garbled(error.to_string()))?;
    match answer {
        AnswerEnvelope { v: VERSION, ok: Some(value), .. } => Ok(value),
        AnswerEnvelope { error: Some(refusal), .. } => Err(refusal.into()),
        AnswerEnvelope { v, .. } => Err(garbled(format!("version {v}, nothing in it"))),
    }
}

fn exchange(path: &Path, request: &Request, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(&Envelope { v: VERSION, request: request.clone() })?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_until(b'\n', &mut line)?;
    Ok(line)
}
