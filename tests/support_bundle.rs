//! The support bundle and the flight recorder, on the real binary. `tests/README.md` names the promise behind each test.
//! Those on disks of their own need root and loop devices; `FOGBEAT_NO_LOOP=1` leaves them out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure, and the figures go to standard output"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::Value;

use support::bench::Bench;
use support::daemon::{Setup, binary};
use support::loopdev::LoopDisk;

const STOP: Duration = Duration::from_secs(60);
/// What the recorder promises of a power cut: what is older than this is there, with a margin for the machine.
const SYNCED: Duration = Duration::from_secs(7);
const RING: u64 = 1 << 20;

/// What must be in no byte of a bundle, nor of the flight recorder. Some are words of messages ("clock", "journal"):
/// there the whole name is looked for.
const PLANTED: [&str; 24] = [
    "annika-meyer",
    "Bruno Journal Clock",
    "strap-4711",
    "C4:AC:05:11:22:33",
    "75087320",
    "TICKR 4F21",
    "bike-anna",
    "st-marys-hospital",
    "gw-ward-seven",
    "broker.st-marys.example",
    "marys.example",
    "ward7user",
    "geheim-pass-9q",
    "geheim9q",
    "ward-seven/vitals",
    "lake-of-ward-seven",
    "patient-stream-x9",
    "127.77.1.2",
    "813.477",
    "48151623",
    "AKIAWARDSEVEN",
    "proxyuser9",
    "client-id-of-anna",
    "garbage-payload-anna",
];

/// Sections that a validation complains about, value and all.
const WRONG: &str = r#"
[[uplink]]
kind = "mqtt"
name = "annika-meyer"
url = "mqtt://ward7user:geheim9q@broker.st-marys.example:1883"
topic = "ward-seven/{annika-meyer}"
[uplnk]
name = "annika-meyer"
"#;

fn plant(setup: &Setup) -> Setup {
    let mut setup = setup.clone();
    let root = setup.state_dir.parent().unwrap().to_owned();
    setup.lake = root.join("lake-of-ward-seven");
    let secret = root.join("proxy-credentials");
    fs::write(&secret, "proxyuser9:geheim9q\n").unwrap();
    let password = root.join("password");
    fs::write(&password, "geheim-pass-9q\n").unwrap();
    for file in [&secret, &password] {
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    setup.extra = format!(
        r#"[[uplink]]
name = "to-st-marys-hospital"
kind = "mqtt"
url = "mqtt://broker.st-marys.example:8883"
topic = "ward-seven/vitals"
username = "ward7user"
password_file = "{password}"
proxy = "socks5://127.77.1.2:1080"
proxy_credentials_file = "{secret}"
timeout = "1s"
[[uplink]]
name = "patient-stream-x9"
kind = "firehose"
stream = "patient-stream-x9"
region = "eu-west-1"
endpoint_url = "http://127.77.1.2:9"
timeout = "1s"
[[mqtt.external]]
name = "broker-of-annika-meyer"
url = "mqtt://127.77.1.2:1883"
topics = ["ward-seven/#"]
[[ble.device]]
address = "C4:AC:05:11:22:33"
alias = "bike-anna"
[[ble.device]]
polar_id = "75087320"
alias = "Bruno Journal Clock"
[[ble.device]]
name = "TICKR 4F21"
"#,
        password = password.display(),
        secret = secret.display(),
    );
    setup
}

/// The command every command line here begins with.
fn fogbeat(setup: &Setup) -> Command {
    let mut command = Command::new(binary());
    command
        .arg("--config")
        .arg(&setup.config)
        .env("FOGBEAT__GATEWAY__ID", "gw-ward-seven")
        .env("FOGBEAT__GATEWAY__SITE", "st-marys-hospital")
        .env("FOGBEAT__HTTP__DEVICE_METRICS", "10")
        .env("AWS_ACCESS_KEY_ID", "AKIAWARDSEVEN00001")
        .env("AWS_SECRET_ACCESS_KEY", "geheim9q-aws")
        .stdin(Stdio::null());
    command
}

fn start(setup: &Setup) -> support::daemon::Daemon {
    let mut command = setup.command(&[]);
    command
        .env("FOGBEAT__GATEWAY__ID", "gw-ward-seven")
        .env("FOGBEAT__GATEWAY__SITE", "st-marys-hospital")
        .env("FOGBEAT__HTTP__DEVICE_METRICS", "10")
        .env("AWS_ACCESS_KEY_ID", "AKIAWARDSEVEN00001")
        .env("AWS_SECRET_ACCESS_KEY", "geheim9q-aws");
    let mut daemon = support::daemon::Daemon::spawn(command, setup);
    daemon.wait_ready();
    daemon
}

fn publish(setup: &Setup, device: &str, payload: &str) {
    let status = Command::new("mosquitto_pub")
        .args(["-q", "1", "-i", &format!("client-id-of-anna-{device}"), "-p", &setup.mqtt.port().to_string()])
        .args(["-t", &format!("hr/{device}"), "-m", payload])
        .stderr(Stdio::null())
        .status()
        .expect("this test needs mosquitto-clients");
    // What is not understood may be answered by the end of the connection.
    let _ = status;
}

/// The files of a bundle by name, and the archive as it came.
fn bundle(setup: &Setup) -> (BTreeMap<String, Vec<u8>>, Output) {
    let out = fogbeat(setup).args(["support-bundle", "--output", "-"]).output().expect("run fogbeat");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (unpacked(&out.stdout), out)
}

fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    let mut files = BTreeMap::new();
    for entry in tar.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name =
            entry.path().expect("a name").strip_prefix("fogbeat-support").unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        files.insert(name, bytes);
    }
    files
}

fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(files.get(name).unwrap_or_else(|| panic!("{name} is missing"))).expect("JSON")
}

fn records(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).expect("a line"))
        .collect()
}

fn texts(files: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let lines = records(&files["flight.jsonl"]);
    lines.iter().map(|line| line["text"].as_str().unwrap_or_default().to_owned()).collect()
}

fn count(texts: &[String], text: &str) -> usize {
    texts.iter().filter(|t| *t == text).count()
}

/// Every byte, in whatever letters.
fn search(what: &str, bytes: &[u8]) {
    let hay = String::from_utf8_lossy(bytes).to_lowercase();
    for name in PLANTED {
        let name = name.to_lowercase();
        if let Some(at) = hay.find(&name) {
            let from = hay.floor_char_boundary(at.saturating_sub(120));
            let to = hay.ceil_char_boundary((at + 120).min(hay.len()));
            panic!("{what} holds \"{name}\": {}", &hay[from..to]);
        }
    }
}

fn search_all(setup: &Setup, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        search(name, bytes);
    }
    search("flight.ring", &fs::read(setup.state_dir.join("flight.ring")).expect("the ring"));
}

fn wait_for(what: &str, limit: Duration, mut met: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !met() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Everything that could tell of somebody is in the gateway's hands, and trouble as well.
fn busy(setup: &Setup) -> support::daemon::Daemon {
    let daemon = start(setup);
    for device in ["annika-meyer", "strap-4711"] {
        let status = fogbeat(setup)
            .args(["device", "add", device, "--publish", "ward-seven/#"])
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("run fogbeat").success());
    }
    for device in ["annika-meyer", "strap-4711", "strap-4711-journal"] {
        publish(setup, device, r#"{"bpm":71,"rr_ms":[813.477],"energy_kj":48151623}"#);
        publish(setup, device, r#"{"bpm":71,"rr_ms":[813.477]}"#);
        publish(setup, device, "garbage-payload-anna");
    }
    daemon
}

#[test]
fn nothing_of_anybody_is_in_a_bundle_and_what_helps_is_whether_the_gateway_lives_or_not() {
    let bench = Bench::new("bundle");
    let setup = plant(&Setup::new(bench.path()));
    let daemon = busy(&setup);
    let ring = setup.state_dir.join("flight.ring");
    // Uplinks that cannot work have failed, and said so.
    wait_for("the uplinks' failures are recorded", Duration::from_secs(60), || {
        let (files, _) = bundle(&setup);
        let texts = texts(&files);
        count(&texts, "an uplink fails") >= 2
    });
    let (living, out) = bundle(&setup);
    search_all(&setup, &living);
    search("standard error", &out.stderr);
    for name in [
        "manifest.json",
        "status.json",
        "metrics.txt",
        "journal.json",
        "configuration.json",
        "flight.jsonl",
        "system.json",
        "files.json",
    ] {
        assert!(living.get(name).is_some_and(|bytes| bytes.len() > 40), "{name} is missing or empty");
    }
    let status = json(&living, "status.json");
    assert_eq!(status["phase"], "running", "{status}");
    assert_eq!(status["accounts"]["run"]["devices"].as_object().unwrap().len(), 3, "{status}");
    assert!(status["accounts"]["run"]["total"]["received"].as_u64().unwrap() >= 6, "{status}");
    assert_eq!(status["uplinks"].as_array().unwrap().len(), 3, "{status}");
    let metrics = String::from_utf8(living["metrics.txt"].clone()).unwrap();
    assert!(
        metrics.contains("fogbeat_journal_commits_total ")
            && metrics.contains("fogbeat_device_received_total{device=\"~"),
        "{metrics}"
    );
    let settings = &json(&living, "configuration.json")["settings"];
    assert_eq!(settings["uplink"][1]["kind"], "mqtt", "{settings}");
    assert_eq!(settings["uplink"][1]["timeout"], "1s", "{settings}");
    assert_eq!(settings["journal"]["commit_interval"], "0s", "{settings}");
    // One thing has one tag, in every file.
    let tag = settings["uplink"][1]["name"].as_str().unwrap().to_owned();
    assert!(tag.starts_with('~') && metrics.contains(&tag), "{tag}");
    assert!(
        status["uplinks"].as_array().unwrap().iter().any(|uplink| uplink["name"] == tag.as_str()),
        "{status}"
    );
    let flight = records(&living["flight.jsonl"]);
    let failed = flight
        .iter()
        .find(|line| line["text"] == "an uplink fails" && line["fields"]["uplink"] == tag.as_str());
    assert!(failed.is_some_and(|line| line["fields"]["cause"].is_string()), "{flight:?}");
    // And the audit log calls a device so too.
    let shown = fogbeat(&setup)
        .args(["audit", "show", "--device", "annika-meyer", "--json"])
        .output()
        .expect("run fogbeat");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let devices = status["accounts"]["run"]["devices"].as_object().unwrap();
    assert!(devices.keys().any(|tag| shown.contains(&format!("d-{}", &tag[1..]))), "{shown} {devices:?}");
    let manifest = json(&living, "manifest.json");
    assert_eq!(manifest["daemon"], "runs", "{manifest}");

    daemon.kill();
    let before = fs::read(&ring).unwrap();
    let (dead, _) = bundle(&setup);
    search_all(&setup, &dead);
    assert!(dead.len() + 2 >= living.len() && !dead.contains_key("status.json"), "{:?}", dead.keys());
    assert!(
        json(&dead, "manifest.json")["left_out"]
            .as_array()
            .unwrap()
            .iter()
            .any(|part| part["name"] == "status.json")
    );
    let journal = json(&dead, "journal.json");
    assert_eq!(journal["manifest"], "sound", "{journal}");
    assert_eq!(journal["generations"].as_array().unwrap().len(), 1, "{journal}");
    assert_eq!(journal["uplinks"].as_array().unwrap().len(), 3, "{journal}");
    let dead_texts = texts(&dead);
    assert_eq!(count(&dead_texts, "start"), 1);
    assert!(count(&dead_texts, "an uplink fails") >= 2 && count(&dead_texts, "ready") == 1, "{dead_texts:?}");
    assert_eq!(fs::read(&ring).unwrap(), before, "a bundle changes nothing");
    assert_eq!(fs::metadata(&ring).unwrap().len(), RING);

    // A configuration that is wrong, and damage everywhere.
    let sound = fs::read_to_string(&setup.config).unwrap();
    fs::write(&setup.config, format!("{sound}\n{WRONG}")).unwrap();
    let (broken, _) = bundle(&setup);
    search_all(&setup, &broken);
    let configuration = json(&broken, "configuration.json");
    assert_eq!(configuration["valid"], false);
    assert!(!configuration["problems"].as_array().unwrap().is_empty(), "{configuration}");
    assert!(
        broken.contains_key("journal.json") && broken.contains_key("flight.jsonl"),
        "{:?}",
        broken.keys()
    );
    fs::write(&setup.config, format!("{sound}\nthis is annika-meyer's = no TOML\n")).unwrap();
    let (worse, _) = bundle(&setup);
    search_all(&setup, &worse);
    assert!(worse.contains_key("flight.jsonl"), "the state directory is found all the same");
    fs::write(&setup.config, &sound).unwrap();
    for file in [
        "spool/manifest.json",
        "spool/manifest.copy",
        "devices.toml",
        "clock.json",
        "spool/cursors/directory.json",
    ] {
        fs::write(setup.state_dir.join(file), b"\xff\x00garbage").unwrap();
    }
    let (damaged, _) = bundle(&setup);
    search_all(&setup, &damaged);
    assert_eq!(json(&damaged, "journal.json")["manifest"], "damaged");
    fs::remove_dir_all(&setup.state_dir).unwrap();
    let (nothing, out) = bundle(&setup);
    assert!(
        nothing.contains_key("system.json") && nothing.contains_key("configuration.json"),
        "{:?}",
        nothing.keys()
    );
    assert!(String::from_utf8_lossy(&out.stderr).contains("without flight.jsonl"), "{:?}", out.stderr);
}

#[test]
fn the_recorder_tells_of_lives_and_deaths() {
    let bench = Bench::new("flight");
    let setup = Setup::new(bench.path());
    setup.start().terminate(STOP);
    let second = setup.start();
    std::thread::sleep(Duration::from_secs(2));
    second.kill();
    setup.start().terminate(STOP);
    let (files, _) = bundle(&setup);
    let lines = records(&files["flight.jsonl"]);
    let ends: Vec<&str> = lines
        .iter()
        .filter(|line| line["text"] == "the life before")
        .filter_map(|line| line["fields"]["end"].as_str())
        .collect();
    assert_eq!(ends, ["nothing is known of one", "stopped", "killed or crashed"], "{lines:?}");
    let starts: Vec<&Value> = lines.iter().filter(|line| line["text"] == "start").collect();
    assert_eq!(starts.len(), 3);
    assert!(starts.iter().all(|line| line["fields"]["version"] == env!("CARGO_PKG_VERSION")), "{starts:?}");
    assert_eq!(starts[0]["fields"]["configuration"].as_str().unwrap().len(), 64);
    let stops: Vec<&Value> = lines.iter().filter(|line| line["text"] == "stop").collect();
    assert_eq!(stops.len(), 2);
    assert!(
        lines.iter().any(|line| line["text"] == "figures" && line["fields"]["resident_bytes"].is_u64()),
        "{lines:?}"
    );
}

#[test]
fn a_damaged_recorder_stops_no_start_and_loses_only_what_was_hit() {
    let bench = Bench::new("flight-damage");
    let setup = Setup::new(bench.path());
    let ring = setup.state_dir.join("flight.ring");
    setup.start().terminate(STOP);
    let records_now =
        || bundle(&setup).0.get("flight.jsonl").map(|bytes| texts_of(bytes)).unwrap_or_default();
    let sound = records_now();
    let bytes = fs::read(&ring).unwrap();
    // The first record of the life's ring.
    let mut flipped = bytes.clone();
    flipped[20] ^= 4;
    fs::write(&ring, &flipped).unwrap();
    let after = records_now();
    assert_eq!(after.len(), sound.len(), "one is gone, and one line says so: {after:?}");
    for damage in [
        Vec::new(),
        bytes[..bytes.len() / 2].to_vec(),
        vec![0xff; bytes.len()],
        [&bytes[..], &[1; 777]].concat(),
    ] {
        fs::write(&ring, &damage).unwrap();
        let daemon = setup.start();
        assert!(daemon.terminate(STOP).success());
        assert_eq!(fs::metadata(&ring).unwrap().len(), RING);
        let after = records_now();
        assert!(count(&after, "start") >= 1 && count(&after, "stop") >= 1, "{after:?}");
    }
    // What is no file of ours is left alone.
    fs::remove_file(&ring).unwrap();
    fs::create_dir(&ring).unwrap();
    assert!(setup.start().terminate(STOP).success());
    assert!(ring.is_dir());
}

fn texts_of(bytes: &[u8]) -> Vec<String> {
    records(bytes).iter().map(|line| line["text"].as_str().unwrap_or_default().to_owned()).collect()
}

fn disk(bench: &Bench) -> Option<LoopDisk> {
    match LoopDisk::new(bench.path(), 96) {
        Ok(disk) => Some(disk),
        Err(why) if std::env::var_os("FOGBEAT_NO_LOOP").is_some() => {
            println!("SKIPPED: disks of their own are not tested here: {why}");
            None
        }
        Err(why) => panic!("this needs root and a loop device ({why}); FOGBEAT_NO_LOOP=1 leaves it out"),
    }
}

#[test]
fn on_a_full_disk_the_recorder_goes_on_and_a_bundle_goes_elsewhere() {
    let bench = Bench::new("bundle-full");
    let Some(disk) = disk(&bench) else { return };
    let mut setup = plant(&Setup::new(bench.path()));
    setup.state_dir = disk.mount.join("state");
    setup.journal = "quota = \"16MiB\"\ngeneration_size = \"1MiB\"".into();
    let daemon = busy(&setup);
    wait_for("the recorder has begun", Duration::from_secs(10), || {
        setup.state_dir.join("flight.ring").exists()
    });
    disk.fill();
    wait_for("the gateway has noticed", Duration::from_secs(60), || {
        publish_in_vain(&setup);
        let (files, _) = bundle(&setup);
        // Told after the disk was full: written in place.
        texts(&files)
            .iter()
            .any(|text| text.contains("nothing new is acknowledged") || text.contains("ballast"))
    });
    // What the gateway has given up in the meantime as well.
    disk.fill();
    let onto = disk.mount.join("bundle.tar.gz");
    let out = fogbeat(&setup).args(["support-bundle", "--output"]).arg(&onto).output().expect("run fogbeat");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(69), "{told}");
    assert!(told.contains("No space left") && told.contains("--output -"), "{told}");
    assert!(!onto.exists(), "half a bundle is left");
    let (living, _) = bundle(&setup);
    search_all(&setup, &living);
    daemon.kill();
    let (dead, _) = bundle(&setup);
    search_all(&setup, &dead);
    let elsewhere = bench.path().join("bundle.tar.gz");
    let run = || {
        fogbeat(&setup).args(["support-bundle", "--output"]).arg(&elsewhere).output().expect("run fogbeat")
    };
    assert!(run().status.success());
    assert!(unpacked(&fs::read(&elsewhere).unwrap()).contains_key("flight.jsonl"));
    assert_eq!(run().status.code(), Some(69), "never over a file that is there");
}

fn publish_in_vain(setup: &Setup) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-q", "1", "-p", &setup.mqtt.port().to_string(), "-t", "hr/strap-4711", "-m", "71"])
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs mosquitto-clients");
    std::thread::sleep(Duration::from_millis(500));
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn after_a_power_cut_the_recorder_has_what_is_older_than_it_says() {
    let bench = Bench::new("flight-cut");
    let Some(disk) = disk(&bench) else { return };
    let mut setup = Setup::new(bench.path());
    setup.state_dir = disk.mount.join("state");
    for round in 1..=3 {
        let daemon = setup.start();
        std::thread::sleep(SYNCED);
        disk.cut().expect("cut the power");
        daemon.kill();
        disk.repair().expect("bring the disk back");
        let (files, _) = bundle(&setup);
        let texts = texts(&files);
        assert_eq!(count(&texts, "start"), round, "{texts:?}");
        assert_eq!(count(&texts, "the life before"), round, "{texts:?}");
        assert_eq!(count(&texts, "stop"), 0, "{texts:?}");
    }
}
