//! The gateway itself: running, dead, hanging, with a broken configuration, with a damaged journal.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use fogbeat::doctor::Verdict;
use rustix::process::Signal;

use crate::support::daemon::Setup;
use crate::support::wire::publish_once;
use crate::{Patient, is_root};

fn publish(setup: &Setup, count: usize) {
    for n in 0..count {
        publish_once(setup.mqtt, &format!("hr/strap-{}", n % 5), &format!("{{\"bpm\":{}}}", 60 + n % 80));
    }
}

#[test]
fn all_is_well_with_a_gateway_that_runs_and_it_is_not_disturbed() {
    let patient = Patient::new("fine");
    let daemon = patient.start();
    publish(&patient.setup, 20);
    let log = patient.setup.log_tail();
    let seen = patient.ask(&[]);
    seen.exit(0);
    seen.expect("gateway", Verdict::Ok, "20 readings stored")
        .expect("configuration", Verdict::Ok, "is valid")
        .expect("user", Verdict::Ok, "may read what it needs")
        .expect("state directory", Verdict::Ok, "")
        .expect("disk space", Verdict::Ok, "may take")
        .expect("disk speed", Verdict::Ok, "an fsync takes")
        .expect("journal", Verdict::Ok, "every number accounted for")
        .expect("clock", Verdict::Ok, "is synchronised")
        .expect("listener", Verdict::Ok, "is the gateway's")
        .expect("pages", Verdict::Ok, "is the gateway's")
        .expect("uplink directory", Verdict::Ok, "")
        .expect("service", Verdict::Skipped, "systemd")
        .expect("card", Verdict::Skipped, "too short");
    assert!(seen.took < Duration::from_secs(10), "{:?}", seen.took);
    assert_eq!(patient.setup.log_tail(), log, "the gateway had something to say about it");

    // The same for people, in a pipe: no colours, nothing on standard error.
    let output = patient.command(&["--listen", "0s"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("ok       configuration"), "{text}");
    assert!(text.ends_with("skipped\n") && !text.contains('\u{1b}'), "{text}");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let lines = text.lines().count();
    assert!(lines <= 40, "one screen: {lines} lines\n{text}");

    publish(&patient.setup, 1);
    assert!(daemon.terminate(Duration::from_secs(20)).success());
}

#[test]
fn a_dead_gateways_journal_is_verified_and_nothing_is_left_behind() {
    let patient = Patient::new("dead");
    patient.setup.block_lake();
    let daemon = patient.start();
    publish(&patient.setup, 20);
    daemon.kill();
    let files = || {
        let entries = std::fs::read_dir(&patient.setup.state_dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = files();
    let seen = patient.ask(&[]);
    seen.expect("gateway", Verdict::Skipped, "none is running")
        .expect("journal", Verdict::Ok, "20 readings, every number accounted for")
        .expect("listener", Verdict::Ok, "is free")
        // What keeps the lake from being written is a file in the way.
        .expect("uplink directory", Verdict::Ok, "");
    let gone: Vec<_> = before.iter().filter(|name| !files().contains(name)).cloned().collect();
    let new: Vec<_> = files().into_iter().filter(|name| !before.contains(name)).collect();
    assert!(new.is_empty() && gone.iter().all(|name| name == "fogbeat.sock"), "{new:?} {gone:?}");
    patient.setup.open_lake();
    let daemon = patient.start();
    publish(&patient.setup, 1);
    assert!(daemon.terminate(Duration::from_secs(20)).success());
}

#[test]
fn a_machine_on_which_nothing_was_started_yet() {
    let patient = Patient::new("fresh");
    let seen = patient.examine();
    seen.exit(0)
        .expect("gateway", Verdict::Skipped, "none is running")
        .expect("state directory", Verdict::Skipped, "the first start makes it")
        .expect("journal", Verdict::Skipped, "none yet")
        .expect("listener", Verdict::Ok, "is free");
    assert!(!patient.setup.state_dir.exists(), "looking made it");
}

#[test]
fn a_gateway_that_hangs_is_told_within_the_time() {
    let patient = Patient::new("hangs");
    let daemon = patient.start();
    daemon.signal(Signal::STOP);
    let seen = patient.ask(&[]);
    daemon.signal(Signal::CONT);
    seen.exit(69).expect("gateway", Verdict::Error, "tells nothing").expect("journal", Verdict::Skipped, "");
}

#[test]
fn every_error_of_a_configuration_is_told_and_the_rest_is_looked_at() {
    let mut patient = Patient::new("broken");
    patient.setup.extra = "[mqtt]\nlistner = 1\n[limits]\nmemory = \"1KiB\"\n".to_owned();
    let seen = patient.examine();
    seen.exit(69)
        .expect("configuration", Verdict::Error, "listner")
        .expect("listener", Verdict::Skipped, "configuration has errors")
        .expect("uplinks", Verdict::Skipped, "configuration has errors")
        .expect("clock", Verdict::Ok, "")
        .expect("state directory", Verdict::Skipped, &patient.setup.state_dir.display().to_string());
    assert!(seen.of("configuration").len() >= 2, "{:#?}", seen.report);

    std::fs::write(&patient.setup.config, "[gateway\n").unwrap();
    patient.ask(&[]).exit(69).expect("configuration", Verdict::Error, "not valid TOML");
    std::fs::remove_file(&patient.setup.config).unwrap();
    patient.ask(&[]).exit(69).expect("configuration", Verdict::Error, "cannot be read");
}

#[test]
fn a_port_that_a_stranger_has() {
    let patient = Patient::new("port");
    let _stranger = std::net::TcpListener::bind(patient.setup.mqtt).unwrap();
    let me = format!("process {}", std::process::id());
    patient.examine().exit(69).expect("listener", Verdict::Error, &me).expect(
        "pages",
        Verdict::Ok,
        "is free",
    );
}

#[test]
fn an_address_that_this_machine_does_not_have() {
    let mut patient = Patient::new("address");
    patient.setup.http = "192.0.2.7:9110".parse().unwrap();
    patient.setup.extra = String::new();
    drop(patient.setup.command(&[]));
    let text = std::fs::read_to_string(&patient.setup.config).unwrap();
    let text = text.replace("bind = \"192.0.2.7:9110\"", "bind = \"192.0.2.7:9110\"\nallow_remote = true");
    std::fs::write(&patient.setup.config, text).unwrap();
    patient.ask(&[]).exit(69).expect("pages", Verdict::Error, "192.0.2.7:9110");
}

#[test]
fn a_damaged_journal_is_told_by_generation() {
    let patient = Patient::new("damage");
    patient.setup.block_lake();
    let daemon = patient.start();
    publish(&patient.setup, 60);
    // In good order: the generation is sealed then.
    assert!(daemon.terminate(Duration::from_secs(30)).success());
    let database = newest_database(&patient.setup.state_dir.join("spool/raw"));
    let bytes = std::fs::read(&database).unwrap();
    // A device's name stands in every value of its.
    let at = bytes.windows(7).position(|window| window == b"strap-3").expect("a value in clear");
    let file = std::fs::OpenOptions::new().write(true).open(&database).unwrap();
    file.write_all_at(&[0xff; 64], at as u64 + 9).unwrap();
    drop(file);
    let seen = patient.ask(&[]);
    seen.exit(69);
    let told = [seen.of("journal"), seen.of("quarantine")].concat();
    assert!(told.iter().any(|finding| finding.verdict == Verdict::Error), "{told:#?}");
}

fn newest_database(raw: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(raw).unwrap().map(|entry| entry.unwrap().path().join("db"));
    // The one made in advance is empty.
    let filled = entries.filter(|path| {
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(6).any(|window| window == b"strap-"))
    });
    filled.max().expect("a database with readings")
}

#[test]
fn an_ordinary_user_is_told_what_could_not_be_looked_at() {
    if !is_root() {
        return;
    }
    let mut patient = Patient::new("stranger");
    let open = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(patient.dir.path());
    let daemon = patient.start();
    patient.under =
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"].map(str::to_owned).to_vec();
    let started = Instant::now();
    let seen = patient.ask(&[]);
    seen.expect("gateway", Verdict::Skipped, "cannot be looked into")
        .expect("user", Verdict::Skipped, "may not look into")
        .expect("journal", Verdict::Skipped, "")
        .expect("listener", Verdict::Skipped, "only root can see")
        .exit(0);
    assert!(seen.of("user")[0].next.as_ref().unwrap().contains("sudo"));
    assert!(started.elapsed() < Duration::from_secs(20));
    daemon.kill();
    patient.ask(&[]).expect("gateway", Verdict::Skipped, "").expect("listener", Verdict::Ok, "is free");
}
