//! Privacy by means, by the real binary: what leaves the gateway, what stays in its log, what an erasure leaves behind,
//! and who is on record for it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

#[path = "support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::daemon::{Daemon, Setup, binary};
use support::lake::{self, Lake};
use support::wire::publish_once as publish;

const PATIENCE: Duration = Duration::from_secs(60);
const ANN: &str = "ann-katrin-strap";
const BOB: &str = "bob-strap";
/// Beats that only Ann has.
const TELLTALE: u64 = 187;

struct Gateway {
    root: tempfile::TempDir,
    setup: Setup,
}

impl Gateway {
    fn new(extra: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut setup = Setup::new(root.path());
        // Inside, so that one search finds everything.
        setup.lake = setup.state_dir.join("lake");
        setup.max_age = "200ms".into();
        setup.extra = extra.replace("ROOT", root.path().to_str().unwrap());
        Self { root, setup }
    }

    fn key(&self, digits: &str) {
        let path = self.root.path().join("key");
        std::fs::write(&path, digits.repeat(32)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Exit code, standard output, standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(binary())
            .args(args)
            .arg("--config")
            .arg(&self.setup.config)
            .env_remove("RUNTIME_DIRECTORY")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn json(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {err}\n{}", self.setup.log_tail());
        serde_json::from_str(&out).unwrap()
    }

    /// `beats` of both, one after the other.
    fn publish(&self, beats: u64) {
        for n in 0..beats {
            publish(
                self.setup.mqtt,
                &format!("hr/{ANN}"),
                &format!("{{\"bpm\":{TELLTALE},\"rr_ms\":[{}]}}", 700 + n),
            );
            publish(
                self.setup.mqtt,
                &format!("hr/{BOB}"),
                &format!("{{\"bpm\":61,\"rr_ms\":[{}]}}", 900 + n),
            );
        }
    }

    fn until(&self, what: &str, reached: impl Fn() -> bool) {
        let begun = Instant::now();
        while !reached() {
            assert!(begun.elapsed() < PATIENCE, "never: {what}\n{}", self.setup.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn delivered(&self) -> usize {
        Lake::read(&self.setup.lake).readings.len()
    }

    fn stop(&self, daemon: Daemon) {
        assert!(daemon.terminate(PATIENCE).success(), "{}", self.setup.log_tail());
    }

    /// Files below the state directory whose raw bytes, or whose lines, hold the text.
    fn holding(&self, text: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.setup.state_dir.clone()];
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(&dir).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    left.push(path);
                } else if path.is_file() {
                    let raw = std::fs::read(&path).unwrap_or_default();
                    let mut plain = Vec::new();
                    if path.extension().is_some_and(|extension| extension == "gz") {
                        flate2::read::MultiGzDecoder::new(raw.as_slice()).read_to_end(&mut plain).unwrap();
                    }
                    let holds =
                        |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
                    if holds(&raw) || holds(&plain) {
                        found.push(path);
                    }
                }
            }
        }
        found
    }

    /// What is on record of one kind.
    fn record(&self, act: &str) -> Vec<Value> {
        let (code, out, err) = self.run(&["audit", "show", "--json"]);
        assert_eq!(code, 0, "{err}");
        let entries = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.filter(|entry| entry["act"] == act).collect()
    }
}

fn text_of(lake: &Path) -> String {
    let mut text = String::new();
    for path in lake::files(lake) {
        flate2::read::MultiGzDecoder::new(std::fs::File::open(path).unwrap())
            .read_to_string(&mut text)
            .unwrap();
    }
    text
}

#[test]
fn uplinks_are_told_pseudonyms_and_the_mapping_stays_on_site() {
    let gateway = Gateway::new(
        "[[uplink]]\nkind = \"directory\"\nname = \"ward\"\npath = \"ROOT/ward\"\npseudonyms = false\n\
         [privacy]\npseudonyms = true\nkey_file = \"ROOT/key\"\n",
    );
    let _ = gateway.setup.command(&[]);
    // Without its key nothing may leave under a name.
    let (code, _, err) = gateway.run(&["run"]);
    assert_eq!(code, 69, "{err}");
    assert!(
        err.contains("pseudonyms in place of names") && err.contains("ROOT/key".trim_start_matches("ROOT")),
        "{err}"
    );
    gateway.key("ab");
    let daemon = gateway.setup.start();
    gateway.publish(3);
    let ward = gateway.root.path().join("ward");
    gateway.until("both delivered", || gateway.delivered() == 6 && Lake::read(&ward).readings.len() == 6);

    let (concealed, open) = (Lake::read(&gateway.setup.lake), Lake::read(&ward));
    assert!(!text_of(&gateway.setup.lake).contains("strap"), "a name left the gateway");
    let list = gateway.json(&["device", "list", "--json"]);
    let pseudonym_of = |name: &str| {
        let row = list.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        row["pseudonyms"][0].as_str().unwrap().to_owned()
    };
    for (seq, reading) in &open.readings {
        assert_eq!(
            concealed.readings[seq].device,
            pseudonym_of(&reading.device),
            "the same reading by its id"
        );
        assert_eq!(concealed.readings[seq].bpm, reading.bpm);
    }
    gateway.stop(daemon);
    assert_eq!(gateway.json(&["device", "list", "--json"]), list, "without the daemon as well");
    assert!(gateway.run(&["device", "list"]).1.contains(&format!("pseudonym {}", pseudonym_of(ANN))));
    let start = &gateway.record("start")[0];
    assert!(start["pseudonym_key"].is_string() && !start.to_string().contains("abab"), "{start}");

    // Another key: other pseudonyms from then on; the old ones can still be told.
    let old = pseudonym_of(ANN);
    gateway.key("cd");
    let daemon = gateway.setup.start();
    gateway.publish(1);
    gateway.until("delivered", || gateway.delivered() == 8);
    gateway.stop(daemon);
    let list = gateway.json(&["device", "list", "--json"]);
    let row = list.as_array().unwrap().iter().find(|row| row["name"] == ANN).unwrap().clone();
    let names: Vec<&str> = row["pseudonyms"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&old.as_str()));
    for name in names {
        assert!(text_of(&gateway.setup.lake).contains(name));
    }

