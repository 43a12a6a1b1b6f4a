//! The live lane: the newest reading of each device, seldom, soon, and never kept.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::broker::{Ear, Mosquitto, Rules};
use crate::pki::Pki;
use crate::site::{Strap, account, eventually, uplink};
use crate::support::daemon::Setup;

#[test]
fn newest_values_at_their_interval_beside_the_batches() {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "broker", &["localhost"], 2090);
    let gateway = pki.issue("gateway", "proof", &[], 2090);
    let mut broker = Mosquitto::start(root.path(), &pki, &server, &Rules { access: None });
    let live = Ear::listen(broker.plain, "fogbeat/live/#");
    let batches = Ear::listen_as(broker.plain, "$aws/rules/#", "batches");
    let mut setup = Setup::new(root.path());
    setup.max_age = "200ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"localhost\"\nport = {}\nrule = \"fogbeat\"\ntimeout = \"5s\"\n\
         certificate = {:?}\nkey = {:?}\nca = {:?}\n[uplink.live]\ninterval = \"1s\"\n",
        broker.tls.port(),
        gateway.certificate,
        gateway.key,
        pki.ca,
    );
    let daemon = setup.start();
    eventually("it connects without anything to deliver", Duration::from_secs(10), || {
        uplink(&setup, "iot_core")["link"]["connected"] == true
    });
    let mut straps = [Strap::connect(setup.mqtt, "anna"), Strap::connect(setup.mqtt, "bert")];
    let started = Instant::now();
    let mut beats = 0;
    while started.elapsed() < Duration::from_secs(5) {
        straps.iter_mut().for_each(Strap::beat);
        beats += 2;
        std::thread::sleep(Duration::from_millis(50));
    }
    let heard: Vec<Value> =
        live.heard().iter().map(|message| serde_json::from_slice(message).unwrap()).collect();
    for name in ["anna", "bert"] {
        let of: Vec<&Value> = heard.iter().filter(|message| message["device"] == name).collect();
        assert!((4..=6).contains(&of.len()), "{} messages about {name} in 5 s", of.len());
        assert!(of.iter().all(|message| message["gateway"] == "proof" && message["bpm"].is_u64()), "{of:?}");
        assert!(of.windows(2).all(|pair| pair[0]["time"].as_str() < pair[1]["time"].as_str()), "{of:?}");
    }
    assert!(live.heard().iter().all(|message| message.len() < 160), "small");

    let before = live.count();
    broker.kill();
    straps.iter_mut().for_each(|strap| strap.beats(50));
    beats += 100;
    std::thread::sleep(Duration::from_secs(3));
    broker.run();
    live.wait_connected();
    batches.wait_connected();
    eventually("the newest comes after an outage", Duration::from_secs(20), || live.count() >= before + 2);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(live.count(), before + 2, "one of each: nothing is kept");
    eventually("the batches arrive", Duration::from_secs(30), || {
        uplink(&setup, "iot_core")["queued_readings"] == 0
    });
    assert!(daemon.terminate(Duration::from_secs(20)).success());
    assert_eq!(account(&batches.heard()).0.readings.len(), beats);
}

/// A policy that forbids live values must not stop the batches.
#[test]
fn live_values_that_are_not_wanted_rest_and_batches_go_on() {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "broker", &["localhost"], 2090);
    let gateway = pki.issue("gateway", "proof", &[], 2090);
    let rules = Rules { access: Some("user proof\ntopic write $aws/rules/#\n") };
    let broker = Mosquitto::start(root.path(), &pki, &server, &rules);
    let batches = Ear::listen(broker.plain, "$aws/rules/#");
    let mut setup = Setup::new(root.path());
    setup.max_age = "50ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"localhost\"\nport = {}\nrule = \"fogbeat\"\ntimeout = \"5s\"\n\
         certificate = {:?}\nkey = {:?}\nca = {:?}\n[uplink.live]\ninterval = \"1s\"\n",
        broker.tls.port(),
        gateway.certificate,
        gateway.key,
        pki.ca,
    );
    let daemon = setup.start();
    let mut strap = Strap::connect(setup.mqtt, "anna");
    let started = Instant::now();
    let mut beats = 0;
    while started.elapsed() < Duration::from_secs(4) {
        strap.beat();
        beats += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    eventually("the batches arrive", Duration::from_secs(30), || {
        uplink(&setup, "iot_core")["queued_readings"] == 0
    });
    let link = uplink(&setup, "iot_core")["link"].clone();
    assert_eq!(link["live_messages"], 1, "{link}\n{}", setup.log_tail());
    assert!(daemon.terminate(Duration::from_secs(20)).success());
    let log = std::fs::read_to_string(&setup.log).unwrap();
    assert_eq!(log.matches("live values are not taken (NotAuthorized)").count(), 1, "{log}");
    assert_eq!(account(&batches.heard()).0.readings.len(), beats);
}

