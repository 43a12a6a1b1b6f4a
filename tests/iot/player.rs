//! Plays a broker that answers as AWS IoT Core does where Mosquitto does not: quotas, refused connections, connections
//! that are closed without a word. Written from the OASIS standards, in both versions, as little as an uplink needs.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::support::wire::packet;

/// What becomes of the next connection or publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Take,
    /// CONNACK with this code.
    RefuseConnection(u8),
    /// PUBACK with this code (version 5).
    Refuse(u8),
    /// DISCONNECT with this code (version 5), at a publish.
    Disconnect(u8),
    /// The connection is closed at a publish, without a word.
    Close,
}

/// CONNECT, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// 4 is 3.1.1.
    pub version: u8,
    pub clean: bool,
    pub keep_alive: u16,
    pub client_id: String,
}

#[derive(Debug, Default)]
pub struct Seen {
    /// For each publish (or connection) one; behind them everything is taken.
    moods: VecDeque<Mood>,
    pub connects: Vec<Connect>,
    /// When each publish came, its topic, QoS and size, taken or not.
    pub publishes: Vec<(Instant, String, u8, usize)>,
    pub taken: Vec<Vec<u8>>,
}

pub struct Player {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Seen>>,
}

impl Player {
    pub fn start(moods: impl IntoIterator<Item = Mood>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen { moods: moods.into_iter().collect(), ..Seen::default() }));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let seen = Arc::clone(&shared);
                std::thread::spawn(move || client.map(|client| serve(client, &seen)));
            }
        });
        Self { address, seen }
    }

    pub fn moods(&self, moods: impl IntoIterator<Item = Mood>) {
        self.seen.lock().unwrap().moods = moods.into_iter().collect();
    }

    pub fn taken(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().taken.clone()
    }
}

/// The next mood, if it is one that `fits`.
fn mood(seen: &Mutex<Seen>, fits: impl Fn(Mood) -> bool) -> Mood {
    let moods = &mut seen.lock().unwrap().moods;
    if moods.front().is_some_and(|mood| fits(*mood)) { moods.pop_front().unwrap() } else { Mood::Take }
}

/// One connection, to its end. `None`: the client broke off.
fn serve(mut io: TcpStream, seen: &Mutex<Seen>) -> Option<()> {
    let mut version = 4;
    loop {
        let (first, body) = read(&mut io)?;
        match first >> 4 {
            1 => {
                let connect = connect(&body);
                version = connect.version;
                seen.lock().unwrap().connects.push(connect);
                let code = match mood(seen, |mood| matches!(mood, Mood::RefuseConnection(_))) {
                    Mood::RefuseConnection(code) => code,
                    _ => 0,
                };
                let answer: &[u8] = if version == 5 { &[0, code, 0] } else { &[0, code] };
                io.write_all(&packet(0x20, answer)).ok()?;
                if code != 0 {
                    return Some(());
                }
            }
            3 => {
                let qos = (first >> 1) & 3;
                let (topic, id, payload) = publish(&body, version);
                seen.lock().unwrap().publishes.push((Instant::now(), topic, qos, payload.len()));
                let code = match mood(seen, |mood| !matches!(mood, Mood::RefuseConnection(_))) {
                    Mood::Close => return Some(()),
                    Mood::Disconnect(code) => {
                        io.write_all(&packet(0xE0, &[code, 0])).ok()?;
                        return Some(());
                    }
                    Mood::Refuse(code) => code,
                    Mood::Take | Mood::RefuseConnection(_) => 0,
                };
                if code == 0 {
                    seen.lock().unwrap().taken.push(payload);
                }
                let [high, low] = id.to_be_bytes();
                let answer: &[u8] = if version == 5 { &[high, low, code, 0] } else { &[high, low] };
                io.write_all(&packet(0x40, answer)).ok()?;
            }
            12 => io.write_all(&packet(0xD0, &[])).ok()?,
            _ => return Some(()),
        }
    }
}

fn read(io: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = [0];
    io.read_exact(&mut byte).ok()?;
    let first = byte[0];
    let length = variable(|| io.read_exact(&mut byte).ok().map(|()| byte[0]))?;
    let mut body = vec![0; length];
    io.read_exact(&mut body).ok()?;
    Some((first, body))
}

/// A variable byte integer.
fn variable(mut next: impl FnMut() -> Option<u8>) -> Option<usize> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = next()?;
        value |= usize::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            return Some(value);
        }
    }
}

/// Walks through a packet's body.
struct Walk<'a>(&'a [u8]);

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number(&mut self) -> u16 {
        let bytes = self.take(2);
        u16::from_be_bytes([bytes[0], bytes[1]])
    }

    fn text(&mut self) -> String {
        let length = usize::from(self.number());
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn properties(&mut self, version: u8) {
        if version == 5 {
            let length = variable(|| Some(self.take(1)[0])).unwrap();
            self.take(length);
        }
    }
}

fn connect(body: &[u8]) -> Connect {
    let mut walk = Walk(body);
    assert_eq!(walk.text(), "MQTT");
    let (version, flags) = (walk.take(1)[0], walk.take(1)[0]);
    let keep_alive = walk.number();
    walk.properties(version);
    Connect { version, clean: flags & 2 != 0, keep_alive, client_id: walk.text() }
}

fn publish(body: &[u8], version: u8) -> (String, u16, Vec<u8>) {
    let mut walk = Walk(body);
    let topic = walk.text();
    // Always with QoS 1.
    let id = walk.number();
    walk.properties(version);
    (topic, id, walk.0.to_vec())
}
