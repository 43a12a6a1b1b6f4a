//! The ballast: a file that only takes space, so that there is something to give up when the disk is full.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

const NAME: &str = "ballast";
/// Written at a time where blocks cannot be had without writing them.
const CHUNK: usize = 64 << 10;

/// The file in its spool, whether it is there or not.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub fn new(spool: &Path) -> Self {
        Self { path: spool.join(NAME) }
    }

    /// Real bytes it takes now.
    pub fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |meta| meta.blocks() * 512)
    }

    /// Gives its space back.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn release(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes it `size` bytes long, in real blocks.
    ///
    /// # Errors
    /// When there is no space for it; none is taken then.
    pub fn make(&self, size: u64) -> io::Result<()> {
        self.fill(size).inspect_err(|_| {
            // What was taken is given back; if that fails too, the next look finds it.
            let _ = self.release();
        })
    }

    fn fill(&self, size: u64) -> io::Result<()> {
        self.release()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, size) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; CHUNK];
        let mut left = size;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            file.write_all(zeros.get(..now).unwrap_or(&zeros))?;
            left -= now as u64;
        }
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_real_blocks_and_gives_them_back() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path());
        assert_eq!(ballast.bytes(), 0);
        ballast.release().unwrap();
        ballast.make(3 << 20).unwrap();
        assert!(ballast.bytes() >= 3 << 20);
        ballast.make(1 << 20).unwrap();
        assert!((1 << 20..2 << 20).contains(&ballast.bytes()));
        ballast.release().unwrap();
        assert_eq!(ballast.bytes(), 0);
    }
}
