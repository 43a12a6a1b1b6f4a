use proptest::prelude::*;
use serde_json::json;

use super::*;

fn redactor() -> Redactor {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("audit.key"), "ab".repeat(32)).unwrap();
    let path = dir.path().join("audit.key");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let redactor = Redactor::new(dir.path()).unwrap();
    assert!(redactor.is_lasting());
    redactor
}

#[test]
fn messages_of_our_own_and_of_the_system_stay_readable() {
    let redactor = redactor();
    for line in [
        "the uplink does not take its batches, they stay in the journal: Connection refused (os error 111)",
        "the disk is full: nothing new is acknowledged",
        "a generation is damaged: it is moved to quarantine and salvaged; check or replace the disk",
        "no Bluetooth: no Bluetooth service answers on the system bus (org.freedesktop.DBus.Error.FileNotFound: Failed to connect)",
        "stopping grace=10s",
        "journal open generations=3 readings=1200 took_ms=87",
        "the task used 1.120417474s of 30days, 64.0MiB, 30%",
        "fogbeat.service: Main process exited, code=killed, status=9/KILL",
        "/var/lib/fogbeat/spool/raw/gen-12/db: No space left on device (os error 28)",
        "hci0 answers 0x87 in eu-west-1 at 2026-11-30T13:59:37.549792Z, fogbeat 0.1.0",
    ] {
        assert_eq!(redactor.text(line), line);
    }
}

#[test]
fn what_may_belong_to_somebody_is_gone() {
    let redactor = redactor();
    for (secret, line) in [
        ("annika", "the uplink Annika is back"),
        ("meyer", "client anna-meyer: the disk is full"),
        ("c4:ac:05", "no answer from C4:AC:05:11:22:33"),
        ("75087320", "Polar 75087320 is not heard"),
        ("polar_75", "Polar_75087320"),
        ("192.168.7.9", "connection refused by 192.168.7.9"),
        ("192.168.7.9", "connection refused by 192.168.7.9:8883: it is tried again"),
        ("fe80::1", "fe80::1ff:fe23:4567:890a is too fast"),
        ("geheim", "mqtts://user:geheim@broker.clinic-west.example/topic/x"),
        ("clinic-west", "mqtts://user:geheim@broker.clinic-west.example/topic/x"),
        ("topic/x", "mqtts://user:geheim@broker.clinic-west.example/topic/x"),
        ("wjalrxutnfemi", "key wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY="),
        ("akia", "AKIAIOSFODNN7EXAMPLE"),
        ("e718e823", "hash=e718e823ae7ce8328d77c5ecee9ae28185446628d089cb945dd90dbf7c666892"),
        ("doe@", "mail to jane.doe@hospital.example"),
        ("ward-7", "/srv/ward-7/lake: no space left on device"),
        ("m\u{fc}ller", "device \"M\u{fc}ller\""),
        ("strap-17", "device=strap-17 refused"),
        ("bike", "(bike-12)"),
        ("gw-abcdefgh", "gateway gw-abcdefgh"),
        ("813.477777777", "rr 813.4777777777777777"),
        ("1974-05-01", "born 1974-05-01"),
    ] {
        let shown = redactor.text(line).to_lowercase();
        assert!(!shown.contains(secret), "{line}: {shown}");
    }
    assert_eq!(redactor.text("the client Xaver is gone").matches('~').count(), 1);
}

#[test]
fn a_tag_is_the_same_everywhere_and_the_audit_logs() {
    let redactor = redactor();
    let tag = redactor.tag("strap-17");
    assert_eq!(redactor.text("strap-17: the disk is full"), format!("{tag}: the disk is full"));
    assert_eq!(redactor.document(&json!({ "device": "strap-17" })), json!({ "device": tag }));
    assert_eq!(
        redactor.metrics("fogbeat_x_total{device=\"strap-17\"} 3"),
        format!("fogbeat_x_total{{device=\"{tag}\"}} 3\n")
    );
    assert_eq!(
        redactor.document(&json!({ "device": tag })),
        json!({ "device": tag }),
        "and stays what it is"
    );
    assert!(tag.ends_with("h5pwrauczjmbgtlt"), "{tag}");
}

#[test]
fn names_that_look_like_words_are_found_when_they_are_known() {
    let mut redactor = redactor();
    redactor.knowing([
        "clock".to_owned(),
        "the front desk".to_owned(),
        "Journal open".to_owned(),
        "7".to_owned(),
        "17".to_owned(),
    ]);
    let shown =
        redactor.text("device Clock at the Front Desk: journal open, 17 readings lost, the disk is full");
    for gone in ["lock", "ront", "esk", "ournal", "17"] {
        assert!(!shown.contains(gone), "{shown}");
    }
    assert!(shown.contains("lost, the disk is full"), "{shown}");
}

#[test]
fn documents_show_what_is_listed_and_nothing_else() {
    let redactor = redactor();
    let shown = redactor.document(&json!({
        "version": "0.1.0", "uptime_s": 7, "bpm": 173, "payload": "{\"bpm\":173}", "gateway": "proof",
        "accounts": { "devices": { "readings": { "received": 2 }, "Anna": { "durable": 1 } } },
        "unheard": { "Anna": 173, "rr_ms": [813.477] },
        "listener": { "bind": "0.0.0.0:1883" },
    }));
    let text = shown.to_string();
    for gone in ["173", "813", "Anna", "proof", "readings", "payload\":\"{"] {
        assert!(!text.contains(gone), "{gone} is in {text}");
    }
    assert_eq!(shown["version"], "0.1.0");
    assert_eq!(shown["uptime_s"], 7);
    assert_eq!(shown["listener"]["bind"], "any:1883");
    assert_eq!(shown["accounts"]["devices"][redactor.tag("readings")]["received"], 2);
}

#[test]
fn metrics_of_others_and_odd_lines_are_left_out() {
    let redactor = redactor();
    let text = "# HELP x y\nfogbeat_journal_commits_total 3\nfogbeat_uplink_retries_total{uplink=\"a,b\\\"c\",cause=\"network\"} 2\n\
                heart{bpm=\"71\"} 1\nfogbeat_x{device=\"Anna\n garbage\n";
    let shown = redactor.metrics(text);
    let tag = redactor.tag("a,b\\\"c");
    let expected = format!(
        "fogbeat_journal_commits_total 3\nfogbeat_uplink_retries_total{{uplink=\"{tag}\",cause=\"network\"}} 2\n"
    );
    assert_eq!(shown, expected);
}

proptest! {
    /// Whatever surrounds it, what is no known word does not get through, and nothing panics.
    #[test]
    fn no_secret_survives_any_surroundings(before in "\\PC{0,40}", after in "\\PC{0,40}", secret in "[a-z]{4}[0-9]{5}[a-z]{4}") {
        let redactor = redactor_once();
        for line in [format!("{before} {secret} {after}"), format!("{before}{secret}{after}"), format!("{before}/{secret}={after}")] {
            let shown = redactor.text(&line);
            prop_assert!(!shown.contains(&secret), "{} -> {}", line, shown);
        }
    }

    #[test]
    fn redacting_twice_changes_nothing(line in "[a-z ]{0,60}") {
        let redactor = redactor_once();
        let once = redactor.text(&line);
        prop_assert_eq!(redactor.text(&once), once);
    }
}

fn redactor_once() -> &'static Redactor {
    static ONE: std::sync::OnceLock<Redactor> = std::sync::OnceLock::new();
    ONE.get_or_init(redactor)
}
