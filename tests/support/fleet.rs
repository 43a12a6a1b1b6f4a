//! Many small wearables as real MQTT clients: paced QoS 1 publishers that remember everything they sent, keep what is
//! not acknowledged, and after a lost connection send it again with DUP, as the standard asks of them. Now and then
//! they send a reading twice at once, or once more although it was acknowledged: what a client does that crashed
//! before it could note the acknowledgement.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::lake::Sent;
use super::rng::Rng;
use super::wall_ms;
use super::wire::{self, Packet, Stream};

const PUBLISH: u8 = 0;
const SETTLE: u8 = 1;
/// The clients look at their sockets this often.
const TICK: Duration = Duration::from_millis(2);
/// Unacknowledged publishes per client.
const WINDOW: usize = 40;
/// A client that cannot publish for long drops new readings: a wearable's memory is small.
const OUTBOX: usize = 400;

/// A running fleet in a thread of its own.
pub struct Fleet {
    phase: Arc<AtomicU8>,
    thread: JoinHandle<Vec<Client>>,
}

impl Fleet {
    /// `clients` clients that publish `per_second` readings a second together.
    pub fn start(addr: SocketAddr, clients: usize, per_second: f64, rng: Rng) -> Self {
        Self::start_with(addr, clients, per_second, 1, rng)
    }

    /// The same with so many beat-to-beat intervals in a reading, none in every eighth: many fill a disk faster.
    pub fn start_with(
        addr: SocketAddr,
        clients: usize,
        per_second: f64,
        intervals: usize,
        mut rng: Rng,
    ) -> Self {
        let phase = Arc::new(AtomicU8::new(PUBLISH));
        let seen = Arc::clone(&phase);
        let every = Duration::from_secs_f64(clients as f64 / per_second);
        let mut clients: Vec<Client> =
            (0..clients).map(|n| Client::new(n, addr, every, intervals, Rng::new(rng.next()))).collect();
        let thread = std::thread::spawn(move || {
            let mut settle_since = None;
            loop {
                let publish = seen.load(Ordering::Relaxed) == PUBLISH;
                for client in &mut clients {
                    client.turn(publish);
                }
                if !publish {
                    let since = *settle_since.get_or_insert_with(Instant::now);
                    let idle = clients.iter().all(|c| c.in_flight.is_empty() && c.outbox.is_empty());
                    if idle || since.elapsed() > Duration::from_secs(60) {
                        return clients;
                    }
                }
                std::thread::sleep(TICK);
            }
        });
        Self { phase, thread }
    }

    /// No new readings; waits (60 s at most) until every one is acknowledged, and hands back what was sent.
    pub fn settle(self) -> Account {
        self.phase.store(SETTLE, Ordering::Relaxed);
        let mut account = Account::default();
        for mut client in self.thread.join().expect("the fleet's thread") {
            account.unacknowledged += client.in_flight.len() + client.outbox.len();
            account.sent_again += client.sent_again;
            account.sent_twice += client.sent_twice;
            account.connections += client.connections;
            client.sent.retain(|sent| sent.1);
            account.readings.extend(client.sent.into_iter().map(|sent| sent.0));
        }
        account
    }
}

/// What the fleet did.
#[derive(Debug, Default)]
pub struct Account {
    pub readings: Vec<Sent>,
    /// Publishes without an answer at the end.
    pub unacknowledged: usize,
    /// Publishes repeated with DUP after a lost connection.
    pub sent_again: u64,
    /// Readings published as a second message of their own.
    pub sent_twice: u64,
    pub connections: u64,
}

struct Client {
    name: String,
    addr: SocketAddr,
    every: Duration,
    intervals: usize,
    next_reading: Instant,
    rng: Rng,
    io: Option<TcpStream>,
    retry_at: Instant,
    /// CONNACK has come: publishing may begin.
    welcome: bool,
    stream: Stream,
    unwritten: Vec<u8>,
    /// Readings with "has left the client at least once".
    sent: Vec<(Sent, bool)>,
    /// Indices into `sent`.
    outbox: VecDeque<usize>,
    in_flight: VecDeque<(u16, usize)>,
    packet_id: u16,
    sent_again: u64,
    sent_twice: u64,
    connections: u64,
}

impl Client {
    fn new(n: usize, addr: SocketAddr, every: Duration, intervals: usize, rng: Rng) -> Self {
        Self {
            name: format!("strap-{n:02}"),
            addr,
            every,
            intervals,
            next_reading: Instant::now(),
            rng,
            io: None,
            retry_at: Instant::now(),
            welcome: false,
            stream: Stream::default(),
            unwritten: Vec::new(),
            sent: Vec::new(),
            outbox: VecDeque::new(),
            in_flight: VecDeque::new(),
            packet_id: 0,
            sent_again: 0,
            sent_twice: 0,
            connections: 0,
        }
    }

