//! The machine for one test alone: tests that load it or measure times mean something only one at a time.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

static MACHINE: Mutex<()> = Mutex::new(());

/// The machine, and a directory on a real disk. `FOGBEAT_KEEP=1` leaves everything in place for a look.
pub struct Bench {
    root: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    pub fn new(name: &str) -> Self {
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(parent).expect("make the scratch directory");
        let root = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .disable_cleanup(std::env::var_os("FOGBEAT_KEEP").is_some())
            .tempdir_in(parent)
            .expect("make a scratch directory");
        Self { root, _alone: alone }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }
}
