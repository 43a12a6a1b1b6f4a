//! Lines that left with a guessed time get their true one from the `clock` line, in Athena's words.

use fogbeat::reading::rfc3339;

use super::machine::{self, SECOND, World};
use super::site::ask;

/// The system clock is an hour behind, and nobody vouches for it.
const HOUR_MS: i64 = 3_600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_lines_are_applied() {
    let mut world = World::new();
    let mut life = world.boot(-HOUR_MS, -60).await;
    life.uplink();
    life.read(20, SECOND).await;
    life.machine.pass(machine::PATIENCE_MS);
    life.delivered(20).await;
    life.machine.set_system(-80);
    life.machine.vouch(500);
    life.read(10, SECOND).await;
    life.delivered(30).await;
    life.end().await;

    let told = super::reader::Lake::read(&world.lake());
    assert_eq!(told.clock_lines, 1, "the scenario has a correction");
    let answers = ask(&world.lake(), &["readings"]);
    let rows = answers["readings"].as_array().unwrap();
    assert_eq!(rows.len(), 30);
    let truths = world.truths();
    let mut repaired = 0;
    for row in rows {
        let number = u16::try_from(row["energy_kj"].as_u64().unwrap()).unwrap();
        let time = rfc3339::parse(&format!("{}Z", row["time"].as_str().unwrap())).unwrap();
        let uncertainty_ms = row["uncertainty_s"].as_f64().unwrap_or(2.5) * 1e3;
        let off = (time - truths[&number]).abs();
        assert!(off as f64 <= uncertainty_ms, "{row}: {off} ms off");
        repaired += usize::from(row["time_quality"] == "repaired");
        assert_ne!(row["time_quality"], "unsynced", "{row}");
    }
    assert_eq!(repaired, 20);
}
