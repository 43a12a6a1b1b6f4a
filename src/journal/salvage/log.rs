//! Whether sled's log is sound, looked at before sled is let near it.
//!
//! sled takes the first damaged message of its newest segment for the end of the log, and on opening overwrites with
//! zeros whatever follows: one flipped bit in a byte of its own costs half a megabyte of readings that were whole. So a
//! database is read through first, and one that is not sound is salvaged from the file as it is.
//!
//! The format (sled 0.34.7, `pagecache/logger.rs`): segments of 512 KiB, each with a header of 20 bytes (crc32, lsn,
//! highest stable lsn, little-endian, inverted) and then messages: crc32 (of the body, then
//! of the rest of the header), kind, and as varints length,
//! segment number (lsn / segment size) and page, then the body. A message of kind 2 caps a segment. No message begins in
//! the last 32 bytes of one. sled uses a segment again without clearing it, so behind the last message of the newest one
//! there may be old ones, which carry other segment numbers.
//!
//! Not promised: that sled likes what is sound. False alarms cost nothing but the work of salvaging.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::scan;
use crate::journal::block::Kind;

const SEGMENT: usize = 512 * 1024;
const SEGMENT_HEADER: usize = 20;
/// No message begins closer to a segment's end.
const RED_ZONE: usize = 32;
const CAP: u8 = 2;
const KINDS: std::ops::RangeInclusive<u8> = 1..=11;

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Soundness {
    Sound,
    /// Where in the file something is wrong, and what.
    Damaged(u64, &'static str),
}

/// Reads the log of the database in `dir` through. One that is not there is not damaged.
///
/// # Errors
/// When the file cannot be read.
pub fn soundness(dir: &Path, generation: u32) -> io::Result<Soundness> {
    let file = match File::open(dir.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Soundness::Sound),
        file => file?,
    };
    let length = file.metadata()?.len();
    let mut segment = vec![0; SEGMENT];
    // First number and place of the newest segment's torn end, to be looked at when all are known.
    let mut newest: Option<(u64, u64, Walk)> = None;
    let mut last = 0;
    let mut start = 0;
    while start < length {
        let there = usize::try_from(length - start).unwrap_or(SEGMENT).min(SEGMENT);
        segment.resize(there, 0);
        file.read_exact_at(&mut segment, start)?;
        if let Some(number) = number_of(&segment) {
            let walk = walk(&segment, number, generation);
            last = last.max(walk.last);
            if newest.as_ref().is_some_and(|(known, ..)| *known > number) {
                if let Some(at) = walk.torn {
                    return Ok(Soundness::Damaged(start + at as u64, "a message of sled's is damaged"));
                }
            } else {
                let before = newest.replace((number, start, walk));
                if let Some((_, start, Walk { torn: Some(at), .. })) = before {
                    return Ok(Soundness::Damaged(start + at as u64, "a message of sled's is damaged"));
                }
            }
        } else if segment.iter().any(|&byte| byte != 0) {
            return Ok(Soundness::Damaged(start, "the header of a segment of sled's is damaged"));
        }
        start += SEGMENT as u64;
    }
    Ok(match newest {
        Some((_, start, Walk { torn: Some(at), more, last_behind, .. })) if more || last_behind > last => {
            Soundness::Damaged(start + at as u64, "a message of sled's is damaged")
        }
        _ => Soundness::Sound,
    })
}

/// The number of a segment with a sound header.
fn number_of(segment: &[u8]) -> Option<u64> {
    let (crc, rest) = segment.get(..SEGMENT_HEADER)?.split_first_chunk::<4>()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) ^ 0xffff_ffff {
        return None;
    }
    let (lsn, _) = rest.split_first_chunk::<8>()?;
    let lsn = u64::from_le_bytes(*lsn) ^ 0x7fff_ffff_ffff_ffff;
    (lsn % SEGMENT as u64 == 0).then_some(lsn / SEGMENT as u64)
}

