//! The fence around sled: its panics are errors, and an open that does not come to its end is given up.
//!
//! An open is judged by what it worked, not by what it waited: on a starved machine or a slow card a sound database
//! takes long, on a damaged one sled may spin for ever.

use std::fs;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::panics;

/// Longest that an open may work, in CPU time of its thread: a generation of 16 MB takes 0.1 s here.
const WORK: Duration = Duration::from_secs(6);
/// Longest open that is waited for, work or not.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What sled did instead.
#[derive(Debug)]
pub enum Fenced {
    Sled(sled::Error),
    Panicked(String),
    Deadline {
        waited: Duration,
        worked: Duration,
    },
    /// There was no thread for it.
    Start(io::Error),
}

/// Runs a sled call; a panic inside it becomes an error.
pub fn fenced<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Fenced> {
    panics::caught(call).map_err(Fenced::Panicked)?.map_err(Fenced::Sled)
}

/// As [`fenced`], in a thread of its own, which is left alone when it does not come to its end.
pub fn patiently<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, sled::Error> + Send + 'static,
) -> Result<T, Fenced> {
    within(WORK, DEADLINE, call)
}

fn within<T: Send + 'static>(
    work: Duration,
    deadline: Duration,
    call: impl FnOnce() -> Result<T, sled::Error> + Send + 'static,
) -> Result<T, Fenced> {
    let (sender, receiver) = sync_channel(1);
    let (namer, named) = sync_channel(1);
    let began = Instant::now();
    std::thread::Builder::new()
        .name("journal-open".into())
        .spawn(move || {
            let _ = namer.send(rustix::thread::gettid());
            let _ = sender.send(fenced(call));
        })
        .map_err(Fenced::Start)?;
    let mut thread = None;
    loop {
        match receiver.recv_timeout(LOOK_EVERY) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => return Err(Fenced::Panicked("no message".into())),
            Err(RecvTimeoutError::Timeout) => {}
        }
        thread = thread.or_else(|| named.try_recv().ok());
        let waited = began.elapsed();
        // Before the thread runs it has not worked; where the kernel does not tell, it always has.
        let worked = thread.map_or(Duration::ZERO, |thread| cpu_time(thread).unwrap_or(waited));
        if worked >= work || waited >= deadline {
            return Err(Fenced::Deadline { waited, worked });
        }
    }
}

/// CPU time of a thread of this process: fields 14 and 15 of its `stat` (proc(5)), in clock ticks.
fn cpu_time(thread: Pid) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", thread.as_raw_nonzero())).ok()?;
    // The name before may hold anything; the third field comes next.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_ascii_whitespace().skip(11);
    let ticks: u64 = times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn waiting_is_no_work() {
        let slept = within(SHORT, LONG, || {
            std::thread::sleep(4 * SHORT);
            Ok(7)
        });
        assert!(matches!(slept, Ok(7)), "{slept:?}");
    }

    #[test]
    fn a_call_that_spins_is_given_up() {
        let (stop, stopped) = sync_channel::<()>(0);
        let spun = within(SHORT, LONG, move || {
            while !matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {}
            Ok(())
        });
        assert!(matches!(spun, Err(Fenced::Deadline { worked, .. }) if worked >= SHORT), "{spun:?}");
        drop(stop);
    }

    #[test]
    fn a_call_that_hangs_is_given_up() {
        let (stop, stopped) = sync_channel::<()>(0);
        let hung = within(LONG, SHORT, move || {
            let _ = stopped.recv();
            Ok(())
        });
        assert!(matches!(hung, Err(Fenced::Deadline { .. })), "{hung:?}");
        drop(stop);
    }

    #[test]
    fn a_panic_is_an_error() {
        let panicked = within::<()>(LONG, LONG, || panic!("at the disco"));
        assert!(matches!(panicked, Err(Fenced::Panicked(what)) if what == "at the disco"));
    }
}
