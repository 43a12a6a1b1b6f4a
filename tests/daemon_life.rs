//! The daemon's life, by the real binary: start, questions, reload, stop; and what its log says meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/wire.rs"]
#[allow(dead_code, reason = "other targets use the rest")]
mod wire;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wire::publish_once as publish;

/// Long enough for a loaded machine; nothing waits so long when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    http: SocketAddr,
    mqtt: SocketAddr,
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Daemon {
    fn start(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (http, mqtt) = (free_port(), free_port());
        let text = format!(
            "[gateway]\nstate_dir = \"{}\"\n[mqtt.listener]\nbind = \"{mqtt}\"\nanonymous = true\n\
             [http]\nbind = \"{http}\"\n{extra}",
            dir.path().join("state").display()
        );
        std::fs::write(dir.path().join("fogbeat.toml"), text).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_fogbeat"))
            .args(["run", "--log-format", "json", "--config"])
            .arg(dir.path().join("fogbeat.toml"))
            .env_remove("FOGBEAT_LOG")
            .env_remove("RUNTIME_DIRECTORY")
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, dir, http, mqtt };
        daemon.until("ready", || daemon.get("/ready").starts_with("HTTP/1.1 200"));
        daemon
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("fogbeat.toml")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < PATIENCE, "not {what}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The whole answer, empty when nobody answers.
    fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        let asked = TcpStream::connect(self.http).and_then(|mut stream| {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        });
        asked.map(|_| answer).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_fogbeat"))
            .args(args)
            .arg("--config")
            .arg(self.config())
            .env_remove("RUNTIME_DIRECTORY")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGTERM; returns the exit code and the log.
    fn stop(&mut self) -> (Option<i32>, String) {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "does not stop; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        };
        (status.code(), self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All lines of all files below a directory.
fn lines_below(dir: &std::path::Path) -> Vec<Value> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            lines.extend(lines_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "gz") {
            let mut text = String::new();
            flate2::read::MultiGzDecoder::new(std::fs::File::open(path).unwrap())
                .read_to_string(&mut text)
                .unwrap();
            lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    lines
}

fn levels(log: &str) -> Vec<String> {
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["level"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_day_without_trouble_logs_no_warning_and_ends_with_0() {
    let mut daemon = Daemon::start("[batch]\nmax_age = \"200ms\"\n");
    publish(daemon.mqtt, "hr/strap-1", "{\"bpm\":71,\"rr_ms\":[845]}");
    daemon.until("delivered", || {
        let (_, out, _) = daemon.command(&["status", "--json"]);
        serde_json::from_str::<Value>(&out).unwrap()["uplinks"][0]["delivered_readings"] == 1
    });
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(levels(&log).iter().all(|level| level == "INFO"), "{log}");
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    assert!(first["profile"].is_string(), "{log}");
    assert!(!log.contains("bpm") && !log.contains("rr_ms"), "health data in the log: {log}");
}

#[test]
fn a_stop_delivers_what_was_acknowledged() {
    let mut daemon = Daemon::start("[journal]\ncommit_interval = \"200ms\"\n[batch]\nmax_age = \"1h\"\n");
    for bpm in 60..80 {
        publish(daemon.mqtt, "hr/strap-1", &bpm.to_string());
    }
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    let lines = lines_below(&daemon.dir.path().join("state/lake"));
    let bpm: Vec<u64> = lines.iter().filter_map(|line| line["bpm"].as_u64()).collect();
    assert_eq!(bpm, (60..80).collect::<Vec<u64>>());
    assert_eq!(lines.last().unwrap()["type"], "end");
}

#[test]
fn the_pages_answer_and_tell_no_payload() {
    let daemon = Daemon::start("");
    publish(daemon.mqtt, "hr/strap-1", "heart at 71 or so");
    assert!(daemon.get("/health").starts_with("HTTP/1.1 200"));
    let metrics = daemon.get("/metrics");
    for name in
        ["fogbeat_journal_commits_total", "fogbeat_mqtt_publishes_total 1", "fogbeat_process_open_fds"]
    {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    let readme = include_str!("../README.md");
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE fogbeat_")) {
        let name = line.split(' ').next().unwrap();
        let named = ['`', '{'].iter().any(|end| readme.contains(&format!("`{name}{end}")));
        assert!(named, "README does not name the metric {name}");
    }
    assert!(!daemon.get("/status").contains("71 or so"), "the page shows a payload");
    let (code, out, _) = daemon.command(&["status"]);
    assert_eq!(code, 0);
    assert!(out.contains("phase: running") && out.contains("71 or so"), "{out}");
}

#[test]
fn two_daemons_do_not_share_a_state_directory() {
    let daemon = Daemon::start("");
    let (code, _, err) = daemon.command(&["run"]);
    assert_eq!(code, 69);
    assert!(err.contains(&format!("another fogbeat (process {})", daemon.child.id())), "{err}");
    assert_eq!(daemon.command(&["status"]).0, 0, "the first daemon was disturbed");
}

#[test]
fn the_journal_is_looked_into_with_and_without_a_daemon() {
    let mut daemon = Daemon::start("[journal]\ncommit_interval = \"50ms\"\n[batch]\nmax_age = \"1h\"\n");
    for bpm in 60..80 {
        publish(daemon.mqtt, "hr/strap-1", &bpm.to_string());
    }
    let look = |daemon: &Daemon, what: &[&str]| {
        let (code, out, err) = daemon.command(&[&["journal"], what].concat());
        assert_eq!(code, 0, "{what:?}: {err}");
        out
    };
    let bpm = |text: &str| -> Vec<u64> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line["bpm"].as_u64()).collect()
    };
    let readings = |text: &str| -> u64 {
        let document: Value = serde_json::from_str(text).unwrap();
        document["generations"].as_array().unwrap().iter().map(|g| g["readings"].as_u64().unwrap()).sum()
    };
    for running in [true, false] {
        let exported = look(&daemon, &["export"]);
        assert_eq!(bpm(&exported), (60..80).collect::<Vec<u64>>(), "running: {running}");
        assert_eq!(exported.contains("\"type\":\"end\""), !running, "{exported}");
        assert_eq!(readings(&look(&daemon, &["inspect", "--json"])), 20, "running: {running}");
        assert_eq!(readings(&look(&daemon, &["verify", "--json"])), 20, "running: {running}");
        if running {
            assert_eq!(daemon.command(&["status"]).0, 0, "the daemon was disturbed");
            let (code, log) = daemon.stop();
            assert_eq!(code, Some(0), "{log}");
        }
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_fogbeat"))
        .arg("run")
        .env("FOGBEAT__GATEWAY__STATE_DIR", dir.path())
        .env("FOGBEAT__HTTP__BIND", taken.local_addr().unwrap().to_string())
        .env("FOGBEAT__MQTT__LISTENER__BIND", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("http.bind = \"127.0.0.1:"), "{told}");
}

#[test]
fn a_hang_up_reloads_the_level_and_names_what_needs_a_restart() {
    let mut daemon = Daemon::start("");
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    std::fs::write(daemon.config(), format!("{text}[log]\nlevel = \"debug\"\n[batch]\nmax_age = \"5s\"\n"))
        .unwrap();
    daemon.signal(Signal::HUP);
    daemon.until("reloaded", || daemon.log().contains("configuration read again"));
    let log = daemon.log();
    let line: Value =
        serde_json::from_str(log.lines().find(|line| line.contains("read again")).unwrap()).unwrap();
    assert_eq!(line["taken"], "log.level");
    assert_eq!(line["needs_restart"], "batch.max_age");

    std::fs::write(daemon.config(), "[gateway]\nnothing = 1\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.until("refused", || daemon.log().contains("nothing is reloaded"));
    std::fs::write(daemon.config(), text).unwrap();
    assert_eq!(daemon.stop().0, Some(0));
}

#[test]
fn an_uplink_that_left_the_configuration_keeps_its_place_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let lake = |name: &str| {
        let path = dir.path().join(name);
        format!("[[uplink]]\nkind = \"directory\"\nname = \"{name}\"\npath = \"{}\"\n", path.display())
    };
    let daemon = Daemon::start(&format!("{}{}", lake("first"), lake("second")));
    let (code, _, err) = daemon.command(&["uplink", "forget", "second"]);
    assert_eq!(code, 69);
    assert!(err.contains("is configured"), "{err}");
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    daemon.signal(Signal::TERM);
    daemon.until("gone", || daemon.command(&["status"]).0 == 69);
    std::fs::write(daemon.config(), text.replace(&lake("second"), "")).unwrap();

    let (code, out, err) = daemon.command(&["uplink", "list", "--json"]);
    assert_eq!(code, 0, "{err}");
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list["uplinks"][0]["name"], "first");
    assert_eq!(list["left_behind"][0]["name"], "second");
    assert_eq!(daemon.command(&["uplink", "forget", "second"]).0, 0);
    assert_eq!(daemon.command(&["uplink", "forget", "second"]).0, 64);
    assert_eq!(daemon.command(&["journal", "verify"]).0, 0);
}

#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    // Takes connections and never answers: a stop in good order would wait for it as long as the grace is.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut daemon = Daemon::start(&format!(
        "[[uplink]]\nkind = \"mqtt\"\nurl = \"mqtt://{}\"\ntopic = \"readings\"\n",
        silent.local_addr().unwrap()
    ));
    publish(daemon.mqtt, "hr/strap-1", "71");
    daemon.signal(Signal::TERM);
    daemon.until("stopping", || daemon.log().contains("\"stopping\""));
    std::thread::sleep(Duration::from_secs(1));
    assert!(daemon.child.try_wait().unwrap().is_none(), "the stop waited for nothing: {}", daemon.log());
    let begun = Instant::now();
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}\n{log}", begun.elapsed());
    let (code, out, err) = daemon.command(&["journal", "export"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("\"bpm\":71"), "{out}");
}

