//! What can be wrong between a gateway and its broker: told in one clear line with the remedy, nothing lost, and mended
//! without a restart.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::broker::{Ear, Mosquitto, Rules};
use crate::pki::{Pair, Pki};
use crate::site::{Strap, account, eventually, same_readings, told, uplink};
use crate::support::daemon::{Daemon, Setup};
use crate::support::rng::Rng;
use crate::support::world::World;

const SOON: Duration = Duration::from_secs(40);

struct Scene {
    root: tempfile::TempDir,
    pki: Pki,
    broker: Mosquitto,
    /// The files that the gateway is configured with.
    pair: Pair,
    setup: Setup,
}

/// A broker that serves "localhost", and a gateway with the certificate that `issue` makes.
fn scene(rules: &Rules<'_>, issue: impl FnOnce(&Pki, &std::path::Path) -> Pair, settings: &str) -> Scene {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "broker", &["localhost"], 2090);
    let pair = issue(&pki, root.path());
    let broker = Mosquitto::start(root.path(), &pki, &server, rules);
    let mut setup = Setup::new(root.path());
    setup.max_age = "50ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nrule = \"fogbeat\"\ncertificate = {:?}\nkey = {:?}\nca = {:?}\ntimeout = \"5s\"\n{}",
        pair.certificate,
        pair.key,
        pki.ca,
        settings.replace("PORT", &broker.tls.port().to_string()),
    );
    Scene { root, pki, broker, pair, setup }
}

const RIGHT: &str = "endpoint = \"localhost\"\nport = PORT\n";

fn good(pki: &Pki, _: &std::path::Path) -> Pair {
    pki.issue("gateway", "proof", &[], 2090)
}

/// The failure in `status`, once there is one.
fn failure(setup: &Setup, cause: &str) -> Value {
    let mut last = Value::Null;
    let started = std::time::Instant::now();
    while last["failure"]["cause"] != cause {
        assert!(started.elapsed() < SOON, "no failure \"{cause}\" but {last}\n{}", setup.log_tail());
        std::thread::sleep(Duration::from_millis(50));
        last = uplink(setup, "iot_core");
    }
    let failure = last["failure"].clone();
    let line = told(setup);
    println!("status: {line}");
    let message = failure["message"].as_str().unwrap();
    assert!(line.contains(failure["remedy"].as_str().unwrap_or_default()), "{line}");
    assert!(!message.contains('\n') && message.len() < 250, "not one clear line: {message}");
    failure
}

fn says(failure: &Value, message: &str, remedy: &str) {
    let text = |field: &str| failure[field].as_str().unwrap_or_default().to_owned();
    assert!(text("message").contains(message), "{failure}");
    assert!(text("remedy").contains(remedy), "{failure}");
}

/// Readings come in, `trouble` is told, `mend` mends it, and everything arrives.
fn told_and_mended(
    scene: &mut Scene,
    daemon: Daemon,
    cause: &str,
    message: &str,
    remedy: &str,
    mend: impl FnOnce(&mut Scene),
) {
    let ear = Ear::listen(scene.broker.plain, "$aws/rules/#");
    let mut strap = Strap::connect(scene.setup.mqtt, "strap");
    strap.beats(20);
    says(&failure(&scene.setup, cause), message, remedy);
    strap.beats(20);
    assert_eq!(ear.count(), 0);
    mend(scene);
    daemon.signal(Signal::HUP);
    eventually("everything arrives", SOON, || uplink(&scene.setup, "iot_core")["queued_readings"] == 0);
    assert!(daemon.terminate(Duration::from_secs(20)).success(), "{}", scene.setup.log_tail());
    let (lake, _) = account(&ear.heard());
    assert_eq!(lake.readings.len(), 40);
    same_readings(&lake, &scene.setup.lake);
}

#[test]
fn a_refused_certificate() {
    let foreign = |_: &Pki, root: &std::path::Path| {
        Pki::new(&root.join("other"), "other").issue("gateway", "proof", &[], 2090)
    };
    let mut scene = scene(&Rules { access: None }, foreign, RIGHT);
    let daemon = scene.setup.start();
    told_and_mended(
        &mut scene,
        daemon,
        "certificate",
        "refuses the gateway's certificate",
        "registered",
        |scene| {
            scene.pki.issue("good", "proof", &[], 2090).replace(&scene.pair);
        },
    );
}

#[test]
fn an_expired_certificate() {
    let expired = |pki: &Pki, _: &std::path::Path| pki.issue("gateway", "proof", &[], 2021);
    let mut scene = scene(&Rules { access: None }, expired, RIGHT);
    let daemon = scene.setup.start();
    told_and_mended(&mut scene, daemon, "certificate", "expired at 2021-12-31", "new certificate", |scene| {
        scene.pki.issue("good", "proof", &[], 2090).replace(&scene.pair);
    });
}

#[test]
fn a_clock_that_stands_at_1970() {
    let mut scene = scene(&Rules { access: None }, good, RIGHT);
    let mut rng = Rng::new(1970);
    let world = World::new(&scene.root.path().join("world"), &mut rng);
    let now = i64::try_from(crate::support::wall_ms()).unwrap();
    world.step(86_400_000 - now);
    world.synchronise(false);
    let mut command = scene.setup.command(&[]);
    world.around(&mut command);
    let mut daemon = Daemon::spawn(command, &scene.setup);
    daemon.wait_ready();
    let told = "not yet valid: this gateway believes it is 1970";
    told_and_mended(&mut scene, daemon, "clock", told, "NTP", |_| {
        world.step(0);
        world.synchronise(true);
    });
}

