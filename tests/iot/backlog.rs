//! A week's backlog drained by AWS IoT Core's quotas, live values beside it, and what it costs.

use std::time::{Duration, Instant};

use crate::broker::{Ear, Mosquitto, Rules};
use crate::firehose;
use crate::front::{self, Front};
use crate::pki::Pki;
use crate::proxy::{Kind, LOGIN, Proxy};
use crate::site::{Strap, account, eventually, uplink};
use crate::support::blast::{Blast, Until};
use crate::support::daemon::{Daemon, Setup, optimised};
use crate::support::straps::Straps;
use crate::support::{env_number, wall_ms};

/// AWS IoT Core's quota of one connection, bytes a second.
const QUOTA: f64 = 512.0 * 1024.0;

struct Scene {
    setup: Setup,
    broker: Mosquitto,
    _root: tempfile::TempDir,
}

fn scene() -> Scene {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "broker", &["localhost"], 2090);
    let gateway = pki.issue("gateway", "proof", &[], 2090);
    let broker = Mosquitto::start(root.path(), &pki, &server, &Rules { access: None });
    let mut setup = Setup::new(root.path());
    setup.max_age = "60s".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"localhost\"\nport = {}\nrule = \"fogbeat\"\ntimeout = \"10s\"\n\
         certificate = {:?}\nkey = {:?}\nca = {:?}\n[uplink.live]\ninterval = \"1s\"\n",
        broker.tls.port(),
        gateway.certificate,
        gateway.key,
        pki.ca,
    );
    Scene { setup, broker, _root: root }
}

/// List prices of `us-east-1`: what so many bytes of records of these sizes cost, per million readings: by Firehose
/// alone, and by Basic Ingest into it. Both count each record in steps of 5 KB.
fn dollars(sizes: &[usize], readings: f64) -> (f64, f64) {
    let steps = sizes.iter().map(|size| size.div_ceil(5 * 1024)).sum::<usize>() as f64;
    let firehose = steps * 5.0 * 1024.0 / f64::from(1 << 30) * 0.029;
    let rule = steps * (0.15 + 0.15) / 1e6;
    (firehose * 1e6 / readings, (firehose + rule) * 1e6 / readings)
}

#[test]
fn a_backlog_is_drained_by_the_services_quotas_and_live_values_are_not_late() {
    let readings = env_number("FOGBEAT_BACKLOG", 400_000);
    let mut scene = scene();
    scene.broker.kill();
    let daemon = scene.setup.start();
    // A week ago, as the straps' own stamps say.
    let mut blast = Blast::connect(scene.setup.mqtt, "strap", 40, 200, wall_ms() - 7 * 86_400_000).unwrap();
    let stats = blast.run(Until::Acked(readings)).unwrap();
    blast.settle(Duration::from_secs(60)).unwrap();
    drop(blast);
    eventually("the directory has its copy", Duration::from_secs(900), || {
        uplink(&scene.setup, "directory")["queued_readings"].as_u64().is_some_and(|queued| queued < 50_000)
    });
    let queued = uplink(&scene.setup, "iot_core")["queued_readings"].as_u64().unwrap();
    println!("{queued} readings wait, taken in at {:.0} a second", stats.rate());
    scene.broker.run();
    let ear = Ear::listen(scene.broker.plain, "$aws/rules/#");
    let live = Ear::listen_as(scene.broker.plain, "fogbeat/live/#", "live");
    daemon.signal(rustix::process::Signal::HUP);
    eventually("the drain begins", Duration::from_secs(60), || ear.count() > 0);
    let started = Instant::now();
    let mut strap = Strap::connect(scene.setup.mqtt, "live-strap");
    let mut late = Vec::new();
    let mut heard = live.timed().len();
    // What is left in the end is less than a batch, and waits for its age.
    let drained = || {
        let state = uplink(&scene.setup, "iot_core");
        state["state"] == "idle" && state["queued_readings"].as_u64().unwrap() < 30_000
    };
    while !drained() {
        strap.stamp_ms = wall_ms() - 1;
        strap.beat();
        std::thread::sleep(Duration::from_millis(500));
        for (at, message) in live.timed().iter().skip(heard) {
            let message: serde_json::Value = serde_json::from_slice(message).unwrap();
            if message["device"] == "live-strap" {
                let time = time::OffsetDateTime::parse(
                    message["time"].as_str().unwrap(),
                    &time::format_description::well_known::Rfc3339,
                )
                .unwrap();
                late.push(*at as f64 / 1000.0 - time.unix_timestamp_nanos() as f64 / 1e9);
            }
            heard += 1;
        }
        assert!(started.elapsed() < Duration::from_secs(7200), "not drained");
    }
    let took = started.elapsed().as_secs_f64();
    let members = ear.timed();
    let sizes: Vec<usize> = members.iter().map(|(_, member)| member.len()).collect();
    let bytes: usize = sizes.iter().sum();
    let least = bytes as f64 / QUOTA;
    late.sort_by(f64::total_cmp);
    let worst = late.last().copied().unwrap_or(f64::MAX);
    let sent = uplink(&scene.setup, "iot_core")["link"]["wire_sent_bytes"].as_u64().unwrap();
    println!(
        "{} members of {bytes} bytes in {took:.1} s, {:.3} of the least that 512 KiB/s allow; live values {} times, at \
         worst {worst:.2} s; {:.2} bytes a reading on the wire with TLS; a week of 40 straps (24 million) would take \
         {:.0} s",
        sizes.len(),
        took / least,
        late.len(),
        sent as f64 / queued as f64,
        took * 24e6 / queued as f64,
    );
    // The first members came before the clock started, and the last ones are confirmed after it stopped.
    // What an unoptimised binary packs, on a machine that has other work, is not the product's speed.
    if optimised() {
        assert!(took <= least * 1.1 + 3.0, "{took:.1} s, {least:.1} s would do");
    }
    assert!(late.len() >= 3 && worst < 2.0, "{} live values, {worst:.2} s late at worst", late.len());
    for window in [1_000u64, 10_000] {
        for (n, (from, _)) in members.iter().enumerate() {
            let inside = members[n..].iter().take_while(|(at, _)| *at < from + window);
            let (count, sum) =
                inside.fold((0u64, 0), |(count, sum), (_, member)| (count + 1, sum + member.len()));
            let allowed = QUOTA * window as f64 / 1000.0;
            // What was saved up, one member beyond it, and what the ear heard late.
            assert!(sum as f64 <= allowed + 3.0 * 128.0 * 1024.0, "{sum} bytes within {window} ms");
            assert!(count <= window / 10 + 10, "{count} publishes within {window} ms");
        }
    }
    assert!(daemon.terminate(Duration::from_secs(60)).success(), "{}", scene.setup.log_tail());
}

