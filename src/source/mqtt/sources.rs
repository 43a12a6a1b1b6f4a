//! Who may come in: what each source address has, does and has done wrong.
//!
//! Promises: no address has more than its share of connections, of new connections per second, or of wrong secrets
//! that are answered; a client that reconnects without end is slowed down before its neighbours behind the same
//! address are; when all places for handshakes are taken, the one that has waited longest of the address that has most
//! is given up for a newcomer. What an address did wrong is told once a minute, with counts. Memory is bounded: beyond
//! [`ADDRESSES`] the quiet ones are forgotten, and if none is quiet the rest is treated as one address.
//!
//! Pure: a table and the time. An IPv6 address stands for its /64, which is what one household or attacker has.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Addresses that are told apart.
pub(crate) const ADDRESSES: usize = 4096;
/// Clients whose reconnects are counted.
const CLIENTS: usize = 8192;
/// A handshake younger than this is not given up for another one of its own address: it may only be slow.
const YOUNG: Duration = Duration::from_secs(3);
/// How often one address is told about, and how often anything is: an attack from everywhere must not fill the log.
const TELL_EVERY: Duration = Duration::from_secs(60);
const TELL_MOST: f64 = 20.0;

/// The limits, as [`crate::config::Limits`] has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub connections: usize,
    pub new_per_second: u32,
    pub reconnects_per_minute: u32,
    pub failures_per_minute: u32,
    pub handshakes: usize,
}

/// An address, or the network that counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 => v4,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) if v4.is_unspecified() => write!(f, "others"),
            IpAddr::V4(v4) => write!(f, "{v4}"),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// Those for whom there is no entry left.
const OTHERS: Source = Source(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));

/// What an address can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// More new connections than it may make.
    Throttled,
    /// All places for handshakes are taken, by it above all.
    Handshakes,
    /// A handshake that did not come to its end.
    Unfinished,
    /// Its share of connections is used up.
    Share,
    /// One of its clients reconnects without end.
    Reconnects,
    /// A wrong secret, or none.
    Credentials,
    /// What it sent is not MQTT.
    Malformed,
}

impl Fault {
    /// Label of the counter of refused connections.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::Throttled => "address_throttled",
            Self::Handshakes => "too_many_handshakes",
            Self::Unfinished => "handshake_timeout",
            Self::Share => "address_share",
            Self::Reconnects => "client_throttled",
            Self::Credentials => "credentials",
            Self::Malformed => "malformed",
        }
    }
}

/// What one address did wrong since it was last told about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub throttled: u64,
    pub handshakes: u64,
    pub share: u64,
    pub reconnects: u64,
    pub credentials: u64,
    pub malformed: u64,
}

impl Faults {
    fn note(&mut self, fault: Fault) {
        let count = match fault {
            Fault::Throttled => &mut self.throttled,
            Fault::Handshakes | Fault::Unfinished => &mut self.handshakes,
            Fault::Share => &mut self.share,
            Fault::Reconnects => &mut self.reconnects,
            Fault::Credentials => &mut self.credentials,
            Fault::Malformed => &mut self.malformed,
        };
        *count += 1;
    }

    fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// A line for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub source: Source,
    pub faults: Faults,
}

/// A token bucket that holds one minute's or one burst's worth.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    most: f64,
    per_second: f64,
    filled: Instant,
}

impl Bucket {
    fn full(most: f64, per_second: f64, now: Instant) -> Self {
        Self { tokens: most, most, per_second, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        self.filled = now;
    }

    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= self.most
    }
}

#[derive(Debug)]
struct Entry<H> {
    connections: usize,
    /// Number, begin, and what is dropped when it is given up; oldest first.
    handshakes: VecDeque<(u64, Instant, H)>,
    arrivals: Bucket,
    failures: Bucket,
    faults: Faults,
    told: Option<Instant>,
    throttled: Option<Instant>,
}

/// The table. `H`: what tells a handshake that it is given up, by being dropped.
#[derive(Debug)]
pub(crate) struct Sources<H> {
    rules: Rules,
    entries: HashMap<Source, Entry<H>>,
    clients: HashMap<u64, Bucket>,
    hasher: RandomState,
    handshakes: usize,
    lines: Bucket,
}

/// The answer to an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Welcome,
    /// Welcome, and a handshake of this address was given up for it.
    InPlaceOf(Source),
    Refused(Fault),
}

