//! Control packets other than PUBLISH and its answers.
//!
//! CONNECT, SUBSCRIBE, UNSUBSCRIBE and DISCONNECT are read by rumqttd's codecs. Only these types ever reach them:
//! on packets that only a broker sends they do not return an error but panic.

use bytes::{BufMut, Bytes, BytesMut};
use rumqttd::protocol::{
    ConnAck, ConnAckProperties, ConnectReturnCode, DisconnectReasonCode, LastWill, LastWillProperties,
    Packet, Protocol, QoS, RetainForwardRule, v4::V4, v5::V5,
};

use super::message::{Head, Message, Origin, put_varint};
use super::publish::{Frame, Malformed, Qos, Version, take_u8, take_u16};

/// A CONNECT, the same for both versions.
#[derive(Debug)]
pub(crate) struct Connect {
    pub version: Version,
    pub client_id: String,
    /// Start without the state of an earlier session.
    pub clean: bool,
    /// How long the session outlives the connection, in s; `u32::MAX`: for ever.
    pub session_expiry: u32,
    /// Seconds; 0: no limit.
    pub keep_alive: u16,
    /// User name and password; empty if only one of them was given.
    pub login: Option<(String, String)>,
    pub will: Option<Will>,
    /// Most QoS 1 messages the client takes unacknowledged.
    pub receive_maximum: u16,
    /// Largest packet the client takes.
    pub max_packet: u32,
    /// It wants an authentication exchange.
    pub authentication: bool,
}

/// The message that tells of an ungraceful end.
#[derive(Debug)]
pub(crate) struct Will {
    pub topic: Bytes,
    payload: Bytes,
    qos: Qos,
    retain: bool,
    expiry: Option<u32>,
    properties: Vec<u8>,
}

impl Will {
    /// Bytes it occupies.
    pub(crate) fn size(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len()
    }

    pub(crate) fn message(&self, origin: Origin, uptime_ms: u64) -> Message {
        let expires = self.expiry.map_or(0, |s| uptime_ms + u64::from(s) * 1000);
        let head = Head { qos: self.qos, retain: self.retain, origin, expires, properties: &self.properties };
        Message::new(&self.topic, &self.payload, head)
    }
}

/// Why a CONNECT is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("protocol version not supported")]
    Protocol,
    #[error("client id not accepted")]
    ClientId,
    #[error("bad user name or password")]
    Credentials,
    #[error("not authorised")]
    NotAuthorized,
    #[error("too many connections")]
    TooMany,
    #[error("authentication method not supported")]
    AuthMethod,
    #[error("nothing can be stored at present")]
    Busy,
    #[error("too many connections of this address")]
    Share,
    #[error("this client reconnects too often")]
    Throttled,
}

impl Refusal {
    fn codes(self) -> (u8, u8) {
        match self {
            Self::Protocol => (1, 0x84),
            Self::ClientId => (2, 0x85),
            Self::Credentials => (4, 0x86),
            Self::NotAuthorized => (5, 0x87),
            Self::TooMany => (3, 0x97),
            Self::AuthMethod => (5, 0x8C),
            Self::Busy => (3, 0x89),
            Self::Share => (3, 0x97),
            Self::Throttled => (3, 0x9F),
        }
    }

    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::ClientId => "client_id",
            Self::Credentials => "credentials",
            Self::NotAuthorized => "not_authorized",
            Self::TooMany => "too_many_connections",
            Self::AuthMethod => "auth_method",
            Self::Busy => "nothing_can_be_stored",
            Self::Share => "address_share",
            Self::Throttled => "client_throttled",
        }
    }
}

/// Why there is no [`Connect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadConnect {
    /// Answer with a CONNACK.
    Refused(Refusal),
    /// Close at once.
    Malformed(Malformed),
}

/// Reads the first packet of a connection; `bytes` is the whole packet of `frame`.
pub(crate) fn read_connect(frame: Frame<'_>, bytes: &[u8]) -> Result<Connect, BadConnect> {
    if frame.first != 0x10 {
        return Err(BadConnect::Malformed(Malformed::Unexpected));
    }
    let version = match frame.body {
        [0, 4, b'M', b'Q', b'T', b'T', 4, flags, ..] if flags & 1 == 0 => Version::V4,
        [0, 4, b'M', b'Q', b'T', b'T', 5, flags, ..] if flags & 1 == 0 => Version::V5,
        [0, 4, b'M', b'Q', b'T', b'T', 4 | 5, ..] => return Err(BadConnect::Malformed(Malformed::Flags)),
        [0, 4, b'M', b'Q', b'T', b'T', _, ..] | [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..] => {
            return Err(BadConnect::Refused(Refusal::Protocol));
        }
        _ => return Err(BadConnect::Malformed(Malformed::Contents)),
    };
    let Ok(Packet::Connect(connect, properties, will, will_properties, login)) = decode(version, bytes)
    else {
        return Err(BadConnect::Malformed(Malformed::Contents));
    };
    let session_expiry = match (version, &properties) {
        (Version::V4, _) => {
            if connect.clean_session {
                0
            } else {
                u32::MAX
            }
        }
        (Version::V5, properties) => properties.as_ref().and_then(|p| p.session_expiry_interval).unwrap_or(0),
    };
    let receive_maximum = properties.as_ref().and_then(|p| p.receive_maximum).unwrap_or(u16::MAX);
    let max_packet = properties.as_ref().and_then(|p| p.max_packet_size).unwrap_or(u32::MAX);
    if receive_maximum == 0 || max_packet == 0 {
        return Err(BadConnect::Malformed(Malformed::Property));
    }
    let will =
        will.map(|will| read_will(will, will_properties)).transpose().map_err(BadConnect::Malformed)?;
    Ok(Connect {
        version,
        client_id: connect.client_id,
        clean: connect.clean_session,
        session_expiry,
        keep_alive: connect.keep_alive,
        login: login.map(|l| (l.username, l.password)),
        will,
        receive_maximum,
        max_packet,
        authentication: properties.is_some_and(|p| p.authentication_method.is_some()),
    })
}

