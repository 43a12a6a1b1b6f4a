//! The two systems under test: a fresh process each, with an address to publish to.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, Setup, free_port};

/// A directory on a real disk, removed when dropped.
pub fn scratch(name: &str) -> tempfile::TempDir {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(root).expect("make the scratch directory");
    tempfile::Builder::new()
        .prefix(&format!("ingest-{name}-"))
        .tempdir_in(root)
        .expect("make a scratch directory")
}

pub enum Broker {
    Fogbeat { daemon: Box<Daemon>, setup: Box<Setup>, _root: tempfile::TempDir },
    Mosquitto { child: Child, addr: SocketAddr, _root: tempfile::TempDir },
}

impl Broker {
    /// fogbeat that commits as soon as it can; its uplink works or stands before a file in its way.
    pub fn fogbeat(forwarding: bool) -> Self {
        let root = scratch("fogbeat");
        let mut setup = Setup::new(root.path());
        setup.max_age = "60s".into();
        if !forwarding {
            setup.block_lake();
        }
        let daemon = Box::new(setup.start());
        Self::Fogbeat { daemon, setup: Box::new(setup), _root: root }
    }

    /// Debian's broker as it comes, with the one listener; it stores nothing.
    pub fn mosquitto() -> Self {
        let root = scratch("mosquitto");
        let addr = free_port();
        let config = root.path().join("mosquitto.conf");
        let text = format!("listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n", addr.port());
        fs::write(&config, text).expect("write mosquitto.conf");
        let child = Command::new(mosquitto())
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start mosquitto (Debian: apt install mosquitto)");
        let start = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self::Mosquitto { child, addr, _root: root }
    }

    pub fn pid(&self) -> u32 {
        match self {
            Self::Fogbeat { daemon, .. } => daemon.pid(),
            Self::Mosquitto { child, .. } => child.id(),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Fogbeat { setup, .. } => setup.mqtt,
            Self::Mosquitto { addr, .. } => *addr,
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Self::Mosquitto { child, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn mosquitto() -> PathBuf {
    // Not on the PATH of an ordinary user in Debian.
    let sbin = PathBuf::from("/usr/sbin/mosquitto");
    if sbin.exists() { sbin } else { PathBuf::from("mosquitto") }
}
