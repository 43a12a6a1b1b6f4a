//! One value of a generation: a header and a columnar block of readings.
//!
//! ```text
//! 0  u8   format version (2)          8..      varints, in this order:
//! 1  u8   kind (0 readings, 1 name,               stored length (of all that follows the varints), key id (0: not
//!         2 generation, 3 summaries)              sealed), boot tag, clock epoch, generation, first n, count, body
//! 2  u8   codec (0 plain, 1 zstd)                 length before compression, earliest wall ms (zigzag),
//! 3  u8   origin (0: this gateway)                latest - earliest
//! 4  u32  crc32c, little-endian,      then        the body; or, sealed: 16 bytes and a varint of nonce, the sealed
//!         of everything else                      body, its tag of 16 bytes
//! ```
//!
//! The value stands alone: with its own length, checksum, generation and first number it can be salvaged without the
//! database around it, sealed or not ([`stored_len`], [`header`]). The checksum is that of the stored bytes, so damage
//! is told from a missing key without the key. What is sealed authenticates the header and the nonce, with zeros in the
//! place of the checksum (see [`super::keys`]).
//!
//! `first n` of a name is its device's number. Version 1 has no stored length, no name's number, and is never sealed; it
//! is still read. Readings are sorted by device inside a group, so that each device's values lie side by side; what the
//! columns hold is told in [`columns`]. A value is at most [`MAX_VALUE`] bytes, because sled 0.34 spills a leaf of
//! large values into files that it never syncs.
//!
//! Not promised: that an older binary reads a newer version. It reports [`BlockError::Version`] and leaves the value be.

mod column;
mod columns;
mod envelope;
mod moments;
mod summaries;

use std::borrow::Cow;
use std::sync::Arc;

use super::keys::{KeyId, Keys, Sealer};
use crate::clock::BootId;
use crate::reading::Reading;
use crate::reading::summary::Summary;

pub use envelope::{header, key, may_begin, stored_len};

/// Most bytes of one value. A sled leaf holds up to about 20 values and must stay under a quarter of its 512 KiB segment.
pub const MAX_VALUE: usize = 4096;
/// Most readings of one block.
pub const MAX_READINGS: usize = 1000;

const CODEC_PLAIN: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// A block decodes to at most this many bytes; a header that claims more is damaged.
const MAX_BODY: usize = 1 << 20;

/// What a value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Readings = 0,
    /// A device's name; the key carries its number, and so does `first_n`.
    Name = 1,
    /// What the generation as a whole is about (JSON).
    Generation = 2,
    /// Summaries in place of readings; they are numbered from 0 as readings are.
    Summaries = 3,
}

/// Everything a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// First four bytes of the boot id: tells which boot's monotonic time the stamps are.
    pub boot_tag: u32,
    /// Revision of the clock's anchors when it was written; 0 until one is known.
    pub clock_epoch: u32,
    pub generation: u32,
    pub first_n: u32,
    pub count: u32,
    pub earliest_ms: i64,
    pub latest_ms: i64,
}

/// Why a value cannot be read. None of these stops a gateway: the numbers are reported as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("format version {0} is not known to this build; a newer fogbeat wrote it")]
    Version(u8),
    #[error("the checksum does not match: the value is damaged")]
    Checksum,
    #[error("the value ends early or holds a field out of range")]
    Malformed,
    #[error(
        "sealed with key {0}, which is not at hand: bring its line back into the key file (it may stand before the last \
         one) and send SIGHUP"
    )]
    Sealed(KeyId),
    #[error("the seal of key {0} does not fit: somebody has changed the value")]
    Altered(KeyId),
    #[error("the value is too long to be sealed")]
    TooLong,
}

/// Writes blocks; keeps its buffers and its zstd context between them.
pub struct Encoder {
    sealer: Option<Arc<Sealer>>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    columns: columns::Columns,
    body: Vec<u8>,
    packed: Vec<u8>,
}

/// Who and where a block's readings are.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub boot_tag: u32,
    pub clock_epoch: u32,
    pub generation: u32,
    pub first_n: u32,
}

pub fn boot_tag(boot: BootId) -> u32 {
    let [a, b, c, d, ..] = boot.0;
    u32::from_be_bytes([a, b, c, d])
}

// === impl Encoder ===

impl Default for Encoder {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Encoder {
    /// Seals with `sealer`, if there is one.
    pub fn new(sealer: Option<Arc<Sealer>>) -> Self {
        // A context that cannot be allocated costs space, not readings: blocks are stored plain.
        let compressor = zstd::bulk::Compressor::new(1).ok().map(|mut compressor| {
            let _ = compressor.include_contentsize(false);
            let _ = compressor.include_checksum(false);
            compressor
        });
        Self {
            sealer,
            compressor,
            columns: columns::Columns::default(),
            body: Vec::new(),
            packed: Vec::new(),
        }
    }

    /// Seals what is encoded from now on with `sealer`, if there is one.
    pub fn seal_with(&mut self, sealer: Option<Arc<Sealer>>) {
        self.sealer = sealer;
    }

