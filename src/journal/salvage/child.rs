//! The process in which a damaged database is touched: sled may panic there, abort, spin or eat memory, and its death
//! costs nothing but what it had not written down yet.
//!
//! The child gets [`MEMORY`] of data, no core file, the lowest claim on the CPU, a deadline, and dies with its parent.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit, set_parent_process_death_signal};

use super::collect::{Job, collect};

/// Data of the child: one generation takes about 10 MB.
const MEMORY: u64 = 192 << 20;
/// CPU time for a generation of any size ...
const LEAST_TIME: Duration = Duration::from_secs(30);
/// ... and for each MiB of it, on the slowest board.
const TIME_PER_MIB: Duration = Duration::from_secs(1);
/// A busy machine or a failing card keeps it waiting for so many times as long.
const WAITS: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const NICENESS: i32 = 10;

/// The subcommand of `fogbeat journal` that is the child.
pub const WORKER: &str = "salvage-worker";

/// The program that is started as the child.
#[derive(Debug, Clone)]
pub struct Program(PathBuf);

/// How a child failed. What it had written down is used all the same.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("the child that salvages cannot be started: {0}")]
    Start(io::Error),
    #[error("the child that salvages ended with {0}")]
    Ended(std::process::ExitStatus),
    #[error("the child that salvages was stopped after {} s", .0.as_secs())]
    Deadline(Duration),
}

impl Default for Program {
    /// This very program, also while its file is replaced by an update.
    fn default() -> Self {
        Self(PathBuf::from("/proc/self/exe"))
    }
}

impl Program {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Runs the job to its end; `look` is called now and then. Blocking.
    ///
    /// # Errors
    /// When the child did not come to its end; the target holds what it had found until then.
    pub fn run(&self, job: &Job, look: &mut dyn FnMut()) -> Result<(), ChildError> {
        let size = super::super::disk::disk_usage(&job.source) >> 20;
        let patience = LEAST_TIME + TIME_PER_MIB * u32::try_from(size).unwrap_or(u32::MAX);
        let mut command = Command::new(&self.0);
        command.args(arguments(job)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.watch(command, patience, patience * WAITS, look)
    }

    fn watch(
        &self,
        mut command: Command,
        work: Duration,
        patience: Duration,
        look: &mut dyn FnMut(),
    ) -> Result<(), ChildError> {
        let started = Instant::now();
        let mut child = command.spawn().map_err(ChildError::Start)?;
        limit(&child, work);
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(ChildError::Ended(status)),
                Ok(None) if started.elapsed() < patience => {}
                _ => {
                    // It may be gone already.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(ChildError::Deadline(patience));
                }
            }
            look();
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Where a sandbox forbids it, the deadline still holds.
fn limit(child: &Child, work: Duration) {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
    for (resource, most) in
        [(Resource::Data, MEMORY), (Resource::Core, 0), (Resource::Cpu, work.as_secs() + 1)]
    {
        let limits = Rlimit { current: Some(most), maximum: Some(most) };
        if let Err(error) = prlimit(Some(pid), resource, limits) {
            tracing::debug!(%error, ?resource, "the child that salvages is not limited");
        }
    }
}

fn arguments(job: &Job) -> Vec<OsString> {
    let number = |number: u32| OsString::from(number.to_string());
    vec![
        "journal".into(),
        WORKER.into(),
        "--generation".into(),
        number(job.generation),
        "--count".into(),
        number(job.count),
        "--source".into(),
        job.source.clone().into(),
        "--target".into(),
        job.target.clone().into(),
    ]
}

/// What the child does.
///
/// # Errors
/// When the target cannot be written.
pub fn work(job: &Job) -> io::Result<()> {
    // Without these it does its work all the same.
    let _ = set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let _ = rustix::process::nice(NICENESS);
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    collect(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> Result<(), ChildError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
        Program::default().watch(command, LEAST_TIME, patience, &mut || {})
    }

    #[test]
    fn a_child_that_spins_is_stopped() {
        let started = Instant::now();
        let ended = shell("while :; do :; done", Duration::from_millis(300));
        assert!(matches!(ended, Err(ChildError::Deadline(_))), "{ended:?}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_child_that_dies_is_told() {
        assert!(matches!(shell("kill -ABRT $$", LEAST_TIME), Err(ChildError::Ended(_))));
        shell("exit 0", LEAST_TIME).unwrap();
    }

    #[test]
    fn a_child_cannot_eat_the_machine() {
        // `tail` keeps everything that has no end of line; the wait lets the limit be set before it begins.
        let greedy = format!("sleep 0.2; head -c {} /dev/zero | tail >/dev/null", 2 * MEMORY);
        assert!(matches!(shell(&greedy, LEAST_TIME), Err(ChildError::Ended(_))));
        let modest = format!("sleep 0.2; head -c {} /dev/zero | tail >/dev/null", MEMORY / 16);
        shell(&modest, LEAST_TIME).unwrap();
    }
}
