//! `fogbeat init`.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use fogbeat::config;

use crate::support::daemon::binary;
use crate::support::rng::Rng;
use crate::support::world::World;
use crate::{Machine, disk, mode, outcome, within};

const PACKAGED: &str = include_str!("../../config/fogbeat.toml");

#[test]
fn a_site_in_one_line_takes_an_encrypted_reading_and_delivers_it() {
    let machine = Machine::new();
    let told = machine.init(&["--site", "gym", "--id", "gym-12", "--timezone", "Europe/Berlin"]);
    for file in ["state/tls/ca.key", "state/tls/server.pem", "state/tls/ca.pem"] {
        assert_eq!(mode(&machine.path(file)), 0o600, "{file}");
    }
    let ca = machine.path("site-ca.pem");
    assert_eq!((mode(&ca), mode(&machine.config())), (0o644, 0o644));
    // What a person compares on a device.
    let (_, shown, _) =
        outcome(Command::new("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&ca));
    let fingerprint = shown.trim().rsplit('=').next().unwrap();
    assert_eq!(fingerprint.len(), 95);
    assert!(told.contains(fingerprint), "{fingerprint} is not in\n{told}");
    for next in ["fogbeat --config", "run", "device add strap-1", "--cafile", "status"] {
        assert!(told.contains(next), "{next} is not in\n{told}");
    }

    let running = machine.start();
    let secret = machine.add_device("strap-1");
    within(|| machine.publish(&ca, "strap-1", &secret, 71).then_some(()), &machine.log());
    let line = machine.await_delivered(71);
    assert_eq!((line["gateway"].as_str(), line["site"].as_str()), (Some("gym-12"), Some("gym")), "{line}");
    assert_eq!(line["device"], "strap-1");
    let status = machine.status().unwrap();
    assert_eq!(status["timezone"], "Europe/Berlin");
    assert_eq!(status["listener"]["certificate"]["own"], true, "{status}");
    running.stop();
    assert!(!machine.log().contains("WARN"), "{}", machine.log());
    let (_, template, _) = machine.run(&["cloud", "template"]);
    assert!(template.contains("VALUES ('Europe/Berlin')"), "the queries do not know the zone");
}

#[test]
fn without_a_terminal_nothing_is_asked_and_everything_keeps_its_default() {
    let machine = Machine::new();
    let (code, out, err) = machine.run(&["init"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    let text = std::fs::read_to_string(machine.config()).unwrap();
    let mut written = config::from_toml(&text).unwrap();
    // It is the machine's, whatever that is.
    written.site.timezone = None;
    assert_eq!(written.to_toml().unwrap(), config::from_toml("").unwrap().to_toml().unwrap());
    assert!(!machine.state().exists(), "a site without an encrypted port needs no certificate");
}

#[test]
fn a_configuration_that_was_edited_is_replaced_only_when_asked_for_and_kept() {
    let machine = Machine::new();
    // As dpkg has put it there.
    std::fs::write(machine.config(), PACKAGED).unwrap();
    machine.init(&["--id", "gym-1"]);
    assert!(!machine.path("fogbeat.toml.old").exists(), "there was nothing to keep");
    machine.init(&["--id", "gym-1"]);
    let written = std::fs::read_to_string(machine.config()).unwrap();
    std::fs::write(machine.config(), format!("{written}# by hand\n")).unwrap();
    let (code, _, err) = machine.run(&["init", "--id", "gym-2"]);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("was edited") && err.contains("--force"), "{err}");
    assert!(std::fs::read_to_string(machine.config()).unwrap().ends_with("# by hand\n"));
    machine.init(&["--id", "gym-2", "--force"]);
    assert!(std::fs::read_to_string(machine.config()).unwrap().contains("id = \"gym-2\""));
    let kept = std::fs::read_to_string(machine.path("fogbeat.toml.old")).unwrap();
    assert_eq!(kept, format!("{written}# by hand\n"));
}

#[test]
fn wrong_answers_are_64_with_the_remedy_and_change_nothing() {
    let cases: [(&[&str], &str); 9] = [
        (&["--id", "gym 12"], "gateway.id: \"gym 12\" cannot be a name; use 1 to 64 letters"),
        (&["--timezone", "Europe/Berln"], "did you mean \"Europe/Berlin\"?"),
        (&["--timezone", "europe/berlin"], "write \"Europe/Berlin\""),
        (&["--uplink", "firehose"], "this uplink needs --stream NAME"),
        (&["--uplink", "kafka"], "[possible values: directory, firehose, iot_core, mqtt]"),
        (&["--uplink", "mqtt", "--url", "hall"], "uplink[0].url"),
        (&["--stream", "x"], "--stream belongs to --uplink firehose"),
        (&["--lan=nowhere"], "--lan"),
        (&["--mdns"], "--lan"),
    ];
    for (flags, remedy) in cases {
        let machine = Machine::new();
        let (code, _, err) = machine.run(&[&["init"], flags].concat());
        assert_eq!(code, 64, "{flags:?}: {err}");
        assert!(err.contains(remedy), "{flags:?}: {err}");
        assert_eq!(
            std::fs::read_dir(machine.root.path()).unwrap().count(),
            0,
            "{flags:?} left something behind"
        );
    }
    // `--mdns` and a port that nobody else reaches do not go together: nothing is announced.
    let machine = Machine::new();
    machine.init(&["--mdns"]);
    assert!(
        !config::from_toml(&std::fs::read_to_string(machine.config()).unwrap()).unwrap().mqtt.listener.mdns
    );
}

#[test]
fn on_a_terminal_it_asks_and_asks_again() {
    let machine = Machine::new();
    let line = format!("{} init --output {}", binary().display(), machine.config().display());
    let mut child = Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .env("FOGBEAT__GATEWAY__STATE_DIR", machine.state())
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (Debian: bsdutils)");
    let shown = Arc::new(Mutex::new(String::new()));
    let mut out = child.stdout.take().unwrap();
    let seen = shown.clone();
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = out.read(&mut bytes) {
            seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    let mut keys = child.stdin.take().unwrap();
    let mut answer = |question: &str, text: &str| {
        let held = || shown.lock().unwrap().clone();
        within(|| held().contains(question).then_some(()), &format!("{question} in {}", held()));
        // Only now does it read keys: what is typed before is thrown away.
        std::thread::sleep(std::time::Duration::from_millis(300));
        keys.write_all(text.as_bytes()).unwrap();
    };
    answer("where does it stand", "gym\r");
    answer("Name of this gateway", "gym 12\r");
    answer("cannot be a name", "gym-12\r");
    answer("Time zone", "Europe/Berlin\r");
    answer("Where do batches go?", "\r");
    answer("over Bluetooth?", "n");
    answer("publish over the network", "\r");
    within(|| child.try_wait().unwrap(), &shown.lock().unwrap().clone());
    reader.join().unwrap();
    let written = std::fs::read_to_string(machine.config())
        .unwrap_or_else(|error| panic!("{error}: {}", shown.lock().unwrap()));
    let config = config::from_toml(&written).unwrap();
    assert_eq!(config.gateway.site.as_deref(), Some("gym"));
    assert_eq!(config.gateway.id.as_deref(), Some("gym-12"));
    assert!(!config.ble.enabled && config.mqtt.listener.tls.is_none());
}

/// As on a Pi that was never on a network: made then, good now, and good at 1970 as well.
#[test]
fn a_certificate_that_was_made_in_1970_is_good_when_the_clock_is_right() {
    let machine = Machine::new();
    let world = World::new(&machine.path("world"), &mut Rng::new(70));
    world.step(-1_790_000_000_000);
    let mut command = machine.command(&["init", "--no-bluetooth", &format!("--lan={}", machine.tls)]);
    world.around(&mut command);
    let (code, _, err) = outcome(&mut command);
    assert_eq!(code, 0, "{err}");
    let verify = |at: &str| {
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-attime", at, "-CAfile"]).arg(machine.path("site-ca.pem"));
        outcome(openssl.arg(machine.path("state/tls/server.pem")))
    };
    let now = crate::support::wall_ms() / 1000;
    for at in [100, now] {
        let (code, out, err) = verify(&at.to_string());
        assert_eq!(code, 0, "at {at}: {out}{err}");
    }
    assert_ne!(verify(&(now + 4 * 366 * 86_400).to_string()).0, 0, "OpenSSL takes anything");
    let running = machine.start();
    let secret = machine.add_device("strap-1");
    let ca = machine.path("site-ca.pem");
    within(|| machine.publish(&ca, "strap-1", &secret, 71).then_some(()), &machine.log());
    running.stop();
}

#[test]
fn on_a_full_disk_nothing_is_changed_and_with_room_it_goes_on() {
    let machine = Machine::new();
    let Some(disk) = disk(machine.root.path(), 16) else { return };
    let place = disk.mount.join("fogbeat.toml");
    std::fs::write(&place, PACKAGED).unwrap();
    let filler = disk.fill();
    let lan = format!("--lan={}", machine.tls);
    let output = place.display().to_string();
    let init = |state: &std::path::Path| {
        let mut command =
            machine.command(&["init", "--id", "gym-12", "--output", &output, "--no-bluetooth", &lan]);
        outcome(command.env("FOGBEAT__GATEWAY__STATE_DIR", state))
    };
    // The configuration's disk is full, and then the certificates' as well.
    for state in [machine.state(), disk.mount.join("state")] {
        let (code, _, err) = init(&state);
        assert_eq!(code, 69, "{err}");
        assert!(err.contains("No space left"), "{err}");
        assert_eq!(std::fs::read_to_string(&place).unwrap(), PACKAGED);
    }
    std::fs::remove_file(filler).unwrap();
    let (code, _, err) = init(&machine.state());
    assert_eq!(code, 0, "{err}");
    assert!(std::fs::read_to_string(&place).unwrap().contains("id = \"gym-12\""));
}
