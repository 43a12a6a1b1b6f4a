//! `fogbeat doctor` as an installer meets it: the real binary, each bad case brought about for real where this machine
//! can. systemd is played by programs of our own in PATH (the real one: tests/systemd), BlueZ by a service on a bus of our
//! own (the real one: tests/bluetooth).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test stops at the first surprise"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

#[path = "../iot/broker.rs"]
mod broker;
mod certificates;
mod gateway;
mod machine;
#[path = "../iot/pki.rs"]
mod pki;
mod radio;
#[path = "../support/mod.rs"]
mod support;
mod uplinks;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fogbeat::doctor::{Finding, Report, Verdict};
use support::daemon::{Setup, binary};

/// Nothing may make it take longer, a busy machine included.
const LONGEST: Duration = Duration::from_secs(35);

/// A machine with one gateway, whose clock is right and whose systemd knows of nothing.
pub struct Patient {
    pub dir: tempfile::TempDir,
    pub setup: Setup,
    bin: PathBuf,
    /// The words before the program.
    pub under: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// How long wearables are listened for.
    pub listen: String,
}

/// What came of an examination.
pub struct Examined {
    pub code: i32,
    pub report: Report,
    pub took: Duration,
}

impl Patient {
    pub fn new(name: &str) -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(parent).unwrap();
        let dir = tempfile::Builder::new().prefix(&format!("doctor-{name}-")).tempdir_in(parent).unwrap();
        let setup = Setup::new(dir.path());
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let patient =
            Self { dir, setup, bin, under: Vec::new(), environment: Vec::new(), listen: "0s".into() };
        patient.program("timedatectl", "echo yes");
        patient.program(
            "systemctl",
            "echo 'System has not been booted with systemd as init system' >&2; exit 1",
        );
        patient.program("journalctl", "exit 1");
        patient
    }

    /// A program that is found before the system's own.
    pub fn program(&self, name: &str, script: &str) {
        let path = self.bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self) -> String {
        format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap_or_default())
    }

    /// Writes the configuration, and starts a gateway that lives on this machine.
    pub fn start(&self) -> support::daemon::Daemon {
        let mut command = self.setup.command(&[]);
        command.env("PATH", self.path());
        let mut daemon = support::daemon::Daemon::spawn(command, &self.setup);
        daemon.wait_ready();
        daemon
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self.under.clone();
        words.push(binary().display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("doctor").args(arguments).arg("--config").arg(&self.setup.config);
        command.env("PATH", self.path()).env_remove("FOGBEAT_LOG").envs(self.environment.iter().cloned());
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    /// Asks with the configuration as it lies there; for wearables as [`Patient::listen`] says.
    pub fn ask(&self, arguments: &[&str]) -> Examined {
        let words = [&["--json", "--listen", self.listen.as_str()][..], arguments].concat();
        let started = Instant::now();
        let output = self.command(&words).output().unwrap();
        let took = started.elapsed();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let report = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
        assert!(took < LONGEST, "it took {took:?}: {out}");
        Examined { code: output.status.code().unwrap(), report, took }
    }

    /// The same with the configuration that [`Patient::setup`] says.
    pub fn examine(&self) -> Examined {
        drop(self.setup.command(&[]));
        self.ask(&[])
    }
}

impl Examined {
    pub fn of(&self, check: &str) -> Vec<&Finding> {
        self.report.findings.iter().filter(|finding| finding.check == check).collect()
    }

    /// The check's worst finding is this, and its reason holds `part`.
    #[track_caller]
    pub fn expect(&self, check: &str, verdict: Verdict, part: &str) -> &Self {
        let found = self.of(check);
        let worst = found.iter().max_by_key(|finding| finding.verdict);
        let worst = worst.unwrap_or_else(|| panic!("no finding of {check}: {:#?}", self.report));
        assert_eq!(worst.verdict, verdict, "{found:#?}");
        assert!(found.iter().any(|finding| finding.reason.contains(part)), "{part:?} is not in {found:#?}");
        if verdict > Verdict::Skipped {
            assert!(
                worst.next.as_ref().is_some_and(|next| !next.is_empty()),
                "what is to be done? {worst:?}"
            );
        }
        self
    }

    #[track_caller]
    pub fn exit(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{:#?}", self.report);
        self
    }
}

/// Whether this user is root; says so if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: this takes root");
    }
    root
}
