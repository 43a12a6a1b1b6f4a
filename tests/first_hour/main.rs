//! The first hour of a gateway, and its move to new hardware: the real binary, Mosquitto's clients, OpenSSL. The README's
//! installation chapter is followed in a whole Debian by `tests/systemd/first-hour.sh`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod certificates;
mod moving;
mod setup;
#[path = "../support/mod.rs"]
mod support;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::daemon::{binary, free_port};

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine: its configuration, its state, its ports.
struct Machine {
    root: tempfile::TempDir,
    tls: SocketAddr,
    mqtt: SocketAddr,
    http: SocketAddr,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { root, tls: free_port(), mqtt: free_port(), http: free_port() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("fogbeat.toml")
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// fogbeat with the machine's configuration, and its own ports in place of the usual ones.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).arg("--config").arg(self.config()).stdin(Stdio::null()).env_remove("FOGBEAT_LOG");
        command
            .env("FOGBEAT__MQTT__LISTENER__BIND", self.mqtt.to_string())
            .env("FOGBEAT__HTTP__BIND", self.http.to_string())
            .env("FOGBEAT__GATEWAY__STATE_DIR", self.state())
            .env("FOGBEAT__BATCH__MAX_AGE", "200ms")
            .env("FOGBEAT__CLOCK__PATIENCE", "0s");
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        outcome(&mut self.command(args))
    }

    /// Runs `init`, which has to do its work, with a listener of its own.
    fn init(&self, more: &[&str]) -> String {
        let lan = format!("--lan={}", self.tls);
        let (code, out, err) = self.run(&[&["init", "--no-bluetooth", &lan][..], more].concat());
        assert_eq!(code, 0, "{err}");
        format!("{out}{err}")
    }

    fn start(&self) -> Running {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let child = self.command(&["run"]).stderr(log).spawn().unwrap();
        let mut running = Running { child };
        let begun = Instant::now();
        while !self.status().is_some_and(|status| status["phase"] == "running") {
            assert!(
                running.child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE,
                "{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }

    fn status(&self) -> Option<Value> {
        let (code, out, _) = self.run(&["status", "--json"]);
        (code == 0).then(|| serde_json::from_str(&out).unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn add_device(&self, name: &str) -> String {
        let (code, secret, err) = self.run(&["device", "add", name]);
        assert_eq!(code, 0, "{err}");
        secret.trim().to_owned()
    }

    /// Publishes as a device does that trusts `ca`; whether it was acknowledged.
    fn publish(&self, ca: &Path, device: &str, secret: &str, bpm: u32) -> bool {
        let port = self.tls.port().to_string();
        let topic = format!("hr/{device}");
        let payload = format!("{{\"bpm\":{bpm}}}");
        let output = Command::new("mosquitto_pub")
            .args([
                "-h",
                "localhost",
                "-p",
                &port,
                "-q",
                "1",
                "-u",
                device,
                "-P",
                secret,
                "-t",
                &topic,
                "-m",
                &payload,
            ])
            .arg("--cafile")
            .arg(ca)
            .output()
            .expect("mosquitto_pub: run .ci/tools.sh");
        output.status.success()
    }

    /// Every reading that was delivered to the directory.
    fn delivered(&self) -> Vec<Value> {
        let mut text = String::new();
        for file in support::lake::files(&self.state().join("lake")) {
            let bytes = std::fs::read(file).unwrap();
            flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
        }
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line.get("type").is_none()).collect()
    }

    fn await_delivered(&self, bpm: u64) -> Value {
        within(|| self.delivered().into_iter().find(|line| line["bpm"] == bpm), &self.log())
    }
}

/// A gateway that runs; killed when dropped.
struct Running {
    child: Child,
}

impl Running {
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exit code, standard output, standard error.
fn outcome(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// What `found` finds, as soon as it does.
fn within<T>(mut found: impl FnMut() -> Option<T>, otherwise: &str) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {otherwise}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o777
}

/// A disk of `mib` MiB, or `None` where there can be none and that was accepted.
fn disk(root: &Path, mib: u64) -> Option<support::loopdev::LoopDisk> {
    match support::loopdev::LoopDisk::new(root, mib) {
        Ok(disk) => Some(disk),
        Err(why) if std::env::var_os("FOGBEAT_NO_LOOP").is_some() => {
            println!("SKIPPED: a full disk needs root and a loop device ({why})");
            None
        }
        Err(why) => {
            panic!("a full disk needs root and a loop device ({why}); run as root, or set FOGBEAT_NO_LOOP=1")
        }
    }
}
