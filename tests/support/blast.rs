//! A load generator that costs little: one thread, epoll, every packet encoded once. It shares two cores with the
//! broker it measures, so per message it does no more than copy a stamp and step a counter; a full window goes out
//! in one write and acknowledgements come in by the buffer.
//!
//! Each client publishes QoS 1 on `hr/<name>` with a window of W packets; packet ids are the slots 1..=W. MQTT wants
//! PUBACKs in the order of the publishes: anything else is counted in [`Stats::disorder`].

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::rng::Rng;
use super::wire;

/// `{"bpm":72,"time":1790000000123,"rr_ms":[833,829]}`
const TEMPLATE: &[u8] = br#"{"bpm":00,"time":0000000000000,"rr_ms":[000,000]}"#;
const BPM_AT: usize = 7;
const TIME_AT: usize = 17;
const RR_AT: [usize; 2] = [40, 44];

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    /// This many acknowledgements in this run.
    Acked(u64),
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    pub acked: u64,
    pub elapsed: Duration,
    /// Acknowledgements out of order: must be 0.
    pub disorder: u64,
}

impl Stats {
    pub fn rate(&self) -> f64 {
        self.acked as f64 / self.elapsed.as_secs_f64()
    }
}

struct Client {
    io: TcpStream,
    ring: Vec<u8>,
    packet: usize,
    window: usize,
    /// Slot of the next publish; slot of the next acknowledgement.
    next: usize,
    expect: usize,
    in_flight: usize,
    stamp: [u8; 13],
    rng: Rng,
    rr: u64,
    /// Bytes of the ring that the socket would not take yet.
    unsent: VecDeque<(usize, usize)>,
    carry: Vec<u8>,
}

/// Connected clients, ready to publish.
pub struct Blast {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buf: Vec<u8>,
}

impl Blast {
    /// Connects `clients` clients of `window` packets each; the first reading of each is stamped `first_ms`, each
    /// later one a millisecond after the one before.
    pub fn connect(
        addr: SocketAddr,
        prefix: &str,
        clients: usize,
        window: usize,
        first_ms: u64,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let clients = (0..clients)
            .map(|n| {
                let name = format!("{prefix}-{n:04}");
                let mut io = TcpStream::from_std(handshake(addr, &name)?);
                poll.registry().register(&mut io, Token(n), Interest::READABLE | Interest::WRITABLE)?;
                Ok(Client::new(io, &name, window, first_ms, n as u64))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { poll, events: Events::with_capacity(1024), clients, buf: vec![0; 64 * 1024] })
    }

    /// Publishes as fast as the windows allow. A second call goes on where the first ended.
    pub fn run(&mut self, until: Until) -> io::Result<Stats> {
        let start = Instant::now();
        let mut stats = Stats::default();
        for client in &mut self.clients {
            let free = client.window - client.in_flight;
            client.send(free)?;
        }
        loop {
            self.poll.poll(&mut self.events, Some(Duration::from_millis(100)))?;
            for event in &self.events {
                let client = &mut self.clients[event.token().0];
                if event.is_writable() {
                    client.flush()?;
                }
                let acks = client.receive(&mut self.buf, &mut stats.disorder)?;
                stats.acked += acks as u64;
                client.send(acks)?;
            }
            let done = match until {
                Until::Elapsed(limit) => start.elapsed() >= limit,
                Until::Acked(limit) => stats.acked >= limit,
            };
            if done {
                stats.elapsed = start.elapsed();
                return Ok(stats);
            }
        }
    }

    /// Publishes `per_second` readings a second, spread over the clients, for as long as asked. What is due and finds
    /// no room in a window waits: `tick(second, due, acked, worst PUBACK latency of that second)`.
    pub fn run_paced(
        &mut self,
        per_second: f64,
        length: Duration,
        mut tick: impl FnMut(u64, u64, u64, Duration),
    ) -> io::Result<Stats> {
        let start = Instant::now();
        let mut stats = Stats::default();
        let (mut sent, mut turn, mut second) = (0u64, 0usize, 0u64);
        let mut under_way: Vec<VecDeque<Instant>> = vec![VecDeque::new(); self.clients.len()];
        let mut worst = Duration::ZERO;
        while start.elapsed() < length {
            let due = (start.elapsed().as_secs_f64() * per_second) as u64;
            let mut refused = 0;
            while sent < due && refused < self.clients.len() {
                let n = turn % self.clients.len();
                turn += 1;
                let client = &mut self.clients[n];
                if client.in_flight < client.window {
                    client.send(1)?;
                    under_way[n].push_back(Instant::now());
                    sent += 1;
                    refused = 0;
                } else {
                    refused += 1;
                }
            }
            self.poll.poll(&mut self.events, Some(Duration::from_millis(2)))?;
            for event in &self.events {
                let n = event.token().0;
                let client = &mut self.clients[n];
                client.flush()?;
                let acks = client.receive(&mut self.buf, &mut stats.disorder)?;
                for _ in 0..acks {
                    if let Some(since) = under_way[n].pop_front() {
                        worst = worst.max(since.elapsed());
                    }
                }
                stats.acked += acks as u64;
            }
            if start.elapsed().as_secs() > second {
                second += 1;
                tick(second, due, stats.acked, worst);
                worst = Duration::ZERO;
            }
        }
        stats.elapsed = start.elapsed();
        Ok(stats)
    }

    /// Waits until every publish under way is acknowledged; returns how many came in.
    pub fn settle(&mut self, limit: Duration) -> io::Result<u64> {
        let start = Instant::now();
        let (mut acked, mut disorder) = (0, 0);
        while self.clients.iter().any(|c| c.in_flight > 0) && start.elapsed() < limit {
            self.poll.poll(&mut self.events, Some(Duration::from_millis(20)))?;
            for event in &self.events {
                let client = &mut self.clients[event.token().0];
                client.flush()?;
                acked += client.receive(&mut self.buf, &mut disorder)? as u64;
            }
        }
        Ok(acked)
    }

    /// Publishes that wait for their acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.clients.iter().map(|c| c.in_flight).sum()
    }
}

