//! `fogbeat backup` and `fogbeat restore`.

use std::path::Path;
use std::process::Command;

use crate::{Machine, disk, mode, outcome, within};

/// A gateway with everything that is to be moved, running, and a reading in it.
struct Old {
    machine: Machine,
    secret: String,
    archive: std::path::PathBuf,
}

/// Made while it runs.
fn old() -> Old {
    let machine = Machine::new();
    std::fs::write(machine.path("hall.secret"), "hush").unwrap();
    machine.init(&["--site", "gym"]);
    let more = format!(
        "[privacy]\npseudonyms = true\nkey_file = \"{0}/pseudonym.key\"\n[[mqtt.external]]\nname = \"hall\"\n\
         url = \"mqtt://127.0.0.1:9\"\ntopics = [\"hr/#\"]\nusername = \"x\"\npassword_file = \"{0}/hall.secret\"\n",
        machine.root.path().display()
    );
    let text = std::fs::read_to_string(machine.config()).unwrap().replace("[privacy]", "#[privacy]");
    let text = text.replace("\npseudonyms = false", "\n#pseudonyms = false");
    std::fs::write(machine.config(), format!("{text}{more}")).unwrap();
    std::fs::write(machine.path("pseudonym.key"), "ab".repeat(32)).unwrap();
    std::fs::set_permissions(
        machine.path("pseudonym.key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let running = machine.start();
    let secret = machine.add_device("strap-1");
    let ca = machine.path("site-ca.pem");
    within(|| machine.publish(&ca, "strap-1", &secret, 71).then_some(()), &machine.log());
    machine.await_delivered(71);
    let archive = machine.path("gym.tar");
    let (code, _, err) = machine.run(&["backup", archive.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("holds secrets"), "{err}");
    assert_eq!(mode(&archive), 0o600);
    running.stop();
    Old { machine, secret, archive }
}

fn restore(machine: &Machine, archive: &Path, more: &[&str]) -> (i32, String, String) {
    machine.run(&[&["restore", archive.to_str().unwrap()], more].concat())
}

#[test]
fn new_hardware_becomes_the_gateway_with_a_journal_of_its_own() {
    let old = old();
    // New hardware, on which the package was just installed and started.
    let new = Machine::new();
    std::fs::write(new.config(), include_str!("../../config/fogbeat.toml")).unwrap();
    let running = new.start();
    let (code, _, err) = restore(&new, &old.archive, &[]);
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("another fogbeat") && err.contains("stop it"), "{err}");
    running.stop();
    let (code, _, err) = restore(&new, &old.archive, &[]);
    assert_eq!(code, 0, "{err}");

    let running = within(
        || {
            (std::fs::read(new.config()).unwrap() == std::fs::read(old.machine.config()).unwrap())
                .then(|| new.start())
        },
        "the configuration is another one",
    );
    // The old one's devices and their CA: nobody has to be told anything. It listens where the old one did.
    let there = Machine { tls: old.machine.tls, ..new };
    let ca = old.machine.path("site-ca.pem");
    within(|| there.publish(&ca, "strap-1", &old.secret, 72).then_some(()), &there.log());
    let (before, after) = (old.machine.await_delivered(71), there.await_delivered(72));
    assert_eq!(before["gateway"], after["gateway"]);
    assert_eq!(before["device"], after["device"], "the pseudonym is another one");
    assert_ne!(before["device"], "strap-1");
    let spool = |line: &serde_json::Value| line["id"].as_str().unwrap().split_once('-').unwrap().0.to_owned();
    assert_ne!(spool(&before), spool(&after), "two contents for an id");
    running.stop();
    let (_, audit, _) = there.run(&["audit", "show"]);
    assert!(audit.contains("restore"), "{audit}");

    // It has readings now, and a configuration that is not the package's.
    let (code, _, err) = restore(&there, &old.archive, &[]);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("1 reading") && err.contains("--force"), "{err}");
    let (code, _, err) = restore(&there, &old.archive, &["--force"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("spool.before-restore-1"), "{err}");
    assert!(
        there.path("state/spool.before-restore-1/id.json").exists() && !there.path("state/spool").exists()
    );
}

#[test]
fn the_same_machine_gets_another_spool_name_as_well() {
    let old = old();
    let spool = std::fs::read(old.machine.path("state/spool/id.json")).unwrap();
    let (code, _, err) = restore(&old.machine, &old.archive, &["--force"]);
    assert_eq!(code, 0, "{err}");
    let running = old.machine.start();
    assert_ne!(std::fs::read(old.machine.path("state/spool/id.json")).unwrap(), spool);
    running.stop();
}

#[test]
fn what_is_no_backup_or_belongs_to_somebody_else_changes_nothing() {
    let old = old();
    let new = Machine::new();
    let bytes = std::fs::read(&old.archive).unwrap();
    let bad = new.path("bad.tar");
    for (what, bytes) in
        [("cut", &bytes[..bytes.len() / 2]), ("empty", &[][..]), ("a picture", &[0x89, 0x50, 0x4e, 0x47][..])]
    {
        std::fs::write(&bad, bytes).unwrap();
        let (code, _, err) = restore(&new, &bad, &[]);
        assert_eq!(code, 69, "{what}: {err}");
        assert!(err.contains("no backup of fogbeat, or a damaged one"), "{what}: {err}");
    }
    assert!(!new.state().exists() && !new.config().exists());
    assert_eq!(restore(&new, Path::new("/nonexistent.tar"), &[]).0, 69);
    // Somebody edited the configuration here; or a secret that has the same place is another one.
    std::fs::write(new.config(), "[log]\nlevel = \"debug\"\n").unwrap();
    let (code, _, err) = restore(&new, &old.archive, &[]);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("fogbeat.toml.old") && err.contains("--force"), "{err}");
    std::fs::remove_file(new.config()).unwrap();
    std::fs::write(old.machine.path("hall.secret"), "another").unwrap();
    let (code, _, err) = restore(&new, &old.archive, &[]);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("hall.secret"), "{err}");
    assert!(!new.config().exists());
    let (code, _, err) = restore(&new, &old.archive, &["--force"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(std::fs::read_to_string(old.machine.path("hall.secret")).unwrap(), "hush");
    assert_eq!(std::fs::read_to_string(old.machine.path("hall.secret.old")).unwrap(), "another");
}

#[test]
fn a_full_disk_is_told_and_with_room_it_is_done_again() {
    let old = old();
    let new = Machine::new();
    let Some(disk) = disk(new.root.path(), 16) else { return };
    let state = disk.mount.join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("lock"), "0\n").unwrap();
    let filler = disk.fill();
    let run = |args: &[&str]| {
        let mut command: Command = new.command(args);
        outcome(command.env("FOGBEAT__GATEWAY__STATE_DIR", &state))
    };
    let archive = old.archive.to_str().unwrap();
    let (code, _, err) = run(&["restore", archive]);
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("No space left"), "{err}");
    assert!(!new.config().exists(), "the configuration comes last");
    let full = disk.mount.join("gym.tar");
    let (code, _, err) = old.machine.run(&["backup", full.to_str().unwrap()]);
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("No space left") && !full.exists(), "{err}");
    std::fs::remove_file(filler).unwrap();
    let (code, _, err) = run(&["restore", archive]);
    assert_eq!(code, 0, "{err}");
    assert!(state.join("devices.toml").exists() && new.config().exists());
}

/// Whatever a gateway keeps in its state directory is either moved or known to stay.
#[test]
fn nothing_in_the_state_directory_is_forgotten() {
    let old = old();
    let (_, listed, _) = outcome(Command::new("tar").arg("tf").arg(&old.archive));
    for moved in [
        "fogbeat.toml",
        "state/devices.toml",
        "state/gateway-id",
        "state/tls/ca.key",
        "state/pseudonyms.jsonl",
    ] {
        assert!(listed.lines().any(|name| name == moved), "{moved} is not in\n{listed}");
    }
    assert!(listed.contains("hall.secret") && listed.contains("pseudonym.key"), "{listed}");
    // The journal and what was delivered, the records of this machine, its boots and its clock, and what dies with a run.
    let stays = ["spool", "relayed", "lake", "audit", "flight", "clock", "lock", "fogbeat.sock"];
    for entry in std::fs::read_dir(old.machine.state()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let moved = fogbeat::backup::STATE.iter().any(|known| known.split('/').next() == Some(name.as_str()));
        assert!(
            moved || stays.iter().any(|stay| name.starts_with(stay)),
            "{name}: is it to be moved, or does it stay?"
        );
    }
}
