//! The core in a simulated gym, in compressed time.

use std::sync::Arc;
use std::time::Duration;

use super::super::ladder::Step;
use super::super::radio::Address;
use super::super::roster::{Key, Listed};
use super::super::session::Standing;
use super::sim::{Sim, Strap, hci, strap};
use super::{Call, Input, Note, Settings};
use crate::reading::{Reason, Source};

const ALL: Settings = Settings { broadcast: true, connect: true, slots: 20, restart_stack: false };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn listed(strap: &Strap, alias: &str, priority: u8) -> Listed {
    Listed { key: Key::Address(strap.address), alias: Some(alias.into()), priority, pair: false }
}

fn aliases(straps: &[Strap]) -> Vec<Listed> {
    straps.iter().enumerate().map(|(n, strap)| listed(strap, &format!("bike-{n}"), 1)).collect()
}

fn gym(straps: Vec<Strap>, settings: Settings, capacity: usize) -> Sim {
    let mut sim = Sim::new(settings, aliases(&straps), false, straps);
    sim.plug(0, capacity);
    sim
}

#[test]
fn twelve_straps_are_connected_and_nothing_they_send_is_lost_or_doubled() {
    let mut sim = gym((0..12).map(strap).collect(), ALL, 12);
    sim.run(seconds(600));
    for n in 0..12 {
        assert!(sim.linked(n), "{n}");
        assert_eq!(sim.readings_of(&format!("bike-{n}")) as u64, sim.straps[n].sent, "{n}");
    }
    assert!(sim.readings.iter().all(|(_, reading)| reading.source == Source::Gatt));
    assert!(sim.readings.iter().all(|(_, reading)| reading.gap_ms.is_none()), "nothing went unheard");
    let beats: usize = sim.readings_for("bike-0").map(|reading| reading.rr.values.len()).sum();
    assert_eq!(beats as u64, sim.straps[0].sent, "a heart of 60 bpm");
    let battery = sim.readings.iter().filter(|(_, reading)| reading.battery_percent == Some(77)).count();
    assert!((12..=24).contains(&battery), "told when it is read, not with every reading: {battery}");
}

#[test]
fn nothing_is_scanned_while_a_connect_begins() {
    let mut sim = gym(vec![strap(0)], ALL, 5);
    sim.run(seconds(60));
    let scans_and_connects: Vec<_> =
        sim.calls.iter().filter(|call| matches!(call, Call::Scan(..) | Call::Connect(..))).collect();
    assert!(
        matches!(
            scans_and_connects[..],
            [Call::Scan(_, true), Call::Connect(..), Call::Scan(_, false), Call::Scan(_, true)]
        ),
        "{scans_and_connects:?}"
    );
    assert!(sim.notes.iter().all(|note| !matches!(note, Note::Step(..))), "that is no step of the ladder");
}

#[test]
fn a_strap_that_drops_vanishes_or_falls_silent_is_back_soon() {
    for fault in ["drops", "vanishes", "mutes"] {
        let mut sim = gym(vec![strap(0)], ALL, 5);
        sim.run(seconds(60));
        match fault {
            "drops" => sim.lose(0, true),
            "vanishes" => {
                sim.straps[0].on_air = false;
                sim.lose(0, false);
                sim.run(seconds(20));
                sim.straps[0].on_air = true;
            }
            _ => {
                sim.straps[0].mute = true;
                sim.run(seconds(12));
                sim.straps[0].mute = false;
            }
        }
        let before = sim.readings.len();
        sim.run(seconds(15));
        assert!(sim.readings.len() > before + 3, "{fault}: {} readings", sim.readings.len() - before);
        assert_eq!(sim.readings.len() as u64, sim.straps[0].sent, "{fault}");
        let gaps: Vec<_> = sim.readings[1..].iter().filter_map(|(_, reading)| reading.gap_ms).collect();
        let pause = sim.longest_pause("bike-0");
        assert_eq!(gaps, [pause], "{fault}: the first reading after it tells of the gap, and no other");
    }
}

#[test]
fn a_strap_that_another_app_holds_is_told_of_once() {
    let mut sim = gym(vec![strap(0)], ALL, 5);
    sim.straps[0].mute = true;
    sim.run(seconds(600));
    assert_eq!(sim.notes.iter().filter(|note| **note == Note::Silent("bike-0".into())).count(), 1);
}