    fn turn(&mut self, publish: bool) {
        let now = Instant::now();
        while publish && self.next_reading <= now {
            self.next_reading += self.every;
            if self.outbox.len() < OUTBOX {
                self.measure();
            }
        }
        if self.io.is_none() && self.retry_at <= now {
            self.dial();
        }
        if self.io.is_some() && !self.converse() {
            self.io = None;
            self.welcome = false;
            self.unwritten.clear();
            self.stream = Stream::default();
            self.retry_at = now + Duration::from_millis(self.rng.between(2, 40));
        }
    }

    fn measure(&mut self) {
        let rr = self.rng.between(600, 1100);
        // Distinct per client: the key by which the account is made.
        let last = self.sent.last().map_or(0, |s| s.0.stamp);
        let stamp = i64::try_from(wall_ms()).expect("a time of this century").max(last + 1);
        let reading = Sent {
            device: self.name.clone(),
            stamp,
            bpm: 60_000 / rr,
            rr_ms: if self.rng.one_in(8) { Vec::new() } else { self.beats(rr) },
            acked: false,
        };
        self.outbox.push_back(self.sent.len());
        if self.rng.one_in(50) {
            self.outbox.push_back(self.sent.len());
            self.sent_twice += 1;
        }
        self.sent.push((reading, false));
    }

    fn beats(&mut self, first: u64) -> Vec<f64> {
        let more = (1..self.intervals).map(|_| self.rng.between(600, 1100));
        std::iter::once(first).chain(more).map(|rr| rr as f64).collect()
    }

    fn dial(&mut self) {
        match TcpStream::connect_timeout(&self.addr, Duration::from_millis(500)) {
            Ok(io) if io.set_nonblocking(true).is_ok() && io.set_nodelay(true).is_ok() => {
                self.io = Some(io);
                self.connections += 1;
                self.unwritten = wire::connect(&self.name, false);
            }
            _ => self.retry_at = Instant::now() + Duration::from_millis(self.rng.between(2, 40)),
        }
    }

    /// Reads, answers, writes. `false`: the connection is gone.
    fn converse(&mut self) -> bool {
        let mut buf = [0; 4096];
        loop {
            match self.io.as_mut().map(|io| io.read(&mut buf)) {
                Some(Ok(n)) if n > 0 => self.stream.push(&buf[..n]),
                Some(Err(e)) if e.kind() == ErrorKind::WouldBlock => break,
                _ => {
                    // What had arrived before the end counts.
                    self.take_packets();
                    return false;
                }
            }
        }
        self.take_packets();
        if self.welcome {
            while self.in_flight.len() < WINDOW {
                let Some(reading) = self.outbox.pop_front() else { break };
                self.publish(reading);
            }
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

    fn take_packets(&mut self) {
        while let Some(packet) = self.stream.next_packet() {
            match packet {
                Packet::ConnAck { code: 0 } => {
                    self.welcome = true;
                    self.resume();
                }
                // Turned away; the end of the connection follows, and another attempt.
                Packet::ConnAck { .. } => {}
                Packet::PubAck { id } => {
                    let Some(at) = self.in_flight.iter().position(|f| f.0 == id) else {
                        panic!("{}: PUBACK {id} for nothing under way", self.name);
                    };
                    if let Some((_, reading)) = self.in_flight.remove(at) {
                        self.sent[reading].0.acked = true;
                    }
                }
                other => panic!("{}: unexpected {other:?}", self.name),
            }
        }
    }

    /// After CONNACK: everything unacknowledged once more, then now and then some of what was acknowledged lately.
    fn resume(&mut self) {
        for n in 0..self.in_flight.len() {
            let (id, reading) = self.in_flight[n];
            self.write_publish(id, reading, true);
            self.sent_again += 1;
        }
        if self.rng.one_in(3) {
            let recent: Vec<usize> =
                (0..self.sent.len()).rev().filter(|n| self.sent[*n].0.acked).take(5).collect();
            for reading in recent {
                self.outbox.push_front(reading);
                self.sent_twice += 1;
            }
        }
    }

    fn publish(&mut self, reading: usize) {
        loop {
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
            if self.in_flight.iter().all(|f| f.0 != self.packet_id) {
                break;
            }
        }
        self.in_flight.push_back((self.packet_id, reading));
        self.write_publish(self.packet_id, reading, false);
        self.sent[reading].1 = true;
    }

    fn write_publish(&mut self, id: u16, reading: usize, dup: bool) {
        let sent = &self.sent[reading].0;
        let rr: Vec<String> = sent.rr_ms.iter().map(f64::to_string).collect();
        let rr = if rr.is_empty() { String::new() } else { format!(r#","rr_ms":[{}]"#, rr.join(",")) };
        let payload = format!(r#"{{"bpm":{},"time":{}{rr}}}"#, sent.bpm, sent.stamp);
        let topic = format!("hr/{}", self.name);
        self.unwritten.extend(wire::publish(&topic, id, dup, payload.as_bytes()));
    }
}