fn handshake(addr: SocketAddr, name: &str) -> io::Result<StdStream> {
    let mut io = StdStream::connect(addr)?;
    io.set_nodelay(true)?;
    io.set_read_timeout(Some(Duration::from_secs(10)))?;
    io.write_all(&wire::connect(name, true))?;
    let mut answer = [0; 4];
    io.read_exact(&mut answer)?;
    if answer != [0x20, 2, 0, 0] {
        return Err(io::Error::other(format!("CONNACK is {answer:?}")));
    }
    io.set_nonblocking(true)?;
    Ok(io)
}

impl Client {
    fn new(io: TcpStream, name: &str, window: usize, first_ms: u64, seed: u64) -> Self {
        let topic = format!("hr/{name}");
        let mut ring = Vec::new();
        for slot in 1..=window {
            ring.extend(wire::publish(&topic, u16::try_from(slot).expect("a window fits"), false, TEMPLATE));
        }
        let mut stamp = [0; 13];
        stamp.copy_from_slice(format!("{first_ms:013}").as_bytes());
        Self {
            io,
            packet: ring.len() / window,
            ring,
            window,
            next: 0,
            expect: 0,
            in_flight: 0,
            stamp,
            rng: Rng::new(seed),
            rr: 800,
            unsent: VecDeque::new(),
            carry: Vec::new(),
        }
    }

    /// Puts new readings into the next `count` slots and writes them.
    fn send(&mut self, count: usize) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let run = left.min(self.window - self.next);
            let from = self.next * self.packet;
            for slot in self.next..self.next + run {
                self.fill(slot);
            }
            self.unsent.push_back((from, from + run * self.packet));
            self.next = (self.next + run) % self.window;
            self.in_flight += run;
            left -= run;
        }
        self.flush()
    }

    fn fill(&mut self, slot: usize) {
        let noise = self.rng.next();
        self.rr = (self.rr + noise % 21).clamp(710, 990) - 10;
        let second = self.rr + (noise >> 8) % 16;
        let end = (slot + 1) * self.packet;
        let payload = &mut self.ring[end - TEMPLATE.len()..end];
        digits(&mut payload[BPM_AT..BPM_AT + 2], 60_000 / self.rr);
        payload[TIME_AT..TIME_AT + 13].copy_from_slice(&self.stamp);
        digits(&mut payload[RR_AT[0]..RR_AT[0] + 3], self.rr);
        digits(&mut payload[RR_AT[1]..RR_AT[1] + 3], second);
        for digit in self.stamp.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                break;
            }
            *digit = b'0';
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some((from, to)) = self.unsent.front_mut() {
            match self.io.write(&self.ring[*from..*to]) {
                Ok(n) => {
                    *from += n;
                    if from == to {
                        self.unsent.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what is there; returns the number of acknowledgements. A short read empties the socket: epoll's edge
    /// fires again with the next byte.
    fn receive(&mut self, buf: &mut [u8], disorder: &mut u64) -> io::Result<usize> {
        let mut acks = 0;
        loop {
            let n = match self.io.read(buf) {
                Ok(0) => return Err(io::Error::other("the broker closed the connection")),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(acks),
                Err(e) => return Err(e),
            };
            let whole;
            let bytes = if self.carry.is_empty() {
                &buf[..n]
            } else {
                self.carry.extend_from_slice(&buf[..n]);
                whole = std::mem::take(&mut self.carry);
                &whole[..]
            };
            let packets = bytes.chunks_exact(4);
            self.carry = packets.remainder().to_vec();
            self.in_flight -= packets.len().min(self.in_flight);
            for packet in packets {
                let slot = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                if packet[0] != 0x40 || packet[1] != 2 {
                    return Err(io::Error::other(format!("not a PUBACK: {packet:02x?}")));
                }
                if slot != self.expect + 1 {
                    *disorder += 1;
                }
                self.expect = (self.expect + 1) % self.window;
                acks += 1;
            }
            if n < buf.len() {
                return Ok(acks);
            }
        }
    }
}

fn digits(out: &mut [u8], mut value: u64) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}