#[test]
fn an_endpoint_that_is_somebody_else() {
    let wrong = "endpoint = \"127.0.0.1\"\nport = PORT\n";
    let scene = scene(&Rules { access: None }, good, wrong);
    let daemon = scene.setup.start();
    let mut strap = Strap::connect(scene.setup.mqtt, "strap");
    strap.beats(20);
    says(&failure(&scene.setup, "endpoint"), "somebody else", "[[uplink]].endpoint");
    arrives_after_restart(scene, daemon, &wrong.replace("127.0.0.1", "localhost"));
}

#[test]
fn an_endpoint_where_nobody_is() {
    let nobody = crate::support::daemon::free_port().port();
    let wrong = format!("endpoint = \"localhost\"\nport = {nobody}\n");
    let scene = scene(&Rules { access: None }, good, &wrong);
    let daemon = scene.setup.start();
    let mut strap = Strap::connect(scene.setup.mqtt, "strap");
    strap.beats(20);
    says(&failure(&scene.setup, "connection"), "cannot be reached", "[[uplink]].endpoint");
    arrives_after_restart(scene, daemon, RIGHT);
}

#[test]
fn an_endpoint_without_a_name() {
    let scene = scene(&Rules { access: None }, good, "endpoint = \"no-such-host.invalid\"\nport = PORT\n");
    let daemon = scene.setup.start();
    let mut strap = Strap::connect(scene.setup.mqtt, "strap");
    strap.beats(20);
    says(&failure(&scene.setup, "name"), "no-such-host.invalid", "[[uplink]].endpoint");
    arrives_after_restart(scene, daemon, RIGHT);
}

/// The configuration is put right, the gateway started anew.
fn arrives_after_restart(mut scene: Scene, daemon: Daemon, settings: &str) {
    assert!(daemon.terminate(Duration::from_secs(20)).success(), "{}", scene.setup.log_tail());
    let ear = Ear::listen(scene.broker.plain, "$aws/rules/#");
    let lines = scene.setup.extra.lines();
    let kept: Vec<&str> = lines.filter(|l| !l.starts_with("endpoint") && !l.starts_with("port")).collect();
    let port = scene.broker.tls.port().to_string();
    scene.setup.extra = format!("{}\n{}", kept.join("\n"), settings.replace("PORT", &port));
    let daemon = scene.setup.start();
    eventually("everything arrives", SOON, || uplink(&scene.setup, "iot_core")["queued_readings"] == 0);
    assert!(daemon.terminate(Duration::from_secs(20)).success());
    let (lake, _) = account(&ear.heard());
    assert_eq!(lake.readings.len(), 20);
    same_readings(&lake, &scene.setup.lake);
}

#[test]
fn a_missing_policy_named_in_version_5() {
    let rules = Rules { access: Some("user proof\ntopic read fogbeat/#\n") };
    let mut scene = scene(&rules, good, RIGHT);
    let daemon = scene.setup.start();
    let line = "iot:Publish on arn:aws:iot:*:*:topic/$aws/rules/fogbeat/proof";
    told_and_mended(&mut scene, daemon, "not_authorized", "does not take a batch", line, |scene| {
        scene.broker.kill();
        std::fs::write(scene.root.path().join("access"), "user proof\ntopic write $aws/rules/#\n").unwrap();
        scene.broker.run();
        // The test's own ear comes back before the gateway does.
        std::thread::sleep(Duration::from_millis(300));
    });
}

#[test]
fn a_new_certificate_is_taken_and_a_bad_one_is_not() {
    let scene = scene(&Rules { access: None }, good, RIGHT);
    let ear = Ear::listen(scene.broker.plain, "$aws/rules/#");
    let daemon = scene.setup.start();
    let mut strap = Strap::connect(scene.setup.mqtt, "strap");
    strap.beats(20);
    let link = || uplink(&scene.setup, "iot_core")["link"].clone();
    eventually("the first batches arrive", SOON, || ear.count() > 0);
    let certificate = link()["certificate"].clone();
    assert!(certificate["expires"].as_str().unwrap().starts_with("2090-12-31"), "{certificate}");
    assert!(certificate["days_left"].as_i64().unwrap() > 20_000);
    assert!(daemon.metric("fogbeat_uplink_certificate_expiry_timestamp_seconds").unwrap() > 3.8e9);

    Pki::new(&scene.root.path().join("other"), "other").issue("bad", "proof", &[], 2091).replace(&scene.pair);
    eventually("the bad one is refused", SOON, || link()["certificate"]["new_one_refused"].is_string());
    strap.beats(20);
    eventually("the old one serves", SOON, || uplink(&scene.setup, "iot_core")["queued_readings"] == 0);
    assert!(link()["certificate"]["expires"].as_str().unwrap().starts_with("2090"), "{}", link());

    scene.pki.issue("next", "proof", &[], 2092).replace(&scene.pair);
    eventually("the new one is in use", SOON, || {
        link()["certificate"]["expires"].as_str().is_some_and(|end| end.starts_with("2092"))
    });
    strap.beats(20);
    eventually("everything arrives", SOON, || uplink(&scene.setup, "iot_core")["queued_readings"] == 0);
    assert!(daemon.terminate(Duration::from_secs(20)).success());
    assert_eq!(account(&ear.heard()).0.readings.len(), 60);
}
