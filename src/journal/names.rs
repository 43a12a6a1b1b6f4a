//! The second copy of a generation's device names: `gen-<n>/names`, beside the database.
//!
//! A device's number means something in its generation only, and its name stands there in a few bytes under which all of
//! its readings lie: one damaged page would leave thousands of them without a device. So each name is kept twice, on
//! pages that have nothing to do with each other. The file is the name values one behind the other, byte for byte as the
//! database has them, sealed if they are: each says by itself which generation and which device's number it belongs to
//! and carries its own sum, so that a name is never taken for another device's. It is written once per device and
//! generation, together with the commit that needs it, and goes where the directory goes: into quarantine, and away.
//!
//! Not promised: that it is there (older generations have none, and a disk that refuses it loses no reading), nor that
//! it is whole. What of it is sound is used.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::block::{Header, Kind};
use super::disk::Disk;
use super::salvage;

/// The file's name in the generation's directory.
pub const FILE: &str = "names";

/// Makes the empty file and opens it for [`append`].
///
/// # Errors
/// When it cannot be made.
pub fn create(dir: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(FILE))
}

/// Adds name values, on disk when it returns.
///
/// # Errors
/// When the disk refuses; what is torn then hides nothing that comes behind it.
pub fn append<'a>(
    disk: &dyn Disk,
    mut file: &File,
    values: impl Iterator<Item = &'a [u8]>,
) -> io::Result<()> {
    let bytes = values.collect::<Vec<_>>().concat();
    if bytes.is_empty() {
        return Ok(());
    }
    file.write_all(&bytes)?;
    disk.sync_data(file)
}

/// Hands out every sound name value of that generation, with what its header says; nothing where there is no file.
pub fn read(dir: &Path, generation: u32, found: &mut impl FnMut(&Header, &[u8])) {
    // Small: a name is some 40 bytes, and there are at most as many as devices.
    let Ok(bytes) = std::fs::read(dir.join(FILE)) else { return };
    salvage::scan(&bytes, 0, bytes.len(), generation, &mut |header, value| {
        if header.kind == Kind::Name {
            found(header, value);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::block::{self, Encoder};
    use crate::journal::disk::RealDisk;
    use crate::journal::keys::Keys;

    fn names(dir: &Path) -> Vec<(u32, String)> {
        let mut names = Vec::new();
        read(dir, 7, &mut |header, value| {
            let name = block::decode_plain(value, &Keys::none(), Kind::Name).unwrap();
            names.push((header.first_n, String::from_utf8(name.into_owned()).unwrap()));
        });
        names
    }

    #[test]
    fn a_flipped_bit_or_a_cut_costs_the_names_it_hits_and_never_gives_a_wrong_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = create(dir.path()).unwrap();
        let encoder = Encoder::new(None);
        let value = |n: u32| encoder.encode_plain(Kind::Name, 7, n, format!("strap-{n}").as_bytes()).unwrap();
        let foreign = encoder.encode_plain(Kind::Name, 8, 0, b"of another generation").unwrap();
        let values: Vec<Vec<u8>> = (0..9).map(value).chain([foreign]).collect();
        append(&RealDisk, &file, values.iter().take(4).map(Vec::as_slice)).unwrap();
        append(&RealDisk, &file, values.iter().skip(4).map(Vec::as_slice)).unwrap();
        let all: Vec<_> = (0..9).map(|n| (n, format!("strap-{n}"))).collect();
        assert_eq!(names(dir.path()), all);
        let whole = std::fs::read(dir.path().join(FILE)).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut hurt = whole.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(dir.path().join(FILE), hurt).unwrap();
            let left = names(dir.path());
            assert!(left.len() >= 8 && left.iter().all(|name| all.contains(name)), "bit {bit}: {left:?}");
        }
        for length in 0..whole.len() {
            std::fs::write(dir.path().join(FILE), &whole[..length]).unwrap();
            assert!(all.starts_with(&names(dir.path())), "cut at {length}");
        }
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(names(dir.path()).is_empty());
    }
}
