//! Bands without a clock: their readings carry no stamp, so that the gateway's own time is put to the test. Each reading
//! is known again by its beat-to-beat intervals, which spell a number.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::rng::Rng;
use crate::support::wall_ms;
use crate::support::wire::{self, Packet, Stream};

const TICK: Duration = Duration::from_millis(5);
/// A band keeps little.
const WINDOW: usize = 20;
/// Digits of the number, each an interval of 600 to 999 ms.
const BASE: u64 = 400;
/// Numbers of one band: no two bands have one in common.
const NUMBERS: u64 = 1 << 20;

/// What a band knows of one of its readings; moments are the true time, ms since the epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Unstamped {
    pub device: String,
    pub rr_ms: Vec<f64>,
    /// When it was first sent.
    pub first_ms: i64,
    /// When it was acknowledged.
    pub acked_ms: Option<i64>,
    /// How often it was sent.
    pub sends: u32,
}

/// Bands in a thread of their own.
pub struct Bands {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Unstamped>>,
}

struct Band {
    name: String,
    first: u64,
    addr: SocketAddr,
    every: Duration,
    next: Instant,
    rng: Rng,
    io: Option<TcpStream>,
    welcome: bool,
    retry_at: Instant,
    stream: Stream,
    unwritten: Vec<u8>,
    sent: Vec<Unstamped>,
    in_flight: VecDeque<(u16, usize)>,
    packet_id: u16,
}

impl Bands {
    /// `count` bands of `per_second` readings a second each.
    pub fn start(addr: SocketAddr, count: usize, per_second: f64, mut rng: Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let every = Duration::from_secs_f64(1.0 / per_second);
        let mut bands: Vec<Band> =
            (0..count).map(|n| Band::new(n, addr, every, Rng::new(rng.next()))).collect();
        let thread = std::thread::spawn(move || {
            let mut since = None;
            loop {
                let publish = !stopped.load(Ordering::Relaxed);
                bands.iter_mut().for_each(|band| band.turn(publish));
                if !publish {
                    let since: Instant = *since.get_or_insert_with(Instant::now);
                    let idle = bands.iter().all(|band| band.in_flight.is_empty());
                    if idle || since.elapsed() > Duration::from_secs(60) {
                        return bands.into_iter().flat_map(|band| band.sent).collect();
                    }
                }
                std::thread::sleep(TICK);
            }
        });
        Self { stop, thread }
    }

    /// No new readings; waits until every one is acknowledged (60 s at most).
    pub fn settle(self) -> Vec<Unstamped> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the bands' thread")
    }
}

impl Band {
    fn new(n: usize, addr: SocketAddr, every: Duration, rng: Rng) -> Self {
        Self {
            name: format!("band-{n:02}"),
            first: n as u64 * NUMBERS,
            addr,
            every,
            next: Instant::now(),
            rng,
            io: None,
            welcome: false,
            retry_at: Instant::now(),
            stream: Stream::default(),
            unwritten: Vec::new(),
            sent: Vec::new(),
            in_flight: VecDeque::new(),
            packet_id: 0,
        }
    }

    fn turn(&mut self, publish: bool) {
        let now = Instant::now();
        if self.io.is_none() && self.retry_at <= now {
            self.dial();
        }
        if self.io.is_some() && !self.converse(publish) {
            self.io = None;
            self.welcome = false;
            self.unwritten.clear();
            self.stream = Stream::default();
            self.retry_at = now + Duration::from_millis(self.rng.between(2, 60));
        }
        if self.next <= now && !self.welcome {
            // It has nowhere to keep what it measures.
            self.next = now + self.every;
        }
    }

    fn dial(&mut self) {
        match TcpStream::connect_timeout(&self.addr, Duration::from_millis(500)) {
            Ok(io) if io.set_nonblocking(true).is_ok() && io.set_nodelay(true).is_ok() => {
                self.io = Some(io);
                self.unwritten = wire::connect(&self.name, false);
            }
            _ => self.retry_at = Instant::now() + Duration::from_millis(self.rng.between(2, 60)),
        }
    }

    /// Reads, answers, writes. `false`: the connection is gone.
    fn converse(&mut self, publish: bool) -> bool {
        let mut buf = [0; 4096];
        loop {
            match self.io.as_mut().map(|io| io.read(&mut buf)) {
                Some(Ok(n)) if n > 0 => self.stream.push(&buf[..n]),
                Some(Err(e)) if e.kind() == ErrorKind::WouldBlock => break,
                _ => {
                    self.take_packets();
                    return false;
                }
            }
        }
        if !self.take_packets() {
            return false;
        }
        while publish && self.welcome && self.next <= Instant::now() && self.in_flight.len() < WINDOW {
            self.next += self.every;
            self.measure();
        }
        while !self.unwritten.is_empty() {
            match self.io.as_mut().map(|io| io.write(&self.unwritten)) {
                Some(Ok(n)) => drop(self.unwritten.drain(..n)),
                Some(Err(e)) if e.kind() == ErrorKind::WouldBlock => break,
                _ => return false,
            }
        }
        true
    }

    /// `false`: the gateway does not want it now.
    fn take_packets(&mut self) -> bool {
        while let Some(packet) = self.stream.next_packet() {
            match packet {
                Packet::ConnAck { code: 0 } => {
                    self.welcome = true;
                    self.next = Instant::now();
                    for (id, reading) in self.in_flight.clone() {
                        self.write(id, reading, true);
                    }
                }
                Packet::ConnAck { .. } => return false,
                Packet::PubAck { id } => {
                    let Some(at) = self.in_flight.iter().position(|f| f.0 == id) else {
                        panic!("{}: PUBACK {id} for nothing under way", self.name);
                    };
                    if let Some((_, reading)) = self.in_flight.remove(at) {
                        self.sent[reading].acked_ms = Some(now_ms());
                    }
                }
                other => panic!("{}: unexpected {other:?}", self.name),
            }
        }
        true
    }

    fn measure(&mut self) {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        let reading = self.sent.len();
        self.sent.push(Unstamped {
            device: self.name.clone(),
            rr_ms: spell(self.first + reading as u64),
            first_ms: now_ms(),
            acked_ms: None,
            sends: 0,
        });
        self.in_flight.push_back((self.packet_id, reading));
        self.write(self.packet_id, reading, false);
    }

    fn write(&mut self, id: u16, reading: usize, dup: bool) {
        let sent = &mut self.sent[reading];
        sent.sends += 1;
        let rr: Vec<String> = sent.rr_ms.iter().map(f64::to_string).collect();
        let payload = format!(r#"{{"bpm":72,"rr_ms":[{}]}}"#, rr.join(","));
        self.unwritten.extend(wire::publish(&format!("hr/{}", self.name), id, dup, payload.as_bytes()));
    }
}

fn now_ms() -> i64 {
    i64::try_from(wall_ms()).expect("a time of this century")
}

fn spell(mut number: u64) -> Vec<f64> {
    (0..3)
        .map(|_| {
            let digit = number % BASE;
            number /= BASE;
            (600 + digit) as f64
        })
        .collect()
}