#[test]
fn slots_go_round_and_those_without_are_heard_by_broadcast() {
    let straps: Vec<Strap> = (0..12).map(|n| Strap { broadcasts: true, ..strap(n) }).collect();
    let mut sim = gym(straps, Settings { slots: 5, ..ALL }, 5);
    let mut had = [false; 12];
    for _ in 0..3600 {
        sim.run(seconds(1));
        assert!(sim.links.len() <= 5);
        for (n, had) in had.iter_mut().enumerate() {
            *had |= sim.linked(n);
        }
    }
    assert!(had.iter().all(|had| *had), "everybody has had a turn within the hour: {had:?}");
    for n in 0..12 {
        let readings = sim.readings_of(&format!("bike-{n}"));
        assert!(readings > 3400, "no strap goes unheard while it waits: bike-{n} {readings}");
        assert!(readings <= 3700, "one heart is one stream: bike-{n} {readings}");
    }
}

#[test]
fn a_controller_with_less_room_than_thought_is_found_out() {
    let mut sim = gym((0..8).map(strap).collect(), Settings { slots: 8, ..ALL }, 3);
    sim.run(seconds(300));
    assert_eq!(sim.links.len(), 3);
    let view = sim.core.view(sim.now, Default::default());
    assert_eq!(view.adapters[0].slots, 3);
}

#[test]
fn the_important_ones_come_first() {
    let straps: Vec<Strap> = (0..6).map(strap).collect();
    let mut listed = aliases(&straps);
    for entry in listed.iter_mut().take(4) {
        entry.priority = 2;
    }
    let mut sim = Sim::new(Settings { slots: 2, ..ALL }, listed, false, straps);
    sim.plug(0, 2);
    sim.run(seconds(1800));
    assert!(sim.linked(4) && sim.linked(5));
}

#[test]
fn the_stack_dies_and_comes_back() {
    let mut sim = gym((0..3).map(strap).collect(), ALL, 5);
    sim.run(seconds(30));
    sim.kill_stack();
    sim.run(seconds(10));
    assert!(sim.links.is_empty());
    sim.start_stack();
    let before = sim.readings.len();
    sim.run(seconds(15));
    assert!((0..3).all(|n| sim.linked(n)));
    assert!(sim.readings.len() > before + 10);
}

#[test]
fn an_adapter_that_is_switched_off_stays_off_and_one_that_comes_back_is_taken() {
    let mut sim = gym((0..3).map(strap).collect(), ALL, 5);
    sim.run(seconds(30));
    sim.switch(0, false);
    sim.run(seconds(3600));
    assert!(!sim.calls.iter().any(|call| matches!(call, Call::Power(..))));
    sim.switch(0, true);
    sim.run(seconds(15));
    assert!((0..3).all(|n| sim.linked(n)));
    sim.unplug(0);
    sim.run(seconds(60));
    sim.plug(0, 5);
    sim.run(seconds(15));
    assert!((0..3).all(|n| sim.linked(n)));
}

#[test]
fn the_ladder_is_climbed_step_by_step_until_something_helps() {
    for (cure, last) in [
        (Call::Scan(hci(0), false), Step::RestartScan),
        (Call::Rebuild, Step::RebuildSession),
        (Call::Power(hci(0), false), Step::PowerCycle),
    ] {
        // Broadcast only: a connection would be heard.
        let straps = vec![Strap { broadcasts: true, service: false, ..strap(0) }];
        let mut sim = gym(straps, ALL, 5);
        sim.run(seconds(30));
        sim.deafen(0, cure);
        sim.run(seconds(300));
        let steps: Vec<Step> = sim
            .notes
            .iter()
            .filter_map(|note| if let Note::Step(_, step, _) = note { Some(*step) } else { None })
            .collect();
        let expected: Vec<Step> = Step::ALL.into_iter().take_while(|step| *step <= last).collect();
        assert_eq!(steps, expected);
        assert!(sim.notes.contains(&Note::Recovered(hci(0), last)), "{:?}", sim.notes);
    }
    let straps = vec![Strap { broadcasts: true, service: false, ..strap(0) }];
    let mut sim = gym(straps, ALL, 5);
    sim.run(seconds(30));
    sim.straps[0].on_air = false;
    sim.run(seconds(2000));
    assert!(sim.notes.contains(&Note::Step(hci(0), Step::ReportStuck, true)));
}