impl<H> Sources<H> {
    pub(crate) fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            entries: HashMap::new(),
            clients: HashMap::new(),
            hasher: RandomState::new(),
            handshakes: 0,
            lines: Bucket::full(TELL_MOST, TELL_MOST / TELL_EVERY.as_secs_f64(), now),
        }
    }

    /// The source under which `address` is kept from now on.
    fn known(&mut self, source: Source, now: Instant) -> Source {
        if self.entries.contains_key(&source) {
            return source;
        }
        if self.entries.len() >= ADDRESSES {
            self.forget(now);
        }
        let source = if self.entries.len() >= ADDRESSES { OTHERS } else { source };
        let rules = self.rules;
        self.entries.entry(source).or_insert_with(|| Entry {
            connections: 0,
            handshakes: VecDeque::new(),
            arrivals: Bucket::full(
                rules.connections.max(rules.new_per_second as usize) as f64,
                f64::from(rules.new_per_second),
                now,
            ),
            failures: per_minute(rules.failures_per_minute, now),
            faults: Faults::default(),
            told: None,
            throttled: None,
        });
        source
    }

    /// A connection has come in; `number` is its own. Gives the source it is kept under.
    pub(crate) fn arrive(
        &mut self,
        address: IpAddr,
        number: u64,
        handle: H,
        now: Instant,
    ) -> (Source, Arrival) {
        let source = self.known(address.into(), now);
        let Some(entry) = self.entries.get_mut(&source) else {
            return (source, Arrival::Refused(Fault::Throttled));
        };
        if !entry.arrivals.take(now) {
            entry.throttled = Some(now);
            return (source, Arrival::Refused(Fault::Throttled));
        }
        let mut arrival = Arrival::Welcome;
        if self.handshakes >= self.rules.handshakes {
            match self.give_up_one(source, now) {
                Some(victim) => arrival = Arrival::InPlaceOf(victim),
                None => return (source, Arrival::Refused(Fault::Handshakes)),
            }
        }
        if let Some(entry) = self.entries.get_mut(&source) {
            entry.handshakes.push_back((number, now, handle));
            self.handshakes += 1;
        }
        (source, arrival)
    }

    /// Gives up the oldest handshake of the address that has most, unless that is the newcomer's own and its
    /// handshakes are all young.
    fn give_up_one(&mut self, newcomer: Source, now: Instant) -> Option<Source> {
        let own = self.entries.get(&newcomer).map_or(0, |entry| entry.handshakes.len());
        let since = |entry: &Entry<H>| entry.handshakes.front().map(|(_, since, _)| *since);
        let (victim, most, oldest) = self
            .entries
            .iter()
            .filter_map(|(source, entry)| Some((*source, entry.handshakes.len(), since(entry)?)))
            .max_by_key(|(_, count, since)| (*count, std::cmp::Reverse(*since)))?;
        let victim = match most > own {
            true => victim,
            false => {
                let oldest = self.entries.get(&newcomer).and_then(since).unwrap_or(oldest);
                if now.saturating_duration_since(oldest) < YOUNG {
                    return None;
                }
                newcomer
            }
        };
        self.entries.get_mut(&victim)?.handshakes.pop_front()?;
        self.handshakes -= 1;
        Some(victim)
    }

    /// The handshake is over, whatever came of it.
    pub(crate) fn finish(&mut self, source: Source, number: u64) {
        if let Some(entry) = self.entries.get_mut(&source)
            && let Some(at) = entry.handshakes.iter().position(|(known, ..)| *known == number)
        {
            entry.handshakes.remove(at);
            self.handshakes -= 1;
        }
    }

    /// The handshake becomes a connection. `false`: the address has its share already.
    pub(crate) fn settle(&mut self, source: Source, number: u64) -> bool {
        let share = self.rules.connections;
        let Some(entry) = self.entries.get_mut(&source) else { return false };
        if entry.connections >= share {
            return false;
        }
        entry.connections += 1;
        self.finish(source, number);
        true
    }

    /// A connection has ended.
    pub(crate) fn leave(&mut self, source: Source) {
        if let Some(entry) = self.entries.get_mut(&source) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }

    /// May this client of this source connect once more now?
    pub(crate) fn reconnect(&mut self, source: Source, client: &str, now: Instant) -> bool {
        let key = self.hasher.hash_one((source, client));
        if self.clients.len() >= CLIENTS && !self.clients.contains_key(&key) {
            self.clients.retain(|_, bucket| !bucket.is_full(now));
            if self.clients.len() >= CLIENTS {
                // The address's own limit still holds.
                return true;
            }
        }
        let rate = self.rules.reconnects_per_minute;
        self.clients.entry(key).or_insert_with(|| per_minute(rate, now)).take(now)
    }

    /// A wrong secret. `true`: it may be answered.
    pub(crate) fn wrong_secret(&mut self, source: Source, now: Instant) -> bool {
        self.entries.get_mut(&source).is_some_and(|entry| entry.failures.take(now))
    }

    /// Notes a fault; gives a line if it is time for one.
    pub(crate) fn note(&mut self, source: Source, fault: Fault, now: Instant) -> Option<Told> {
        let entry = self.entries.get_mut(&source)?;
        entry.faults.note(fault);
        if entry.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            return None;
        }
        tell(&mut self.lines, source, entry, now)
    }

    /// Lines that became due, and what is forgotten. To be called every few seconds.
    pub(crate) fn sweep(&mut self, now: Instant) -> Vec<Told> {
        let mut lines = Vec::new();
        for (source, entry) in &mut self.entries {
            let due = entry.told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_EVERY);
            if due && entry.faults.any() {
                lines.extend(tell(&mut self.lines, *source, entry, now));
            }
        }
        self.forget(now);
        self.clients.retain(|_, bucket| !bucket.is_full(now));
        lines
    }

    fn forget(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            entry.connections > 0
                || !entry.handshakes.is_empty()
                || entry.faults.any()
                || entry.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY)
                || !entry.arrivals.is_full(now)
                || !entry.failures.is_full(now)
        });
    }

    /// Handshakes under way.
    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// Addresses that were refused connections within the last minute.
    pub(crate) fn throttled(&self, now: Instant) -> usize {
        let recent = |at: Instant| now.saturating_duration_since(at) < TELL_EVERY;
        self.entries.values().filter(|entry| entry.throttled.is_some_and(recent)).count()
    }
}

fn per_minute(rate: u32, now: Instant) -> Bucket {
    Bucket::full(f64::from(rate), f64::from(rate) / 60.0, now)
}

fn tell<H>(lines: &mut Bucket, source: Source, entry: &mut Entry<H>, now: Instant) -> Option<Told> {
    if !lines.take(now) {
        return None;
    }
    entry.told = Some(now);
    Some(Told { source, faults: std::mem::take(&mut entry.faults) })
}

#[cfg(test)]
mod tests;
