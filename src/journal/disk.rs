//! The `Disk` seam: what the journal needs of the filesystem beside sled. Tests put faults here.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The calls on which durability rests.
pub trait Disk: Send + Sync + 'static {
    /// The file's bytes and its length are on the device when it returns, and so is everything that was synced before on
    /// its file system. `file` is open for writing and not empty.
    fn sync_data(&self, file: &File) -> io::Result<()>;
    /// fsync of a file or a directory by path.
    fn sync_path(&self, path: &Path) -> io::Result<()>;
    /// Puts `bytes` in `path`'s place, whole or not at all, on disk when it returns.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
}

/// The real one.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn sync_data(&self, file: &File) -> io::Result<()> {
        crate::files::sync_data(file)
    }

    fn sync_path(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        crate::files::replace(path, bytes)
    }
}

/// Bytes a directory tree really takes on its disk (blocks, not lengths). What vanishes meanwhile counts nothing.
pub fn disk_usage(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_usage(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