#[test]
fn a_scan_that_dies_alone_is_started_anew() {
    let straps = vec![strap(0), Strap { broadcasts: true, service: false, ..strap(1) }];
    let mut sim = gym(straps, ALL, 5);
    sim.run(seconds(30));
    assert!(sim.linked(0));
    sim.deafen(0, Call::Scan(hci(0), false));
    let before = sim.readings_of("bike-1");
    sim.run(seconds(310));
    assert!(sim.readings_of("bike-1") >= before + 5);
    assert_eq!(sim.core.view(sim.now, sim.stamp()).adapters[0].steps["restart_scan"], 1);
    assert!(
        sim.calls.iter().all(|call| !matches!(call, Call::Rebuild | Call::Power(..))),
        "the links are sound"
    );
    assert_eq!(sim.longest_pause("bike-0"), 1000);
}

#[test]
fn an_adapter_that_cannot_listen_is_switched_off_and_on_although_its_links_live() {
    let mut sim = gym(vec![strap(0), strap(1)], ALL, 5);
    sim.run(seconds(30));
    sim.jam(0);
    sim.straps[1].on_air = false;
    sim.lose(1, true);
    sim.run(seconds(10));
    sim.straps[1].on_air = true;
    sim.run(seconds(240));
    assert!(sim.linked(0) && !sim.linked(1));
    sim.run(seconds(170));
    assert!(sim.linked(0) && sim.linked(1), "{:?}", sim.notes);
    assert!(sim.notes.contains(&Note::Step(hci(0), Step::PowerCycle, true)), "{:?}", sim.notes);
    assert!(sim.notes.contains(&Note::Recovered(hci(0), Step::PowerCycle)), "{:?}", sim.notes);
}

#[test]
fn an_address_that_changes_is_the_same_device() {
    let rotating = |last: u8| Strap {
        address: Address([0x5A, 1, 2, 3, 4, last]),
        random: true,
        serial: Some("SN-0042"),
        ..strap(0)
    };
    let mut sim = Sim::new(ALL, Vec::new(), true, vec![rotating(1)]);
    sim.plug(0, 5);
    sim.run(seconds(60));
    sim.straps[0].on_air = false;
    sim.lose(0, true);
    sim.straps.push(rotating(2));
    sim.run(seconds(60));
    let names: std::collections::BTreeSet<_> = sim.readings.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.into_iter().collect::<Vec<Arc<str>>>(), ["SN-0042".into()]);
    assert_eq!(sim.readings.len() as u64, sim.straps.iter().map(|strap| strap.sent).sum::<u64>());
}

#[test]
fn a_listed_name_goes_over_to_a_new_address_that_was_heard_only_once() {
    let named =
        |last: u8| Strap { name: Some("HRM"), address: Address([0xC0, 1, 2, 3, 4, last]), ..strap(0) };
    let key = Key::Name("HRM".into());
    let listed = Listed { key, alias: Some("bike-7".into()), priority: 1, pair: false };
    let mut sim = Sim::new(ALL, vec![listed], false, vec![named(1)]);
    sim.plug(0, 5);
    sim.run(seconds(60));
    sim.straps[0].on_air = false;
    sim.lose(0, true);
    sim.straps.push(named(2));
    sim.run(seconds(1));
    // The controller has reported it, and does so no more in this round of the scan.
    sim.straps[1].rssi.clear();
    sim.run(seconds(14));
    assert!(sim.straps[1].sent > 3, "{} notifications", sim.straps[1].sent);
    assert_eq!(sim.readings_of("bike-7") as u64, sim.straps.iter().map(|strap| strap.sent).sum::<u64>());
}

#[test]
fn two_adapters_that_hear_one_strap_make_one_stream() {
    let both = Strap { broadcasts: true, rssi: [(0, -70), (1, -60)].into(), ..strap(0) };
    let mut sim = Sim::new(ALL, aliases(std::slice::from_ref(&both)), false, vec![both]);
    sim.plug(0, 5);
    sim.plug(1, 5);
    sim.run(seconds(300));
    assert!(sim.links.iter().all(|link| link.adapter == hci(1)), "the one that hears it better");
    assert_eq!(sim.links.len(), 1);
    let readings = sim.readings_of("bike-0");
    assert!((285..=305).contains(&readings), "{readings}");
}