    /// Encodes `readings` (at most [`MAX_READINGS`], sorted by device) as one value of any size.
    ///
    /// # Errors
    /// [`BlockError::TooLong`], never for what is a value.
    pub fn encode<'a>(
        &mut self,
        place: Place,
        readings: impl ExactSizeIterator<Item = &'a Reading> + Clone,
    ) -> Result<Vec<u8>, BlockError> {
        let count = readings.len();
        let mut earliest_ms = i64::MAX;
        let mut latest_ms = i64::MIN;
        for reading in readings.clone() {
            earliest_ms = earliest_ms.min(reading.arrival.wall_ms);
            latest_ms = latest_ms.max(reading.arrival.wall_ms);
        }
        self.body.clear();
        self.columns.write(readings, &mut self.body);
        let header = Header {
            kind: Kind::Readings,
            boot_tag: place.boot_tag,
            clock_epoch: place.clock_epoch,
            generation: place.generation,
            first_n: place.first_n,
            count: count as u32,
            earliest_ms: if count == 0 { 0 } else { earliest_ms },
            latest_ms: if count == 0 { 0 } else { latest_ms },
        };
        self.pack(&header)
    }

    /// Encodes summaries (at most [`MAX_READINGS`], of windows of one length, sorted by device) as one value of any
    /// size.
    ///
    /// # Errors
    /// [`BlockError::TooLong`].
    pub fn encode_summaries(
        &mut self,
        place: Place,
        window_s: u16,
        summaries: &[Summary],
    ) -> Result<Vec<u8>, BlockError> {
        let walls = || summaries.iter().map(|summary| summary.arrival.wall_ms);
        self.body.clear();
        summaries::write(window_s, summaries.iter(), &mut self.body);
        self.pack(&Header {
            kind: Kind::Summaries,
            boot_tag: place.boot_tag,
            clock_epoch: place.clock_epoch,
            generation: place.generation,
            first_n: place.first_n,
            count: summaries.len() as u32,
            earliest_ms: walls().min().unwrap_or(0),
            latest_ms: walls().max().unwrap_or(0),
        })
    }

    /// The body as a value, compressed where that helps.
    fn pack(&mut self, header: &Header) -> Result<Vec<u8>, BlockError> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.body.len()));
        let packed = match &mut self.compressor {
            Some(compressor) => compressor.compress_to_buffer(&self.body, &mut self.packed).is_ok(),
            None => false,
        };
        let sealer = self.sealer.as_deref();
        if packed && self.packed.len() < self.body.len() {
            envelope::seal(header, CODEC_ZSTD, self.body.len(), &self.packed, sealer)
        } else {
            envelope::seal(header, CODEC_PLAIN, self.body.len(), &self.body, sealer)
        }
    }

    /// A value that is no block of readings; `n` is its device's number if it is a name, else 0.
    ///
    /// # Errors
    /// [`BlockError::TooLong`], never for what is a value.
    pub fn encode_plain(
        &self,
        kind: Kind,
        generation: u32,
        n: u32,
        body: &[u8],
    ) -> Result<Vec<u8>, BlockError> {
        let header = Header {
            kind,
            boot_tag: 0,
            clock_epoch: 0,
            generation,
            first_n: n,
            count: 0,
            earliest_ms: 0,
            latest_ms: 0,
        };
        envelope::seal(&header, CODEC_PLAIN, body.len(), body, self.sealer.as_deref())
    }
}

/// Decodes a block of readings; they are appended to `out`, whole and in order.
///
/// # Errors
/// See [`BlockError`]; on an error `out` is left as it was.
pub fn decode(value: &[u8], keys: &Keys, out: &mut Vec<Reading>) -> Result<Header, BlockError> {
    decode_as(Kind::Readings, value, keys, out, columns::read)
}

/// Decodes a block of summaries; they are appended to `out`, whole and in order.
///
/// # Errors
/// See [`BlockError`]; on an error `out` is left as it was.
pub fn decode_summaries(value: &[u8], keys: &Keys, out: &mut Vec<Summary>) -> Result<Header, BlockError> {
    decode_as(Kind::Summaries, value, keys, out, summaries::read)
}

fn decode_as<T>(
    kind: Kind,
    value: &[u8],
    keys: &Keys,
    out: &mut Vec<T>,
    read: impl FnOnce(&[u8], usize, &mut Vec<T>) -> Option<()>,
) -> Result<Header, BlockError> {
    let opened = envelope::open(value)?;
    if opened.header.kind != kind {
        return Err(BlockError::Malformed);
    }
    let before = out.len();
    let packed = opened.body(keys)?;
    let body: Cow<'_, [u8]> = match opened.codec {
        CODEC_PLAIN => packed,
        CODEC_ZSTD => {
            zstd::bulk::decompress(&packed, opened.body_len).map_err(|_| BlockError::Malformed)?.into()
        }
        _ => return Err(BlockError::Malformed),
    };
    if body.len() != opened.body_len {
        return Err(BlockError::Malformed);
    }
    if read(&body, opened.header.count as usize, out).is_none() {
        out.truncate(before);
        return Err(BlockError::Malformed);
    }
    Ok(opened.header)
}

/// The body of a value that is no block of readings.
///
/// # Errors
/// See [`BlockError`].
pub fn decode_plain<'a>(value: &'a [u8], keys: &Keys, kind: Kind) -> Result<Cow<'a, [u8]>, BlockError> {
    let opened = envelope::open(value)?;
    if opened.header.kind != kind || opened.codec != CODEC_PLAIN {
        return Err(BlockError::Malformed);
    }
    opened.body(keys)
}

#[cfg(test)]
pub mod tests;
