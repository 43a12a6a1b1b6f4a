//! What stands around a body: header, checksum, seal.

use std::borrow::Cow;
use std::ops::Range;

use super::{BlockError, CODEC_PLAIN, Header, Kind, MAX_BODY, MAX_READINGS};
use crate::journal::keys::{Closed, KeyId, Keys, Nonce, Sealer, TAG};
use crate::journal::varint;

const VERSION: u8 = 2;
/// The one before: without the stored length.
const VERSION_1: u8 = 1;
const ORIGIN_HERE: u8 = 0;
const NO_KEY: u64 = 0;
const CRC: Range<usize> = 4..8;

/// A value with `body` in it, sealed if there is a sealer.
///
/// # Errors
/// [`BlockError::TooLong`].
pub fn seal(
    header: &Header,
    codec: u8,
    body_len: usize,
    body: &[u8],
    sealer: Option<&Sealer>,
) -> Result<Vec<u8>, BlockError> {
    let mut value = Vec::with_capacity(body.len() + 100);
    value.extend_from_slice(&[VERSION, header.kind as u8, codec, ORIGIN_HERE, 0, 0, 0, 0]);
    let mut nonce_bytes = Vec::new();
    let sealing = sealer.map(|sealer| {
        let nonce = sealer.nonce();
        nonce.put(&mut nonce_bytes);
        (sealer, nonce)
    });
    let tag_len = if sealing.is_some() { TAG } else { 0 };
    varint::put(&mut value, (nonce_bytes.len() + body.len() + tag_len) as u64);
    varint::put(&mut value, sealer.map_or(NO_KEY, |sealer| sealer.id().to_header()));
    varint::put(&mut value, u64::from(header.boot_tag));
    varint::put(&mut value, u64::from(header.clock_epoch));
    varint::put(&mut value, u64::from(header.generation));
    varint::put(&mut value, u64::from(header.first_n));
    varint::put(&mut value, u64::from(header.count));
    varint::put(&mut value, body_len as u64);
    varint::put_signed(&mut value, header.earliest_ms);
    varint::put(&mut value, header.latest_ms.wrapping_sub(header.earliest_ms) as u64);
    value.extend_from_slice(&nonce_bytes);
    let about = value.len();
    value.extend_from_slice(body);
    if let Some((sealer, nonce)) = sealing {
        let (about, body) = value.split_at_mut(about);
        let tag = sealer.seal(nonce, about, body).ok_or(BlockError::TooLong)?;
        value.extend_from_slice(&tag);
    }
    let crc = checksum(&value);
    if let Some(slot) = value.get_mut(CRC) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    Ok(value)
}

/// The crc of a value, its own four bytes left out.
fn checksum(value: &[u8]) -> u32 {
    let head = value.get(..CRC.start).unwrap_or_default();
    let tail = value.get(CRC.end..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(head), tail)
}

/// Reads the header alone and checks the whole value's checksum. Needs no key.
///
/// # Errors
/// See [`BlockError`].
pub fn header(value: &[u8]) -> Result<Header, BlockError> {
    open(value).map(|opened| opened.header)
}

/// The key that a value is sealed with; `None`: it is not. Needs no key.
///
/// # Errors
/// See [`BlockError`].
pub fn key(value: &[u8]) -> Result<Option<KeyId>, BlockError> {
    open(value).map(|opened| opened.key)
}

/// How a value may begin; far from proof, but it spares nearly every sum.
pub fn may_begin(bytes: &[u8]) -> bool {
    matches!(*bytes, [VERSION | VERSION_1, 0..=7, 0..=7, ORIGIN_HERE, ..])
}

/// How many bytes a value takes that begins at the front of `bytes`, sealed or not, by what its header says. For whoever
/// looks for values in a damaged file: what is found is a value only if [`header`] then accepts those bytes. `None`:
/// no value begins here, or it is a compressed one of version 1, which does not say how long it is.
pub fn stored_len(bytes: &[u8]) -> Option<usize> {
    let [version, _, codec, ..] = *bytes else { return None };
    let fields = fields(version, bytes.get(CRC.end..)?)?;
    let header_len = bytes.len() - fields.rest.len();
    header_len.checked_add(fields.stored(codec)?)
}