/// What a segment's messages look like.
#[derive(Default)]
struct Walk {
    /// Where they end without a cap and before the segment does.
    torn: Option<usize>,
    /// Messages of the same segment follow behind that, or what is there ends in the middle of one.
    more: bool,
    /// The number behind the last reading in the messages, and in what is behind them.
    last: u32,
    last_behind: u32,
}

fn walk(segment: &[u8], number: u64, generation: u32) -> Walk {
    let (at, torn) = messages(segment, number);
    let (sound, rest) = segment.split_at_checked(at).unwrap_or((segment, &[]));
    let last = last_number(sound, generation);
    if !torn {
        return Walk { last, ..Walk::default() };
    }
    let more = cut_off(rest, number) || (1..rest.len()).any(|skip| follows(rest, skip, number));
    Walk { torn: Some(at), more, last, last_behind: last_number(rest, generation) }
}

/// Where the messages of a segment end, and whether they should not.
fn messages(segment: &[u8], number: u64) -> (usize, bool) {
    let mut at = SEGMENT_HEADER;
    loop {
        let Some(rest) = segment.get(at..).filter(|rest| !rest.is_empty() && at + RED_ZONE <= SEGMENT) else {
            // Full; or the end of the file, right behind a message: sled has written so far.
            return (at, false);
        };
        match message(rest, number) {
            Some((CAP, _)) => return (at, false),
            Some((_, length)) => at += length,
            None => return (at, rest.iter().any(|&byte| byte != 0)),
        }
    }
}

fn last_number(bytes: &[u8], generation: u32) -> u32 {
    let mut last = 0;
    scan::scan(bytes, 0, bytes.len(), generation, &mut |header, _| {
        if matches!(header.kind, Kind::Readings | Kind::Summaries) {
            last = last.max(header.first_n.saturating_add(header.count));
        }
    });
    last
}

fn follows(rest: &[u8], skip: usize, number: u64) -> bool {
    rest.get(skip..).and_then(|rest| message(rest, number)).is_some()
}

/// Kind and whole length of the sound message of this segment that `bytes` begin with.
fn message(bytes: &[u8], number: u64) -> Option<(u8, usize)> {
    let head = head(bytes, number)?;
    let body = bytes.get(head.length..head.length.checked_add(head.body)?)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(body);
    crc.update(bytes.get(4..head.length)?);
    (crc.finalize() ^ 0xffff_ffff == head.crc).then_some((head.kind, head.length + head.body))
}

/// Whether a message of this segment begins here and goes on behind the end of the file.
fn cut_off(bytes: &[u8], number: u64) -> bool {
    head(bytes, number).is_some_and(|head| head.length + head.body > bytes.len())
}

struct Head {
    crc: u32,
    kind: u8,
    body: usize,
    length: usize,
}

/// The header of a message, if it is one of this segment by its number.
fn head(bytes: &[u8], number: u64) -> Option<Head> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    let (&kind, mut rest) = rest.split_first()?;
    if !KINDS.contains(&kind) {
        return None;
    }
    let body = usize::try_from(varint(&mut rest)?).ok().filter(|body| *body <= SEGMENT)?;
    if varint(&mut rest)? != number {
        return None;
    }
    varint(&mut rest)?;
    Some(Head { crc: u32::from_le_bytes(*crc), kind, body, length: bytes.len() - rest.len() })
}

/// sled's integers: small ones in one byte, else the first byte tells how many follow.
fn varint(input: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = input.split_first()?;
    let (value, rest) = match first {
        0..=240 => (u64::from(first), rest),
        241..=248 => {
            let (&low, rest) = rest.split_first()?;
            (240 + 256 * (u64::from(first) - 241) + u64::from(low), rest)
        }
        249 => {
            let ([high, low], rest) = rest.split_first_chunk::<2>()?;
            (2288 + 256 * u64::from(*high) + u64::from(*low), rest)
        }
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first) - 247)?;
            let mut whole = [0; 8];
            whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
            (u64::from_le_bytes(whole), rest)
        }
    };
    *input = rest;
    Some(value)
}
