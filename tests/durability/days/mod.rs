//! Days of faults, drawn at random with a seed and compressed in time: outages, kills, power cuts, full disks, damaged
//! files and wrong clocks strike one real gateway, one after the other and into each other, while real clients publish.
//! At the end an independent reader of the delivered files, the clients' own ledgers and the gateway's own accounts must
//! tell the same story: every acknowledged reading delivered by one id with its values and a truthful time, or told as
//! missing; 0 unexplained.
//!
//! `FOGBEAT_DAYS` days (2), seeds from `FOGBEAT_SEED` on (5: a day on which readings are thinned, then one on which they
//! are dropped). One fault is one variant of [`fault::Fault`].

mod band;
mod damage;
mod day;
mod doctored;
mod fault;
pub mod judge;
mod summaries;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use crate::Bench;
use crate::support::env_number;
use crate::support::rng::Rng;
use crate::support::world::World;
use day::{Day, WhenFull};
use judge::Verdict;

/// One line of the table.
struct Row {
    seed: u64,
    when_full: WhenFull,
    refused: u32,
    faults: BTreeMap<&'static str, u32>,
    verdict: Verdict,
    seconds: f64,
}

/// Every day ends with 0 unexplained readings.
#[test]
fn days_of_random_faults_leave_nothing_unexplained() {
    let days = env_number("FOGBEAT_DAYS", 2);
    let first = env_number("FOGBEAT_SEED", 5);
    let mut rows = Vec::new();
    for seed in first..first + days {
        let bench = Bench::new("day");
        let started = Instant::now();
        let Some(mut day) = Day::begin(bench.path(), Rng::new(seed)) else { return };
        day.live();
        let faults = day.struck.clone();
        let (when_full, refused) = (day.when_full, day.refused);
        let verdict = day.end();
        let seconds = started.elapsed().as_secs_f64();
        let row = Row { seed, when_full, refused, faults, verdict, seconds };
        println!("{}\n{}", row.story(), row.line());
        rows.push(row);
    }
    println!("\n{}", HEADER);
    rows.iter().for_each(|row| println!("{}", row.line()));
    let failed = rows.iter().filter(|row| !row.verdict.faults.is_empty()).count();
    let unexplained: u64 = rows.iter().map(|row| row.verdict.unexplained).sum();
    println!("{} of {days} days add up, {unexplained} unexplained readings\n", rows.len() - failed);
    let faults: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            row.verdict.faults.iter().take(10).map(move |fault| format!("seed {}: {fault}", row.seed))
        })
        .collect();
    assert!(faults.is_empty(), "{failed} of {days} days do not add up:\n{}", faults.join("\n"));
}

/// What a gateway says of a boot that never knew the time rests on that: it lies between the one before and the next.
#[test]
fn a_boot_of_the_simulated_machine_begins_after_the_one_before_has_ended() {
    if std::env::var_os("FOGBEAT_NO_LOOP").is_some() {
        println!("SKIPPED: boots are not simulated here");
        return;
    }
    let bench = Bench::new("boot");
    let mut rng = Rng::new(7);
    let mut world = World::new(bench.path(), &mut rng);
    for _ in 0..2 {
        let ended = Instant::now();
        world.reboot(&mut rng);
        let under = world.under();
        let uptime = Command::new(&under[0]).args(&under[1..]).args(["cat", "/proc/uptime"]).output();
        let uptime = String::from_utf8(uptime.expect("run in the boot").stdout).expect("text");
        let since: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).expect("an uptime");
        assert!(
            since <= ended.elapsed().as_secs_f64(),
            "up for {since} s, {:?} after the end",
            ended.elapsed()
        );
    }
}

const HEADER: &str = " seed  faults  acked   delivered  lost  evicted  thinned  withheld  again  unnamed  unexplained  time  verdict";

impl Row {
    fn line(&self) -> String {
        let v = &self.verdict;
        format!(
            "{:>5}  {:>6}  {:>6}  {:>9}  {:>4}  {:>7}  {:>7}  {:>8}  {:>5}  {:>7}  {:>11}  {:>3.0}s  {}",
            self.seed,
            self.faults.values().sum::<u32>(),
            v.acked,
            v.delivered,
            v.told("lost"),
            v.told("evicted"),
            v.told("thinned"),
            v.told("withheld"),
            v.again,
            v.unnamed,
            v.unexplained,
            self.seconds,
            if v.faults.is_empty() { "adds up" } else { "DOES NOT ADD UP" }
        )
    }

    fn story(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(name, times)| format!("{times} {name}")).collect();
        let quota = match self.when_full {
            WhenFull::Never => "a large quota",
            WhenFull::DropOldest => "a small quota, the oldest go",
            WhenFull::Thin => "a small quota, the oldest are thinned",
            WhenFull::RefuseNew => "a small quota, new readings are refused",
        };
        let quota = match self.refused {
            0 => quota.to_owned(),
            times => format!("{quota} (found so {times} times)"),
        };
        format!("day {}: {quota}; {}; {:.0} s", self.seed, faults.join(", "), self.seconds)
    }
}
