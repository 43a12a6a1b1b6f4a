//! Reads what was delivered, as a stranger would: gzip files of JSON lines. Uses nothing of the gateway's own code.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

/// The ending of a delivered file; anything else in the lake is not (yet) delivered.
const ENDING: &str = ".json.gz";

/// One delivered line, as far as the demo looks at it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Line {
    pub id: String,
    /// Left out for a reading.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub device: Option<String>,
    #[serde(default)]
    pub time: Option<String>,
    #[serde(default)]
    pub bpm: Option<u16>,
    #[serde(default)]
    pub rr_ms: Vec<f64>,
    #[serde(default)]
    pub contact: Option<bool>,
    #[serde(default)]
    pub generation: Option<u32>,
    #[serde(default)]
    pub count: Option<u32>,
    #[serde(default)]
    pub first_seq: Option<u64>,
    #[serde(default)]
    pub last_seq: Option<u64>,
}

impl Line {
    #[must_use]
    pub const fn is_reading(&self) -> bool {
        self.kind.is_none()
    }
}

/// Sizes of one delivered file, which is one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub readings: u64,
    pub packed_bytes: u64,
    pub text_bytes: u64,
}

/// Everything found in the lake so far.
#[derive(Debug, Clone, Default)]
pub struct Lake {
    pub lines: Vec<Line>,
    pub batches: Vec<Batch>,
    seen: HashSet<PathBuf>,
    readings: u64,
}

/// Why the lake cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}, line {line}, is not what was promised: {problem}")]
    Line { path: PathBuf, line: usize, problem: String },
}

impl Lake {
    /// Takes in the files that appeared since the last look. Blocking.
    ///
    /// # Errors
    /// A directory or file that cannot be read, or a line that is not JSON of the promised form.
    pub fn look(&mut self, root: &Path) -> Result<(), LakeError> {
        for path in files(root)? {
            if !self.seen.contains(&path) {
                self.take(&path)?;
                self.seen.insert(path);
            }
        }
        Ok(())
    }

    /// Readings found so far.
    #[must_use]
    pub const fn readings(&self) -> u64 {
        self.readings
    }

    fn take(&mut self, path: &Path) -> Result<(), LakeError> {
        let unreadable = |source| LakeError::Read { path: path.to_owned(), source };
        let packed = std::fs::read(path).map_err(unreadable)?;
        let mut text = String::new();
        MultiGzDecoder::new(packed.as_slice()).read_to_string(&mut text).map_err(unreadable)?;
        let mut readings = 0;
        let known = self.lines.len();
        for (number, line) in (1..).zip(text.lines()) {
            match serde_json::from_str::<Line>(line) {
                Ok(line) => {
                    readings += u64::from(line.is_reading());
                    self.lines.push(line);
                }
                Err(error) => {
                    self.lines.truncate(known);
                    return Err(LakeError::Line {
                        path: path.to_owned(),
                        line: number,
                        problem: error.to_string(),
                    });
                }
            }
        }
        let batch = Batch { readings, packed_bytes: packed.len() as u64, text_bytes: text.len() as u64 };
        self.batches.push(batch);
        self.readings += readings;
        Ok(())
    }
}

/// Delivered files below `root`, in the order of their paths.
fn files(root: &Path) -> Result<Vec<PathBuf>, LakeError> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let unreadable = |source| LakeError::Read { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if entry.file_type().map_err(unreadable)?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(ENDING) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes that files below `root` take on the disk, in whole blocks; what vanishes while it is looked at counts nothing.
#[must_use]
pub fn disk_bytes(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                // `st_blocks` counts 512 bytes whatever the file system's own block is.
                Ok(metadata) => bytes += metadata.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn deliver(root: &Path, name: &str, text: &str) {
        let folder = root.join("readings/dt=2026-11-23/hour=10");
        std::fs::create_dir_all(&folder).unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        std::fs::write(folder.join(name), encoder.finish().unwrap()).unwrap();
    }

    #[test]
    fn files_are_taken_once_and_unfinished_ones_are_left() {
        let root = tempfile::tempdir().unwrap();
        deliver(root.path(), "a.json.gz", "{\"id\":\"s-0\",\"bpm\":60}\n{\"id\":\"s-1\",\"type\":\"end\"}\n");
        deliver(root.path(), "b.json.gz.tmp", "not yet");
        let mut lake = Lake::default();
        lake.look(root.path()).unwrap();
        lake.look(root.path()).unwrap();
        assert_eq!((lake.readings(), lake.lines.len(), lake.batches.len()), (1, 2, 1));
        deliver(root.path(), "c.json.gz", "{\"id\":\"s-2\",\"bpm\":60}\n");
        lake.look(root.path()).unwrap();
        assert_eq!(lake.readings(), 2);
    }

    #[test]
    fn a_broken_line_is_named() {
        let root = tempfile::tempdir().unwrap();
        deliver(root.path(), "a.json.gz", "{\"id\":\"s-0\"}\n{\"bpm\":60}\n");
        let error = Lake::default().look(root.path()).unwrap_err().to_string();
        assert!(error.contains("a.json.gz, line 2"), "{error}");
    }

    #[test]
    fn disk_use_is_counted_in_blocks() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("small"), vec![1; 5000]).unwrap();
        assert!(disk_bytes(root.path()) >= 5000);
    }
}
