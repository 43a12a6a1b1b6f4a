//! Damage to the journal's files while the gateway is down: what a worn card does.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::support::rng::Rng;

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Act {
    Flip,
    Zero,
    Truncate,
    Empty,
    Delete,
}

/// Directories of the generations, oldest first.
fn generations(state: &Path) -> Vec<PathBuf> {
    let number = |path: &PathBuf| -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_prefix("gen-")?;
        name.split('.').next()?.parse().ok()
    };
    let entries = fs::read_dir(state.join("spool/raw")).expect("the generations").flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    found.sort_by_key(number);
    found
}

/// Damages a generation that is sealed; the head when there is no other. Says what was done.
pub fn sealed(state: &Path, rng: &mut Rng) -> Option<String> {
    let mut all = generations(state);
    if all.len() > 1 {
        all.pop();
    }
    let at = rng.between(0, all.len() as u64) as usize;
    database(all.get(at)?, rng)
}

/// Damages the generation that was being written.
pub fn head(state: &Path, rng: &mut Rng) -> Option<String> {
    database(generations(state).last()?, rng)
}

/// The manifest and its copy: what was given is to be found out anew, and new readings get another spool's name.
pub fn manifests(state: &Path, rng: &mut Rng) -> Option<String> {
    let acts = [Act::Flip, Act::Truncate, Act::Empty, Act::Delete];
    let files = ["manifest.json", "manifest.copy"].map(|name| state.join("spool").join(name));
    let struck = files.iter().filter(|path| path.is_file());
    let struck: Vec<String> =
        struck.map(|path| strike(path, acts[rng.between(0, 4) as usize], rng)).collect();
    (!struck.is_empty()).then(|| struck.join(", "))
}

/// One of the small files beside the databases.
pub fn small_file(state: &Path, rng: &mut Rng) -> Option<String> {
    let spool = state.join("spool");
    let mut files = vec![spool.join("manifest.json"), spool.join("manifest.copy"), spool.join("mark")];
    files.extend(
        fs::read_dir(spool.join("cursors")).into_iter().flatten().flatten().map(|entry| entry.path()),
    );
    files.retain(|path| path.is_file());
    let path = files.get(rng.between(0, files.len() as u64) as usize)?.clone();
    let act = [Act::Flip, Act::Truncate, Act::Empty, Act::Delete][rng.between(0, 4) as usize];
    Some(strike(&path, act, rng))
}

fn database(dir: &Path, rng: &mut Rng) -> Option<String> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut others: Vec<PathBuf> = entries.filter(|path| path.is_file() && !path.ends_with("db")).collect();
    others.sort();
    // The values are in `db`; `conf` and the snapshots are sled's own.
    if rng.one_in(5) && !others.is_empty() {
        let path = others[rng.between(0, others.len() as u64) as usize].clone();
        let act = [Act::Flip, Act::Truncate, Act::Empty, Act::Delete][rng.between(0, 4) as usize];
        return Some(strike(&path, act, rng));
    }
    let act = [Act::Flip, Act::Flip, Act::Zero, Act::Truncate][rng.between(0, 4) as usize];
    Some(strike(&dir.join("db"), act, rng))
}

fn strike(path: &Path, act: Act, rng: &mut Rng) -> String {
    let length = fs::metadata(path).map_or(0, |meta| meta.len());
    // Most of a database is room that was never written to: aim at what holds something.
    let used = used(path).max(1);
    let at = rng.between(0, used);
    match act {
        Act::Flip => {
            let file = open(path);
            let mut byte = [0u8];
            if file.read_at(&mut byte, at).is_ok_and(|read| read == 1) {
                byte[0] ^= 1 << rng.between(0, 8);
                file.write_all_at(&byte, at).expect("flip a bit");
            }
        }
        Act::Zero => {
            let page = at / 4096 * 4096;
            let end = (page + 4096).min(length.max(page));
            open(path).write_all_at(&vec![0; (end - page) as usize], page).expect("zero a page");
        }
        Act::Truncate => open(path).set_len(at).expect("cut the file off"),
        Act::Empty => open(path).set_len(0).expect("empty the file"),
        Act::Delete => fs::remove_file(path).expect("delete the file"),
    }
    format!("{act:?} at {at} of {used} in {}", path.display())
}

/// First place behind which there are only zeros.
fn used(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("open a file to damage it")
}
