//! `[limits]`: how much memory the gateway may take, and the sum of the limits that keep it there.
//!
//! Promises: every table, queue and buffer that somebody else can fill has a line in [`Account`]; the lines and the
//! pool that is left over (see [`Account::buffers`]) add up to `memory`; a configuration whose lines leave too small a
//! pool is refused with the sum. The figures for one item are its worst case, measured or from the sizes of its parts.
//! Does not count what only the operator can fill: recordings that are replayed, the list of devices with secrets, and
//! messages of brokers under `[[mqtt.external]]`, which are trusted.

use std::fmt;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::Config;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The process with its threads and three open databases of the journal, after millions of readings (measured: 24 MB).
const PROGRAM: u64 = 28 * MIB;
/// A stamp in the windows by which re-sent readings are recognised.
const STAMP: u64 = 16;
/// Least stamps over all devices, and per device beyond it.
const STAMPS: u64 = 1 << 20;
const STAMPS_PER_DEVICE: u64 = 64;
/// A device's number, its name (64 bytes in practice), and the name in the tables of three open generations.
const DEVICE: u64 = 512;
/// A reading in the open group, and its place in the order of the group that is written.
const READING: u64 = 160;
/// The open group and the one on its way to the disk, of this many readings each.
const GROUP: u64 = 32_768;
/// A connection's task, its first buffers and its session; what it needs beyond that comes from the pool.
pub const CONNECTION: u64 = 16 * KIB;
/// TLS state and one record each way.
const TLS_CONNECTION: u64 = 24 * KIB;
/// A connection before its CONNECT, whose largest is 16 KiB.
const HANDSHAKE: u64 = 24 * KIB;
/// The largest message of a TLS handshake, and the keys.
const TLS_HANDSHAKE: u64 = 88 * KIB;
/// A session with subscriptions: its queues at the router.
const SUBSCRIBER: u64 = 120 * KIB;
/// A filter's log at the router, without the messages themselves.
const FILTER: u64 = 330 * KIB;
/// Messages for local subscribers, wherever they wait: queue, logs, retained, sessions.
pub const MESSAGES: u64 = 10 * MIB;
/// Sessions that wait for their clients to come back.
pub const SESSIONS: u64 = 2 * MIB;
/// A topic at the router, and the bytes of all topics' names.
const TOPIC: u64 = 256;
pub const TOPIC_NAMES: u64 = 2 * MIB;
/// Addresses and clients that are kept an eye on, refused payloads for the status.
const TABLES: u64 = 2 * MIB;
/// What is known of wearables on the air, and their events on the way.
const BLUETOOTH: u64 = 4 * MIB;
/// An uplink's batch as text, packed, and sent but not confirmed: in units of `batch.max_bytes`; and its encoder.
const BATCHES: u64 = 3;
const ENCODER: u64 = 3 * MIB;
/// What the allocator keeps between what is used: one part of so many of the budget.
const ALLOCATOR: u64 = 12;
/// Least pool to work with.
const LEAST_BUFFERS: u64 = 8 * MIB;

/// `[limits]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Most resident memory, in the worst case.
    pub memory: ByteSize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { memory: ByteSize::mib(192) }
    }
}

/// One line of the sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub what: &'static str,
    /// The key that sets `count`, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'static str>,
    pub count: u64,
    pub bytes: u64,
}

/// The budget, line by line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    pub budget_bytes: u64,
    pub lines: Vec<Line>,
}

impl Account {
    /// The sum for `config`.
    pub fn of(config: &Config) -> Self {
        let mut lines = Vec::new();
        let mut line = |what, key, count: u64, each: u64| {
            lines.push(Line { what, key, count, bytes: count.saturating_mul(each) });
        };
        let budget_bytes = config.limits.memory.as_u64();
        let devices = config.journal.max_devices as u64;
        line("program and open databases", None, 1, PROGRAM);
        let stamps = STAMPS.max(devices.saturating_mul(STAMPS_PER_DEVICE));
        line("stamps that tell re-sent readings", Some("journal.max_devices"), stamps, STAMP);
        line("devices", Some("journal.max_devices"), devices, DEVICE);
        line("readings on their way to the disk", None, 2 * GROUP, READING);
        let batches = BATCHES * config.batch.max_bytes.as_u64() + ENCODER;
        let carrying = config.uplinks.iter().filter(|uplink| uplink.carries_batches()).count();
        line("uplinks' batches", Some("batch.max_bytes"), carrying.max(1) as u64, batches);
        if config.ble.enabled {
            line("Bluetooth", Some("ble.enabled"), 1, BLUETOOTH);
        }
        let listener = &config.mqtt.listener;
        if listener.enabled {
            let limits = &listener.limits;
            let key = "mqtt.listener.limits.connections";
            line("connections", Some(key), limits.connections as u64, CONNECTION);
            let handshakes = "mqtt.listener.limits.handshakes";
            line("handshakes", Some(handshakes), limits.handshakes as u64, HANDSHAKE);
            if listener.tls.is_some() {
                line("connections' TLS", Some(key), limits.connections as u64, TLS_CONNECTION);
                line("handshakes' TLS", Some(handshakes), limits.handshakes as u64, TLS_HANDSHAKE);
            }
            let key = "mqtt.listener.limits.subscribers";
            line("subscribers", Some(key), limits.subscribers as u64, SUBSCRIBER);
            let key = "mqtt.listener.limits.filters";
            line("subscribers' filters", Some(key), limits.filters as u64, FILTER);
            line("subscribers' messages, retained ones too", None, 1, MESSAGES);
            line("sessions kept for clients that are away", None, 1, SESSIONS);
            let key = "mqtt.listener.limits.topics";
            line("subscribers' topics", Some(key), limits.topics as u64, TOPIC);
            line("subscribers' topic names", None, 1, TOPIC_NAMES);
            line("addresses watched, refused payloads", None, 1, TABLES);
        }
        line("allocator", None, 1, budget_bytes / ALLOCATOR);
        Self { budget_bytes, lines }
    }