#[test]
fn a_strap_that_walks_over_to_another_adapter_is_handed_over_once() {
    let walker = Strap { two_links: true, rssi: [(0, -60), (1, -80)].into(), ..strap(0) };
    let mut sim = Sim::new(ALL, aliases(std::slice::from_ref(&walker)), false, vec![walker]);
    sim.plug(0, 5);
    sim.plug(1, 5);
    sim.run(seconds(60));
    assert!(sim.links.iter().all(|link| link.adapter == hci(0)) && sim.linked(0));
    sim.straps[0].rssi = [(0, -68), (1, -62)].into();
    sim.run(seconds(120));
    assert!(sim.links.iter().all(|link| link.adapter == hci(0)), "6 dB are no reason to go");
    sim.straps[0].rssi = [(0, -85), (1, -55)].into();
    sim.run(seconds(300));
    assert!(sim.links.iter().all(|link| link.adapter == hci(1)) && sim.linked(0));
    let connects = sim.calls.iter().filter(|call| matches!(call, Call::Connect(..))).count();
    assert_eq!(connects, 2, "there, and no more to and fro");
    assert_eq!(sim.readings.len() as u64, sim.straps[0].sent, "nothing is lost or doubled");
    assert!(sim.longest_pause("bike-0") < 5_000, "{} ms", sim.longest_pause("bike-0"));
}

#[test]
fn a_deaf_adapter_does_not_cost_another_its_connections() {
    let straps =
        vec![Strap { rssi: [(0, -60)].into(), ..strap(0) }, Strap { rssi: [(1, -60)].into(), ..strap(1) }];
    let mut sim = Sim::new(Settings { restart_stack: true, ..ALL }, aliases(&straps), false, straps);
    sim.plug(0, 5);
    sim.plug(1, 5);
    sim.run(seconds(30));
    sim.straps[1].on_air = false;
    sim.lose(1, true);
    sim.run(seconds(1500));
    assert!(sim.notes.contains(&Note::Step(hci(1), Step::ReportStuck, true)), "{:?}", sim.notes);
    let taken = |wanted: fn(&Call) -> bool| sim.calls.iter().filter(|call| wanted(call)).count();
    assert_eq!(taken(|call| matches!(call, Call::Rebuild | Call::RestartStack)), 0, "hci0 hears");
    assert!(taken(|call| matches!(call, Call::Power(id, _) if *id == hci(1))) > 0);
    assert_eq!(sim.longest_pause("bike-0"), 1000);
}

#[test]
fn whoever_is_listed_and_not_heard_is_shown_as_absent() {
    let straps = vec![strap(0), Strap { on_air: false, ..strap(1) }];
    let mut sim = gym(straps, ALL, 5);
    sim.run(seconds(30));
    let states = |sim: &Sim| -> Vec<_> {
        let view = sim.core.view(sim.now, sim.stamp());
        view.wearables.into_iter().map(|shown| (shown.device.unwrap(), shown.state)).collect()
    };
    assert_eq!(states(&sim), [("bike-0".into(), Standing::Live), ("bike-1".into(), Standing::Absent)]);
    sim.straps[0].on_air = false;
    sim.lose(0, true);
    sim.run(seconds(40 * 60));
    assert_eq!(states(&sim), [("bike-0".into(), Standing::Absent), ("bike-1".into(), Standing::Absent)]);
    let shown = sim.core.view(sim.now, sim.stamp()).wearables.swap_remove(0);
    assert!(shown.silent_s.unwrap() >= 39 * 60 && shown.counts.readings > 20, "{shown:?}");
}

#[test]
fn an_alias_counts_at_once_also_for_a_strap_that_is_connected() {
    let mut sim = Sim::new(ALL, Vec::new(), true, vec![strap(0)]);
    sim.plug(0, 5);
    sim.run(seconds(20));
    assert!(sim.linked(0));
    let entry = aliases(&sim.straps).remove(0);
    sim.take(Input::Allow(entry));
    sim.readings.clear();
    sim.run(seconds(10));
    assert!(sim.readings.len() >= 9 && sim.readings.iter().all(|(name, _)| **name == *"bike-0"));
    assert_eq!(sim.links.len(), 1);
}

#[test]
fn a_serial_number_that_never_comes_holds_nothing_back() {
    let mut sim = Sim::new(ALL, Vec::new(), true, vec![Strap { shy: true, ..strap(0) }]);
    sim.plug(0, 5);
    sim.run(seconds(20));
    assert!(sim.readings.is_empty() && sim.straps[0].sent > 10, "it may still come");
    sim.run(seconds(40));
    assert_eq!(sim.readings.len() as u64, sim.straps[0].sent, "what was held is told");
    assert!(sim.readings.iter().all(|(name, _)| **name == *"C0:00:00:00:00:00"));
}

