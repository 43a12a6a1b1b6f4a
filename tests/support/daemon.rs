//! The real binary under test: its configuration, its life and its death.
//!
//! `FOGBEAT_BIN` names another binary (a release build) than the one cargo has just built.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Everything a test wants to say about one gateway; ports are chosen free.
#[derive(Debug, Clone)]
pub struct Setup {
    pub state_dir: PathBuf,
    pub lake: PathBuf,
    pub commit_interval: String,
    pub max_age: String,
    pub mqtt: SocketAddr,
    pub http: SocketAddr,
    /// Lines of `[journal]` and `[clock]` beside those above.
    pub journal: String,
    pub clock: String,
    /// TOML behind the rest: more sections, another uplink.
    pub extra: String,
    /// Where the daemon's log goes; it is shown when something fails.
    pub log: PathBuf,
    pub config: PathBuf,
    /// The journal is encrypted with this file's keys; the daemon makes it.
    pub key_file: Option<PathBuf>,
}

impl Setup {
    /// State directory `root/state`, lake `root/lake`, everything else beside them. `FOGBEAT_ENCRYPT=1` encrypts the
    /// journal.
    pub fn new(root: &Path) -> Self {
        Self {
            state_dir: root.join("state"),
            lake: root.join("lake"),
            commit_interval: "0ms".into(),
            max_age: "1s".into(),
            mqtt: free_port(),
            http: free_port(),
            journal: String::new(),
            clock: "patience = \"0s\"".into(),
            extra: String::new(),
            log: root.join("fogbeat.log"),
            config: root.join("fogbeat.toml"),
            key_file: std::env::var_os("FOGBEAT_ENCRYPT").map(|_| root.join("journal.keys")),
        }
    }

    fn write_config(&self) {
        let text = format!(
            r#"[gateway]
id = "proof"
state_dir = "{state}"
[mqtt.listener]
bind = "{mqtt}"
anonymous = true
[clock]
{clock}
[journal]
commit_interval = "{commit}"
{journal}
{key_file}
[batch]
max_age = "{age}"
[http]
bind = "{http}"
[[uplink]]
kind = "directory"
path = "{lake}"
{extra}
"#,
            state = self.state_dir.display(),
            mqtt = self.mqtt,
            commit = self.commit_interval,
            age = self.max_age,
            http = self.http,
            lake = self.lake.display(),
            journal = self.journal,
            clock = self.clock,
            extra = self.extra,
            key_file = self.key_file.as_ref().map_or_else(String::new, |path| format!("key_file = {path:?}")),
        );
        fs::write(&self.config, text).expect("write the configuration");
    }

    /// `run --config FILE` with its log appended to [`Setup::log`], optionally under another program.
    pub fn command(&self, under: &[&str]) -> Command {
        self.write_config();
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("open the log");
        let mut words: Vec<String> = under.iter().map(|w| (*w).to_owned()).collect();
        words.push(binary().display().to_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["run", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone the log"))
            .stderr(log);
        command
    }

    /// Starts the daemon and does not wait.
    pub fn spawn(&self) -> Daemon {
        Daemon::spawn(self.command(&[]), self)
    }

    /// Starts the daemon and waits until it takes MQTT connections.
    pub fn start(&self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.wait_ready();
        daemon
    }

    /// Adds a key that the next start seals with.
    pub fn rotate_key(&self) {
        let Some(path) = self.key_file.as_ref().filter(|path| path.exists()) else { return };
        let status = Command::new(binary())
            .args(["journal", "key", "new"])
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("run fogbeat").success(), "no new key");
    }

    /// What lies in the journal shows a device's name exactly when it is not encrypted.
    pub fn check_encryption(&self, device: &str) {
        let raw = self.state_dir.join("spool/raw");
        let shown = fs::read_dir(&raw).expect("list the journal").any(|generation| {
            let database =
                fs::read(generation.expect("an entry").path().join("db")).expect("read a database");
            database.windows(device.len()).any(|bytes| bytes == device.as_bytes())
        });
        assert_eq!(shown, self.key_file.is_none(), "a device's name in the journal's files");
    }

    /// Makes the directory uplink refuse, even for root: a plain file where it wants a directory.
    pub fn block_lake(&self) {
        fs::create_dir_all(&self.lake).expect("make the lake");
        fs::write(self.lake.join("readings"), b"in the way\n").expect("block the lake");
    }

    /// The uplink may work again.
    pub fn open_lake(&self) {
        fs::remove_file(self.lake.join("readings")).expect("open the lake");
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("FOGBEAT_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_fogbeat")), PathBuf::from)
}

/// Whether the binary under test is a release build, so that its memory is the product's.
pub fn optimised() -> bool {
    std::env::var_os("FOGBEAT_BIN").is_some() || !cfg!(debug_assertions)
}

/// A running gateway; killed when dropped.
pub struct Daemon {
    child: Child,
    setup: Setup,
}

impl Daemon {
    /// Starts a command made by [`Setup::command`].
    pub fn spawn(mut command: Command, setup: &Setup) -> Self {
        Self { child: command.spawn().expect("start fogbeat"), setup: setup.clone() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn wait_ready(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(self.setup.mqtt).is_err() {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("fogbeat ended at once with {status}\n{}", self.setup.log_tail());
            }
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "no listener after 60 s\n{}",
                self.setup.log_tail()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, and its end awaited.
    pub fn kill(mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; the exit status, or a panic when it does not end within `limit`.
    pub fn terminate(mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(
                start.elapsed() < limit,
                "still running {limit:?} after SIGTERM\n{}",
                self.setup.log_tail()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("signal fogbeat");
    }

    /// `Some` once the process has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    /// The value of a metric, summed over its labels; `None` when there is no such metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = http_get(self.setup.http, "/metrics")?;
        let mut sum = None;
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((key, value)) = line.rsplit_once(' ') else { continue };
            if key.split('{').next() == Some(name) {
                sum = Some(sum.unwrap_or(0.0) + value.parse::<f64>().ok()?);
            }
        }
        sum
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of a plain HTTP GET.
pub fn http_get(addr: SocketAddr, path: &str) -> Option<String> {
    let mut io = TcpStream::connect(addr).ok()?;
    io.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(io, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    io.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// A loopback port nobody listens on. Below the range of outgoing connections, because a client that knocks on a closed
/// port of that range again and again will one day connect to itself.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset =
            (std::process::id() as u16).wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let addr = SocketAddr::from(([127, 0, 0, 1], 20_000 + offset % 12_000));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}
