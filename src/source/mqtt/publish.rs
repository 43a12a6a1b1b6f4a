//! Frames and PUBLISH packets, read in place.
//!
//! Promises: nothing is copied or allocated; every byte sequence is either a packet, an incomplete one, or a
//! [`Malformed`] with the reason code MQTT 5 wants for it; never a panic. Topic names are handed on as bytes: the
//! connection's cache checks their UTF-8 and their form once per distinct topic.
//! Format: MQTT 3.1.1 section 3.3, MQTT 5 section 3.3.

/// Protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

/// Quality of service, by the standard's names.
#[allow(clippy::enum_variant_names)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

/// Why a packet ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the remaining length has more than four bytes")]
    RemainingLength,
    #[error("the packet is larger than the limit")]
    TooLarge,
    #[error("the packet ends within a field")]
    Truncated,
    #[error("the fixed header's flags are wrong")]
    Flags,
    #[error("QoS 3 does not exist")]
    Qos,
    #[error("packet id 0")]
    PacketId,
    #[error("the topic name is empty, has a wildcard or is not UTF-8")]
    TopicName,
    #[error("a property is unknown, repeated or out of place")]
    Property,
    #[error("the topic alias is 0, too large or not yet known")]
    TopicAlias,
    #[error("the packet's contents are not as its type requires")]
    Contents,
    #[error("a packet of this type may not be sent by a client now")]
    Unexpected,
    #[error("more publishes in flight than announced")]
    ReceiveMaximum,
}

impl Malformed {
    /// The reason code of the DISCONNECT (MQTT 5, section 3.14.2.1).
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::RemainingLength | Self::Truncated | Self::Flags | Self::Qos | Self::Property => 0x81,
            Self::Contents => 0x81,
            Self::PacketId | Self::Unexpected => 0x82,
            Self::TopicName => 0x90,
            Self::ReceiveMaximum => 0x93,
            Self::TopicAlias => 0x94,
            Self::TooLarge => 0x95,
        }
    }

    /// Label of the counter.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::RemainingLength => "remaining_length",
            Self::TooLarge => "too_large",
            Self::Truncated => "truncated",
            Self::Flags => "flags",
            Self::Qos => "qos",
            Self::PacketId => "packet_id",
            Self::TopicName => "topic_name",
            Self::Property => "property",
            Self::TopicAlias => "topic_alias",
            Self::Contents => "contents",
            Self::Unexpected => "unexpected",
            Self::ReceiveMaximum => "receive_maximum",
        }
    }
}

/// A complete packet at the start of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Packet type and flags.
    pub first: u8,
    /// Everything behind the fixed header.
    pub body: &'a [u8],
    /// Length with the fixed header.
    pub total: usize,
}

/// The packet at the start of `buf`, `None` while it is incomplete. `max` counts the whole packet.
pub(crate) fn frame(buf: &[u8], max: usize) -> Result<Option<Frame<'_>>, Malformed> {
    let Some((&first, rest)) = buf.split_first() else { return Ok(None) };
    let Some((length, rest)) = varint(rest)? else { return Ok(None) };
    let total = buf.len() - rest.len() + length;
    if total > max {
        return Err(Malformed::TooLarge);
    }
    Ok(rest.get(..length).map(|body| Frame { first, body, total }))
}

/// The length of the packet at the start of `buf`, with its fixed header, as far as that has come.
pub(crate) fn announced(buf: &[u8]) -> Option<usize> {
    let (_, rest) = buf.split_first()?;
    let (length, rest) = varint(rest).ok()??;
    Some(buf.len() - rest.len() + length)
}

/// A variable byte integer and what follows it; `None` while it is incomplete.
fn varint(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Malformed> {
    let mut value = 0usize;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(bytes.get(at + 1..).map(|rest| (value, rest)));
        }
    }
    if bytes.len() >= 4 { Err(Malformed::RemainingLength) } else { Ok(None) }
}

/// A PUBLISH packet, borrowed from the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// Not yet checked; empty with a topic alias.
    pub topic: &'a [u8],
    /// 0 with QoS 0.
    pub pkid: u16,
    pub properties: Properties<'a>,
    pub payload: &'a [u8],
}

/// What matters of the properties (MQTT 5), and their bytes for those it is passed on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Properties<'a> {
    pub alias: Option<u16>,
    /// Seconds after which the message is of no use to subscribers.
    pub expiry: Option<u32>,
    pub raw: &'a [u8],
}

