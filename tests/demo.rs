//! `fogbeat demo` on the real binary: the short show with its outage and its kill, and what it leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests: a surprise is a failure"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fogbeat"));
    command.arg("demo").args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

/// A folder on a real disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Delivered files, found by their documented places.
fn files(lake: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        // Names with a dot in front are marks, not deliveries.
        let hidden = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with('.');
        entries.filter(|path| !hidden(path)).collect()
    };
    let hours: Vec<PathBuf> = list(&lake.join("readings")).iter().flat_map(|day| list(day)).collect();
    hours.iter().flat_map(|hour| list(hour)).collect()
}

/// All delivered lines, unpacked by gzip itself and not by anything of ours.
fn lines(lake: &Path) -> Vec<Value> {
    let output = Command::new("gzip").arg("-dc").args(files(lake)).output().expect("gzip runs");
    assert!(output.status.success(), "gzip: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_promise_holds_through_an_outage_and_a_kill() {
    let folder = folder();
    let output = demo(folder.path(), &["--seconds", "15", "--straps", "6", "--json"]).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}\n{}", String::from_utf8_lossy(&output.stdout));

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |pointer: &str| {
        report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}"))
    };
    let published = number("/published/published");
    // Five straps a minute of heart each second, one at its own pace; the first second may pass without a beat.
    assert!((4_400..=4_515).contains(&published), "{published} published");
    assert_eq!(number("/published/acknowledged"), published);
    assert_eq!(number("/found/delivered"), published);
    for never in ["lost", "altered", "strangers", "stamped_twice", "repeated_ids"] {
        assert_eq!(number(&format!("/found/{never}")), 0, "{never}\n{log}");
    }
    assert!(number("/published/resent_stamped") > 0, "the kill came while nothing was in flight");
    assert!(number("/duplicates_dropped") <= number("/published/resent_stamped"));
    assert_eq!(number("/found/numbers/generations"), 2, "one before the kill, one after");

    for event in
        ["gateway started", "uplink down", "kill -9", "gateway started again", "uplink back", "SIGTERM"]
    {
        assert!(log.contains(event), "`{event}` is not in the log:\n{log}");
    }
    assert!(log.lines().all(|line| line.get(..2) == Some("20")), "a line without its date:\n{log}");

    // Only what was delivered stays, and a stranger can read it.
    let left: Vec<_> = std::fs::read_dir(folder.path().join("fogbeat-demo"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lake"]);
    let lines = lines(&folder.path().join("fogbeat-demo/lake"));
    let mut by_device: BTreeMap<&str, u64> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.get("type").is_none()) {
        *by_device.entry(line["device"].as_str().unwrap()).or_default() += 1;
        assert_eq!(line["source"], "mqtt");
    }
    assert_eq!(by_device.len(), 6);
    assert_eq!(by_device.values().sum::<u64>(), published + number("/found/unstamped_twice"));
    assert!(lines.iter().any(|line| line["reason"] == "zero"), "the loose strap has no bpm and says why");
}

#[test]
fn a_delivered_file_that_vanishes_breaks_the_promise() {
    let folder = folder();
    let arguments = ["--seconds", "12", "--straps", "2", "--keep", "kept"];
    let mut child =
        demo(folder.path(), &arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("the backlog is delivered")));
    let first = files(&folder.path().join("kept/lake")).into_iter().min().unwrap();
    std::fs::remove_file(first).unwrap();
    // Read to the end, so that the demo is not stopped by a full pipe.
    log.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(70), "{page}");
    assert!(page.contains("The promise did not hold"), "{page}");
    assert!(page.contains("acknowledged readings were not delivered"), "{page}");
    assert!(folder.path().join("kept/gateway.log").exists(), "nothing to look at");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let folder = folder();
    let mut child = demo(folder.path(), &["--seconds", "12"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let started = log.find(|line| line.contains("gateway started (pid ")).unwrap();
    let gateway = started.split("(pid ").nth(1).unwrap().split(')').next().unwrap().to_owned();
    assert!(Path::new("/proc").join(&gateway).exists());

    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let deadline = Instant::now() + Duration::from_secs(5);
    while Path::new("/proc").join(&gateway).exists() {
        assert!(Instant::now() < deadline, "the gateway {gateway} outlives the demo");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_in_use_is_refused_before_anything_starts() {
    let folder = folder();
    std::fs::write(folder.path().join("mine"), "precious").unwrap();
    let output = demo(folder.path(), &["--keep", "."]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("not empty") && message.contains("--keep"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