/// What rumqttd lets pass and a PUBLISH must not have is refused: the will becomes one.
fn read_will(will: LastWill, properties: Option<LastWillProperties>) -> Result<Will, Malformed> {
    let mut raw = BytesMut::new();
    let mut expiry = None;
    if let Some(p) = properties {
        expiry = p.message_expiry_interval;
        if let Some(flag) = p.payload_format_indicator {
            if flag > 1 {
                return Err(Malformed::Property);
            }
            raw.put_slice(&[0x01, flag]);
        }
        if let Some(value) = p.content_type {
            raw.put_u8(0x03);
            put_bytes(&mut raw, value.as_bytes());
        }
        if let Some(value) = p.response_topic {
            raw.put_u8(0x08);
            put_bytes(&mut raw, value.as_bytes());
        }
        if let Some(value) = p.correlation_data {
            raw.put_u8(0x09);
            put_bytes(&mut raw, &value);
        }
        for (key, value) in p.user_properties {
            raw.put_u8(0x26);
            put_bytes(&mut raw, key.as_bytes());
            put_bytes(&mut raw, value.as_bytes());
        }
    }
    Ok(Will {
        topic: will.topic,
        payload: will.message,
        qos: from_qos(will.qos),
        retain: will.retain,
        expiry,
        properties: raw.to_vec(),
    })
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(0));
    out.put_slice(bytes);
}

fn from_qos(qos: QoS) -> Qos {
    match qos {
        QoS::AtMostOnce => Qos::AtMostOnce,
        QoS::AtLeastOnce => Qos::AtLeastOnce,
        QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}

fn decode(version: Version, bytes: &[u8]) -> Result<Packet, Malformed> {
    let mut stream = BytesMut::from(bytes);
    let size = bytes.len();
    match version {
        Version::V4 => V4.read_mut(&mut stream, size),
        Version::V5 => V5.read_mut(&mut stream, size),
    }
    .map_err(|_| Malformed::Contents)
}

/// When a subscription delivers what is retained (MQTT 5, section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetainHandling {
    Always,
    IfNew,
    Never,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub filter: String,
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain: RetainHandling,
}

/// A control packet that a client may send after CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Control {
    PubAck(u16),
    PubRel(u16),
    Subscribe(u16, Vec<Subscription>),
    Unsubscribe(u16, Vec<String>),
    Ping,
    Disconnect {
        /// The will is wanted all the same (MQTT 5, reason 0x04).
        with_will: bool,
        session_expiry: Option<u32>,
    },
}

/// Reads any packet but CONNECT and PUBLISH; `bytes` is the whole packet of `frame`.
pub(crate) fn read_control(frame: Frame<'_>, bytes: &[u8], version: Version) -> Result<Control, Malformed> {
    match frame.first {
        0x40 => Ok(Control::PubAck(read_ack(frame.body, version)?)),
        0x62 => Ok(Control::PubRel(read_ack(frame.body, version)?)),
        0x82 => match decode(version, bytes)? {
            Packet::Subscribe(subscribe, properties) => {
                if properties.is_some_and(|p| p.id.is_some()) {
                    // CONNACK said that there are no subscription identifiers here.
                    return Err(Malformed::Property);
                }
                if subscribe.pkid == 0 {
                    return Err(Malformed::PacketId);
                }
                let filters = subscribe.filters.into_iter().map(|f| Subscription {
                    filter: f.path,
                    qos: from_qos(f.qos),
                    no_local: f.nolocal,
                    retain_as_published: f.preserve_retain,
                    retain: match f.retain_forward_rule {
                        RetainForwardRule::OnEverySubscribe => RetainHandling::Always,
                        RetainForwardRule::OnNewSubscribe => RetainHandling::IfNew,
                        RetainForwardRule::Never => RetainHandling::Never,
                    },
                });
                Ok(Control::Subscribe(subscribe.pkid, filters.collect()))
            }
            _ => Err(Malformed::Contents),
        },
        0xA2 => match decode(version, bytes)? {
            Packet::Unsubscribe(unsubscribe, _) if unsubscribe.pkid == 0 => Err(Malformed::PacketId),
            Packet::Unsubscribe(unsubscribe, _) if !unsubscribe.filters.is_empty() => {
                Ok(Control::Unsubscribe(unsubscribe.pkid, unsubscribe.filters))
            }
            _ => Err(Malformed::Contents),
        },
        0xC0 if frame.body.is_empty() => Ok(Control::Ping),
        0xE0 => read_disconnect(frame, bytes, version),
        _ => Err(Malformed::Unexpected),
    }
}

