//! One value of a generation: a header and a columnar block of readings.
//!
//! ```text
//! 0  u8   format version (1)          8..      varints, in this order:
//! 1  u8   kind (0 readings, 1 name,               key id (0: not sealed), boot tag, clock epoch,
//!         2 generation, 3 summaries)              generation, first n, count, body length before
//! 2  u8   codec (0 plain, 1 zstd)                 compression, earliest wall ms (zigzag), latest - earliest
//! 3  u8   origin (0: this gateway)    then        the body
//! 4  u32  crc32c, little-endian, of everything else
//! ```
//!
//! The value stands alone: with its own checksum, generation and first number it can be salvaged without the database
//! around it. Readings are sorted by device inside a group, so that each device's values lie side by side; what the
//! columns hold is told in [`columns`]. A value is at most [`MAX_VALUE`] bytes, because sled 0.34 spills a leaf of
//! large values into files that it never syncs.
//!
//! Not promised: that an older binary reads a newer version. It reports [`BlockError::Version`] and leaves the value be.

mod columns;
mod summaries;

use std::ops::Range;

use super::varint;
use crate::clock::BootId;
use crate::reading::Reading;
use crate::reading::summary::Summary;

/// Most bytes of one value. A sled leaf holds up to about 20 values and must stay under a quarter of its 512 KiB segment.
pub const MAX_VALUE: usize = 4096;
/// Most readings of one block.
pub const MAX_READINGS: usize = 1000;

const VERSION: u8 = 1;
const CODEC_PLAIN: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const ORIGIN_HERE: u8 = 0;
const NO_KEY: u64 = 0;
/// A block decodes to at most this many bytes; a header that claims more is damaged.
const MAX_BODY: usize = 1 << 20;
const CRC: Range<usize> = 4..8;

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
    /// Which clock anchor the wall times are told by; 0 until an anchor is known.
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
    #[error("sealed with key {0}, which is not at hand")]
    Sealed(u64),
}

/// Writes blocks; keeps its buffers and its zstd context between them.
pub struct Encoder {
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
        Self::new()
    }
}

impl Encoder {
    pub fn new() -> Self {
        // A context that cannot be allocated costs space, not readings: blocks are stored plain.
        let compressor = zstd::bulk::Compressor::new(1).ok().map(|mut compressor| {
            let _ = compressor.include_contentsize(false);
            let _ = compressor.include_checksum(false);
            compressor
        });
        Self { compressor, columns: columns::Columns::default(), body: Vec::new(), packed: Vec::new() }
    }

    /// Encodes `readings` (at most [`MAX_READINGS`], sorted by device) as one value of any size.
    pub fn encode<'a>(
        &mut self,
        place: Place,
        readings: impl ExactSizeIterator<Item = &'a Reading> + Clone,
    ) -> Vec<u8> {
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
    pub fn encode_summaries(&mut self, place: Place, window_s: u16, summaries: &[Summary]) -> Vec<u8> {
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
    fn pack(&mut self, header: &Header) -> Vec<u8> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.body.len()));
        let packed = match &mut self.compressor {
            Some(compressor) => compressor.compress_to_buffer(&self.body, &mut self.packed).is_ok(),
            None => false,
        };
        if packed && self.packed.len() < self.body.len() {
            seal(header, CODEC_ZSTD, self.body.len(), &self.packed)
        } else {
            seal(header, CODEC_PLAIN, self.body.len(), &self.body)
        }
    }

    /// A value that is no block of readings; `first_n` is the device's number for a name, else 0.
    pub fn encode_plain(&self, kind: Kind, generation: u32, first_n: u32, body: &[u8]) -> Vec<u8> {
        let header = Header {
            kind,
            boot_tag: 0,
            clock_epoch: 0,
            generation,
            first_n,
            count: 0,
            earliest_ms: 0,
            latest_ms: 0,
        };
        seal(&header, CODEC_PLAIN, body.len(), body)
    }
}

fn seal(header: &Header, codec: u8, body_len: usize, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(body.len() + 48);
    value.extend_from_slice(&[VERSION, header.kind as u8, codec, ORIGIN_HERE, 0, 0, 0, 0]);
    varint::put(&mut value, NO_KEY);
    varint::put(&mut value, u64::from(header.boot_tag));
    varint::put(&mut value, u64::from(header.clock_epoch));
    varint::put(&mut value, u64::from(header.generation));
    varint::put(&mut value, u64::from(header.first_n));
    varint::put(&mut value, u64::from(header.count));
    varint::put(&mut value, body_len as u64);
    varint::put_signed(&mut value, header.earliest_ms);
    varint::put(&mut value, header.latest_ms.wrapping_sub(header.earliest_ms) as u64);
    value.extend_from_slice(body);
    let crc = checksum(&value);
    if let Some(slot) = value.get_mut(CRC) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    value
}

/// The crc of a value, its own four bytes left out.
fn checksum(value: &[u8]) -> u32 {
    let head = value.get(..CRC.start).unwrap_or_default();
    let tail = value.get(CRC.end..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(head), tail)
}

/// Reads the header alone and checks the whole value's checksum.
///
/// # Errors
/// See [`BlockError`].
pub fn header(value: &[u8]) -> Result<Header, BlockError> {
    open(value).map(|opened| opened.header)
}

