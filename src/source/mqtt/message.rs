//! A message on its way to local subscribers.
//!
//! The embedded router sees a message as a topic and an opaque payload. That payload is an envelope of ours: what
//! the router would lose or overwrite (the publisher's QoS, its MQTT 5 properties, when it expires, who sent it)
//! stands in front of the publisher's bytes. The envelope never leaves the process.
//!
//! Topics carry a constant level of ours in front (`t/`): the router cuts a topic after its first byte when it looks
//! for `$`, which ends it if that byte begins a longer character.
//!
//! ```text
//! flags u8 (bits 0-1 QoS, bit 2 retain) | origin u64 | expires u64 (uptime ms, 0 never) | n u32 | 43 bytes of 0 |
//! n bytes | payload
//! ```
//!
//! The zeros make the smallest message as large as what the router spends on keeping track of it, so that its logs,
//! which count bytes, are bounded in memory.

use bytes::{BufMut, Bytes, BytesMut};

use super::publish::{Publish, Qos, Version, forwardable};

/// Who sent a message: the number of its connection (for "no local").
pub(crate) type Origin = u64;

/// The level in front of every topic and filter inside the router.
pub(crate) const PREFIX: &str = "t/";

/// The topic as clients know it.
pub(crate) fn client_topic(inside: &Bytes) -> Bytes {
    if inside.starts_with(PREFIX.as_bytes()) { inside.slice(PREFIX.len()..) } else { inside.clone() }
}

/// One message, shared by all its subscribers.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// With [`PREFIX`].
    pub topic: Bytes,
    pub envelope: Bytes,
    pub retain: bool,
    /// An empty payload: with the retain flag it clears what was retained.
    pub empty: bool,
}

/// What goes into an envelope beside the payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub qos: Qos,
    pub retain: bool,
    pub origin: Origin,
    /// Uptime in ms after which nobody wants it; 0: never.
    pub expires: u64,
    /// MQTT 5 properties as they are passed on.
    pub properties: &'a [u8],
}

const FIXED: usize = 1 + 8 + 8 + 4 + FILL;
const FILL: usize = 43;

impl Message {
    pub(crate) fn new(topic: &[u8], payload: &[u8], head: Head<'_>) -> Self {
        let mut out = BytesMut::with_capacity(FIXED + head.properties.len() + payload.len());
        out.put_u8(head.qos as u8 | (u8::from(head.retain) << 2));
        out.put_u64(head.origin);
        out.put_u64(head.expires);
        out.put_u32(u32::try_from(head.properties.len()).unwrap_or(0));
        out.put_bytes(0, FILL);
        out.put_slice(head.properties);
        out.put_slice(payload);
        Self {
            topic: [PREFIX.as_bytes(), topic].concat().into(),
            envelope: out.freeze(),
            retain: head.retain,
            empty: payload.is_empty(),
        }
    }

    /// From a publish that a client sent; `topic` with its alias resolved.
    pub(crate) fn of_publish(topic: &[u8], publish: &Publish<'_>, origin: Origin, uptime_ms: u64) -> Self {
        let mut properties = Vec::new();
        forwardable(publish.properties.raw, &mut properties);
        let expires = publish.properties.expiry.map_or(0, |s| uptime_ms + u64::from(s) * 1000);
        let head =
            Head { qos: publish.qos, retain: publish.retain, origin, expires, properties: &properties };
        Self::new(topic, publish.payload, head)
    }

    /// Bytes it occupies.
    pub(crate) fn size(&self) -> usize {
        self.topic.len() + self.envelope.len()
    }
}

/// An envelope, opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened<'a> {
    pub qos: Qos,
    pub retain: bool,
    pub origin: Origin,
    pub expires: u64,
    pub properties: &'a [u8],
    pub payload: &'a [u8],
}

