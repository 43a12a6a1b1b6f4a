//! Asks a program of the system, with bounds on time and size.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What hangs is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// What `program` writes to its standard output, at most `most` bytes of it.
///
/// # Errors
/// When it is not there, fails with nothing to say, or takes too long.
pub fn ask(program: &str, args: &[&str], most: u64) -> Result<Vec<u8>, String> {
    let failed = |why: String| format!("{program} cannot be asked: {why}");
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let Some(output) = child.stdout.take() else { return Err(failed("it says nothing".into())) };
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error counts.
        let _ = output.take(most).read_to_end(&mut bytes);
        bytes
    });
    let begun = Instant::now();
    while !reader.is_finished() && begun.elapsed() < PATIENCE {
        std::thread::sleep(LOOK);
    }
    let late = !reader.is_finished();
    // It has said everything, or more than is wanted, or hangs.
    let _ = child.kill();
    let _ = child.wait();
    if late {
        return Err(failed(format!("no answer within {} s", PATIENCE.as_secs())));
    }
    reader.join().map_err(|_| failed("its answer was not read".into()))
}