    // Erasing knows both, and forgets them.
    let report = gateway.json(&["erase", "--device", ANN, "--yes", "--json"]);
    assert_eq!(report["lakes"][0]["lines"], 4, "{report}");
    assert_eq!(report["lakes"][1]["lines"], 4, "{report}");
    assert!(report["sql_objects"].as_str().unwrap().contains(&old));
    assert_eq!(gateway.holding(ANN), Vec::<PathBuf>::new());
    assert_eq!(gateway.holding(&old), Vec::<PathBuf>::new());
    assert!(!text_of(&ward).contains(ANN) && text_of(&ward).contains(BOB));
}

#[test]
fn an_erasure_under_way_of_everything_leaves_nothing_behind_and_the_account_whole() {
    let gateway = Gateway::new("");
    let daemon = gateway.setup.start();
    // Delivered already ...
    gateway.publish(5);
    gateway.until("delivered", || gateway.delivered() == 10);
    // ... in a batch that is sent again and again, ...
    gateway.setup.lake.join("readings").rename_to("aside");
    gateway.setup.block_lake();
    gateway.publish(5);
    let open = || {
        let inspected = gateway.json(&["journal", "inspect", "--json"]);
        inspected["uplinks"][0]["open"].as_array().unwrap().len()
    };
    gateway.until("a batch is open", || open() > 0);
    gateway.publish(5);

    let (code, _, err) = gateway.run(&["erase", "--device", ANN]);
    assert_eq!(code, 64, "a script has to say that it means it: {err}");
    let would = gateway.json(&["erase", "--device", ANN, "--dry-run", "--json"]);
    assert_eq!(would["journal"]["readings"], 15, "{would}");
    assert!(!gateway.holding(ANN).is_empty());
    gateway.setup.open_lake();
    gateway.setup.lake.join("aside").rename_to("readings");
    let report = gateway.json(&["erase", "--device", ANN, "--yes", "--json"]);
    assert_eq!(report["journal"]["readings"], 15, "{report}");
    gateway.until("the rest is delivered", || gateway.delivered() >= 15);

    // With the daemon at work ...
    let account = || gateway.json(&["status", "--json"])["accounts"]["uplinks"][0].clone();
    gateway.until("the account adds up", || account()["adds_up"] == true);
    assert!(account()["missing"]["erased"].as_u64().unwrap() >= 10, "{}", account());
    assert_eq!(gateway.holding(ANN), Vec::<PathBuf>::new());
    assert_eq!(gateway.holding(&format!("\"bpm\":{TELLTALE}")), Vec::<PathBuf>::new());
    let (_, exported, _) = gateway.run(&["journal", "export"]);
    assert!(
        !exported.contains(ANN) && exported.contains(BOB) && exported.contains("\"erased\""),
        "{exported}"
    );
    gateway.publish(1);
    gateway.until("it goes on", || gateway.delivered() >= 16);
    // ... what is published afterwards is new, and can be erased without a daemon.
    gateway.stop(daemon);
    assert!(!gateway.holding(ANN).is_empty());
    let report = gateway.json(&["erase", "--device", ANN, "--yes", "--json"]);
    assert_eq!(report["journal"]["readings"], 1);
    assert_eq!(gateway.holding(ANN), Vec::<PathBuf>::new());

    let daemon = gateway.setup.start();
    gateway.stop(daemon);
    let lake = Lake::read(&gateway.setup.lake);
    assert_eq!(lake.defects, Vec::<String>::new());
    assert_eq!(lake.unexplained(), Vec::<String>::new());
    assert_eq!(lake.readings.len(), 16);
    assert!(lake.readings.values().all(|reading| reading.device == BOB && reading.bpm == Some(61)));
    let erased: u64 = lake.gaps.iter().filter(|gap| gap.2 == "erased").map(|gap| gap.1 - gap.0 + 1).sum();
    assert!(erased >= 16, "{:?}", lake.gaps);
    assert_eq!(gateway.run(&["journal", "verify"]).0, 0);

    let entries = gateway.record("erase");
    let outcomes: Vec<&str> = entries.iter().map(|entry| entry["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["begun", "done", "begun", "done"]);
    assert_eq!(entries[1]["readings"], 15);
    let uid = u64::from(rustix::process::geteuid().as_raw());
    assert!(
        entries.iter().all(|entry| entry["who"]["uid"] == uid && entry["device"] == entries[0]["device"])
    );
}

#[test]
fn what_is_done_to_a_gateway_is_on_record_and_a_changed_record_is_noticed() {
    let gateway = Gateway::new("");
    let daemon = gateway.setup.start();
    assert_eq!(gateway.run(&["device", "add", ANN, "--subscribe", "hr/#"]).0, 0);
    assert_eq!(gateway.run(&["device", "list"]).0, 0);
    for _ in 0..3 {
        assert_eq!(gateway.run(&["journal", "export"]).0, 0);
        assert_eq!(gateway.run(&["status"]).0, 0);
    }
    daemon.signal(rustix::process::Signal::HUP);
    gateway.until("reloaded", || !gateway.record("reload").is_empty());
    assert_eq!(gateway.run(&["device", "remove", ANN]).0, 0);
    let head = gateway.json(&["status", "--json"])["audit"].clone();
    gateway.stop(daemon);

    let acts: Vec<String> = gateway
        .run(&["audit", "show", "--json"])
        .1
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["act"].as_str().unwrap().to_owned())
        .collect();
    for act in ["start", "uplink_add", "device_add", "export", "reload", "device_remove", "stop"] {
        assert!(acts.iter().any(|known| known == act), "{act} is not in {acts:?}");
    }
    assert_eq!(acts.iter().filter(|act| *act == "export").count(), 3);
    assert_eq!(gateway.record("access").len(), 2, "one for the list, one for all looks at the status");
    assert_eq!(gateway.record("device_add")[0]["subscribe"], 1);
    assert_eq!(gateway.holding(ANN), Vec::<PathBuf>::new(), "its name is on record");
    let (_, shown, _) = gateway.run(&["audit", "show", "--device", ANN]);
    assert_eq!(shown.lines().count(), 2);
    assert!(shown.contains("device_add device=d-") && shown.contains(ANN), "{shown}");

    let verdict = gateway.json(&["audit", "verify", "--json"]);
    assert_eq!(verdict["last"].as_u64().unwrap(), head["n"].as_u64().unwrap() + 1, "the stop came after it");
    let path = gateway.setup.state_dir.join("audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"subscribe\":1", "\"subscribe\":0", 1)).unwrap();
    let (code, out, _) = gateway.run(&["audit", "verify"]);
    assert_eq!(code, 69);
    assert!(out.contains("was changed"), "{out}");
    std::fs::write(&path, &text[..text.trim_end().rfind('\n').unwrap() + 1]).unwrap();
    assert_eq!(gateway.run(&["audit", "verify"]).0, 69, "a cut at the end goes unnoticed");
}

