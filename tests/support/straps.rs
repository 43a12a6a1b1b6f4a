//! Forty straps on the arms of recorded hearts, publishing over real sockets faster than life.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::hearts::{Notification, Strap};
use super::wire::{self, Packet, Stream};

/// Publishes that may wait for their acknowledgement, per strap.
const WINDOW: usize = 400;

/// Straps that publish `speed` times as fast as they were recorded.
pub struct Straps {
    addr: SocketAddr,
    base_ms: u64,
    straps: Vec<Worn>,
    pub acked: u64,
}

struct Worn {
    name: String,
    heart: std::iter::Peekable<Strap>,
    io: TcpStream,
    stream: Stream,
    in_flight: VecDeque<u16>,
    packet_id: u16,
}

impl Straps {
    /// `base_ms` is the moment, ms since the epoch, at which all straps were put on.
    pub fn connect(addr: SocketAddr, count: usize, base_ms: u64) -> Self {
        let straps = (0..count)
            .map(|n| {
                let name = format!("strap-{n:02}");
                Worn {
                    io: dial(addr, &name),
                    name,
                    heart: Strap::new(n).peekable(),
                    stream: Stream::default(),
                    in_flight: VecDeque::new(),
                    packet_id: 0,
                }
            })
            .collect();
        Self { addr, base_ms, straps, acked: 0 }
    }

    /// Publishes for `length`; `reconnects` of the straps' connections are closed and opened again on the way, and
    /// `every_second` is called with the number of the second.
    pub fn wear(&mut self, speed: f64, length: Duration, reconnects: u32, mut every_second: impl FnMut(u64)) {
        let start = Instant::now();
        let (mut second, mut reconnected) = (0, 0);
        while start.elapsed() < length {
            let worn_ms = (start.elapsed().as_secs_f64() * speed * 1000.0) as u64;
            for strap in &mut self.straps {
                self.acked += strap.turn(self.base_ms, worn_ms);
            }
            let due = f64::from(reconnects) * start.elapsed().as_secs_f64() / length.as_secs_f64();
            if f64::from(reconnected) < due.floor() {
                let n = reconnected as usize % self.straps.len();
                reconnected += 1;
                self.reconnect(n);
            }
            if start.elapsed().as_secs() > second {
                second += 1;
                every_second(second);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for n in 0..self.straps.len() {
            self.drain(n);
        }
    }

    /// Time the slowest strap has got to, since it was put on.
    pub fn slowest(&mut self) -> Duration {
        let next = self.straps.iter_mut().filter_map(|s| s.heart.peek().map(|n| n.at_ms)).min();
        Duration::from_millis(next.unwrap_or(0))
    }

    fn drain(&mut self, n: usize) {
        let start = Instant::now();
        while !self.straps[n].in_flight.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(30), "{} waits for PUBACKs", self.straps[n].name);
            self.acked += self.straps[n].turn(self.base_ms, 0);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn reconnect(&mut self, n: usize) {
        self.drain(n);
        let strap = &mut self.straps[n];
        strap.io.write_all(&wire::disconnect()).expect("DISCONNECT");
        strap.io = dial(self.addr, &strap.name);
        strap.stream = Stream::default();
    }
}

impl Worn {
    fn turn(&mut self, base_ms: u64, worn_ms: u64) -> u64 {
        let mut acked = 0;
        let mut buf = [0; 4096];
        loop {
            match self.io.read(&mut buf) {
                Ok(0) => panic!("{}: the daemon closed the connection", self.name),
                Ok(n) => self.stream.push(&buf[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{}: {e}", self.name),
            }
        }
        while let Some(packet) = self.stream.next_packet() {
            let Packet::PubAck { id } = packet else { panic!("{}: unexpected {packet:?}", self.name) };
            assert_eq!(self.in_flight.pop_front(), Some(id), "{}: PUBACK out of order", self.name);
            acked += 1;
        }
        let mut out = Vec::new();
        while self.in_flight.len() < WINDOW {
            let Some(due) = self.heart.next_if(|n: &Notification| n.at_ms <= worn_ms) else { break };
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
            self.in_flight.push_back(self.packet_id);
            let payload = due.json(base_ms);
            out.extend(wire::publish(
                &format!("hr/{}", self.name),
                self.packet_id,
                false,
                payload.as_bytes(),
            ));
        }
        if !out.is_empty() {
            self.io.set_nonblocking(false).expect("a socket");
            self.io.write_all(&out).expect("publish");
            self.io.set_nonblocking(true).expect("a socket");
        }
        acked
    }
}

fn dial(addr: SocketAddr, name: &str) -> TcpStream {
    let mut io = TcpStream::connect(addr).expect("connect");
    io.set_nodelay(true).expect("a socket");
    io.write_all(&wire::connect(name, true)).expect("CONNECT");
    let mut answer = [0; 4];
    io.read_exact(&mut answer).expect("CONNACK");
    assert_eq!(answer, [0x20, 2, 0, 0], "CONNACK");
    io.set_nonblocking(true).expect("a socket");
    io
}