/// No telemetry, no look for updates, no name that is looked up: with an uplink that stays on site, nobody is called.
#[test]
fn without_an_uplink_elsewhere_nobody_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let (http, mqtt) = (free_port(), free_port());
    let config = dir.path().join("fogbeat.toml");
    let text = format!(
        "[gateway]\nstate_dir = \"{}\"\n[mqtt.listener]\nbind = \"{mqtt}\"\nanonymous = true\n[http]\nbind = \"{http}\"\n\
         [batch]\nmax_age = \"1s\"\n",
        dir.path().join("state").display()
    );
    std::fs::write(&config, text).unwrap();
    let trace = dir.path().join("trace");
    let mut traced = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o"])
        .arg(&trace)
        .args([env!("CARGO_BIN_EXE_fogbeat"), "run", "--config"])
        .arg(&config)
        .env_remove("RUNTIME_DIRECTORY")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("strace, see .ci/tools.sh");
    let begun = Instant::now();
    let wait = |reached: &dyn Fn() -> bool| {
        while !reached() {
            assert!(begun.elapsed() < PATIENCE, "not ready, or nothing delivered");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait(&|| TcpStream::connect(mqtt).is_ok());
    publish(mqtt, "hr/strap-1", "71");
    let lake = dir.path().join("state/lake");
    wait(&|| lake.exists() && !lines_below(&lake).is_empty());
    let children = format!("/proc/{0}/task/{0}/children", traced.id());
    let child = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(child).unwrap(), Signal::TERM).unwrap();
    traced.wait().unwrap();
    let calls = std::fs::read_to_string(&trace).unwrap();
    // The system bus is asked for adapters and the clock.
    assert!(calls.contains("AF_UNIX"), "the trace is empty:\n{calls}");
    let abroad: Vec<&str> = calls.lines().filter(|line| line.contains("sa_family=AF_INET")).collect();
    assert!(abroad.is_empty(), "{abroad:#?}");
    assert!(lines_below(&lake).iter().any(|line| line["bpm"] == 71));
}