/// Forty recorded hearts at 200 times their speed; how many readings were acknowledged.
fn wear(setup: &Setup) -> u64 {
    let mut straps = Straps::connect(setup.mqtt, 40, wall_ms() - 4 * 3_600_000);
    straps.wear(200.0, Duration::from_secs(20), 0, |_| {});
    straps.acked
}

/// What they cost in these members: printed, and held against what is promised.
fn judge(way: &str, members: &[Vec<u8>], readings: u64, wire: u64) {
    assert_eq!(account(members).0.readings.len() as u64, readings);
    let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
    let of_each = |bytes: u64| bytes as f64 / readings as f64;
    let (firehose, ingest) = dollars(&sizes, readings as f64);
    println!(
        "{way}: {readings} readings of 40 recorded hearts in {} members: {:.2} bytes a reading, {:.2} on the wire with \
         TLS; per million readings ${firehose:.5} by Firehose, ${ingest:.5} by Basic Ingest",
        sizes.len(),
        of_each(sizes.iter().sum::<usize>() as u64),
        of_each(wire),
    );
    assert!(readings > 50_000, "{readings}");
    assert!(firehose <= 0.0005 && ingest <= 0.0015);
}

#[test]
fn recorded_hearts_cost_what_is_promised() {
    let scene = scene();
    let ear = Ear::listen(scene.broker.plain, "$aws/rules/#");
    let daemon = scene.setup.start();
    let readings = wear(&scene.setup);
    eventually("everything arrives", Duration::from_secs(300), || {
        uplink(&scene.setup, "iot_core")["queued_readings"] == 0
    });
    // The counter is taken over every ten seconds.
    std::thread::sleep(Duration::from_secs(11));
    let wire = uplink(&scene.setup, "iot_core")["link"]["wire_sent_bytes"].as_u64().unwrap();
    assert!(daemon.terminate(Duration::from_secs(60)).success());
    judge("MQTT", &ear.heard(), readings, wire);
}

#[test]
fn recorded_hearts_by_firehose_cost_what_is_promised() {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "firehose", &["far.test"], 2090);
    let service = front::runtime().block_on(firehose::Server::start([]));
    let front = Front::start(&pki, &server, false, None, service.address);
    // It counts what passes, which is all there is between the gateway and TLS on the other side.
    let proxy = Proxy::start(Kind::Socks5);
    let secret = root.path().join("secret");
    std::fs::write(&secret, LOGIN).unwrap();
    let mut setup = Setup::new(root.path());
    setup.max_age = "60s".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"firehose\"\nstream = \"heart-rate\"\nregion = \"eu-west-1\"\n\
         endpoint_url = \"https://far.test:{}\"\nca = {:?}\nproxy = \"{}\"\nproxy_credentials_file = {secret:?}\n",
        front.address.port(),
        pki.ca,
        proxy.url(Kind::Socks5),
    );
    let mut command = setup.command(&[]);
    command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    let mut daemon = Daemon::spawn(command, &setup);
    daemon.wait_ready();
    let readings = wear(&setup);
    eventually("everything arrives", Duration::from_secs(300), || {
        uplink(&setup, "firehose")["queued_readings"] == 0
    });
    assert!(daemon.terminate(Duration::from_secs(60)).success());
    let wire = proxy.sent.load(std::sync::atomic::Ordering::Relaxed);
    judge("Firehose", &service.seen.lock().unwrap().stored, readings, wire);
}
