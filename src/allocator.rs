//! Keeps glibc's allocator from hoarding sled's buffers.
//!
//! sled allocates its 512 KiB log buffers on whichever thread comes along. glibc serves them from per-thread arenas once
//! it has seen a few of them come and go (its threshold for `mmap` adapts upwards), and what lies between them is never
//! given back: measured over a dozen generations, 43 MB stay resident where 14 MB are in use. A fixed threshold keeps
//! large buffers out of the arenas. glibc takes it from the environment of a process that starts, and nowhere else
//! without `unsafe`; so a daemon that was started without it replaces itself, once, by itself with it.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const VARIABLE: &str = "GLIBC_TUNABLES";
const TUNABLE: &str = "glibc.malloc.mmap_threshold";
/// glibc's own starting value, no longer adapted.
const THRESHOLD: &str = "131072";

/// Replaces this process by itself with the threshold in its environment. Returns when that is so already, or when it
/// cannot be done: then the daemon takes more memory, and nothing else changes.
pub fn settle() -> io::Result<()> {
    match wanted(env::var(VARIABLE).ok().as_deref()) {
        None => Ok(()),
        Some(tunables) => {
            let mut words = env::args_os();
            let name = words.next().unwrap_or_default();
            Err(Command::new(env::current_exe()?).arg0(name).args(words).env(VARIABLE, tunables).exec())
        }
    }
}

/// What the variable should be; `None` when it says something about the threshold already.
fn wanted(now: Option<&str>) -> Option<String> {
    match now {
        Some(set) if set.contains(TUNABLE) => None,
        Some(set) if !set.is_empty() => Some(format!("{set}:{TUNABLE}={THRESHOLD}")),
        _ => Some(format!("{TUNABLE}={THRESHOLD}")),
    }
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn it_happens_once_and_leaves_what_the_operator_set() {
        let first = wanted(None).unwrap();
        assert_eq!(wanted(Some(&first)), None);
        assert_eq!(wanted(Some("glibc.malloc.mmap_threshold=1")), None);
        let both = wanted(Some("glibc.malloc.arena_max=1")).unwrap();
        assert_eq!(both, "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=131072");
        assert_eq!(wanted(Some(&both)), None);
    }
}
