//! Proxies as closed networks have them: HTTP CONNECT (RFC 9110) and SOCKS5 (RFC 1928) with user and password
//! (RFC 1929). They know names that the system does not: `far.test` is this machine, and with an aim of its own a proxy
//! leads there whatever it is asked for.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub struct Proxy {
    pub address: SocketAddr,
    /// Connections that were let through, and such that were not.
    pub passed: Arc<AtomicUsize>,
    pub refused: Arc<AtomicUsize>,
    /// Bytes that clients have sent on connections that were let through.
    pub sent: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Http,
    Socks5,
}

/// What a client has to say.
pub const LOGIN: &str = "gateway:open sesame";

impl Proxy {
    pub fn start(kind: Kind) -> Self {
        Self::aimed(kind, None)
    }

    /// Leads everybody to `aim`.
    pub fn aimed(kind: Kind, aim: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (passed, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let sent = Arc::new(AtomicU64::new(0));
        let counts = (Arc::clone(&passed), Arc::clone(&refused), Arc::clone(&sent));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (passed, refused, sent) = counts.clone();
                std::thread::spawn(move || {
                    let Ok(mut client) = client else { return };
                    let answer = match kind {
                        Kind::Http => connect(&mut client, aim),
                        Kind::Socks5 => socks5(&mut client, aim),
                    };
                    let (upstream, words) = answer.unwrap_or((None, b""));
                    // Counted before the client hears of it, who looks at once.
                    let count = if upstream.is_some() { passed } else { refused };
                    count.fetch_add(1, Ordering::Relaxed);
                    if client.write_all(words).is_ok()
                        && let Some(upstream) = upstream
                    {
                        copy(client, upstream, &sent);
                    }
                });
            }
        });
        Self { address, passed, refused, sent }
    }

    pub fn url(&self, kind: Kind) -> String {
        match kind {
            Kind::Http => format!("http://{}", self.address),
            Kind::Socks5 => format!("socks5://{}", self.address),
        }
    }
}

fn dial(host: &str, port: u16, aim: Option<SocketAddr>) -> Option<TcpStream> {
    let host = if host == "far.test" { "127.0.0.1" } else { host };
    match aim {
        Some(aim) => TcpStream::connect(aim).ok(),
        None => TcpStream::connect((host, port)).ok(),
    }
}

/// Where the client is let through to, if it is, and the last words of the talk; nothing if it broke off.
type Answer = Option<(Option<TcpStream>, &'static [u8])>;

fn connect(client: &mut TcpStream, aim: Option<SocketAddr>) -> Answer {
    use base64::Engine as _;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let login = base64::engine::general_purpose::STANDARD.encode(LOGIN);
    if !head.to_lowercase().contains("proxy-authorization: basic") || !head.contains(&login) {
        return Some((None, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"));
    }
    let target = head.strip_prefix("CONNECT ")?.split(' ').next()?;
    let (host, port) = target.rsplit_once(':')?;
    Some(match dial(host, port.parse().ok()?, aim) {
        Some(upstream) => (Some(upstream), b"HTTP/1.1 200 Connection established\r\n\r\n"),
        None => (None, b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
    })
}

fn socks5(client: &mut TcpStream, aim: Option<SocketAddr>) -> Answer {
    fn bytes(client: &mut TcpStream, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        client.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }
    let hello = bytes(client, 2)?;
    let methods = bytes(client, usize::from(hello[1]))?;
    if !methods.contains(&2) {
        return Some((None, &[5, 0xff]));
    }
    client.write_all(&[5, 2]).ok()?;
    let user = bytes(client, 2)?[1];
    let user = bytes(client, usize::from(user))?;
    let password = bytes(client, 1)?[0];
    let password = bytes(client, usize::from(password))?;
    if [user.as_slice(), password.as_slice()].join(&b':') != LOGIN.as_bytes() {
        return Some((None, &[1, 1]));
    }
    client.write_all(&[1, 0]).ok()?;
    let request = bytes(client, 4)?;
    let host = match request[3] {
        1 => bytes(client, 4)?.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
        3 => {
            let length = bytes(client, 1)?[0];
            String::from_utf8(bytes(client, usize::from(length))?).ok()?
        }
        _ => return None,
    };
    let port = bytes(client, 2)?;
    Some(match dial(&host, u16::from_be_bytes([port[0], port[1]]), aim) {
        Some(upstream) => (Some(upstream), &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        None => (None, &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
    })
}

fn copy(mut client: TcpStream, mut upstream: TcpStream, sent: &AtomicU64) {
    let (mut back_from, mut back_to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(Shutdown::Write);
    });
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = client.read(&mut chunk) {
        sent.fetch_add(read as u64, Ordering::Relaxed);
        if upstream.write_all(&chunk[..read]).is_err() {
            break;
        }
    }
    let _ = upstream.shutdown(Shutdown::Write);
    let _ = back.join();
}
