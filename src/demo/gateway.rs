//! The gateway under test: this very program, run as a child with `run --config FILE`.
//!
//! Promises: the child never outlives the demo as long as the demo can run a line of code, and Ctrl-C does not reach it
//! before the demo has decided what to do (it has a process group of its own).

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::DemoError;
use super::place::Place;

/// For a start on a slow machine.
const START: Duration = Duration::from_secs(30);
/// Between two looks at a starting gateway.
const LOOK: Duration = Duration::from_millis(50);
/// For one answer of the gateway's HTTP side.
const ANSWER: Duration = Duration::from_secs(2);
/// Metrics are some tens of kilobytes.
const MAX_ANSWER: u64 = 4 << 20;
/// Longer than the gateway's own grace.
const STOP: Duration = Duration::from_secs(30);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    log: PathBuf,
}

impl Gateway {
    /// Starts the gateway; it is ready when its MQTT port takes connections.
    ///
    /// # Errors
    /// It cannot be started, or ends, or is not ready in time.
    pub async fn start(place: &Place) -> Result<Self, DemoError> {
        let program = std::env::current_exe().map_err(DemoError::Program)?;
        let log = place.log();
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|source| DemoError::Folder { path: log.clone(), source })?;
        let errors = output.try_clone().map_err(|source| DemoError::Folder { path: log.clone(), source })?;
        let mut command = Command::new(program);
        // What the environment says about the operator's own gateway is not meant for this one.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOGBEAT_"))
        {
            command.env_remove(name);
        }
        let child = command
            .arg("run")
            .arg("--config")
            .arg(place.config())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(DemoError::Program)?;
        let mut gateway = Self { child, log };
        gateway.ready(place.mqtt).await?;
        Ok(gateway)
    }

    async fn ready(&mut self, mqtt: SocketAddr) -> Result<(), DemoError> {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait().map_err(DemoError::Program)? {
                return Err(DemoError::Ended {
                    status,
                    log: self.log.clone(),
                    last_words: last_words(&self.log),
                });
            }
            if timeout(ANSWER, TcpStream::connect(mqtt)).await.is_ok_and(|connected| connected.is_ok()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(DemoError::NotReady { log: self.log.clone(), last_words: last_words(&self.log) });
            }
            sleep(LOOK).await;
        }
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// The gateway was gone before.
    pub async fn kill(mut self) -> Result<(), DemoError> {
        if let Some(status) = self.child.try_wait().map_err(DemoError::Program)? {
            return Err(DemoError::Ended { status, last_words: last_words(&self.log), log: self.log });
        }
        self.child.kill().await.map_err(DemoError::Program)
    }

    /// SIGTERM, and waits for its exit status.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop(mut self) -> Result<ExitStatus, DemoError> {
        let pid =
            self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .map_err(|error| DemoError::Program(error.into()))?;
        }
        match timeout(STOP, self.child.wait()).await {
            Ok(status) => status.map_err(DemoError::Program),
            Err(_) => Err(DemoError::DoesNotStop { last_words: last_words(&self.log), log: self.log }),
        }
    }
}

/// The value of a counter or gauge on the gateway's `/metrics`, summed over its labels. `None`: no answer, or no such
/// metric.
pub async fn metric(http: SocketAddr, name: &str) -> Option<f64> {
    let answer = timeout(ANSWER, get(http, "/metrics")).await.ok()?.ok()?;
    sum_of(&answer, name)
}

/// HTTP/1.0: the answer ends with the connection, so there is nothing to parse but its text.
async fn get(http: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(http).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {http}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn sum_of(metrics: &str, name: &str) -> Option<f64> {
    metrics
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let labelled = rest.starts_with('{') || rest.starts_with(' ');
            labelled.then(|| rest.rsplit(' ').next()?.trim().parse::<f64>().ok()).flatten()
        })
        .reduce(|sum, value| sum + value)
}

/// The end of the gateway's log.
fn last_words(log: &Path) -> String {
    const LINES: usize = 5;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "HTTP/1.0 200 OK\r\n\r\n\
        # TYPE fogbeat_duplicates counter\n\
        fogbeat_duplicates_total{source=\"mqtt\"} 3\n\
        fogbeat_duplicates_total{source=\"a b\"} 4\n\
        fogbeat_duplicates_total_seconds 100\n\
        fogbeat_up 1\n";

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        assert_eq!(sum_of(METRICS, "fogbeat_duplicates_total"), Some(7.0));
        assert_eq!(sum_of(METRICS, "fogbeat_up"), Some(1.0));
        assert_eq!(sum_of(METRICS, "fogbeat_duplicates"), None);
    }
}