/// A gateway that delivers elsewhere, and uses the connection for live values and settings from afar alone.
#[test]
fn without_batches_the_connection_costs_what_is_beside_them_and_holds_nothing() {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "broker", &["localhost"], 2090);
    let gateway = pki.issue("gateway", "proof", &[], 2090);
    let mut broker = Mosquitto::start(root.path(), &pki, &server, &Rules { access: None });
    let everything = Ear::listen(broker.plain, "$aws/#");
    let live = Ear::listen_as(broker.plain, "fogbeat/live/#", "live");
    let mut setup = Setup::new(root.path());
    setup.max_age = "50ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nname = \"beside\"\nendpoint = \"localhost\"\nport = {}\nbatches = false\n\
         shadow = true\ntimeout = \"5s\"\ncertificate = {:?}\nkey = {:?}\nca = {:?}\n[uplink.live]\ninterval = \"1s\"\n",
        broker.tls.port(),
        gateway.certificate,
        gateway.key,
        pki.ca,
    );
    broker.kill();
    let daemon = setup.start();
    let beside = || uplink(&setup, "beside");
    eventually("that there is no broker is told", Duration::from_secs(20), || {
        beside()["failure"]["cause"] == "connection"
    });
    assert_eq!(
        beside()["failure"]["remedy"].as_str().map(|text| text.contains("[[uplink]].endpoint")),
        Some(true)
    );
    broker.run();
    everything.wait_connected();
    live.wait_connected();
    daemon.signal(rustix::process::Signal::HUP);
    eventually("it connects", Duration::from_secs(20), || beside()["link"]["connected"] == true);
    eventually("nothing is wrong any more", Duration::from_secs(10), || beside()["failure"].is_null());

    // The counter is taken over every ten seconds: by then the shadow has been asked for.
    std::thread::sleep(Duration::from_secs(12));
    let before = beside()["link"]["wire_sent_bytes"].as_u64().unwrap();
    let mut strap = Strap::connect(setup.mqtt, "anna");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        strap.beat();
        std::thread::sleep(Duration::from_millis(50));
    }
    eventually("the last value is out", Duration::from_secs(5), || live.count() >= 5);
    eventually("the wire is counted", Duration::from_secs(15), || {
        beside()["link"]["wire_sent_bytes"].as_u64().unwrap() > before + 500
    });
    let (messages, after) = (live.count() as u64, beside()["link"]["wire_sent_bytes"].as_u64().unwrap());
    println!("{messages} live values, {} bytes each on the wire with TLS", (after - before) / messages);
    assert!((after - before) / messages < 250, "small");

    let state = beside();
    assert_eq!((&state["queued_readings"], &state["delivered_batches"]), (&0.into(), &0.into()));
    let topics = everything.heard();
    assert!(topics.iter().all(|payload| !payload.starts_with(&[0x1f, 0x8b])), "a batch went this way");
    let accounts = crate::site::status(&setup)["accounts"]["uplinks"].as_array().unwrap().len();
    assert_eq!(accounts, 1, "only the directory has a place in the journal");
    assert!(daemon.terminate(Duration::from_secs(20)).success(), "{}", setup.log_tail());
}