impl<'a> Publish<'a> {
    pub(crate) fn read(frame: Frame<'a>, version: Version) -> Result<Self, Malformed> {
        let dup = frame.first & 0b1000 != 0;
        let retain = frame.first & 0b1 != 0;
        let qos = match (frame.first >> 1) & 0b11 {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            2 => Qos::ExactlyOnce,
            _ => return Err(Malformed::Qos),
        };
        if dup && qos == Qos::AtMostOnce {
            return Err(Malformed::Flags);
        }
        let mut rest = frame.body;
        let topic = take_bytes(&mut rest)?;
        let pkid = match qos {
            Qos::AtMostOnce => 0,
            _ => match take_u16(&mut rest)? {
                0 => return Err(Malformed::PacketId),
                pkid => pkid,
            },
        };
        let properties = match version {
            Version::V4 => Properties::default(),
            Version::V5 => take_properties(&mut rest)?,
        };
        if topic.is_empty() && properties.alias.is_none() {
            return Err(Malformed::TopicName);
        }
        Ok(Self { dup, qos, retain, topic, pkid, properties, payload: rest })
    }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(n).ok_or(Malformed::Truncated)?;
    *rest = tail;
    Ok(head)
}

pub(crate) fn take_u8(rest: &mut &[u8]) -> Result<u8, Malformed> {
    let (&head, tail) = rest.split_first().ok_or(Malformed::Truncated)?;
    *rest = tail;
    Ok(head)
}

pub(crate) fn take_u16(rest: &mut &[u8]) -> Result<u16, Malformed> {
    let (head, tail) = rest.split_first_chunk().ok_or(Malformed::Truncated)?;
    *rest = tail;
    Ok(u16::from_be_bytes(*head))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, Malformed> {
    let (head, tail) = rest.split_first_chunk().ok_or(Malformed::Truncated)?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = usize::from(take_u16(rest)?);
    take(rest, length)
}

fn take_string(rest: &mut &[u8]) -> Result<(), Malformed> {
    std::str::from_utf8(take_bytes(rest)?).map(|_| ()).map_err(|_| Malformed::Property)
}

fn take_properties<'a>(rest: &mut &'a [u8]) -> Result<Properties<'a>, Malformed> {
    let (length, after) = varint(rest)?.ok_or(Malformed::Truncated)?;
    *rest = after;
    let raw = take(rest, length)?;
    let mut found = Properties { raw, ..Properties::default() };
    let mut seen = 0u64;
    let mut left = raw;
    while !left.is_empty() {
        let id = take_u8(&mut left)?;
        match id {
            0x01 => {
                if take_u8(&mut left)? > 1 {
                    return Err(Malformed::Property);
                }
            }
            0x02 => found.expiry = Some(take_u32(&mut left)?),
            0x03 | 0x08 => take_string(&mut left)?,
            0x09 => {
                take_bytes(&mut left)?;
            }
            0x23 => match take_u16(&mut left)? {
                0 => return Err(Malformed::TopicAlias),
                alias => found.alias = Some(alias),
            },
            0x26 => {
                take_string(&mut left)?;
                take_string(&mut left)?;
                continue;
            }
            _ => return Err(Malformed::Property),
        }
        // All but user properties may stand once only; every id accepted above is below 64.
        if seen & (1 << id) != 0 {
            return Err(Malformed::Property);
        }
        seen |= 1 << id;
    }
    Ok(found)
}

