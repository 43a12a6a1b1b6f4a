//! The client side of MQTT 3.1.1, as little of it as a publisher needs. Written from the OASIS standard and
//! independent of the codecs fogbeat uses, so that a misreading there cannot hide itself here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// CONNECT with a keep alive of 0 (none) and clean session as asked.
pub fn connect(client_id: &str, clean_session: bool) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, if clean_session { 2 } else { 0 }, 0, 0];
    body.extend_from_slice(&string(client_id));
    packet(0x10, &body)
}

/// PUBLISH at QoS 1. The packet id stands at the returned packet's end minus payload length minus 2.
pub fn publish(topic: &str, packet_id: u16, dup: bool, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    body.extend_from_slice(&packet_id.to_be_bytes());
    body.extend_from_slice(payload);
    packet(if dup { 0x3A } else { 0x32 }, &body)
}

pub fn disconnect() -> [u8; 2] {
    [0xE0, 0]
}

/// A string with its length before it.
pub fn string(text: &str) -> Vec<u8> {
    let mut out = u16::try_from(text.len()).expect("short string").to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

/// A whole packet: `first` byte, remaining length, `body`.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let low = u8::try_from(rest % 128).expect("below 128");
        rest /= 128;
        out.push(if rest > 0 { low | 128 } else { low });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

/// Connects, publishes `payload` with QoS 1 and waits for the PUBACK.
pub fn publish_once(address: SocketAddr, topic: &str, payload: &str) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a deadline");
    let mut answer = [0; 4];
    stream.write_all(&connect("t", true)).expect("send CONNECT");
    stream.read_exact(&mut answer).expect("read CONNACK");
    assert_eq!(answer, [0x20, 2, 0, 0], "CONNACK");
    stream.write_all(&publish(topic, 1, false, payload.as_bytes())).expect("send PUBLISH");
    stream.read_exact(&mut answer).expect("read PUBACK");
    assert_eq!(answer, [0x40, 2, 0, 1], "PUBACK");
}

/// One packet as it stands on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    ConnAck { code: u8 },
    PubAck { id: u16 },
    Publish { id: Option<u16>, payload: Vec<u8> },
    Other { first: u8 },
}

/// Cuts a byte stream into packets, whatever the reads' borders are.
#[derive(Debug, Default)]
pub struct Stream {
    buf: Vec<u8>,
    at: usize,
}

impl Stream {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at == self.buf.len() {
            self.buf.clear();
            self.at = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole packet, if there is one.
    pub fn next_packet(&mut self) -> Option<Packet> {
        let rest = &self.buf[self.at..];
        let first = *rest.first()?;
        let (mut len, mut shift, mut head) = (0usize, 0, 1);
        loop {
            let byte = *rest.get(head)?;
            head += 1;
            len |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                break;
            }
        }
        let body = rest.get(head..head + len)?;
        let u16_at = |i: usize| Some(u16::from_be_bytes([*body.get(i)?, *body.get(i + 1)?]));
        let packet = match first >> 4 {
            2 => Packet::ConnAck { code: body[1] },
            4 => Packet::PubAck { id: u16_at(0)? },
            3 => {
                let topic = usize::from(u16_at(0)?);
                let qos = (first >> 1) & 3;
                let id = if qos > 0 { u16_at(2 + topic) } else { None };
                let payload = 2 + topic + if qos > 0 { 2 } else { 0 };
                Packet::Publish { id, payload: body[payload..].to_vec() }
            }
            _ => Packet::Other { first },
        };
        self.at += head + len;
        Some(packet)
    }
}
