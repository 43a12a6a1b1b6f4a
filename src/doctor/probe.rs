//! Asking the system: programs with a time limit, small files, users. Nothing here waits for long, and nothing that is
//! missing is an error.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest answer of a program that is looked at.
const LONGEST: u64 = 256 * 1024;
/// Daemons' tools lie there, and an ordinary user's PATH does not have it.
const MORE_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// It went well: what it printed.
    Said(String),
    /// It failed: what it printed on standard error.
    Failed(String),
    /// There is no such program.
    Missing,
    /// It did not end in time, and was ended.
    Silent,
}

impl Ran {
    /// What it printed, if it went well.
    pub fn said(self) -> Option<String> {
        match self {
            Self::Said(text) => Some(text),
            _ => None,
        }
    }
}

/// Runs a program in the C locale, without input, for at most `limit`.
pub fn run(program: &str, arguments: &[&str], limit: Duration) -> Ran {
    let path = std::env::var("PATH").unwrap_or_default();
    let spawned = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:{MORE_PATH}"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else { return Ran::Missing };
    // Read aside, so that a full pipe stops nobody.
    let out = child.stdout.take().map(gather);
    let err = child.stderr.take().map(gather);
    let ended = wait(&mut child, limit);
    // A grandchild may keep a pipe open: what is there by then is what was said.
    let text = |thread: Option<std::sync::mpsc::Receiver<String>>| {
        thread.and_then(|text| text.recv_timeout(Duration::from_millis(500)).ok()).unwrap_or_default()
    };
    match ended {
        Some(true) => Ran::Said(text(out)),
        Some(false) => Ran::Failed(text(err).trim().to_owned()),
        None => Ran::Silent,
    }
}

fn gather(pipe: impl std::io::Read + Send + 'static) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error counts.
        let _ = pipe.take(LONGEST).read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// Whether it succeeded; `None`: it was ended.
fn wait(child: &mut Child, limit: Duration) -> Option<bool> {
    let end = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            _ => {
                // It has ended by itself, or is ended now.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// A small file's text without the last newline; `None`: it is not there, or not for us.
pub fn text(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

/// `KEY=value` lines.
pub fn properties(text: &str) -> std::collections::BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

/// Names of a directory's entries, in order; none if it is not there.
pub fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_speak_fail_are_missing_or_hang() {
        let limit = Duration::from_secs(5);
        assert_eq!(run("echo", &["a=b"], limit), Ran::Said("a=b\n".into()));
        assert_eq!(run("sh", &["-c", "echo no >&2; exit 3"], limit), Ran::Failed("no".into()));
        assert_eq!(run("/nonexistent/program", &[], limit), Ran::Missing);
        let started = Instant::now();
        assert_eq!(run("sleep", &["60"], Duration::from_millis(100)), Ran::Silent);
        assert!(started.elapsed() < Duration::from_secs(5));
        // More than a pipe holds.
        let said = run("sh", &["-c", "yes | head -c 200000"], limit).said().unwrap();
        assert_eq!(said.len(), 200_000);
    }
}
