//! The promise, put to the test on the real binary: what was acknowledged is on disk, arrives exactly accounted for,
//! and costs no more memory after a day than after a minute. `tests/README.md` names the promise behind each test.
//!
//! Sizes come from the environment so that a developer's run takes about a minute and `tests/heavy.sh` takes it to the
//! figures the project promises. The tests load the machine and run one after another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure, and the figures go to standard output"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod ack_order;
mod days;
mod kill;
mod outage;
mod power_cut;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod trace;
mod verdicts;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test that loads the machine: their figures mean something only one at a time.
static MACHINE: Mutex<()> = Mutex::new(());

/// The machine for one test alone, and a directory on a real disk.
struct Bench {
    root: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(parent).expect("make the scratch directory");
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{name}-");
        builder.prefix(&prefix);
        // FOGBEAT_KEEP=1 leaves everything in place for a look.
        builder.disable_cleanup(std::env::var_os("FOGBEAT_KEEP").is_some());
        Self { root: builder.tempdir_in(parent).expect("make a scratch directory"), _alone: alone }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }
}
