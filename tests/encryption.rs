//! A lost key, by the real binary: new readings go on, the old ones are told as withheld, kept, and there again when the
//! key is back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::daemon::{Daemon, Setup, binary};
use support::fleet::Fleet;
use support::lake::{Lake, Sent};
use support::rng::Rng;

const PATIENCE: Duration = Duration::from_secs(60);

/// Some readings, all of them acknowledged.
fn worn(setup: &Setup) -> Vec<Sent> {
    let fleet = Fleet::start(setup.mqtt, 5, 300.0, Rng::from_env("encryption"));
    std::thread::sleep(Duration::from_secs(1));
    let account = fleet.settle();
    assert_eq!(account.unacknowledged, 0);
    assert!(!account.readings.is_empty());
    account.readings
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < PATIENCE, "not {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn keys(sent: &[Sent]) -> BTreeSet<(String, i64)> {
    sent.iter().map(|sent| (sent.device.clone(), sent.stamp)).collect()
}

fn missing_keys(daemon: &Daemon) -> Option<f64> {
    daemon.metric("fogbeat_journal_missing_keys")
}

#[test]
fn a_lost_key_stops_nothing_new_and_what_it_sealed_is_there_again_when_it_is_back() {
    let root = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(root.path());
    let file = root.path().join("journal.keys");
    setup.key_file = Some(file.clone());
    setup.block_lake();
    let daemon = setup.start();
    let before = worn(&setup);
    daemon.kill();
    setup.check_encryption("strap-0");
    let lost = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();

    setup.open_lake();
    let daemon = setup.start();
    let after = worn(&setup);
    until("told by the metric", || missing_keys(&daemon) == Some(1.0));
    assert_eq!(daemon.metric("fogbeat_journal_withheld"), Some(before.len() as f64));
    until("delivered", || Lake::read(&setup.lake).readings.len() == after.len());
    assert!(daemon.terminate(PATIENCE).success());
    let lake = Lake::read(&setup.lake);
    let delivered: BTreeSet<_> = lake.readings.values().map(|r| (r.device.clone(), r.stamp)).collect();
    assert_eq!(delivered, keys(&after));
    let withheld: u64 = lake.gaps.iter().filter(|gap| gap.2 == "withheld").map(|gap| gap.1 - gap.0 + 1).sum();
    assert_eq!((withheld, lake.defects), (before.len() as u64, Vec::new()));
    let log = std::fs::read_to_string(&setup.log).unwrap();
    assert_eq!(log.matches("keys of the journal are missing").count(), 1, "{log}");
    let secret = lost.trim().split(" = ").nth(1).unwrap();
    assert!(!log.contains(secret));

    // The old key comes back to a running gateway, before the newest one.
    let daemon = setup.start();
    until("told by the metric", || missing_keys(&daemon) == Some(1.0));
    let newest = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{lost}{newest}")).unwrap();
    daemon.signal(Signal::HUP);
    until("read again", || missing_keys(&daemon) == Some(0.0));
    let export = Command::new(binary()).args(["journal", "export", "--config"]).arg(&setup.config).output();
    let lines = String::from_utf8(export.unwrap().stdout).unwrap();
    let mut exported = Lake::default();
    lines.lines().for_each(|line| exported.take(line));
    let exported: BTreeSet<_> = exported.readings.values().map(|r| (r.device.clone(), r.stamp)).collect();
    assert!(exported.is_superset(&keys(&before)), "{} of {}", exported.len(), before.len());
    assert!(daemon.terminate(PATIENCE).success());
}
