//! The command line as people and scripts meet it: the real binary, its output and its exit codes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use assert_cmd::Command;

fn fogbeat(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("fogbeat").unwrap();
    command.args(args).env_remove("FOGBEAT_LOG").env("FOGBEAT__GATEWAY__STATE_DIR", "/nonexistent/fogbeat");
    command
}

/// Exit code, standard output, standard error.
fn outcome(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn in_state(args: &[&str], state: &Path) -> (i32, String, String) {
    outcome(fogbeat(args).env("FOGBEAT__GATEWAY__STATE_DIR", state))
}

const COMMANDS: [&[&str]; 29] = [
    &[],
    &["run"],
    &["demo"],
    &["check"],
    &["status"],
    &["device"],
    &["device", "add"],
    &["device", "list"],
    &["device", "remove"],
    &["uplink"],
    &["uplink", "forget"],
    &["journal"],
    &["journal", "verify"],
    &["journal", "key"],
    &["journal", "key", "new"],
    &["erase"],
    &["audit"],
    &["audit", "show"],
    &["audit", "verify"],
    &["support-bundle"],
    &["doctor"],
    &["completions"],
    &["init"],
    &["backup"],
    &["restore"],
    &["certificate"],
    &["certificate", "show"],
    &["certificate", "ca"],
    &["certificate", "renew"],
];

#[test]
fn help_says_what_a_command_does_and_gives_an_example() {
    for command in COMMANDS {
        let (code, out, err) = outcome(&mut fogbeat(&[command, &["--help"][..]].concat()));
        assert_eq!((code, err.as_str()), (0, ""), "{command:?}");
        assert!(out.contains("Example: fogbeat"), "{command:?} has no example:\n{out}");
        assert!(out.lines().next().unwrap().len() > 20, "{command:?} does not say what it does:\n{out}");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    for args in [&["rnu"][..], &[], &["run", "--colour"], &["device", "add"], &["--log-format", "xml", "run"]]
    {
        let (code, out, _) = outcome(&mut fogbeat(args));
        assert_eq!((code, out.as_str()), (64, ""), "{args:?}");
    }
    let (code, _, err) = outcome(&mut fogbeat(&["statu"]));
    assert_eq!(code, 64);
    assert!(err.contains("'status'"), "no suggestion: {err}");
    let (code, out, _) = outcome(&mut fogbeat(&["--version"]));
    assert_eq!((code, out), (0, format!("fogbeat {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_wrong_configuration_is_78_with_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gym.toml");
    std::fs::write(&file, "[mqtt.listener]\nbind = \"0.0.0.0:1883\"\nanonymous = true\n[bach]\n").unwrap();
    for command in ["run", "check", "status"] {
        let (code, out, err) = outcome(&mut fogbeat(&[command, "--config", file.to_str().unwrap()]));
        assert_eq!((code, out.as_str()), (78, ""));
        let expected = "fogbeat: the configuration has 2 errors\n  \
            bach: unknown key; did you mean `batch`?\n  \
            mqtt.listener.anonymous: true, but 0.0.0.0:1883 can be reached by others; bind it to 127.0.0.1, or set \
            anonymous = false and make users with `fogbeat device add NAME`\n";
        assert_eq!(err, expected);
    }
    let (code, _, err) = outcome(&mut fogbeat(&["check", "--config", "/nonexistent.toml"]));
    assert_eq!(code, 78);
    assert!(err.contains("/nonexistent.toml: cannot be read"), "{err}");
}

#[test]
fn the_environment_wins_over_the_file_and_is_checked_like_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    std::fs::write(&file, "[gateway]\nid = \"007\"\nsite = \"file\"\n[batch]\nmax_age = \"5s\"\n").unwrap();
    let mut command = fogbeat(&["check", "--json", "--config", file.to_str().unwrap()]);
    command
        .env("FOGBEAT__GATEWAY__SITE", "environment")
        .env("FOGBEAT__MQTT__LISTENER__LIMITS__IN_FLIGHT", "20");
    command.env("FOGBEAT__HTTP__ENABLED", "false").env("FOGBEAT__MQTT__MAPPINGS", "omh, serverless-talk");
    let (code, out, err) = outcome(&mut command);
    assert_eq!((code, err.as_str()), (0, ""));
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["gateway"]["id"], "007");
    assert_eq!(shown["gateway"]["site"], "environment");
    assert_eq!(shown["batch"]["max_age"], "5s");
    assert_eq!(shown["http"]["enabled"], false);
    assert_eq!(shown["mqtt"]["listener"]["limits"]["in_flight"], 20);
    assert_eq!(shown["mqtt"]["mappings"], serde_json::json!(["omh", "serverless-talk"]));

    let (code, _, err) = outcome(fogbeat(&["check"]).env("FOGBEAT__GATEWAY__SIET", "x"));
    assert_eq!(code, 78);
    assert!(err.contains("gateway.siet: unknown key; did you mean `site`?"), "{err}");
}

#[test]
fn what_check_prints_is_a_configuration() {
    let (code, out, err) = outcome(&mut fogbeat(&["check"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let config = fogbeat::config::from_toml(&out).unwrap();
    assert_eq!(config.gateway.state_dir, Path::new("/nonexistent/fogbeat"));
}

#[test]
fn check_shows_what_the_limits_of_memory_add_up_to() {
    let (code, out, err) = outcome(&mut fogbeat(&["check", "--verbose"]));
    assert_eq!((code, err.as_str()), (0, ""));
    fogbeat::config::from_toml(&out).unwrap();
    assert!(out.contains("16.0 MiB  connections"), "{out}");
    assert!(out.contains("1024 x 16.0 KiB") && out.contains("mqtt.listener.limits.connections"), "{out}");
    assert!(out.trim_end().ends_with("192.0 MiB  limits.memory"), "{out}");

    let mut command = fogbeat(&["check"]);
    command.env("FOGBEAT__LIMITS__MEMORY", "100MiB");
    let (code, _, err) = outcome(&mut command);
    assert_eq!(code, 78);
    assert!(err.contains("1024 connections 16.0 MiB") && err.contains("give at least"), "{err}");
}

#[test]
fn without_a_gateway_the_commands_say_so_with_69() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = in_state(&["status"], dir.path());
    assert_eq!(code, 69);
    assert!(err.contains("no gateway is running") && err.contains("--config FILE"), "{err}");
    let (code, _, err) = in_state(&["journal", "inspect"], dir.path());
    assert_eq!(code, 69);
    assert!(err.contains("there is no journal in"), "{err}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "looking at nothing left something behind");
}

#[test]
fn a_state_directory_that_cannot_be_made_names_the_remedy() {
    let (code, _, err) = in_state(&["run"], Path::new("/proc/fogbeat"));
    assert_eq!(code, 69);
    let told = err.lines().last().unwrap();
    assert!(told.contains("/proc/fogbeat cannot be written"), "{told}");
    assert!(told.contains("--config FILE or FOGBEAT__GATEWAY__STATE_DIR"), "{told}");
}

#[test]
fn a_device_gets_its_secret_once() {
    let dir = tempfile::tempdir().unwrap();
    let (code, secret, err) = in_state(&["device", "add", "strap-17"], dir.path());
    assert_eq!(code, 0, "{err}");
    assert_eq!(secret.trim_end().len(), 32);
    assert!(!err.contains(secret.trim_end()), "the secret is on standard error as well");
    let (code, _, err) = in_state(&["device", "add", "strap-17"], dir.path());
    assert_eq!(code, 64);
    assert!(err.contains("exists already"), "{err}");
    let (_, out, _) = in_state(&["device", "list", "--json"], dir.path());
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed[0]["name"], "strap-17");
    assert!(!out.contains(secret.trim_end()), "the secret is kept");
    assert_eq!(in_state(&["device", "remove", "strap-17"], dir.path()).0, 0);
    assert_eq!(in_state(&["device", "remove", "strap-17"], dir.path()).0, 64);
    assert_eq!(in_state(&["device", "list"], dir.path()).1, "");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = outcome(&mut fogbeat(&["completions", shell]));
        assert_eq!(code, 0);
        assert!(out.contains("journal") && out.contains("uplink"), "{shell}: {out}");
    }
}

#[test]
fn a_key_is_made_and_never_shown_and_a_key_file_that_others_can_read_is_78() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let path = file.to_str().unwrap();
    let (code, id, err) = outcome(&mut fogbeat(&["journal", "key", "new", path]));
    assert_eq!(code, 0, "{err}");
    let text = std::fs::read_to_string(&file).unwrap();
    let (said, key) = text.trim().split_once(" = ").unwrap();
    assert_eq!(said, id.trim());
    assert!(!id.contains(key) && !err.contains(key), "{id} {err}");

    let run = |state: &Path| {
        let mut command = fogbeat(&["run"]);
        command.env("FOGBEAT__JOURNAL__KEY_FILE", path).env("FOGBEAT__GATEWAY__STATE_DIR", state);
        command.env("FOGBEAT__HTTP__ENABLED", "false").env("FOGBEAT__MQTT__LISTENER__ENABLED", "false");
        outcome(command.timeout(std::time::Duration::from_secs(30)))
    };
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = run(&dir.path().join("state"));
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("chmod 600"), "{err}");

    let (code, _, err) = outcome(&mut fogbeat(&["journal", "key", "new"]));
    assert_eq!(code, 64, "{err}");
}