/// A value whose checksum is right.
pub struct Opened<'a> {
    pub header: Header,
    pub codec: u8,
    pub body_len: usize,
    key: Option<KeyId>,
    value: &'a [u8],
    /// What follows the header.
    rest: &'a [u8],
}

struct Fields<'a> {
    stored_len: Option<usize>,
    key: u64,
    boot_tag: u32,
    clock_epoch: u32,
    generation: u32,
    first_n: u32,
    count: u32,
    body_len: usize,
    earliest_ms: i64,
    latest_ms: i64,
    rest: &'a [u8],
}

impl Fields<'_> {
    /// Bytes behind the header, where that is known.
    fn stored(&self, codec: u8) -> Option<usize> {
        self.stored_len.or((codec == CODEC_PLAIN).then_some(self.body_len))
    }
}

fn fields(version: u8, mut rest: &[u8]) -> Option<Fields<'_>> {
    let number = |rest: &mut &[u8]| u32::try_from(varint::take(rest)?).ok();
    let length = |rest: &mut &[u8]| usize::try_from(varint::take(rest)?).ok();
    let stored_len = match version {
        VERSION => Some(length(&mut rest)?),
        VERSION_1 => None,
        _ => return None,
    };
    let key = varint::take(&mut rest)?;
    let boot_tag = number(&mut rest)?;
    let clock_epoch = number(&mut rest)?;
    let generation = number(&mut rest)?;
    let first_n = number(&mut rest)?;
    let count = number(&mut rest)?;
    let body_len = length(&mut rest)?;
    let earliest_ms = varint::take_signed(&mut rest)?;
    let latest_ms = earliest_ms.wrapping_add(varint::take(&mut rest)? as i64);
    let sound = body_len <= MAX_BODY && count as usize <= MAX_READINGS;
    sound.then_some(Fields {
        stored_len,
        key,
        boot_tag,
        clock_epoch,
        generation,
        first_n,
        count,
        body_len,
        earliest_ms,
        latest_ms,
        rest,
    })
}

/// Reads header and checksum; the body stays closed.
///
/// # Errors
/// See [`BlockError`].
pub fn open(value: &[u8]) -> Result<Opened<'_>, BlockError> {
    let [version, kind, codec, _origin, a, b, c, d, ..] = *value else {
        return Err(BlockError::Malformed);
    };
    if !matches!(version, VERSION | VERSION_1) {
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
    let rest = value.get(CRC.end..).unwrap_or_default();
    let fields = fields(version, rest).ok_or(BlockError::Malformed)?;
    if fields.stored(codec).is_some_and(|stored| stored != fields.rest.len()) {
        return Err(BlockError::Malformed);
    }
    let key = match fields.key {
        NO_KEY => None,
        id => Some(KeyId::from_header(id).ok_or(BlockError::Malformed)?),
    };
    let header = Header {
        kind,
        boot_tag: fields.boot_tag,
        clock_epoch: fields.clock_epoch,
        generation: fields.generation,
        first_n: fields.first_n,
        count: fields.count,
        earliest_ms: fields.earliest_ms,
        latest_ms: fields.latest_ms,
    };
    Ok(Opened { header, codec, body_len: fields.body_len, key, value, rest: fields.rest })
}

impl<'a> Opened<'a> {
    /// The body as it was before it was sealed.
    ///
    /// # Errors
    /// [`BlockError::Sealed`] when its key is not among `keys`, [`BlockError::Altered`] when the seal does not fit.
    pub fn body(&self, keys: &Keys) -> Result<Cow<'a, [u8]>, BlockError> {
        let Some(key) = self.key else { return Ok(Cow::Borrowed(self.rest)) };
        if !keys.has(key) {
            return Err(BlockError::Sealed(key));
        }
        let mut rest = self.rest;
        let nonce = Nonce::take(&mut rest).ok_or(BlockError::Malformed)?;
        let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(BlockError::Malformed)?;
        let mut about = self.value.get(..self.value.len() - rest.len()).unwrap_or_default().to_vec();
        about.get_mut(CRC).unwrap_or_default().fill(0);
        let mut body = body.to_vec();
        match keys.open(key, &nonce, &about, &mut body, tag) {
            Ok(()) => Ok(Cow::Owned(body)),
            Err(Closed::NoKey) => Err(BlockError::Sealed(key)),
            Err(Closed::Altered) => Err(BlockError::Altered(key)),
        }
    }
}
