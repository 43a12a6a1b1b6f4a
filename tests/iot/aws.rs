//! What AWS IoT Core asks of a connection, and what it answers, where Mosquitto does neither.

use std::time::Duration;

use serde_json::Value;

use crate::front::{Front, Hello};
use crate::pki::{Pair, Pki};
use crate::player::{Connect, Mood, Player};
use crate::proxy::{Kind, LOGIN, Proxy};
use crate::site::{Strap, account, eventually, same_readings, told, uplink};
use crate::support::daemon::{Daemon, Setup};

const SOON: Duration = Duration::from_secs(40);
/// As AWS calls an account's endpoint; only the proxy knows where it is.
const ENDPOINT: &str = "abc123-ats.iot.eu-west-1.amazonaws.com";

struct Scene {
    _root: tempfile::TempDir,
    player: Player,
    front: Front,
    _proxy: Proxy,
    setup: Setup,
    daemon: Daemon,
}

/// A gateway whose only way to the endpoint is a proxy.
fn scene(port: u16, version: &str, moods: impl IntoIterator<Item = Mood>) -> Scene {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "iot", &[ENDPOINT], 2090);
    let Pair { certificate, key } = pki.issue("gateway", "proof", &[], 2090);
    let player = Player::start(moods);
    let alpn = (port == 443).then_some("x-amzn-mqtt-ca");
    let front = Front::start(&pki, &server, true, alpn, player.address);
    let proxy = Proxy::aimed(Kind::Http, Some(front.address));
    let secret = root.path().join("secret");
    std::fs::write(&secret, LOGIN).unwrap();
    let mut setup = Setup::new(root.path());
    setup.max_age = "50ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"{ENDPOINT}\"\nport = {port}\nrule = \"fogbeat\"\n\
         timeout = \"5s\"\nversion = \"{version}\"\ncertificate = {certificate:?}\nkey = {key:?}\nca = {:?}\n\
         proxy = \"{}\"\nproxy_credentials_file = {secret:?}\n",
        pki.ca,
        proxy.url(Kind::Http),
    );
    let daemon = setup.start();
    Scene { _root: root, player, front, _proxy: proxy, setup, daemon }
}

impl Scene {
    fn uplink(&self) -> Value {
        uplink(&self.setup, "iot_core")
    }

    /// The failure in `status`, once it has this cause.
    fn failure(&self, cause: &str) -> Value {
        let mut failure = Value::Null;
        eventually(cause, SOON, || {
            failure = self.uplink()["failure"].clone();
            failure["cause"] == cause
        });
        println!("status: {}", told(&self.setup));
        failure
    }

    /// Everything that was acknowledged to the strap is there in the end, each once or as the same batch again.
    fn nothing_is_lost(self, readings: usize) {
        eventually("everything arrives", SOON, || self.uplink()["queued_readings"] == 0);
        assert!(self.daemon.terminate(Duration::from_secs(20)).success(), "{}", self.setup.log_tail());
        let (lake, _) = account(&self.player.taken());
        assert_eq!(lake.readings.len(), readings);
        same_readings(&lake, &self.setup.lake);
    }
}

#[test]
fn the_connection_is_as_aws_wants_it_on_both_ports_and_in_both_versions() {
    for (port, version, level) in [(443, "5", 5), (443, "3.1.1", 4), (8883, "5", 5)] {
        let scene = scene(port, version, []);
        Strap::connect(scene.setup.mqtt, "strap").beats(20);
        eventually("everything arrives", SOON, || scene.uplink()["queued_readings"] == 0);
        let alpn = if port == 443 { vec!["x-amzn-mqtt-ca".to_owned()] } else { Vec::new() };
        assert_eq!(scene.front.hellos(), [Hello { name: Some(ENDPOINT.to_owned()), alpn }]);
        let seen = scene.player.seen.lock().unwrap();
        let client_id = "proof".to_owned();
        assert_eq!(seen.connects, [Connect { version: level, clean: true, keep_alive: 60, client_id }]);
        for (_, topic, qos, size) in &seen.publishes {
            assert_eq!((topic.as_str(), *qos), ("$aws/rules/fogbeat/proof", 1));
            assert!(*size <= 128 * 1024);
        }
        drop(seen);
        scene.nothing_is_lost(20);
    }
}

#[test]
fn a_quota_that_is_exceeded_slows_down_and_loses_nothing() {
    const QUOTA: u8 = 0x97;
    for mood in [Mood::Refuse(QUOTA), Mood::Disconnect(QUOTA)] {
        let scene = scene(8883, "5", [mood; 3]);
        let mut strap = Strap::connect(scene.setup.mqtt, "strap");
        strap.beats(20);
        let told = scene.failure("quota");
        assert!(told["message"].as_str().unwrap().contains("QuotaExceeded"), "{told}");
        eventually("it is spared", SOON, || scene.daemon.metric("fogbeat_uplink_slowed_total") >= Some(1.0));
        strap.beats(20);
        eventually("everything arrives", SOON, || scene.uplink()["queued_readings"] == 0);
        // In the pace that is left small batches are further apart than they were made.
        let mut beats = 40;
        let before = scene.player.seen.lock().unwrap().publishes.len();
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            strap.beat();
            beats += 1;
        }
        let publishes = scene.player.seen.lock().unwrap().publishes.len() - before;
        assert!(publishes <= 2 * 90, "{publishes} publishes in 2 s");
        scene.nothing_is_lost(beats);
    }
}

#[test]
fn a_broker_that_closes_without_a_word_is_told_as_a_missing_policy() {
    let scene = scene(8883, "3.1.1", [Mood::Close; 1000]);
    let mut strap = Strap::connect(scene.setup.mqtt, "strap");
    strap.beats(20);
    let told = scene.failure("not_authorized");
    let remedy = told["remedy"].as_str().unwrap();
    for line in [
        "iot:Connect on arn:aws:iot:eu-west-1:*:client/proof",
        "iot:Publish on arn:aws:iot:eu-west-1:*:topic/$aws/rules/fogbeat/proof",
        "version = \"5\" tells which",
    ] {
        assert!(remedy.contains(line), "{remedy}");
    }
    scene.player.moods([]);
    scene.daemon.signal(rustix::process::Signal::HUP);
    scene.nothing_is_lost(20);
}

#[test]
fn a_connection_that_is_not_allowed_names_the_line_that_is_missing() {
    for (version, code) in [("5", 0x87), ("3.1.1", 5)] {
        let scene = scene(8883, version, [Mood::RefuseConnection(code); 1000]);
        Strap::connect(scene.setup.mqtt, "strap").beats(20);
        let told = scene.failure("not_authorized");
        let line = "iot:Connect on arn:aws:iot:eu-west-1:*:client/proof";
        assert!(told["remedy"].as_str().unwrap().contains(line), "{told}");
        scene.player.moods([]);
        scene.daemon.signal(rustix::process::Signal::HUP);
        scene.nothing_is_lost(20);
    }
}

#[test]
fn two_gateways_of_one_name_are_told() {
    let scene = scene(8883, "5", [Mood::Disconnect(0x8E)]);
    Strap::connect(scene.setup.mqtt, "strap").beats(20);
    let told = scene.failure("taken_over");
    assert!(told["remedy"].as_str().unwrap().contains("[[uplink]].thing"), "{told}");
    scene.daemon.signal(rustix::process::Signal::HUP);
    scene.nothing_is_lost(20);
}
