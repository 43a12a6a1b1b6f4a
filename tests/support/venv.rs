//! Python tools from PyPI: moto (an emulator of AWS) and DuckDB.
#![allow(dead_code)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program of the test environment, named by `FOGBEAT_TEST_VENV` or found in `.venv`.
pub fn program(name: &str) -> PathBuf {
    let venv = std::env::var_os("FOGBEAT_TEST_VENV")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv"), PathBuf::from);
    let program = venv.join("bin").join(name);
    assert!(
        program.exists(),
        "{} is missing. Make the test environment: python3 -m venv .venv && \
         .venv/bin/pip install 'moto[server]' boto3 duckdb cfn-lint sqlglot   (or point FOGBEAT_TEST_VENV at one)",
        program.display()
    );
    program
}

/// Runs a Python script; its standard output.
pub fn python(script: &str, arguments: &[&str]) -> String {
    let output = Command::new(program("python3")).arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A moto server on a free port; ends with the value.
pub struct Moto {
    child: Child,
    pub address: SocketAddr,
}

impl Moto {
    pub fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new(program("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut lines = log.lines().map_while(Result::ok);
            let ready = lines.any(|line| line.contains("Running on"));
            std::thread::spawn(move || lines.for_each(drop));
            ready
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while !reader.is_finished() {
            assert!(Instant::now() < deadline, "moto_server did not start within a minute");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(reader.join().unwrap(), "moto_server ended by itself");
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
