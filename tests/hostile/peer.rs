//! A client that sends exactly what it is told, from the address it is told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub use crate::support::wire::{packet as frame, string};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// A TCP connection whose local address is `from`.
pub async fn dial(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
    let stream = tokio::time::timeout(LONG, socket.connect(to)).await.map_err(io::Error::other)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The next packet, whole; `None` at the end of the connection.
pub async fn packet<R: AsyncRead + Unpin>(read: &mut R) -> Option<Vec<u8>> {
    tokio::time::timeout(LONG, async {
        let mut packet = vec![read.read_u8().await.ok()?];
        let mut length = 0usize;
        for shift in 0..4 {
            let byte = read.read_u8().await.ok()?;
            packet.push(byte);
            length |= usize::from(byte & 0x7F) << (7 * shift);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let head = packet.len();
        packet.resize(head + length, 0);
        read.read_exact(&mut packet[head..]).await.ok()?;
        Some(packet)
    })
    .await
    .expect("an answer or the end of the connection")
}

/// A client that was let in (MQTT `level` 4 or 5, clean).
pub async fn client(from: Ipv4Addr, to: SocketAddr, level: u8, id: &str) -> io::Result<TcpStream> {
    let mut stream = dial(from, to).await?;
    stream.write_all(&connect(level, 2, id, &[])).await?;
    match packet(&mut stream).await {
        Some(connack) if connack[0] == 0x20 && connack[3] == 0 => Ok(stream),
        other => Err(io::Error::other(format!("CONNACK {other:?}"))),
    }
}

pub fn connect(level: u8, flags: u8, id: &str, rest: &[u8]) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend_from_slice(&[level, flags, 0, 0]);
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(&string(id));
    body.extend_from_slice(rest);
    frame(0x10, &body)
}

pub fn login(level: u8, id: &str, user: &str, secret: &str) -> Vec<u8> {
    connect(level, 0xC2, id, &[string(user), string(secret)].concat())
}

/// PUBLISH; `pkid` 0 is QoS 0.
pub fn publish(level: u8, topic: &str, pkid: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    if pkid > 0 {
        body.extend_from_slice(&pkid.to_be_bytes());
    }
    if level == 5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    frame(if pkid > 0 { 0x32 } else { 0x30 }, &body)
}

pub fn subscribe(level: u8, pkid: u16, filters: &[&str], qos: u8) -> Vec<u8> {
    let mut body = pkid.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    for filter in filters {
        body.extend_from_slice(&string(filter));
        body.push(qos);
    }
    frame(0x82, &body)
}
