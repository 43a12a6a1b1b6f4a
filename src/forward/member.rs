//! The bytes that travel: JSON lines packed into one member.
//!
//! A member is complete in itself: members of one encoding that are put one after the other are again a valid file
//! (gzip: RFC 1952 section 2.2, zstd: RFC 8878 section 3.1), which is how Firehose concatenates records. The same
//! lines give the same bytes within one build of the program: no time stamp, no file name, a fixed header, fixed
//! levels. Every line ends in a newline, the last one too, so that plain JSON members concatenate as well.

use std::sync::Arc;

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use zstd::zstd_safe::{CCtx, CParameter};

use crate::config::Encoding;
use crate::journal::{Bounds, Seq};

/// Deflate level: the knee of the curve `benches/encode.rs` draws. On a PC about 0.7 us a reading; 8 and 9 take twice
/// that for 5 % less, 5 saves a tenth of the time for 1 % more.
const GZIP_LEVEL: u32 = 6;
/// Zstandard level: as fast as the gzip level and 8 % smaller; 1 to 4 are four times as fast and no smaller than gzip.
const ZSTD_LEVEL: i32 = 6;
/// 4 MiB: the text of a default batch. Readers such as Trino refuse windows of more than 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 22;

/// RFC 1952: magic, deflate, no flags, no time, no extra flags, "unknown" operating system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// What one delivery confirms or refuses: a part of a batch, nearly always the whole.
#[derive(Debug, Clone)]
pub struct Member {
    /// The batch it belongs to.
    pub bounds: Bounds,
    /// First part of every id inside.
    pub spool: Arc<str>,
    /// Position of the first and the last entry inside.
    pub first: Seq,
    pub last: Seq,
    pub encoding: Encoding,
    /// Heart-rate readings inside.
    pub readings: u32,
    /// Lines inside: readings, ends, gaps and clocks.
    pub lines: u32,
    /// Size of the lines before compression.
    pub text_bytes: u64,
    pub bytes: Bytes,
}

/// The file name extension of an encoding, with its dot.
pub const fn extension(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Gzip => ".json.gz",
        Encoding::Zstd => ".json.zst",
        Encoding::Json => ".json",
    }
}