#[test]
fn no_heart_and_no_name_is_in_the_log() {
    let gateway = Gateway::new("");
    let daemon = gateway.setup.start();
    gateway.publish(5);
    for payload in
        ["heart at 187 or so", "{\"bpm\":\"187\"}", "{\"bpm\":18700}", "{\"bpm\":187,\"device\":3}", "[187]"]
    {
        publish(gateway.setup.mqtt, &format!("hr/{ANN}"), payload);
        publish(gateway.setup.mqtt, &format!("elsewhere/{ANN}/pulse"), payload);
    }
    assert_eq!(gateway.run(&["device", "add", ANN]).0, 0);
    // A wrong password, a take-over, a connection that ends in the middle of a packet.
    for flags in [0xc2_u8, 0x02] {
        for _ in 0..2 {
            let mut stream = TcpStream::connect(gateway.setup.mqtt).unwrap();
            let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 60];
            for text in [ANN, ANN, "wrong"].iter().take(if flags == 2 { 1 } else { 3 }) {
                packet.extend([0, u8::try_from(text.len()).unwrap()]);
                packet.extend(text.as_bytes());
            }
            packet[1] = u8::try_from(packet.len() - 2).unwrap();
            stream.write_all(&packet).unwrap();
            let _ = stream.read(&mut [0; 4]);
            let _ = stream.write_all(&[0x32, 40, 0, 5, b'h', b'r']);
        }
    }
    gateway.until("delivered", || gateway.delivered() >= 10);
    // Also when something fails and when something is erased.
    gateway.setup.lake.join("readings").rename_to("aside");
    gateway.setup.block_lake();
    gateway.publish(2);
    gateway.until("a failing uplink", || {
        std::fs::read_to_string(&gateway.setup.log).unwrap().contains("the uplink does not take its batches")
    });
    gateway.setup.open_lake();
    assert_eq!(gateway.run(&["erase", "--device", BOB, "--yes"]).0, 0);
    gateway.stop(daemon);
    let log = std::fs::read_to_string(&gateway.setup.log).unwrap();
    for secret in [ANN, BOB, "bpm", "rr_ms", "187", "strap"] {
        let told: Vec<&str> = log.lines().filter(|line| line.contains(secret)).collect();
        assert!(told.is_empty(), "{secret} is in the log: {told:#?}");
    }
}

trait Rename {
    fn rename_to(&self, name: &str);
}

impl Rename for Path {
    fn rename_to(&self, name: &str) {
        std::fs::rename(self, self.with_file_name(name)).unwrap();
    }
}
