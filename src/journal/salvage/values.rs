//! What was salvaged, on its way from the child to the gateway: one value after the other in a plain file.
//!
//! `key u64, length u32, value`, little-endian. The child may die at any byte, so whoever reads stops at the first entry
//! that is not whole; and since the child worked on damaged ground, every value's own sum is checked once more.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::journal::block::{self, Header};

/// Far above any value; a length beyond it is a torn entry.
const LONGEST: u32 = 1 << 20;

pub struct Writer(BufWriter<File>);

impl Writer {
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Self(BufWriter::new(file)))
    }

    /// # Errors
    /// When the disk refuses.
    pub fn put(&mut self, key: u64, value: &[u8]) -> io::Result<()> {
        let length = u32::try_from(value.len()).map_err(io::Error::other)?;
        self.0.write_all(&key.to_le_bytes())?;
        self.0.write_all(&length.to_le_bytes())?;
        self.0.write_all(value)
    }

    /// Hands everything to the kernel: it outlives this process.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// One value of the file.
pub struct Value {
    pub key: u64,
    pub header: Header,
    pub bytes: Vec<u8>,
}

/// The sound values of one generation.
pub struct Reader {
    file: BufReader<File>,
    generation: u32,
}

impl Reader {
    /// # Errors
    /// When there is no such file or it cannot be opened.
    pub fn open(path: &Path, generation: u32) -> io::Result<Self> {
        Ok(Self { file: BufReader::new(File::open(path)?), generation })
    }

    fn entry(&mut self) -> Option<(u64, Vec<u8>)> {
        let (mut key, mut length) = ([0; 8], [0; 4]);
        self.file.read_exact(&mut key).ok()?;
        self.file.read_exact(&mut length).ok()?;
        let length = u32::from_le_bytes(length);
        let mut bytes = vec![0; usize::try_from(length).ok().filter(|_| length <= LONGEST)?];
        self.file.read_exact(&mut bytes).ok()?;
        Some((u64::from_le_bytes(key), bytes))
    }
}

impl Iterator for Reader {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        loop {
            let (key, bytes) = self.entry()?;
            match block::header(&bytes) {
                Ok(header) if header.generation == self.generation => {
                    return Some(Value { key, header, bytes });
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::block::{Encoder, Kind};

    #[test]
    fn what_is_torn_off_or_unsound_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("values");
        let value = |n| Encoder::new(None).encode_plain(Kind::Name, 7, n, b"bike").unwrap();
        let mut writer = Writer::create(&path).unwrap();
        writer.put(1, &value(1)).unwrap();
        let mut unsound = value(2);
        unsound[9] ^= 1;
        writer.put(2, &unsound).unwrap();
        writer.put(3, &value(3)).unwrap();
        let foreign = Encoder::new(None).encode_plain(Kind::Name, 8, 4, b"another generation").unwrap();
        writer.put(4, &foreign).unwrap();
        writer.put(5, &value(5)).unwrap();
        writer.flush().unwrap();
        let keys =
            |path: &Path| -> Vec<u64> { Reader::open(path, 7).unwrap().map(|value| value.key).collect() };
        assert_eq!(keys(&path), [1, 3, 5]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(keys(&path), [1, 3]);
    }
}
