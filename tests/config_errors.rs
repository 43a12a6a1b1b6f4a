//! What an operator reads when the configuration is wrong: every problem at once, each with key, value and remedy.
#![allow(clippy::unwrap_used)]

use fogbeat::config::from_toml;

fn problems(text: &str) -> Vec<String> {
    from_toml(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn every_problem_is_told_at_once() {
    let text = r#"
        [gateway]
        id = "gym 12"
        shutdown_grase = "10s"
        state_dir = "lib"
        [mqtt.listener]
        bind = "0.0.0.0:1883"
        anonymous = true
        [mqtt.listener.limits]
        in_flight = 0
        packet_size = "lots"
        [journal]
        commit_interval = "5 parsecs"
        [batch]
        max_agee = "60s"
        [http]
        bind = "192.168.1.4:9110"
        [jurnal]
        x = 1
    "#;
    insta::assert_snapshot!(problems(text).join("\n"), @r##"
    batch.max_agee: unknown key; did you mean `max_age`?
    gateway.id: "gym 12" cannot be a name; use 1 to 64 letters, digits, `-`, `_`, `.` (not first)
    gateway.shutdown_grase: unknown key; did you mean `shutdown_grace`?
    gateway.state_dir: "lib" is relative, and a service has no certain working directory; give the whole path, from `/` on
    http.bind: 192.168.1.4:9110 can be reached by others, and this port has no password; bind it to 127.0.0.1 (an ssh tunnel reaches it), or set http.allow_remote = true
    journal.commit_interval: "5 parsecs" is not usable (invalid value: string "5 parsecs", expected a duration); write it as config/fogbeat.toml shows
    jurnal: unknown key; did you mean `journal`?
    mqtt.listener.anonymous: true, but 0.0.0.0:1883 can be reached by others; bind it to 127.0.0.1, or set anonymous = false and make users with `fogbeat device add NAME`
    mqtt.listener.limits.in_flight: 0 is out of range; choose 1 to 65535
    mqtt.listener.limits.packet_size: "lots" is not usable (invalid value: string "lots", expected parsable string); write it as config/fogbeat.toml shows
    "##);
}

#[test]
fn uplinks_are_numbered_as_in_the_file() {
    let text = r#"
        [[uplink]]
        kind = "fire-hose"
        [[uplink]]
        kind = "firehose"
        region = "eu-west-1"
        [[uplink]]
        kind = "directory"
        stream = "hr"
        [[uplink]]
        path = "/srv/lake"
        [[uplink]]
        kind = "firehose"
        name = "directory"
        stream = "heart rate"
        timeout = 5
        encoding = "gz"
    "#;
    insta::assert_snapshot!(problems(text).join("\n"), @r##"
    uplink[0].kind: unknown kind "fire-hose"; did you mean `firehose`? Known: `directory`, `firehose`, `iot_core`, `mqtt`
    uplink[1].stream: is missing; add it: it has no default
    uplink[2].stream: unknown key; known here: `path`, `max_bytes`, `keep`
    uplink[3].kind: is missing; say one of `directory`, `firehose`, `iot_core`, `mqtt`
    uplink[4].encoding: "gz" is not usable (it is none of the words that may stand here); write it as config/fogbeat.toml shows
    uplink[4].name: "directory" is taken by another uplink; give each uplink a `name` of its own (the default is its kind)
    uplink[4].stream: "heart rate" cannot be a name; use 1 to 64 letters, digits, `-`, `_`, `.` (not first)
    uplink[4].timeout: "5" is not usable (invalid value: string "5", expected a duration); write it as config/fogbeat.toml shows
    "##);
}

#[test]
fn secrets_and_half_given_security_are_refused() {
    let text = r#"
        [mqtt.listener.tls]
        bind = "127.0.0.1:1883"
        certificate = "server.pem"
        require_client_certificate = true
        [[mqtt.external]]
        name = "hall"
        url = "mqtt://user:secret@broker:1883"
        topics = []
        password_file = "/etc/fogbeat/hall.password"
    "#;
    let told = problems(text).join("\n");
    assert!(!told.contains("secret@"), "a secret is repeated: {told}");
    insta::assert_snapshot!(told, @r##"
    mqtt.external[0].password_file: is given without a user; set `username` as well
    mqtt.external[0].topics: is empty; name at least one topic filter, e.g. "hr/#"
    mqtt.external[0].url: holds a user name or password; use `username` and `password_file`: secrets are never in this file
    mqtt.listener.tls.bind: 127.0.0.1:1883 is taken by mqtt.listener.bind; give the encrypted port another number, 8883 by custom
    mqtt.listener.tls.certificate: "server.pem" is relative, and a service has no certain working directory; give the whole path, from `/` on
    mqtt.listener.tls.key: is missing; add it, or leave `certificate` and `key` out, and fogbeat makes its own
    mqtt.listener.tls.require_client_certificate: true, but there is no CA to check certificates against; set mqtt.listener.tls.client_ca
    "##);
}

#[test]
fn a_quota_that_holds_too_few_generations_is_refused_with_the_least_that_does() {
    let told = problems("[journal]\nquota = \"64MiB\"\n").join("\n");
    insta::assert_snapshot!(told, @r##"journal.quota: 64.0 MiB is not enough for generations of 16.0 MiB; choose at least 96.0 MiB, or a smaller journal.generation_size"##);
    let told = problems("[journal]\nquota = \"8MiB\"\ngeneration_size = \"1MiB\"\n").join("\n");
    assert!(told.contains("choose at least 16.0 MiB"), "{told}");
    assert!(problems("[journal]\nwhen_full = \"explode\"\n").join("\n").contains("journal.when_full"));
}

#[test]
fn text_that_is_not_toml_is_shown_with_its_line() {
    let told = problems("[gateway]\nid = gym-12\n").join("\n");
    assert!(told.contains("line 2"), "{told}");
    assert!(told.contains("id = gym-12"), "{told}");
}

#[test]
fn naming_an_uplink_drops_the_default_one() {
    let config = from_toml("[[uplink]]\nkind = \"firehose\"\nstream = \"heart-rate\"\n").unwrap();
    let names: Vec<&str> = config.uplinks.iter().map(|uplink| uplink.name()).collect();
    assert_eq!(names, ["firehose"]);
    let config = from_toml("").unwrap();
    let names: Vec<&str> = config.uplinks.iter().map(|uplink| uplink.name()).collect();
    assert_eq!(names, ["directory"]);
}

#[test]
fn an_uplink_without_batches_needs_something_else_and_one_that_carries_them() {
    let alone = r#"
        [[uplink]]
        kind = "iot_core"
        endpoint = "abc-ats.iot.eu-west-1.amazonaws.com"
        rule = "fogbeat"
        batches = false
        [[uplink]]
        kind = "mqtt"
        url = "mqtt://hall"
        topic = "hr"
        batches = false
    "#;
    insta::assert_snapshot!(problems(alone).join("\n"), @r##"
    uplink: none of them carries batches; name one that does, such as kind = "directory": without it readings would go nowhere
    uplink[0].batches: is false, and nothing else goes this way; add [uplink.live] or shadow = true, or let batches go this way
    uplink[0].rule: is given beside batches = false; leave it out: no batch goes there
    uplink[1].batches: is false, and nothing else goes this way; add [uplink.live], or let batches go this way
    uplink[1].topic: is given beside batches = false; leave it out: no batch goes there
    "##);
    let beside = r#"
        [[uplink]]
        kind = "firehose"
        stream = "heart-rate"
        [[uplink]]
        kind = "iot_core"
        endpoint = "abc-ats.iot.eu-west-1.amazonaws.com"
        batches = false
        shadow = true
    "#;
    let config = from_toml(beside).unwrap();
    let carrying: Vec<bool> = config.uplinks.iter().map(|uplink| uplink.carries_batches()).collect();
    assert_eq!(carrying, [true, false]);
}

#[test]
fn the_settings_in_force_can_be_read_back() {
    let text = "[gateway]\nsite = \"gym\"\n[batch]\nmax_age = \"250ms\"\nmax_bytes = \"3MiB\"\n\
        [[uplink]]\nkind = \"firehose\"\nname = \"cloud\"\nstream = \"heart-rate\"\nencoding = \"zstd\"\n";
    let shown = from_toml(text).unwrap().to_toml().unwrap();
    let again = from_toml(&shown).unwrap();
    assert_eq!(shown, again.to_toml().unwrap());
    assert!(shown.contains("max_age = \"250ms\""), "{shown}");
    assert!(shown.contains("stream = \"heart-rate\""), "{shown}");
}
