//! A gateway with an MQTT uplink, somebody who publishes readings to it, and what can be asked of both.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::support::daemon::{Setup, binary, http_get};
use crate::support::lake::Lake;
use crate::support::wire::{self, Packet, Stream};

pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Publishes readings with stamps of their own, and counts what is acknowledged.
pub struct Strap {
    io: TcpStream,
    stream: Stream,
    name: String,
    pub stamp_ms: u64,
    id: u16,
}

impl Strap {
    pub fn connect(address: SocketAddr, name: &str) -> Self {
        let mut io = TcpStream::connect(address).unwrap();
        io.set_nodelay(true).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        io.write_all(&wire::connect(name, true)).unwrap();
        let mut strap = Self {
            io,
            stream: Stream::default(),
            name: name.to_owned(),
            stamp_ms: crate::support::wall_ms() - 60_000,
            id: 0,
        };
        assert_eq!(strap.packet(), Packet::ConnAck { code: 0 });
        strap
    }

    /// Publishes one reading and waits for its acknowledgement.
    pub fn beat(&mut self) {
        self.stamp_ms += 1;
        self.id = self.id % 60_000 + 1;
        let payload = format!(
            "{{\"bpm\":{},\"ts\":{},\"rr\":[{}]}}",
            60 + self.id % 90,
            self.stamp_ms,
            600 + self.id % 300
        );
        self.io
            .write_all(&wire::publish(&format!("hr/{}", self.name), self.id, false, payload.as_bytes()))
            .unwrap();
        assert_eq!(self.packet(), Packet::PubAck { id: self.id });
    }

    pub fn beats(&mut self, count: usize) {
        (0..count).for_each(|_| self.beat());
    }

    fn packet(&mut self) -> Packet {
        let mut chunk = [0; 4096];
        loop {
            if let Some(packet) = self.stream.next_packet() {
                return packet;
            }
            let read = self.io.read(&mut chunk).unwrap();
            assert!(read > 0, "the gateway hung up");
            self.stream.push(&chunk[..read]);
        }
    }
}

/// The whole status, as the page tells it.
pub fn status(setup: &Setup) -> Value {
    http_get(setup.http, "/status").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null)
}

/// One uplink in the status.
pub fn uplink(setup: &Setup, name: &str) -> Value {
    let status = status(setup);
    let uplinks = status["uplinks"].as_array().cloned().unwrap_or_default();
    uplinks.into_iter().find(|uplink| uplink["name"] == name).unwrap_or(Value::Null)
}

/// What `fogbeat status` says on one line about the uplink that fails.
pub fn told(setup: &Setup) -> String {
    let asked = std::process::Command::new(binary()).args(["status", "--config"]).arg(&setup.config).output();
    let page = String::from_utf8(asked.unwrap().stdout).unwrap();
    let mut lines = page.lines().filter_map(|line| line.trim().strip_prefix("failure: "));
    lines.next().unwrap_or_else(|| panic!("no failure in:\n{page}")).to_owned()
}

/// Reads members as a lake, and checks that what overlaps is the same batch, byte for byte.
pub fn account(members: &[Vec<u8>]) -> (Lake, usize) {
    let mut lake = Lake::default();
    let mut of_id = std::collections::HashMap::new();
    let mut again = 0;
    for (number, member) in members.iter().enumerate() {
        let mut text = String::new();
        GzDecoder::new(member.as_slice()).read_to_string(&mut text).unwrap();
        assert!(text.ends_with('\n'));
        let mut seen = None;
        for line in text.lines() {
            lake.take(line);
            let value: Value = serde_json::from_str(line).unwrap();
            let key = format!("{} {}", value["type"], value["id"]);
            seen = seen.max(of_id.insert(key, number).map(|before| before + 1));
        }
        if let Some(before) = seen {
            again += 1;
            assert!(members[before - 1] == *member, "a batch that overlaps another one is not the same");
        }
    }
    assert_eq!(lake.defects, Vec::<String>::new());
    (lake, again)
}

/// The ids and contents in a directory uplink's lake are those of `lake`.
pub fn same_readings(lake: &Lake, directory: &Path) {
    let other = Lake::read(directory);
    assert_eq!(other.defects, Vec::<String>::new());
    assert_eq!(lake.spools, other.spools);
    let lost: Vec<_> = other.readings.keys().filter(|id| !lake.readings.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} readings of {} did not arrive by MQTT", lost.len(), other.readings.len());
    assert_eq!(lake.readings, other.readings);
}
