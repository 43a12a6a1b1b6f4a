//! The broker dies again and again while batches go out: Mosquitto, and a bigger fogbeat.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::broker::{Ear, Mosquitto, Rules};
use crate::levels::lines;
use crate::pki::Pki;
use crate::site::{Strap, account, eventually, same_readings, uplink};
use crate::support::daemon::{Daemon, Setup, binary};
use crate::support::env_number;
use crate::support::lake::Lake;

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

/// The listener of a bigger fogbeat, with mutual TLS: what it acknowledged is on its disk, so the account is made of
/// what it delivers in the end.
#[test]
fn nothing_is_lost_when_the_broker_is_a_fogbeat_that_is_killed() {
    let batches = env_number("FOGBEAT_IOT_BATCHES", 250);
    let kills = env_number("FOGBEAT_IOT_KILLS", 4);
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "hall", &["localhost"], 2090);
    let gateway = pki.issue("gateway", "proof", &[], 2090);
    let port = crate::support::daemon::free_port().port();

    let hall_root = root.path().join("hall");
    std::fs::create_dir_all(&hall_root).unwrap();
    let mut hall = Setup::new(&hall_root);
    hall.max_age = "50ms".into();
    hall.extra = format!(
        "[mqtt.listener.tls]\nbind = \"127.0.0.1:{port}\"\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
         require_client_certificate = true\n",
        server.certificate, server.key, pki.ca,
    );
    let start = || {
        let mut command = hall.command(&[]);
        command.env("FOGBEAT__MQTT__LISTENER__MEMBERS", "1GiB").env("FOGBEAT__GATEWAY__ID", "hall");
        let mut daemon = Daemon::spawn(command, &hall);
        daemon.wait_ready();
        daemon
    };
    let mut broker = start();
    // Who is let in on that port is who the certificate names, if it is known.
    let mut known = Command::new(binary());
    known.args(["device", "add", "proof", "--publish", "fogbeat/members/proof", "--config"]);
    let known = known.arg(&hall.config).output().unwrap();
    assert!(known.status.success(), "{}", String::from_utf8_lossy(&known.stderr));
    // A connection keeps the grants it came with: the hall has to know before the sender comes.
    broker.kill();
    broker = start();

    let mut setup = Setup::new(root.path());
    setup.max_age = "10ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"mqtt\"\nname = \"hall\"\nurl = \"mqtts://localhost:{port}\"\ntimeout = \"5s\"\n\
         certificate = {:?}\nkey = {:?}\nca = {:?}\n",
        gateway.certificate, gateway.key, pki.ca,
    );
    let daemon = setup.start();
    let mut strap = Strap::connect(setup.mqtt, "strap");
    let sent = || uplink(&setup, "hall")["delivered_batches"].as_u64().unwrap();
    let (mut beats, mut killed) = (0, 0);
    let started = Instant::now();
    loop {
        for _ in 0..10 {
            strap.beats(3);
            beats += 3;
        }
        let sent = sent();
        if killed == kills && sent >= batches {
            break;
        }
        if killed < kills && sent >= (killed + 1) * batches / (kills + 1) {
            killed += 1;
            broker.kill();
            strap.beats(5);
            beats += 5;
            broker = start();
        }
        assert!(started.elapsed() < Duration::from_secs(3600), "{sent} of {batches} batches");
    }
    drop(strap);
    eventually("everything is confirmed", Duration::from_secs(90), || {
        uplink(&setup, "hall")["queued_readings"] == 0
    });
    let link = uplink(&setup, "hall")["link"].clone();
    assert!(link["connections"].as_u64().unwrap() > kills, "{link}");
    let sent = sent();
    assert!(daemon.terminate(Duration::from_secs(20)).success(), "{}", setup.log_tail());
    eventually("the hall has delivered everything", Duration::from_secs(300), || {
        uplink(&hall, "directory")["queued_members"] == 0
    });
    let again = crate::site::status(&hall)["members"]["duplicates"].clone();
    assert!(broker.terminate(Duration::from_secs(20)).success(), "{}", hall.log_tail());

    let (lines, twice) = lines(&hall.lake);
    let mut lake = Lake::default();
    lines.iter().filter(|line| line["gateway"] == "proof").for_each(|line| lake.take(&line.to_string()));
    println!(
        "{sent} batches, {killed} kills, {beats} readings; {again} batches came again after the last kill, {twice} lines \
         stand twice in the hall's lake"
    );
    assert_eq!(lake.defects, Vec::<String>::new());
    assert_eq!(twice, 0, "a batch that comes again is recognised");
    assert_eq!(lake.readings.len(), beats, "each reading that was acknowledged, once");
    same_readings(&lake, &setup.lake);
}
