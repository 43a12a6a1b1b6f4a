//! The quarantine: damaged things as they were found, for a look by a person, within a bound.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::journal::disk;

/// The directory's name, below the spool.
pub const QUARANTINE: &str = "quarantine";
/// Damaged copies of one small file that are kept.
const COPIES: u32 = 16;

/// The directory.
pub struct Shelf(PathBuf);

/// Number and revision of a generation's directory.
pub fn directory(name: &OsStr) -> Option<(u32, u32)> {
    let name = name.to_str()?.strip_prefix("gen-")?;
    match name.split_once(".r") {
        Some((number, revision)) => Some((number.parse().ok()?, revision.parse().ok()?)),
        None => Some((name.parse().ok()?, 0)),
    }
}

/// The generations whose directories lie in `dir`; none when it is not there.
///
/// # Errors
/// When it cannot be read.
pub fn directories(dir: &Path) -> io::Result<Vec<(u32, u32)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(directory(&entry.file_name()));
        }
    }
    Ok(found)
}

/// Moves a damaged file of the spool into quarantine, where it is kept for a while; one that is gone is no error.
///
/// # Errors
/// When it cannot be moved.
pub fn put_aside(spool: &Path, path: &Path) -> io::Result<()> {
    let shelf = spool.join(QUARANTINE);
    fs::create_dir_all(&shelf)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = (1..COPIES).map(|n| shelf.join(format!("{name}.{n}"))).find(|place| !place.exists());
    match fs::rename(path, free.unwrap_or_else(|| shelf.join(format!("{name}.{COPIES}")))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Shelf {
    pub fn of(spool: &Path) -> Self {
        Self(spool.join(QUARANTINE))
    }

    /// Real bytes.
    pub fn bytes(&self) -> u64 {
        disk::disk_usage(&self.0)
    }

    /// Removes the oldest until at most `most` bytes are left; what `needed` says of a generation stays in any case.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn trim(&self, most: u64, needed: impl Fn(u32) -> bool) -> io::Result<()> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut kept: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
        let mut sum = 0;
        for entry in entries.flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let Ok(meta) = entry.metadata() else { continue };
            let bytes = if meta.is_dir() { disk::disk_usage(&path) } else { meta.len() };
            sum += bytes;
            if generation_of(&name).is_none_or(|number| !needed(number)) {
                // A directory's time is that of its last change: when a file was made in it.
                kept.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), path, bytes));
            }
        }
        kept.sort();
        for (_, path, bytes) in kept {
            if sum <= most {
                break;
            }
            remove(&path)?;
            sum = sum.saturating_sub(bytes);
        }
        Ok(())
    }
}

/// The generation that an entry of any kind belongs to.
fn generation_of(name: &OsStr) -> Option<u32> {
    let digits = name.to_str()?.strip_prefix("gen-")?;
    digits.split('.').next()?.parse().ok()
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_what_is_needed_stays() {
        let spool = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(spool.path());
        shelf.trim(0, |_| false).unwrap();
        for number in [3, 1, 2] {
            let dir = spool.path().join(QUARANTINE).join(format!("gen-{number}.r{number}"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("db"), vec![7; 100_000]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let left = || {
            let mut left = directories(&spool.path().join(QUARANTINE)).unwrap();
            left.sort_unstable();
            left
        };
        shelf.trim(250_000, |_| false).unwrap();
        assert_eq!(left(), [(1, 1), (2, 2)], "3 was the oldest");
        shelf.trim(0, |number| number == 1).unwrap();
        assert_eq!(left(), [(1, 1)]);
        assert!(shelf.bytes() >= 100_000);
    }

    #[test]
    fn damaged_files_are_kept_and_bounded_in_number() {
        let spool = tempfile::tempdir().unwrap();
        let file = spool.path().join("manifest.json");
        put_aside(spool.path(), &file).unwrap();
        for n in 0..2 * COPIES {
            fs::write(&file, n.to_string()).unwrap();
            put_aside(spool.path(), &file).unwrap();
            assert!(!file.exists());
        }
        assert_eq!(fs::read_dir(spool.path().join(QUARANTINE)).unwrap().count(), COPIES as usize);
        assert_eq!(fs::read_to_string(spool.path().join(QUARANTINE).join("manifest.json.1")).unwrap(), "0");
    }
}