/// Decodes a block of readings; they are appended to `out`, whole and in order.
///
/// # Errors
/// See [`BlockError`]; on an error `out` is left as it was.
pub fn decode(value: &[u8], out: &mut Vec<Reading>) -> Result<Header, BlockError> {
    decode_as(Kind::Readings, value, out, columns::read)
}

/// Decodes a block of summaries; they are appended to `out`, whole and in order.
///
/// # Errors
/// See [`BlockError`]; on an error `out` is left as it was.
pub fn decode_summaries(value: &[u8], out: &mut Vec<Summary>) -> Result<Header, BlockError> {
    decode_as(Kind::Summaries, value, out, summaries::read)
}

fn decode_as<T>(
    kind: Kind,
    value: &[u8],
    out: &mut Vec<T>,
    read: impl FnOnce(&[u8], usize, &mut Vec<T>) -> Option<()>,
) -> Result<Header, BlockError> {
    let opened = open(value)?;
    if opened.header.kind != kind {
        return Err(BlockError::Malformed);
    }
    let before = out.len();
    let plain;
    let body = match opened.codec {
        CODEC_PLAIN => opened.body,
        CODEC_ZSTD => {
            plain =
                zstd::bulk::decompress(opened.body, opened.body_len).map_err(|_| BlockError::Malformed)?;
            &plain
        }
        _ => return Err(BlockError::Malformed),
    };
    if body.len() != opened.body_len {
        return Err(BlockError::Malformed);
    }
    if read(body, opened.header.count as usize, out).is_none() {
        out.truncate(before);
        return Err(BlockError::Malformed);
    }
    Ok(opened.header)
}

/// The body of a value that is no block of readings.
///
/// # Errors
/// See [`BlockError`].
pub fn decode_plain(value: &[u8], kind: Kind) -> Result<&[u8], BlockError> {
    let opened = open(value)?;
    if opened.header.kind != kind || opened.codec != CODEC_PLAIN {
        return Err(BlockError::Malformed);
    }
    Ok(opened.body)
}

/// How a value may begin; far from proof, but it spares nearly every sum.
pub fn may_begin(bytes: &[u8]) -> bool {
    matches!(*bytes, [VERSION, 0..=7, 0..=7, ORIGIN_HERE, ..])
}

/// How long the unsealed value is that `bytes` begin with, by what its header and its zstd frame say. Nothing is checked.
pub fn extent(bytes: &[u8]) -> Option<usize> {
    let &[VERSION, _, codec, _, ..] = bytes else { return None };
    let mut rest = bytes.get(CRC.end..)?;
    let key = varint::take(&mut rest)?;
    for _boot_epoch_generation_first_count in 0..5 {
        varint::take(&mut rest)?;
    }
    let body_len = usize::try_from(varint::take(&mut rest)?).ok().filter(|len| *len <= MAX_BODY)?;
    varint::take_signed(&mut rest)?;
    varint::take(&mut rest)?;
    let body = match codec {
        CODEC_PLAIN => body_len,
        CODEC_ZSTD => zstd::zstd_safe::find_frame_compressed_size(rest).ok()?,
        _ => return None,
    };
    (key == NO_KEY && body <= rest.len()).then(|| bytes.len() - rest.len() + body)
}

struct Opened<'a> {
    header: Header,
    codec: u8,
    body_len: usize,
    body: &'a [u8],
}

fn open(value: &[u8]) -> Result<Opened<'_>, BlockError> {
    let [version, kind, codec, _origin, a, b, c, d, ..] = *value else {
        return Err(BlockError::Malformed);
    };
    if version != VERSION {
        return Err(BlockError::Version(version));
    }
    if checksum(value) != u32::from_le_bytes([a, b, c, d]) {
        return Err(BlockError::Checksum);
    }
    let kind = match kind {
        0 => Kind::Readings,
        1 => Kind::Name,
        2 => Kind::Generation,
        3 => Kind::Summaries,
        _ => return Err(BlockError::Malformed),
    };
    let mut rest = value.get(CRC.end..).unwrap_or_default();
    let fields = (|| {
        let key = varint::take(&mut rest)?;
        let boot_tag = u32::try_from(varint::take(&mut rest)?).ok()?;
        let clock_epoch = u32::try_from(varint::take(&mut rest)?).ok()?;
        let generation = u32::try_from(varint::take(&mut rest)?).ok()?;
        let first_n = u32::try_from(varint::take(&mut rest)?).ok()?;
        let count = u32::try_from(varint::take(&mut rest)?).ok()?;
        let body_len = usize::try_from(varint::take(&mut rest)?).ok()?;
        let earliest_ms = varint::take_signed(&mut rest)?;
        let latest_ms = earliest_ms.wrapping_add(varint::take(&mut rest)? as i64);
        let sound = body_len <= MAX_BODY && count as usize <= MAX_READINGS;
        sound.then_some((
            key,
            body_len,
            Header { kind, boot_tag, clock_epoch, generation, first_n, count, earliest_ms, latest_ms },
        ))
    })();
    let (key, body_len, header) = fields.ok_or(BlockError::Malformed)?;
    if key != NO_KEY {
        return Err(BlockError::Sealed(key));
    }
    Ok(Opened { header, codec, body_len, body: rest })
}

#[cfg(test)]
mod tests;
