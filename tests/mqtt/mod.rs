//! A listener in this process, with a real journal below it, and a client that sends exactly the bytes it is told.
#![allow(dead_code, reason = "the helpers serve several test files")]

#[path = "../support/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fogbeat::clock::{BootId, Clock, Stamp, WallQuality};
use fogbeat::config;
use fogbeat::journal::{Entry, Journal, RealDisk, Seq};
use fogbeat::source::mqtt::mapping::Mappings;
use fogbeat::source::mqtt::{BindError, Deps, Handle, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
pub use wire::{packet, string};

pub struct TestClock(Instant);

impl TestClock {
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TestClock {
    fn now(&self) -> Stamp {
        let uptime_ms = self.0.elapsed().as_millis() as u64 + 1000;
        Stamp { uptime_ms, wall_ms: 1_790_000_000_000 + uptime_ms as i64, quality: WallQuality::Synced }
    }

    fn boot(&self) -> BootId {
        BootId([7; 16])
    }
}

pub struct Gateway {
    pub handle: Handle,
    pub journal: Journal,
    pub dir: tempfile::TempDir,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
    driver: JoinHandle<()>,
}

/// Clients that come and go as fast as they can, all from one address.
pub fn settings() -> config::Listener {
    let defaults = config::Listener::default();
    let limits = config::Limits {
        new_per_second: 100_000,
        reconnects_per_minute: 1_000_000,
        connections_per_address: Some(defaults.limits.connections),
        ..defaults.limits
    };
    config::Listener { bind: "127.0.0.1:0".parse().unwrap(), anonymous: true, limits, ..defaults }
}

pub async fn try_start(dir: tempfile::TempDir, settings: &config::Listener) -> Result<Gateway, BindError> {
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let journal_settings = config::Journal { commit_interval: Duration::ZERO, ..config::Journal::default() };
    let (journal, driver, _) =
        Journal::open(&journal_settings, dir.path(), Arc::clone(&clock), Arc::new(RealDisk)).unwrap();
    let driver = tokio::spawn(driver.run());
    let mappings = Arc::new(Mappings::compile(&[], &[]).unwrap());
    let deps = Deps {
        journal: journal.clone(),
        clock,
        mappings,
        state_dir: dir.path().to_owned(),
        announced: None,
        buffers: 32 << 20,
    };
    let listener = Listener::bind(settings, deps).await?;
    let handle = listener.handle();
    let (shutdown, watched) = watch::channel(false);
    let task = tokio::spawn(listener.run(watched, Duration::from_secs(5)));
    Ok(Gateway { handle, journal, dir, shutdown, task, driver })
}

pub async fn start(settings: config::Listener) -> Gateway {
    try_start(tempfile::tempdir().unwrap(), &settings).await.unwrap()
}

impl Gateway {
    pub fn addr(&self) -> SocketAddr {
        self.handle.local_addr().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// What is durable: device and bpm, in order.
    pub async fn stored(&self) -> Vec<(String, u16)> {
        let journal = self.journal.clone();
        tokio::task::spawn_blocking(move || {
            let mut from = Seq(0);
            let mut found = Vec::new();
            loop {
                let page = journal.read(from, 10_000).unwrap();
                for entry in page.entries {
                    if let Entry::Reading { device, reading, .. } = entry {
                        found.push((device.to_string(), reading.bpm.map_or(0, |bpm| bpm.get())));
                    }
                }
                if page.next <= from {
                    return found;
                }
                from = page.next;
            }
        })
        .await
        .unwrap()
    }

    pub async fn stop(self) -> tempfile::TempDir {
        self.shutdown.send_replace(true);
        self.task.await.unwrap();
        self.journal.close().await;
        self.driver.await.unwrap();
        self.dir
    }

    pub fn shut_down(&self) {
        self.shutdown.send_replace(true);
    }
}

pub const PATIENCE: Duration = Duration::from_secs(10);

/// A client of raw bytes.
pub struct Raw {
    pub stream: TcpStream,
}

impl Raw {
    pub async fn open(addr: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(addr).await.unwrap() }
    }

    /// MQTT 3.1.1, clean session, keep alive 0.
    pub async fn v4(addr: SocketAddr, client_id: &str) -> Self {
        let mut raw = Self::open(addr).await;
        raw.send(&connect(4, 0x02, &[], client_id, &[])).await;
        raw.expect(&[0x20, 2, 0, 0]).await;
        raw
    }

    /// MQTT 5, clean start, keep alive 0.
    pub async fn v5(addr: SocketAddr, client_id: &str) -> Self {
        let mut raw = Self::open(addr).await;
        raw.send(&connect(5, 0x02, &[], client_id, &[])).await;
        let connack = raw.packet().await.unwrap();
        assert_eq!((connack[0], connack[2], connack[3]), (0x20, 0, 0), "{connack:?}");
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        let read = tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut got)).await;
        read.unwrap_or_else(|_| panic!("no answer, expected {bytes:02x?}")).unwrap();
        assert_eq!(got, bytes, "{got:02x?} instead of {bytes:02x?}");
    }

    /// The next packet; `None` when the connection is closed.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        tokio::time::timeout(PATIENCE, async {
            let mut packet = vec![self.stream.read_u8().await.ok()?];
            let mut length = 0usize;
            for shift in 0..4 {
                let byte = self.stream.read_u8().await.ok()?;
                packet.push(byte);
                length |= usize::from(byte & 0x7F) << (7 * shift);
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let head = packet.len();
            packet.resize(head + length, 0);
            self.stream.read_exact(&mut packet[head..]).await.ok()?;
            Some(packet)
        })
        .await
        .expect("an answer or the end of the connection")
    }

    pub async fn closed(&mut self) {
        assert_eq!(self.packet().await, None, "the connection should be closed");
    }

    pub async fn silent(&mut self) {
        let quiet = tokio::time::timeout(Duration::from_millis(300), self.stream.read_u8()).await;
        assert!(quiet.is_err(), "nothing should come: {quiet:?}");
    }
}

pub fn connect(level: u8, flags: u8, properties: &[u8], client_id: &str, rest: &[u8]) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend_from_slice(&[level, flags, 0, 0]);
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(&string(client_id));
    body.extend_from_slice(rest);
    packet(0x10, &body)
}

/// A PUBLISH; `version` 5 gets empty properties.
pub fn publish(version: u8, flags: u8, topic: &str, pkid: u16, payload: &str) -> Vec<u8> {
    let mut body = string(topic);
    if flags & 0b110 != 0 {
        body.extend_from_slice(&pkid.to_be_bytes());
    }
    if version == 5 {
        body.push(0);
    }
    body.extend_from_slice(payload.as_bytes());
    packet(0x30 | flags, &body)
}

pub fn subscribe(version: u8, pkid: u16, filter: &str, options: u8) -> Vec<u8> {
    let mut body = pkid.to_be_bytes().to_vec();
    if version == 5 {
        body.push(0);
    }
    body.extend_from_slice(&string(filter));
    body.push(options);
    packet(0x82, &body)
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn path_of(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
