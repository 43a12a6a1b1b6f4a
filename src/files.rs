//! Files that are on disk when somebody says so; small ones that are replaced whole, and whose damage is noticed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// fdatasync, and the proof that it counted: what was written to `file`, which is open for writing and not empty, is on
/// the device when this returns. Blocking.
///
/// # Errors
/// What the file system says.
pub fn sync_data(file: &File) -> io::Result<()> {
    file.sync_data()?;
    prove_sync(file)
}

/// Proves that syncs on `file`'s file system counted, this file's and all before it. `file` is open for writing and not
/// empty.
///
/// A success of fsync alone is none when the file system meets an error at that moment: ext4 gives its journal up, which
/// throws away what was not committed, and for the milliseconds until it has marked itself, fsync finds nothing left to
/// commit and returns 0 (Linux 6.18; measured: of 60 tries to break ext4 under a writer that syncs each write, 5 lost
/// one). Where the mark is the read-only flag, as with f2fs and older ext4, fsync returns 0 for good. A change of
/// metadata is refused from the moment the journal is given up, and that is never taken back: one that is accepted
/// after the sync proves it. Allocating the first byte, which is there already, is such a change and costs some
/// microseconds.
///
/// # Errors
/// What the file system says.
pub fn prove_sync(file: &File) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, 1)) {
        // A full disk has taken the change before it saw that it is full; what cannot allocate has no such journal.
        Ok(()) | Err(Errno::NOSPC | Errno::DQUOT | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Puts `bytes` in `path`'s place, whole or not at all, on disk when it returns. Mode 0600; made by root, the file
/// belongs to its directory's owner, so that a daemon of another user can read what a command wrote. Blocking.
///
/// # Errors
/// What the file system says; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let fresh = directory.join(name);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Never an existing file: that could be a link to somewhere else.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let directory = File::open(directory)?;
    let owner = directory.metadata()?;
    if rustix::process::geteuid().is_root() && owner.uid() != 0 {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    directory.sync_all()?;
    prove_sync(&file)
}

/// The text with a last line that holds its sum: JSON stays JSON (lines of it).
pub fn with_sum(mut text: Vec<u8>) -> Vec<u8> {
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    let sum = crc32c::crc32c(&text);
    text.extend_from_slice(format!("{SUM}{sum:08x}\"}}\n").as_bytes());
    text
}

/// The text that [`with_sum`] was given. One without a sum, as older versions wrote it, is taken as it is.
///
/// # Errors
/// When the sum does not fit: the file is damaged.
pub fn without_sum(bytes: &[u8]) -> Result<&[u8], SumError> {
    let length = SUM.len() + 11;
    let Some((text, last)) = bytes.len().checked_sub(length).and_then(|at| bytes.split_at_checked(at)) else {
        return Ok(bytes);
    };
    if !last.starts_with(SUM.as_bytes()) {
        return Ok(bytes);
    }
    let expected = format!("{SUM}{:08x}\"}}\n", crc32c::crc32c(text));
    if last == expected.as_bytes() { Ok(text) } else { Err(SumError) }
}

/// How the line with the sum begins.
const SUM: &str = "{\"crc32c\":\"";

/// The bytes are not those that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its checksum does not match: the file is damaged")]
pub struct SumError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        #[derive(serde::Deserialize, PartialEq, Debug)]
        struct Place {
            cursor: u64,
        }
        let read = |bytes: &[u8]| {
            let text = without_sum(bytes).ok()?;
            serde_json::from_slice::<Place>(text).ok()
        };
        let written = with_sum(b"{\"cursor\":4294967396}".to_vec());
        assert_eq!(read(&written), Some(Place { cursor: 4_294_967_396 }));
        assert_eq!(read(b"{\"cursor\":7}"), Some(Place { cursor: 7 }), "an older version's file");
        for bit in 0..written.len() * 8 {
            let mut hurt = written.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            // What is hurt in the sum's own line may leave the text whole.
            assert!(matches!(read(&hurt), None | Some(Place { cursor: 4_294_967_396 })), "bit {bit}");
        }
        for length in 0..written.len() {
            let cut = written.get(..length).unwrap();
            assert!(matches!(read(cut), None | Some(Place { cursor: 4_294_967_396 })), "cut at {length}");
        }
    }
}