fn read_ack(body: &[u8], version: Version) -> Result<u16, Malformed> {
    let mut rest = body;
    match take_u16(&mut rest)? {
        0 => Err(Malformed::PacketId),
        _ if version == Version::V4 && !rest.is_empty() => Err(Malformed::Contents),
        pkid => Ok(pkid),
    }
}

fn read_disconnect(frame: Frame<'_>, bytes: &[u8], version: Version) -> Result<Control, Malformed> {
    let mut rest = frame.body;
    match (version, frame.body.len()) {
        (_, 0) => Ok(Control::Disconnect { with_will: false, session_expiry: None }),
        (Version::V4, _) => Err(Malformed::Contents),
        // The codec wants a property length here, which may be left out.
        (Version::V5, 1) => {
            Ok(Control::Disconnect { with_will: take_u8(&mut rest)? != 0, session_expiry: None })
        }
        (Version::V5, _) => match decode(version, bytes)? {
            Packet::Disconnect(packet, properties) => Ok(Control::Disconnect {
                with_will: packet.reason_code != DisconnectReasonCode::NormalDisconnection,
                session_expiry: properties.and_then(|p| p.session_expiry_interval),
            }),
            _ => Err(Malformed::Contents),
        },
    }
}

/// What a CONNACK announces.
#[derive(Debug, Default)]
pub(crate) struct Welcome {
    pub session_present: bool,
    pub assigned_client_id: Option<String>,
    pub receive_maximum: u16,
    pub max_packet: u32,
    pub topic_alias_maximum: u16,
    /// When it differs from what the client asked for.
    pub session_expiry: Option<u32>,
}

pub(crate) fn write_connack(out: &mut BytesMut, version: Version, welcome: Welcome) {
    let connack = ConnAck { session_present: welcome.session_present, code: ConnectReturnCode::Success };
    let written = match version {
        Version::V4 => V4.write(Packet::ConnAck(connack, None), out),
        Version::V5 => {
            let properties = ConnAckProperties {
                session_expiry_interval: welcome.session_expiry,
                receive_max: Some(welcome.receive_maximum),
                max_packet_size: Some(welcome.max_packet),
                assigned_client_identifier: welcome.assigned_client_id,
                topic_alias_max: Some(welcome.topic_alias_maximum),
                subscription_identifiers_available: Some(0),
                shared_subscription_available: Some(0),
                ..ConnAckProperties::default()
            };
            V5.write(Packet::ConnAck(connack, Some(properties)), out)
        }
    };
    debug_assert!(written.is_ok(), "a CONNACK always fits");
}

/// `version` is `None` when the client's is unknown or not supported.
pub(crate) fn write_refusal(out: &mut BytesMut, version: Option<Version>, refusal: Refusal) {
    let (v4, v5) = refusal.codes();
    match version {
        Some(Version::V5) => out.put_slice(&[0x20, 3, 0, v5, 0]),
        _ => out.put_slice(&[0x20, 2, 0, v4]),
    }
}

/// SUBACK; `codes` in the order of the filters.
pub(crate) fn write_suback(out: &mut BytesMut, version: Version, pkid: u16, codes: &[u8]) {
    write_codes(out, 0x90, version, pkid, codes);
}

/// UNSUBACK; in 3.1.1 without codes.
pub(crate) fn write_unsuback(out: &mut BytesMut, version: Version, pkid: u16, codes: &[u8]) {
    let codes = if version == Version::V5 { codes } else { &[] };
    write_codes(out, 0xB0, version, pkid, codes);
}

fn write_codes(out: &mut BytesMut, first: u8, version: Version, pkid: u16, codes: &[u8]) {
    let properties = usize::from(version == Version::V5);
    out.put_u8(first);
    put_varint(out, 2 + properties + codes.len());
    out.put_u16(pkid);
    out.put_bytes(0, properties);
    out.put_slice(codes);
}

pub(crate) fn write_pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// DISCONNECT with a reason; 3.1.1 knows none from the server.
pub(crate) fn write_disconnect(out: &mut BytesMut, version: Version, code: u8) {
    if version == Version::V5 {
        out.put_slice(&[0xE0, 1, code]);
    }
}

#[cfg(test)]
mod tests;
