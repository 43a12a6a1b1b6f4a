//! Which device a pseudonym stands for: `pseudonyms.jsonl` in the state directory, one line per pair.
//!
//! It stays on the gateway. Lines are added and synced as pseudonyms are first used, kept when the key changes (what was
//! delivered under the old one must stay readable for those on site), and removed when the device is erased. At
//! [`MOST_BYTES`] nothing more is added: somebody makes names up, and each can still be computed from name and key.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

const FILE: &str = "pseudonyms.jsonl";
/// Some 80,000 devices.
const MOST_BYTES: u64 = 8 << 20;

/// One pair.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Known {
    pub device: String,
    pub pseudonym: String,
}

/// The file.
pub struct Names {
    path: PathBuf,
    /// What is in it, once it was read. Held while it is written: one writer at a time.
    known: Mutex<Option<HashSet<Known>>>,
}

impl Names {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE), known: Mutex::new(None) }
    }

    /// All pairs, oldest first. A line that is cut off or damaged is left out. Blocking.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn list(&self) -> io::Result<Vec<Known>> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Writes a pair down unless it is known; on disk when it returns. Blocking.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn note(&self, device: &str, pseudonym: &str) -> io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match &mut *known {
            Some(known) => known,
            empty => empty.insert(self.list()?.into_iter().collect()),
        };
        let pair = Known { device: device.to_owned(), pseudonym: pseudonym.to_owned() };
        if known.contains(&pair) {
            return Ok(());
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() >= MOST_BYTES {
            return Ok(());
        }
        // A line that a power cut left without its end must not swallow this one: an empty line is left out.
        let line = format!("\n{}\n", serde_json::to_string(&pair).map_err(io::Error::other)?);
        file.write_all(line.as_bytes())?;
        crate::files::sync_data(&file)?;
        known.insert(pair);
        Ok(())
    }

    /// Removes a device's pairs and returns its pseudonyms. Blocking.
    ///
    /// # Errors
    /// When the file cannot be read or replaced.
    pub fn remove(&self, device: &str) -> io::Result<Vec<String>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, kept): (Vec<_>, Vec<_>) = self.list()?.into_iter().partition(|pair| pair.device == device);
        if !gone.is_empty() {
            let lines: Result<Vec<String>, _> = kept.iter().map(serde_json::to_string).collect();
            let mut text = lines.map_err(io::Error::other)?.join("\n");
            text.push('\n');
            crate::files::replace(&self.path, text.as_bytes())?;
        }
        *known = None;
        Ok(gone.into_iter().map(|pair| pair.pseudonym).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_kept_once_survive_a_torn_line_and_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::new(dir.path());
        names.note("strap-1", "p-a").unwrap();
        names.note("strap-1", "p-a").unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, format!("{}{{\"device\":\"str", fs::read_to_string(&path).unwrap())).unwrap();
        let names = Names::new(dir.path());
        names.note("strap-2", "p-b").unwrap();
        names.note("strap-1", "p-c").unwrap();
        let list: Vec<_> = names.list().unwrap().into_iter().map(|pair| pair.pseudonym).collect();
        assert_eq!(list, ["p-a", "p-b", "p-c"]);
        assert_eq!(names.remove("strap-1").unwrap(), ["p-a", "p-c"]);
        assert!(!fs::read_to_string(&path).unwrap().contains("strap-1"));
        assert_eq!(names.list().unwrap().len(), 1);
        names.note("strap-1", "p-a").unwrap();
        assert_eq!(names.list().unwrap().len(), 2);
    }
}
