//! The broker dies again and again while batches go out.

use std::time::{Duration, Instant};

use crate::broker::{Ear, Mosquitto, Rules};
use crate::pki::Pki;
use crate::site::{Strap, account, eventually, same_readings, uplink};
use crate::support::daemon::Setup;
use crate::support::env_number;

fn outlives(version: &str) {
    let batches = env_number("FOGBEAT_IOT_BATCHES", 250) as usize;
    let kills = env_number("FOGBEAT_IOT_KILLS", 4);
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "broker", &["localhost"], 2090);
    let gateway = pki.issue("gateway", "proof", &[], 2090);
    let mut broker = Mosquitto::start(root.path(), &pki, &server, &Rules { access: None });
    let ear = Ear::listen(broker.plain, "$aws/rules/#");
    let mut setup = Setup::new(root.path());
    setup.max_age = "10ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"localhost\"\nport = {}\nrule = \"fogbeat\"\nversion = \"{version}\"\n\
         certificate = {:?}\nkey = {:?}\nca = {:?}\ntimeout = \"5s\"\n",
        broker.tls.port(),
        gateway.certificate,
        gateway.key,
        pki.ca
    );
    let daemon = setup.start();
    let mut strap = Strap::connect(setup.mqtt, "strap");
    let mut beats = 0;
    let mut killed = 0;
    let started = Instant::now();
    while ear.count() < batches || killed < kills {
        strap.beats(3);
        beats += 3;
        // Evenly over the run, and always with batches under way.
        if killed < kills && ear.count() >= (killed as usize + 1) * batches / (kills as usize + 1) {
            killed += 1;
            broker.kill();
            strap.beats(5);
            beats += 5;
            broker.run();
            ear.wait_connected();
        }
        assert!(started.elapsed() < Duration::from_secs(3600), "{} of {batches} batches", ear.count());
    }
    drop(strap);
    eventually("everything is confirmed", Duration::from_secs(90), || {
        uplink(&setup, "iot_core")["queued_readings"] == 0
    });
    let link = uplink(&setup, "iot_core")["link"].clone();
    assert!(link["connections"].as_u64().unwrap() > kills, "{link}");
    assert!(daemon.terminate(Duration::from_secs(20)).success(), "{}", setup.log_tail());
    let members = ear.heard();
    let (lake, again) = account(&members);
    println!("{} batches, {killed} kills, {again} batches twice, {beats} readings", members.len());
    assert_eq!(lake.readings.len(), beats, "each reading that was acknowledged, once");
    same_readings(&lake, &setup.lake);
}

#[test]
fn nothing_is_lost_when_the_broker_is_killed_version_5() {
    outlives("5");
}

#[test]
fn nothing_is_lost_when_the_broker_is_killed_version_3() {
    outlives("3.1.1");
}
