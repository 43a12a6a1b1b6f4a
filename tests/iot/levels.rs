//! A site of two levels: three gateways hand their batches to a bigger one, which is killed again and again.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::site::{Strap, eventually, status, uplink};
use crate::support::daemon::Setup;
use crate::support::env_number;
use crate::support::lake::Lake;

const SOON: Duration = Duration::from_secs(60);

/// Every line of a lake, by the gateway it is of; an id that stands there twice is told.
pub fn lines(lake: &Path) -> (Vec<Value>, usize) {
    use std::io::Read as _;
    let (mut lines, mut ids, mut twice) = (Vec::new(), BTreeSet::new(), 0);
    let mut directories = vec![lake.join("readings")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "gz") {
                // Cut off by a kill: not delivered.
                continue;
            }
            let mut text = String::new();
            let file = std::fs::File::open(&path).unwrap();
            flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
            for line in text.lines() {
                let value: Value = serde_json::from_str(line).unwrap();
                twice += usize::from(!ids.insert(format!("{} {}", value["type"], value["id"])));
                lines.push(value);
            }
        }
    }
    (lines, twice)
}

#[test]
fn three_gateways_and_an_aggregator_that_is_killed() {
    let kills = env_number("FOGBEAT_IOT_KILLS", 4);
    let root = tempfile::tempdir().unwrap();
    let hall = root.path().join("hall");
    std::fs::create_dir_all(&hall).unwrap();
    let mut aggregator = Setup::new(&hall);
    aggregator.max_age = "50ms".into();
    let start = |setup: &Setup| {
        let mut command = setup.command(&[]);
        command.env("FOGBEAT__MQTT__LISTENER__MEMBERS", "64MiB").env("FOGBEAT__GATEWAY__ID", "hall");
        let mut daemon = crate::support::daemon::Daemon::spawn(command, setup);
        daemon.wait_ready();
        daemon
    };
    let mut big = start(&aggregator);
    let mut small = Vec::new();
    for (n, version) in ["5", "3.1.1", "5"].into_iter().enumerate() {
        let dir = root.path().join(format!("small-{n}"));
        std::fs::create_dir_all(&dir).unwrap();
        let mut setup = Setup::new(&dir);
        setup.max_age = "20ms".into();
        setup.extra = format!(
            "[[uplink]]\nkind = \"mqtt\"\nname = \"hall\"\nurl = \"mqtt://{}\"\nversion = \"{version}\"\ntimeout = \"3s\"\n",
            aggregator.mqtt
        );
        let mut command = setup.command(&[]);
        command.env("FOGBEAT__GATEWAY__ID", format!("small-{n}"));
        let mut daemon = crate::support::daemon::Daemon::spawn(command, &setup);
        daemon.wait_ready();
        let strap = Strap::connect(setup.mqtt, &format!("strap-{n}"));
        small.push((setup, daemon, strap));
    }
    let mut killed = 0;
    let mut beats = 0;
    let mut own = Strap::connect(aggregator.mqtt, "hall-strap");
    let mut own_beats = 0;
    let started = Instant::now();
    let mut next_kill = Duration::from_secs(1);
    while killed < kills || started.elapsed() < next_kill {
        for (_, _, strap) in &mut small {
            strap.beats(4);
        }
        beats += 4;
        own.beats(2);
        own_beats += 2;
        if started.elapsed() >= next_kill && killed < kills {
            killed += 1;
            big.kill();
            for (_, _, strap) in &mut small {
                strap.beats(10);
            }
            beats += 10;
            big = start(&aggregator);
            own = Strap::connect(aggregator.mqtt, &format!("hall-strap-{killed}"));
            next_kill = started.elapsed() + Duration::from_millis(1500);
        }
    }
    for (setup, _, _) in &small {
        eventually("the small ones are rid of everything", SOON, || {
            let state = uplink(setup, "hall");
            if !state["failure"].is_null() {
                println!("{state}");
                std::thread::sleep(Duration::from_secs(3));
            }
            state["queued_readings"] == 0
        });
    }
    eventually("the big one has delivered everything", SOON, || {
        let uplink = uplink(&aggregator, "directory");
        uplink["queued_members"] == 0 && uplink["queued_readings"] == 0
    });
    let members = status(&aggregator)["members"].clone();
    println!("{killed} kills, {beats} readings of each of three, at the aggregator: {members}");
    let mut spools = BTreeSet::new();
    for (setup, daemon, strap) in small {
        drop(strap);
        assert!(daemon.terminate(Duration::from_secs(20)).success(), "{}", setup.log_tail());
        spools.extend(Lake::read(&setup.lake).spools);
    }
    eventually("what they sent at their end is delivered", SOON, || {
        uplink(&aggregator, "directory")["queued_members"] == 0
    });
    drop(own);
    assert!(big.terminate(Duration::from_secs(20)).success(), "{}", aggregator.log_tail());
    let (lines, twice) = lines(&aggregator.lake);
    assert_eq!(twice, 0, "an id was delivered twice");
    let readings = |gateway: &str| {
        let of = |line: &&Value| line["gateway"] == gateway && line["type"].is_null();
        lines.iter().filter(of).count()
    };
    for n in 0..3 {
        assert_eq!(readings(&format!("small-{n}")), beats, "small-{n}");
    }
    assert_eq!(readings("hall"), own_beats);
    let relayed = |line: &&Value| line["gateway"] != "hall";
    let kept: BTreeSet<String> = lines
        .iter()
        .filter(relayed)
        .map(|line| line["id"].as_str().unwrap().split('-').next().unwrap().to_owned())
        .collect();
    assert_eq!(kept, spools, "the ids are the senders'");
}
