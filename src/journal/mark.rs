//! The mark: the last number of the head generation that was made durable, in a small file that is overwritten in place.
//!
//! After a crash, what the database holds is compared with it: a head that sled silently shortened is noticed. The mark
//! is written with every commit and synced every few seconds only, so it may lag behind; it never runs ahead.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::types::Seq;

const SYNC_EVERY: Duration = Duration::from_secs(10);

pub struct Mark {
    file: File,
    synced_at: Instant,
}

impl Mark {
    /// # Errors
    /// When the file cannot be opened or made.
    pub fn open(spool: &Path) -> io::Result<Self> {
        let path = spool.join("mark");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        Ok(Self { file, synced_at: Instant::now() })
    }

    /// First number after the last durable one, if the file holds a sound mark.
    pub fn read(&self) -> Option<Seq> {
        let mut bytes = [0u8; 12];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let [a, b, c, d, e, f, g, h, crc @ ..] = bytes;
        let seq = [a, b, c, d, e, f, g, h];
        (crc32c::crc32c(&seq) == u32::from_le_bytes(crc)).then(|| Seq(u64::from_le_bytes(seq)))
    }

    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, disk: &dyn Disk, next: Seq) -> io::Result<()> {
        let seq = next.0.to_le_bytes();
        let mut bytes = [0u8; 12];
        let (head, tail) = bytes.split_at_mut(8);
        head.copy_from_slice(&seq);
        tail.copy_from_slice(&crc32c::crc32c(&seq).to_le_bytes());
        self.file.write_all_at(&bytes, 0)?;
        if self.synced_at.elapsed() >= SYNC_EVERY {
            self.synced_at = Instant::now();
            disk.sync_data(&self.file)?;
        }
        Ok(())
    }
}