/// `None`: not one of ours.
pub(crate) fn open(envelope: &[u8]) -> Option<Opened<'_>> {
    let (&[flags], rest) = envelope.split_first_chunk()?;
    let (origin, rest) = rest.split_first_chunk()?;
    let (expires, rest) = rest.split_first_chunk()?;
    let (n, rest) = rest.split_first_chunk()?;
    let rest = rest.get(FILL..)?;
    let (properties, payload) = rest.split_at_checked(u32::from_be_bytes(*n) as usize)?;
    let qos = match flags & 0b11 {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    };
    Some(Opened {
        qos,
        retain: flags & 0b100 != 0,
        origin: u64::from_be_bytes(*origin),
        expires: u64::from_be_bytes(*expires),
        properties,
        payload,
    })
}

/// How one subscriber gets a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub version: Version,
    /// 0 or 1.
    pub qos: Qos,
    pub pkid: u16,
    pub dup: bool,
    pub retain: bool,
    /// Largest packet the subscriber takes.
    pub max_packet: usize,
    pub uptime_ms: u64,
}

/// Appends the PUBLISH; `false`: it has expired or is too large for this subscriber.
pub(crate) fn write(out: &mut BytesMut, topic: &[u8], opened: &Opened<'_>, manner: Manner) -> bool {
    let left = match opened.expires {
        0 => None,
        at if at <= manner.uptime_ms => return false,
        at => Some(u32::try_from((at - manner.uptime_ms).div_ceil(1000)).unwrap_or(u32::MAX)),
    };
    let with_id = manner.qos != Qos::AtMostOnce;
    let properties = opened.properties.len() + if left.is_some() { 5 } else { 0 };
    let mut length = 2 + topic.len() + if with_id { 2 } else { 0 } + opened.payload.len();
    if manner.version == Version::V5 {
        length += properties + varint_len(properties);
    }
    if 1 + varint_len(length) + length > manner.max_packet {
        return false;
    }
    out.reserve(5 + length);
    out.put_u8(0x30 | (u8::from(manner.dup) << 3) | ((manner.qos as u8) << 1) | u8::from(manner.retain));
    put_varint(out, length);
    out.put_u16(u16::try_from(topic.len()).unwrap_or(0));
    out.put_slice(topic);
    if with_id {
        out.put_u16(manner.pkid);
    }
    if manner.version == Version::V5 {
        put_varint(out, properties);
        out.put_slice(opened.properties);
        if let Some(left) = left {
            out.put_u8(0x02);
            out.put_u32(left);
        }
    }
    out.put_slice(opened.payload);
    true
}

fn varint_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

pub(crate) fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::mqtt::publish::frame;

    #[test]
    fn an_envelope_keeps_everything() {
        let head =
            Head { qos: Qos::AtLeastOnce, retain: true, origin: 9, expires: 5000, properties: b"\x01\x01" };
        let message = Message::new(b"a/b", b"72", head);
        let opened = open(&message.envelope).unwrap();
        assert_eq!((opened.qos, opened.retain, opened.origin), (Qos::AtLeastOnce, true, 9));
        assert_eq!((opened.properties, opened.payload), (&b"\x01\x01"[..], &b"72"[..]));
        assert_eq!(open(b"short"), None);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let head = Head {
            qos: Qos::ExactlyOnce,
            retain: false,
            origin: 1,
            expires: 10_000,
            properties: b"\x03\0\x01t",
        };
        let payload = vec![7; 200];
        let message = Message::new(b"a", &payload, head);
        let opened = open(&message.envelope).unwrap();
        let mut manner = Manner {
            version: Version::V5,
            qos: Qos::AtLeastOnce,
            pkid: 5,
            dup: true,
            retain: false,
            max_packet: 1000,
            uptime_ms: 4500,
        };
        let mut out = BytesMut::new();
        assert!(write(&mut out, b"a", &opened, manner));
        let frame = frame(&out, 1000).unwrap().unwrap();
        assert_eq!(frame.total, out.len());
        let publish = Publish::read(frame, Version::V5).unwrap();
        assert_eq!((publish.dup, publish.pkid, publish.payload), (true, 5, &payload[..]));
        assert_eq!(publish.properties.expiry, Some(6));

        out.clear();
        manner.uptime_ms = 10_000;
        assert!(!write(&mut out, b"a", &opened, manner), "expired");
        manner.uptime_ms = 0;
        manner.max_packet = 100;
        assert!(!write(&mut out, b"a", &opened, manner), "too large");
        assert!(out.is_empty());
    }
}
