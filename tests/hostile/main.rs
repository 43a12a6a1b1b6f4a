//! A hostile local network, on the real binary: whatever some clients do, honest devices keep being acknowledged, memory
//! stays within `[limits] memory`, and when it is over the gateway has no more descriptors and connections than before.
//!
//! Attackers and devices have addresses of their own (127.0.0.x, 127.0.1.x). Sizes are small enough for a developer's
//! machine; `tests/heavy.sh hostile` takes them to the promised figures (`FOGBEAT_HOSTILE=10`) on a release build.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure, and the figures go to standard output"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod attacks;
mod honest;
mod manners;
mod peer;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use honest::Honest;
use support::daemon::{Daemon, Setup, http_get, optimised};
use support::{env_number, process};

/// One test at a time: latencies mean something only so.
static MACHINE: Mutex<()> = Mutex::new(());

const LIMITS: &str = r#"
[mqtt.listener.limits]
connections = 600
handshakes = 64
subscribers = 40
filters = 16
"#;
const CONNECTIONS: usize = 600;
const DEVICES: u64 = 5000;
/// Every honest publish has its PUBACK within this.
const PATIENCE: Duration = Duration::from_secs(2);

/// An attack is so many times as large as in an ordinary run.
fn size() -> u64 {
    env_number("FOGBEAT_HOSTILE", 1)
}

/// A gateway under attack, and honest devices that use it meanwhile.
struct Scene {
    setup: Setup,
    daemon: Daemon,
    honest: Option<Honest>,
    descriptors: u64,
    /// `[limits] memory`
    memory_mib: u64,
    started: Instant,
    /// Dropped last.
    _root: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    fn new(name: &str) -> Self {
        Self::with(name, &[], |_| String::new())
    }

    /// The daemon runs `under` another program; `extra` makes more configuration, given the root directory.
    fn with(name: &str, under: &[&str], extra: impl FnOnce(&std::path::Path) -> String) -> Self {
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = tempfile::Builder::new().prefix(&format!("hostile-{name}-")).tempdir().unwrap();
        let mut setup = Setup::new(root.path());
        let extra = extra(root.path());
        // TLS takes memory as well.
        let memory_mib = if extra.is_empty() { 128 } else { 160 };
        setup.extra = format!("[limits]\nmemory = \"{memory_mib}MiB\"\n{LIMITS}{extra}");
        let mut command = setup.command(under);
        command.env("FOGBEAT__JOURNAL__MAX_DEVICES", DEVICES.to_string());
        let mut daemon = Daemon::spawn(command, &setup);
        daemon.wait_ready();
        let honest = Honest::start(setup.mqtt);
        let scene = Self {
            daemon,
            honest: Some(honest),
            descriptors: 0,
            memory_mib,
            started: Instant::now(),
            _root: root,
            _alone: alone,
            setup,
        };
        scene.until("the devices are there", || scene.connections() == honest::DEVICES as u64);
        Self { descriptors: process::descriptors(scene.daemon.pid()), ..scene }
    }

    fn connections(&self) -> u64 {
        self.daemon.metric("fogbeat_mqtt_connections").map_or(0, |value| value as u64)
    }

    fn refused(&self, cause: &str) -> u64 {
        let text = http_get(self.setup.http, "/metrics").unwrap_or_default();
        let key = format!("fogbeat_mqtt_connects_refused_total{{cause=\"{cause}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&key)?.parse().ok()).unwrap_or(0)
    }

    fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let start = Instant::now();
        while !reached() {
            assert!(start.elapsed() < Duration::from_secs(30), "{what}\n{}", self.setup.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The log's lines about an address.
    fn lines_about(&self, address: Ipv4Addr) -> usize {
        let log = fs::read_to_string(&self.setup.log).unwrap();
        let word = format!("address={address} ");
        log.lines().filter(|line| line.contains(&word)).count()
    }

    /// When the attack is over (its sockets are closed): the verdict on what was promised.
    fn verdict(mut self, name: &str, attackers: &[Ipv4Addr]) {
        let figures = self.honest.take().unwrap().stop();
        println!("{name}: {figures}");
        let memory = process::memory(self.daemon.pid());
        let kib = if optimised() { memory.peak_kib } else { memory.peak_kib.saturating_sub(memory.file_kib) };
        println!("{name}: peak memory {} MiB of {}", kib >> 10, self.memory_mib);
        assert!(kib <= self.memory_mib << 10, "{name}: {kib} KiB");
        self.until("connections end", || self.connections() == 0);
        self.until("handshakes end", || self.daemon.metric("fogbeat_mqtt_handshakes") == Some(0.0));
        let base = self.descriptors - honest::DEVICES as u64;
        self.until("descriptors are given back", || process::descriptors(self.daemon.pid()) <= base + 4);
        let minutes = self.started.elapsed().as_secs() as usize / 60 + 1;
        for attacker in attackers {
            let lines = self.lines_about(*attacker);
            assert!(
                lines <= minutes,
                "{lines} lines about {attacker} in {minutes} min\n{}",
                self.setup.log_tail()
            );
        }
        let log = fs::read_to_string(&self.setup.log).unwrap();
        assert!(!log.contains("panicked"), "{}", self.setup.log_tail());
        assert!(
            !log.contains("address=127.0.1."),
            "an honest device was turned away\n{}",
            self.setup.log_tail()
        );
        assert!(figures.acknowledged > 0, "nobody published");
        assert_eq!(
            figures.lost,
            0,
            "{name}: honest devices lost their connections\n{}",
            self.setup.log_tail()
        );
        assert!(figures.worst <= PATIENCE, "{name}: {figures}");
        assert!(figures.worst_newcomer <= PATIENCE, "{name}: {figures}");
        assert!(figures.newcomers > 0, "{name}: no newcomer");
        let status = self.daemon.terminate(Duration::from_secs(30));
        assert!(status.success(), "{status}");
    }
}

/// An attacker's address.
fn attacker(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// Runs attackers in a runtime of their own.
fn attack<T>(attack: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(attack)
}