/// Copies the properties a subscriber gets unaltered: all but the topic alias and the expiry, which are the
/// broker's to set. `raw` has passed [`Publish::read`].
pub(crate) fn forwardable(raw: &[u8], out: &mut Vec<u8>) {
    let mut left = raw;
    while let Some(&id) = left.first() {
        let mut rest = left;
        let step = (|| {
            take_u8(&mut rest)?;
            match id {
                0x01 => take(&mut rest, 1).map(|_| ()),
                0x02 => take(&mut rest, 4).map(|_| ()),
                0x23 => take(&mut rest, 2).map(|_| ()),
                0x26 => take_bytes(&mut rest).and_then(|_| take_bytes(&mut rest)).map(|_| ()),
                _ => take_bytes(&mut rest).map(|_| ()),
            }
        })();
        if step.is_err() {
            return;
        }
        if !matches!(id, 0x02 | 0x23) {
            out.extend_from_slice(left.get(..left.len() - rest.len()).unwrap_or_default());
        }
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        assert!(body.len() < 128);
        let mut out = vec![first, body.len() as u8];
        out.extend_from_slice(body);
        out
    }

    fn read(first: u8, body: &[u8], version: Version) -> Result<(Vec<u8>, u16, Vec<u8>), Malformed> {
        let bytes = packet(first, body);
        let frame = frame(&bytes, 1000)?.unwrap();
        let publish = Publish::read(frame, version)?;
        Ok((publish.topic.to_vec(), publish.pkid, publish.payload.to_vec()))
    }

    #[test]
    fn qos1_of_both_versions() {
        assert_eq!(read(0x32, b"\0\x01a\0\x0772", Version::V4), Ok((b"a".to_vec(), 7, b"72".to_vec())));
        assert_eq!(read(0x32, b"\0\x01a\0\x07\x0072", Version::V5), Ok((b"a".to_vec(), 7, b"72".to_vec())));
        assert_eq!(read(0x30, b"\0\x01a72", Version::V4), Ok((b"a".to_vec(), 0, b"72".to_vec())));
    }

    #[test]
    fn properties_are_read_and_skipped() {
        let mut body = b"\0\x00\0\x07".to_vec();
        let properties =
            b"\x01\x01\x02\0\0\0\x3c\x23\0\x05\x26\0\x01k\0\x01v\x26\0\x01k\0\x01v\x03\0\x04text";
        body.push(properties.len() as u8);
        body.extend_from_slice(properties);
        body.extend_from_slice(b"72");
        let bytes = packet(0x34, &body);
        let publish = Publish::read(frame(&bytes, 1000).unwrap().unwrap(), Version::V5).unwrap();
        assert_eq!(publish.qos, Qos::ExactlyOnce);
        assert_eq!((publish.properties.alias, publish.properties.expiry), (Some(5), Some(60)));
        assert_eq!(publish.payload, b"72");
        let mut kept = Vec::new();
        forwardable(publish.properties.raw, &mut kept);
        assert_eq!(kept, b"\x01\x01\x26\0\x01k\0\x01v\x26\0\x01k\0\x01v\x03\0\x04text");
    }

    #[test]
    fn every_malformed_shape_has_its_code() {
        use Malformed::*;
        let v4: [(u8, &[u8], Malformed); 7] = [
            (0x36, b"\0\x01a\0\x01", Qos),
            (0x38, b"\0\x01a", Flags),
            (0x32, b"\0\x01a\0\x00", PacketId),
            (0x32, b"\0\x01a\0", Truncated),
            (0x30, b"\0\x05a", Truncated),
            (0x30, b"\0", Truncated),
            (0x30, b"\0\0x", TopicName),
        ];
        for (first, body, expected) in v4 {
            assert_eq!(read(first, body, Version::V4), Err(expected), "{body:?}");
        }
        let v5: [(&[u8], Malformed); 9] = [
            (b"\0\x01a", Truncated),
            (b"\0\x01a\x05\x01", Truncated),
            (b"\0\x01a\x02\x01\x02", Property),
            (b"\0\x01a\x04\x01\x01\x01\x01", Property),
            (b"\0\x01a\x02\x0b\x01", Property),
            (b"\0\x01a\x03\x23\0\0", TopicAlias),
            (b"\0\x01a\x04\x03\0\x01\xff", Property),
            (b"\0\x01a\x01\x7f", Property),
            (b"\0\0\0", TopicName),
        ];
        for (body, expected) in v5 {
            assert_eq!(read(0x30, body, Version::V5), Err(expected), "{body:?}");
        }
        assert_eq!(frame(&[0x30, 0x80, 0x80, 0x80, 0x80], 1000), Err(RemainingLength));
        assert_eq!(frame(&[0x30, 0xFF, 0x7F], 1000), Err(TooLarge));
        assert_eq!(TooLarge.code(), 0x95);
    }

    #[test]
    fn incomplete_frames_wait() {
        let whole = packet(0x30, b"\0\x01a72");
        for cut in 0..whole.len() {
            assert_eq!(frame(&whole[..cut], 1000), Ok(None));
            assert_eq!(announced(&whole[..cut]), (cut > 1).then_some(whole.len()));
        }
        assert_eq!(frame(&whole, 1000).unwrap().unwrap().total, whole.len());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), v5 in any::<bool>()) {
            let version = if v5 { Version::V5 } else { Version::V4 };
            if let Ok(Some(frame)) = frame(&bytes, 300)
                && let Ok(publish) = Publish::read(frame, version)
            {
                let mut kept = Vec::new();
                forwardable(publish.properties.raw, &mut kept);
                prop_assert!(kept.len() <= publish.properties.raw.len());
            }
        }

        #[test]
        fn any_properties_do_not_panic(properties in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut body = b"\0\x01a".to_vec();
            body.push(properties.len() as u8);
            body.extend_from_slice(&properties);
            let bytes = packet(0x30, &body);
            let _ = Publish::read(frame(&bytes, 300).unwrap().unwrap(), Version::V5);
        }
    }
}