/// The lines could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("gzip: {0}")]
    Gzip(#[from] flate2::CompressError),
    #[error("zstd: {0}")]
    Zstd(&'static str),
}

/// Packs text; keeps its tables and buffers from one member to the next.
pub struct Encoder {
    codec: Codec,
    out: Vec<u8>,
}

enum Codec {
    Gzip(Box<Compress>),
    Zstd(CCtx<'static>),
    Json,
}

impl Encoder {
    /// # Errors
    /// [`EncodeError::Zstd`] if the library refuses its parameters or has no memory.
    pub fn new(encoding: Encoding) -> Result<Self, EncodeError> {
        Self::with_level(encoding, None)
    }

    /// As [`Encoder::new`] with another level than the built-in one: for measurements.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn with_level(encoding: Encoding, level: Option<i32>) -> Result<Self, EncodeError> {
        let codec = match encoding {
            Encoding::Gzip => {
                let level = level.and_then(|l| u32::try_from(l).ok()).unwrap_or(GZIP_LEVEL);
                Codec::Gzip(Box::new(Compress::new(Compression::new(level), false)))
            }
            Encoding::Zstd => {
                let mut context = CCtx::try_create().ok_or(EncodeError::Zstd("out of memory"))?;
                for parameter in [
                    CParameter::CompressionLevel(level.unwrap_or(ZSTD_LEVEL)),
                    CParameter::WindowLog(ZSTD_WINDOW_LOG),
                    CParameter::ChecksumFlag(true),
                    CParameter::ContentSizeFlag(true),
                ] {
                    context.set_parameter(parameter).map_err(zstd_error)?;
                }
                Codec::Zstd(context)
            }
            Encoding::Json => Codec::Json,
        };
        Ok(Self { codec, out: Vec::new() })
    }

    pub const fn encoding(&self) -> Encoding {
        match self.codec {
            Codec::Gzip(_) => Encoding::Gzip,
            Codec::Zstd(_) => Encoding::Zstd,
            Codec::Json => Encoding::Json,
        }
    }

    /// One member holding `text`.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing of the failed attempt stays behind.
    pub fn encode(&mut self, text: &[u8]) -> Result<Bytes, EncodeError> {
        self.out.clear();
        match &mut self.codec {
            Codec::Gzip(deflate) => gzip(deflate, text, &mut self.out)?,
            Codec::Zstd(context) => {
                self.out.reserve(zstd::zstd_safe::compress_bound(text.len()));
                context.compress2(&mut self.out, text).map_err(zstd_error)?;
            }
            Codec::Json => return Ok(Bytes::copy_from_slice(text)),
        }
        Ok(Bytes::copy_from_slice(&self.out))
    }

    /// Gives memory back that only a large batch needed.
    pub fn shrink(&mut self, capacity: usize) {
        self.out.clear();
        self.out.shrink_to(capacity);
    }
}

fn zstd_error(code: usize) -> EncodeError {
    EncodeError::Zstd(zstd::zstd_safe::get_error_name(code))
}

fn gzip(deflate: &mut Compress, text: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    /// Room for the compressed stream grows in steps of this size.
    const STEP: usize = 64 * 1024;
    deflate.reset();
    out.extend_from_slice(&GZIP_HEADER);
    let mut rest = text;
    loop {
        out.reserve(STEP);
        let before = deflate.total_in();
        let status = deflate.compress_vec(rest, out, FlushCompress::Finish)?;
        let taken = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
        rest = rest.get(taken..).unwrap_or_default();
        if status == Status::StreamEnd {
            break;
        }
    }
    let mut crc = Crc::new();
    crc.update(text);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn text(lines: usize) -> Vec<u8> {
        (0..lines)
            .flat_map(|n| format!("{{\"id\":\"s-{n}\",\"bpm\":{}}}\n", 60 + n % 7).into_bytes())
            .collect()
    }

    #[test]
    fn gzip_members_concatenate_and_read_back() {
        let mut encoder = Encoder::new(Encoding::Gzip).unwrap();
        let (a, b) = (text(5_000), text(3));
        let mut file = encoder.encode(&a).unwrap().to_vec();
        file.extend_from_slice(&encoder.encode(&b).unwrap());
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(file.as_slice()).read_to_end(&mut back).unwrap();
        assert_eq!(back, [a, b].concat());
        assert_eq!(&file[..10], &GZIP_HEADER, "no time stamp, no name");
    }

    #[test]
    fn zstd_frames_concatenate_read_back_and_keep_a_small_window() {
        let mut encoder = Encoder::new(Encoding::Zstd).unwrap();
        let (a, b) = (text(200_000), text(3));
        assert!(a.len() > 4 << 20);
        let mut file = encoder.encode(&a).unwrap().to_vec();
        assert_eq!(file[4] & 0b100, 0b100, "content checksum flag (RFC 8878 3.1.1.1.1)");
        file.extend_from_slice(&encoder.encode(&b).unwrap());
        let mut decoder = zstd::stream::read::Decoder::new(file.as_slice()).unwrap();
        decoder.window_log_max(ZSTD_WINDOW_LOG).unwrap();
        let mut back = Vec::new();
        decoder.read_to_end(&mut back).unwrap();
        assert_eq!(back, [a, b].concat());
    }

    #[test]
    fn the_same_lines_give_the_same_bytes_whatever_went_before() {
        for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Json] {
            let mut fresh = Encoder::new(encoding).unwrap();
            let expected = fresh.encode(&text(1_000)).unwrap();
            let mut used = Encoder::new(encoding).unwrap();
            used.encode(&text(77_000)).unwrap();
            used.shrink(0);
            assert_eq!(used.encode(&text(1_000)).unwrap(), expected, "{encoding:?}");
        }
    }

    #[test]
    fn incompressible_text_survives() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..300_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let member = Encoder::new(Encoding::Gzip).unwrap().encode(&noise).unwrap();
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&member[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, noise);
    }
}