    /// What the limits add up to.
    pub fn sum(&self) -> u64 {
        self.lines.iter().fold(0, |sum, line| sum.saturating_add(line.bytes))
    }

    /// What is left: the pool from which connections take what exceeds their own share (large packets, many
    /// publishes in flight, a client that does not read). When it is empty they are read from more slowly.
    pub fn buffers(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.sum())
    }

    /// `None`: the limits fit. Else what is wrong: the sum, largest lines first, and the budget that would do.
    pub(super) fn problem(&self) -> Option<(String, String)> {
        if self.buffers() >= LEAST_BUFFERS {
            return None;
        }
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.bytes));
        let shown = lines.iter().map(|line| line.to_string()).collect::<Vec<_>>().join(", ");
        let what = format!(
            "{} do not hold what the limits add up to and {} of buffers: {shown}",
            size(self.budget_bytes),
            size(LEAST_BUFFERS)
        );
        let rest = self.sum() - self.budget_bytes / ALLOCATOR + LEAST_BUFFERS;
        let enough = (rest * ALLOCATOR / (ALLOCATOR - 1)).div_ceil(MIB);
        let limits = "connections, handshakes, subscribers, topics, journal.max_devices or batch.max_bytes";
        Some((what, format!("give at least \"{enough}MiB\", or lower one of {limits}")))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{} {}", self.what, size(self.bytes)),
            count => write!(f, "{count} {} {}", self.what, size(self.bytes)),
        }
    }
}

/// The table, for people.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { what, key, count, bytes } in &self.lines {
            let each = if *count > 1 { format!("{count} x {}", size(bytes / count)) } else { String::new() };
            writeln!(f, "{:>10}  {what:<41} {each:<20} {}", size(*bytes), key.unwrap_or(""))?;
        }
        writeln!(f, "{:>10}  buffers, as connections need them", size(self.buffers()))?;
        writeln!(f, "{:>10}  limits.memory", size(self.budget_bytes))
    }
}

fn size(bytes: u64) -> String {
    if bytes < KIB { format!("{bytes} B") } else { ByteSize(bytes).display().iec().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Problem;

    #[test]
    fn the_lines_and_the_pool_are_the_budget() {
        let account = Account::of(&Config::default());
        assert_eq!(account.sum() + account.buffers(), account.budget_bytes);
        assert!(account.buffers() >= LEAST_BUFFERS, "the default does not fit:\n{account}");
        assert_eq!(account.problem(), None);
    }

    #[test]
    fn tls_fits_into_the_default() {
        let tls = "[mqtt.listener.tls]\nbind = \"0.0.0.0:8883\"\ncertificate = \"/c\"\nkey = \"/k\"\n";
        let config = crate::config::from_toml(tls).unwrap();
        assert!(Account::of(&config).lines.iter().any(|line| line.what == "handshakes' TLS"));
    }

    #[test]
    fn what_does_not_fit_is_told_with_the_sum_and_a_budget_that_does() {
        let text = |memory: &str| {
            format!("[limits]\nmemory = \"{memory}\"\n[mqtt.listener.limits]\nconnections = 8000\n")
        };
        let problems = crate::config::from_toml(&text("192MiB")).unwrap_err().0;
        assert_eq!(problems.len(), 1, "{problems:?}");
        let Problem { key, what, remedy } = &problems[0];
        assert_eq!(key, "limits.memory");
        assert!(what.contains("8000 connections 125.0 MiB"), "{what}");
        let enough = remedy.split('"').nth(1).unwrap();
        crate::config::from_toml(&text(enough)).unwrap();
    }

    #[test]
    fn a_reading_takes_no_more_than_its_line_says() {
        // In the group, and its place in the order.
        let most = size_of::<crate::reading::Reading>() + size_of::<u64>();
        assert!(most as u64 <= READING, "{most} bytes");
    }
}