#[test]
fn passers_by_leave_no_trace() {
    let members: Vec<Strap> = (0..40).map(|n| Strap { broadcasts: true, ..strap(n) }).collect();
    let mut straps = members.clone();
    straps.extend((0..200).map(|n| Strap { broadcasts: n % 3 == 0, service: n % 2 == 0, ..strap(1000 + n) }));
    let mut sim = Sim::new(Settings { connect: false, ..ALL }, aliases(&members), false, straps);
    sim.plug(0, 5);
    sim.run(seconds(120));
    let frames: u64 = sim.straps.iter().take(40).map(|strap| strap.frames).sum();
    assert!(sim.readings.len() as u64 * 100 >= frames * 99, "{} of {frames}", sim.readings.len());
    assert!(sim.readings.iter().all(|(name, _)| name.starts_with("bike-")));
    let view = sim.core.view(sim.now, Default::default());
    assert_eq!(view.wearables.len(), 40);
    assert!(view.adapters[0].strangers > 10_000);
}

#[test]
fn who_is_on_the_air_is_told_while_somebody_looks() {
    let straps = vec![
        strap(0),
        Strap { broadcasts: true, service: false, name: Some("Polar H10 75087320"), ..strap(1) },
    ];
    let mut sim = Sim::new(ALL, aliases(&straps[..1]), false, straps);
    sim.plug(0, 5);
    sim.run(seconds(20));
    assert_eq!(sim.survey().len(), 1, "of strangers nothing is known before somebody looks");
    sim.run(seconds(2));
    let rows = sim.survey();
    let own = rows.iter().find(|row| row.device.as_deref() == Some("bike-0")).unwrap();
    assert!(own.allowed && own.connected && own.bpm == Some(60) && own.battery_percent == Some(77));
    assert_eq!(own.rr_ms, Some(1000.0));
    let other = rows.iter().find(|row| row.goes_by("75087320")).unwrap();
    assert!(!other.allowed && other.broadcast && other.bpm == Some(61), "{other:?}");
    assert_eq!(other.entry().unwrap().polar_id.as_deref(), Some("75087320"));
    assert!(sim.readings.iter().all(|(name, _)| **name == *"bike-0"));
    sim.run(seconds(20));
    assert_eq!(sim.survey().len(), 1, "and nothing after");
}

#[test]
fn whoever_is_allowed_is_heard_at_once_and_whoever_is_forgotten_no_more() {
    let straps = vec![strap(0), strap(1)];
    let both = aliases(&straps);
    let mut sim = Sim::new(ALL, both[..1].to_vec(), false, straps);
    sim.plug(0, 5);
    sim.run(seconds(20));
    assert!(sim.linked(0) && !sim.linked(1));
    sim.take(Input::Allow(both[1].clone()));
    sim.take(Input::Forget(both[0].key.clone()));
    sim.run(seconds(10));
    assert!(!sim.linked(0) && sim.linked(1));
    sim.readings.clear();
    sim.run(seconds(60));
    assert!(sim.readings.len() > 50);
    assert!(sim.readings.iter().all(|(name, _)| **name == *"bike-1"));
    assert_eq!(sim.core.view(sim.now, Default::default()).wearables.len(), 1);
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    let mut sim = gym(vec![strap(0)], ALL, 5);
    let mut connects = 0;
    while connects < 10_000 {
        sim.run(Duration::from_millis(500));
        if sim.linked(0) {
            connects += 1;
            sim.lose(0, true);
        }
        sim.calls.clear();
        sim.readings.clear();
    }
    let view = sim.core.view(sim.now, Default::default());
    assert_eq!(view.wearables.len(), 1);
    assert!(view.adapters[0].connections <= 1 && view.adapters[0].waiting <= 1);
    sim.run(seconds(120));
    assert_eq!(sim.core.view(sim.now, Default::default()).wearables[0].state, Standing::Live);
}

#[test]
fn a_watch_that_lies_in_a_locker_is_frozen() {
    let mut sim = gym(vec![Strap { broadcasts: true, service: false, ..strap(0) }], ALL, 5);
    sim.run(seconds(400));
    let (name, last) = sim.readings.last().unwrap();
    assert_eq!((&**name, last.reason), ("bike-0", Some(Reason::Frozen)));
}
