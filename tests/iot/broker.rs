//! Mosquitto in the place of AWS IoT Core: mutual TLS on one port, and beside it a plain one at which the test listens
//! to everything that the broker has taken.
//!
//! A subscriber with QoS 0 is written to before the publisher's PUBACK is, and what is in its socket outlives the
//! broker: so the listener has everything that was acknowledged, kill or no kill.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::pki::{Pair, Pki};
use crate::support::daemon::free_port;
use crate::support::wire::{self, Packet, Stream};

pub struct Mosquitto {
    process: Option<Child>,
    config: PathBuf,
    pub tls: SocketAddr,
    pub plain: SocketAddr,
    log: PathBuf,
}

/// What the other side may do.
pub struct Rules<'a> {
    /// Lines of an access list; none: everything.
    pub access: Option<&'a str>,
}

impl Mosquitto {
    pub fn start(dir: &Path, pki: &Pki, server: &Pair, rules: &Rules<'_>) -> Self {
        let (tls, plain) = (free_port(), free_port());
        let access = dir.join("access");
        let line = match rules.access {
            Some(text) => {
                std::fs::write(&access, text).unwrap();
                format!("acl_file {}\n", access.display())
            }
            None => String::new(),
        };
        let log = dir.join("mosquitto.log");
        let text = format!(
            "per_listener_settings true\nuser root\npersistence false\nlog_dest file {log}\nmax_queued_messages 0\n\
             listener {} 127.0.0.1\nallow_anonymous true\n\
             listener {} 127.0.0.1\nallow_anonymous true\ncafile {}\ncertfile {}\nkeyfile {}\n\
             require_certificate true\nuse_identity_as_username true\n{line}",
            plain.port(),
            tls.port(),
            pki.ca.display(),
            server.certificate.display(),
            server.key.display(),
            log = log.display(),
        );
        let config = dir.join("mosquitto.conf");
        std::fs::write(&config, text).unwrap();
        let mut broker = Self { process: None, config, tls, plain, log };
        broker.run();
        broker
    }

    pub fn run(&mut self) {
        let process = Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed (.ci/tools.sh)");
        self.process = Some(process);
        let started = Instant::now();
        while TcpStream::connect(self.plain).is_err() || TcpStream::connect(self.tls).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "mosquitto does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Messages, each with the moment at which it was heard.
type Heard = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// Hears everything on a topic, through every restart of the broker.
pub struct Ear {
    heard: Heard,
    connected: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ear {
    pub fn listen(address: SocketAddr, filter: &str) -> Self {
        Self::listen_as(address, filter, "ear")
    }

    pub fn listen_as(address: SocketAddr, filter: &str, name: &str) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (stop, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (heard, stop, connected) = (Arc::clone(&heard), Arc::clone(&stop), Arc::clone(&connected));
            let (filter, name) = (filter.to_owned(), name.to_owned());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    // A broker that is away comes back.
                    let _ = hear(address, (&name, &filter), &heard, &stop, &connected);
                    connected.store(false, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let ear = Self { heard, connected, stop, thread: Some(thread) };
        ear.wait_connected();
        ear
    }

    pub fn wait_connected(&self) {
        let started = Instant::now();
        while !self.connected.load(Ordering::Relaxed) {
            assert!(started.elapsed() < Duration::from_secs(20), "the broker lets nobody listen");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.timed().into_iter().map(|(_, message)| message).collect()
    }

    /// With the moment at which each was heard, ms since the epoch.
    pub fn timed(&self) -> Vec<(u64, Vec<u8>)> {
        self.heard.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn hear(
    address: SocketAddr,
    (name, filter): (&str, &str),
    heard: &Heard,
    stop: &AtomicBool,
    connected: &AtomicBool,
) -> std::io::Result<()> {
    let mut io = TcpStream::connect(address)?;
    io.set_read_timeout(Some(Duration::from_millis(200)))?;
    io.write_all(&wire::connect(name, true))?;
    let mut subscribe = vec![0x82, u8::try_from(filter.len() + 5).unwrap(), 0, 1, 0];
    subscribe.push(u8::try_from(filter.len()).unwrap());
    subscribe.extend_from_slice(filter.as_bytes());
    subscribe.push(0);
    io.write_all(&subscribe)?;
    let mut stream = Stream::default();
    let mut chunk = vec![0; 256 * 1024];
    while !stop.load(Ordering::Relaxed) {
        let read = match io.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        stream.push(&chunk[..read]);
        while let Some(packet) = stream.next_packet() {
            match packet {
                Packet::Publish { payload, .. } => {
                    heard.lock().unwrap().push((crate::support::wall_ms(), payload))
                }
                Packet::Other { first: 0x90 } => connected.store(true, Ordering::Relaxed),
                _ => {}
            }
        }
    }
    Ok(())
}
