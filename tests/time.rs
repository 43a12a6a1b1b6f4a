//! Wrong clocks: a machine whose clock starts in 1970, steps, leaps and is switched off, through the real journal and the
//! directory uplink, read back as a stranger would and held against the true time.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

#[path = "time/machine.rs"]
mod machine;
#[path = "time/reader.rs"]
mod reader;
#[path = "support/venv.rs"]
mod venv;

use std::path::Path;
use std::time::Duration;

use fogbeat::clock::keeper::Observed;
use machine::{SECOND, World};
use reader::{Lake, Quality};

const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Every reading of the world is there once, honest and in order.
fn require(world: &World, expected: Quality) -> Lake {
    let lake = Lake::read(&world.lake());
    lake.require(&world.truths());
    for reading in &lake.readings {
        assert_eq!(reading.quality, expected, "{reading:?}");
    }
    lake
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_1970_by_56_years_nothing_leaves_before_the_time_is_known() {
    let mut world = World::new();
    let mut life = world.boot(machine::IN_1970, 40).await;
    life.uplink();
    life.read(200, SECOND).await;
    life.settle().await;
    assert!(life.waits_for_clock(), "patience lasts");
    assert_eq!(Lake::read(&world.lake()).lines, 0, "nothing leaves");
    // NTP steps the system clock by 56 years; the daemon is told a little later.
    life.machine.set_system(12);
    life.read(5, SECOND).await;
    assert_eq!(life.machine.vouch(500), Observed::First);
    life.read(5, SECOND).await;
    life.delivered(210).await;
    assert!(!life.waits_for_clock());
    life.end().await;
    let lake = Lake::read(&world.lake());
    lake.require(&world.truths());
    assert_eq!(lake.count(Quality::Repaired), 205);
    assert_eq!(lake.count(Quality::Synced), 5);
    assert!(lake.clocks.is_empty(), "nobody was told a guess");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uplink_that_was_told_guesses_is_told_the_correction_once_and_sql_applies_it() {
    let mut world = World::new();
    let mut life = world.boot(machine::IN_1970, -60).await;
    life.uplink();
    life.read(20, SECOND).await;
    life.machine.pass(machine::PATIENCE_MS);
    life.delivered(20).await;
    life.read(30, SECOND).await;
    life.delivered(50).await;
    life.machine.set_system(-80);
    life.machine.vouch(500);
    life.read(10, SECOND).await;
    life.delivered(60).await;
    // Neither a renewed anchor nor a restart says it again.
    life.machine.pass(4 * HOUR);
    assert_eq!(life.machine.vouch(500), Observed::Agrees { renewed: true });
    life.read(10, SECOND).await;
    life.delivered(70).await;
    let mut life = life.restart().await;
    life.uplink();
    life.read(10, SECOND).await;
    life.delivered(80).await;
    life.end().await;

    let lake = Lake::read(&world.lake());
    lake.require(&world.truths());
    assert_eq!(lake.clock_lines, 1, "exactly one");
    assert_eq!(lake.count(Quality::Corrected), 50);
    assert_eq!(lake.count(Quality::Synced), 30);
    assert_sql_agrees(&world, &lake);
    // A gateway that has lost its places and its spool's name says it again, under the new name.
    venv::python(
        "import glob, gzip, os, re, sys
for path in glob.glob(sys.argv[1] + '/readings/*/*/*.json.gz'):
    said = [line for line in gzip.open(path, 'rt') if '\"type\":\"clock\"' in line]
    if said:
        again = [re.sub('\"id\":\"[a-z0-9]+-', '\"id\":\"anew1234-', line) for line in said]
        assert again != said
        gzip.open(os.path.dirname(path) + '/again.json.gz', 'wt').writelines(again)",
        &[world.lake().to_str().unwrap()],
    );
    assert_eq!(Lake::read(&world.lake()).clock_lines, 2, "it is said again");
    assert_sql_agrees(&world, &lake);
}

/// The view in README gives every reading the time and the uncertainty that the reader here has found.
fn assert_sql_agrees(world: &World, lake: &Lake) {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let start = readme.find("CREATE OR REPLACE VIEW readings").unwrap();
    let view = readme[start..].split("```").next().unwrap();
    let view = view.replace("/var/lib/fogbeat/lake", world.lake().to_str().unwrap());
    let rows = venv::python(
        "import duckdb, sys
duckdb.sql(sys.argv[1])
for row in duckdb.sql('''SELECT id, epoch_ms(time), coalesce(time_quality, ''), coalesce(uncertainty_s, 2.5)
        FROM readings ORDER BY id''').fetchall(): print(*row, sep=';')",
        &[&view],
    );
    let mut sorted: Vec<_> = lake.readings.iter().collect();
    sorted.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(rows.lines().count(), sorted.len());
    for (row, reading) in rows.lines().zip(sorted) {
        let fields: Vec<&str> = row.split(';').collect();
        assert_eq!(fields[0], reading.id);
        assert_eq!(fields[1].parse::<i64>().unwrap(), reading.time_ms, "{row}");
        let quality = match reading.quality {
            Quality::Synced => "",
            Quality::Repaired | Quality::Corrected => "repaired",
            Quality::Guessed => "unsynced",
        };
        assert_eq!(fields[2], quality, "{row}");
        let uncertainty: f64 = fields[3].parse().unwrap();
        assert!((uncertainty - reading.uncertainty_s).abs() < 0.002, "{row}, {reading:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_back_by_3_s_and_1_h_move_no_stamp() {
    let mut world = World::new();
    let mut life = world.boot(200, 100).await;
    life.machine.vouch(500);
    life.uplink();
    for step in [-3_000, -3_600_000, 3_600_000, 3_000] {
        life.read(20, SECOND).await;
        life.machine.step_system(step);
        life.machine.look();
        life.read(20, 100).await;
        // Somebody's word for the stepped clock, once, is one word against another.
        assert_eq!(life.machine.vouch(500), Observed::Doubted);
        life.read(20, SECOND).await;
        life.machine.set_system(0);
        life.machine.vouch(500);
    }
    life.delivered(240).await;
    life.end().await;
    require(&world, Quality::Synced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leap_second_is_within_what_a_synchronised_clock_promises() {
    let mut world = World::new();
    let mut life = world.boot(0, -100).await;
    life.machine.vouch(500);
    life.uplink();
    life.read(60, SECOND).await;
    // The true time of day repeats a second; the system clock follows at once, the daemon sees it a minute later.
    life.machine.leap();
    life.read(60, SECOND).await;
    life.machine.set_system(0);
    assert_eq!(life.machine.vouch(500), Observed::Agrees { renewed: true });
    life.read(100, 50).await;
    life.read(30, SECOND).await;
    life.delivered(250).await;
    life.end().await;
    require(&world, Quality::Synced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_reboots_without_a_network_find_their_place_between_known_moments() {
    let mut world = World::new();
    let mut life = world.boot(0, 50).await;
    life.machine.vouch(500);
    life.uplink();
    life.read(100, SECOND).await;
    life.delivered(100).await;
    life.end().await;
    for off in [3 * HOUR, 20 * HOUR] {
        world.switched_off(off);
        let mut life = world.boot(machine::IN_1970, -70).await;
        life.uplink();
        life.read(100, 30 * SECOND).await;
        // Patience is over within, but the uplink was gone all the while: nothing was told.
        life.end_without_delivery().await;
    }
    world.switched_off(2 * HOUR);
    let mut life = world.boot(machine::IN_1970, 20).await;
    life.read(10, SECOND).await;
    life.machine.set_system(0);
    life.machine.vouch(500);
    life.uplink();
    life.read(10, SECOND).await;
    life.delivered(320).await;
    life.end().await;
    let lake = Lake::read(&world.lake());
    lake.require(&world.truths());
    assert_eq!((lake.count(Quality::Repaired), lake.count(Quality::Synced)), (210, 110));
    assert!(lake.clocks.is_empty());
    // It was off for 25 hours between the known moments: either way half of that.
    let widest = lake.readings.iter().map(|reading| reading.uncertainty_s).fold(0.0, f64::max);
    assert!((44_900.0..45_200.0).contains(&widest), "{widest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boots_whose_guesses_were_told_get_a_clock_line_each() {
    let mut world = World::new();
    let mut life = world.boot(0, 0).await;
    life.machine.vouch(500);
    life.uplink();
    life.read(10, SECOND).await;
    life.end().await;
    for boot in 1..=2 {
        world.switched_off(DAY);
        let mut life = world.boot(machine::IN_1970, 90).await;
        life.machine.pass(machine::PATIENCE_MS);
        life.uplink();
        life.read(20, SECOND).await;
        life.delivered(10 + 20 * boot).await;
        life.end().await;
    }
    world.switched_off(DAY);
    let mut life = world.boot(0, 0).await;
    life.machine.vouch(500);
    life.uplink();
    life.read(10, SECOND).await;
    life.delivered(60).await;
    life.end().await;
    let lake = Lake::read(&world.lake());
    lake.require(&world.truths());
    assert_eq!((lake.clock_lines, lake.clocks.len()), (2, 2));
    assert_eq!((lake.count(Quality::Corrected), lake.count(Quality::Synced)), (40, 20));
    assert_sql_agrees(&world, &lake);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_after_an_anchor_has_the_same_bytes() {
    let mut world = World::new();
    let mut life = world.boot(machine::IN_1970, 30).await;
    life.machine.pass(machine::PATIENCE_MS);
    life.read(50, SECOND).await;
    life.uplink();
    let begun = begun(&world, 0).await;
    life.delivered(50).await;
    let guesses = Unconfirmed::of(&world, begun);
    let resting = life.crash().await;
    guesses.undo(&world);
    let mut life = resting.start().await;
    life.machine.set_system(0);
    life.machine.vouch(500);
    life.read(30, SECOND).await;
    life.uplink();
    let begun = self::begun(&world, guesses.from).await;
    guesses.come_again().await;
    life.delivered(80).await;
    // The batch with the `clock` line, after the clock has moved on and its anchor was renewed.
    let corrections = Unconfirmed::of(&world, begun);
    assert_ne!(corrections.files[0].0, guesses.files[0].0);
    let resting = life.crash().await;
    corrections.undo(&world);
    let mut life = resting.start().await;
    life.machine.pass(5 * HOUR);
    assert_eq!(life.machine.vouch(100), Observed::Agrees { renewed: true });
    life.uplink();
    corrections.come_again().await;
    life.end().await;
    let lake = Lake::read(&world.lake());
    lake.require(&world.truths());
    assert_eq!((lake.clock_lines, lake.count(Quality::Corrected)), (1, 50));
}

/// The last batch as it was delivered, while the cursor's file does not know it yet: what a crash leaves.
struct Unconfirmed {
    cursor: Vec<u8>,
    from: u64,
    files: Vec<(std::path::PathBuf, Vec<u8>)>,
}

/// The cursor's file as soon as it tells of a batch that begins after `after`, and where that batch begins.
async fn begun(world: &World, after: u64) -> (Vec<u8>, u64) {
    for _ in 0..10_000 {
        if let Some(cursor) = world.cursor() {
            // Its sum is on a line behind it.
            let mut lines = serde_json::Deserializer::from_slice(&cursor).into_iter::<serde_json::Value>();
            let place = lines.next().unwrap().unwrap();
            let last = place["open"].as_array().and_then(|open| open.last()?["from"].as_u64());
            if let Some(from) = last.filter(|from| *from > after) {
                return (cursor, from);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("no batch was begun");
}

impl Unconfirmed {
    fn of(world: &World, (cursor, from): (Vec<u8>, u64)) -> Self {
        let of_batch = |file: &std::path::PathBuf| file.to_str().unwrap().contains(&format!("-{from}-"));
        let files = reader::files(&world.lake()).into_iter().filter(of_batch);
        let files: Vec<_> = files.map(|file| (file.clone(), std::fs::read(file).unwrap())).collect();
        assert_eq!(files.len(), 1);
        Self { cursor, from, files }
    }

    fn undo(&self, world: &World) {
        world.put_cursor(&self.cursor);
        self.files.iter().for_each(|(file, _)| std::fs::remove_file(file).unwrap());
    }

    async fn come_again(&self) {
        for (file, bytes) in &self.files {
            for _ in 0..500 {
                if file.exists() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(&std::fs::read(file).unwrap(), bytes, "{}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_patience_waits_for_nothing_and_keeps_everything() {
    let mut world = World::new();
    let mut life = world.boot(machine::IN_1970, 0).await;
    life.uplink();
    life.read(20, SECOND).await;
    life.settle().await;
    let began = std::time::Instant::now();
    let resting = life.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(Lake::read(&world.lake()).lines, 0);
    let mut life = resting.start().await;
    life.machine.set_system(0);
    life.machine.vouch(500);
    life.uplink();
    life.delivered(20).await;
    life.end().await;
    require(&world, Quality::Repaired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_clock_is_never_set_delivers_after_its_patience() {
    let mut world = World::new();
    let mut life = world.boot(machine::IN_1970, 0).await;
    life.machine.pass(machine::PATIENCE_MS);
    life.uplink();
    life.read(10, SECOND).await;
    life.delivered(10).await;
    life.end().await;
    let lake = Lake::read(&world.lake());
    assert_eq!((lake.readings.len(), lake.count(Quality::Guessed)), (10, 10));
    assert!(lake.readings.windows(2).all(|pair| pair[0].time_ms <= pair[1].time_ms));
}
