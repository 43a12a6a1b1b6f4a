use proptest::prelude::*;

use super::*;

const T: i64 = 1_800_000_000_000;
const BUILT: i64 = 1_750_000_000_000;
const BOOT: BootId = BootId([9; 16]);

fn start(wall_ms: i64) -> Start {
    Start { boot: BOOT, uptime_ms: 5_000, wall_ms, built_ms: BUILT, written_ms: 0, faith: Faith::Told }
}

fn sample(uptime_ms: u64, wall_ms: i64) -> Sample {
    Sample { uptime_ms, wall_ms, error_ms: 500 }
}

fn keeper(dir: &Path) -> Timekeeper {
    Timekeeper::new(dir, start(5_000))
}

#[test]
fn from_1970_to_the_present_at_the_first_sample() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    assert_eq!(keeper.stamp(5_000).wall_ms, BUILT, "never below the build");
    assert_eq!(
        keeper.stamp(6_000),
        Stamp { uptime_ms: 6_000, wall_ms: BUILT + 1_000, quality: WallQuality::Unsynced }
    );
    assert!(keeper.hopeful());
    assert_eq!(keeper.observe(sample(60_000, T)).unwrap(), Observed::First);
    assert_eq!(
        keeper.stamp(61_000),
        Stamp { uptime_ms: 61_000, wall_ms: T + 1_000, quality: WallQuality::Synced }
    );
    assert!(!keeper.hopeful());
    assert_eq!(keeper.anchors().revision(), 1);
}

#[test]
fn a_step_of_the_system_clock_moves_no_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    keeper.observe(sample(60_000, T)).unwrap();
    for step in [-3_600_000, -3_000, 3_000, 3_600_000] {
        keeper.guess(70_000, T + 10_000 + step).unwrap();
        assert_eq!(keeper.stamp(70_000).wall_ms, T + 10_000, "nobody vouches for it");
        assert_eq!(keeper.observe(sample(70_000, T + 10_000 + step)).unwrap(), Observed::Doubted);
        assert_eq!(keeper.stamp(70_000).wall_ms, T + 10_000, "one word against another");
    }
    assert!(keeper.health(71_000).doubted);
    assert_eq!(keeper.observe(sample(80_000, T + 20_100)).unwrap(), Observed::Agrees { renewed: false });
    assert!(!keeper.health(81_000).doubted);
    assert_eq!(keeper.anchors().revision(), 1);
}

#[test]
fn a_contradiction_that_lasts_is_believed_and_time_slows_down_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    keeper.observe(sample(60_000, T)).unwrap();
    assert_eq!(keeper.observe(sample(120_000, T + 57_000)).unwrap(), Observed::Doubted);
    assert_eq!(keeper.observe(sample(150_000, T + 87_000)).unwrap(), Observed::Doubted, "too soon");
    assert_eq!(keeper.observe(sample(180_000, T + 117_000)).unwrap(), Observed::Corrected);
    assert_eq!(keeper.stamp(180_000).wall_ms, T + 120_000, "it does not step back");
    let stamps: Vec<i64> = (0..8_000).map(|ms| keeper.stamp(180_000 + ms).wall_ms).collect();
    assert!(stamps.is_sorted());
    assert_eq!(stamps[7_999], T + 117_000 + 7_999, "three seconds are made up for in six");
    // What is stored meanwhile tells how far it is off.
    let times = keeper.anchors().times(BOOT, u32::MAX);
    assert_eq!(times.resolve(keeper.stamp(180_000)).error_ms, 3_500);
    // A daemon that starts anew goes on where this one was.
    let again = Timekeeper::new(dir.path(), Start { uptime_ms: 181_000, ..start(T) });
    for uptime in [181_000, 182_000, 190_000] {
        assert_eq!(again.stamp(uptime), keeper.stamp(uptime));
    }
}

#[test]
fn a_correction_forward_is_made_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    keeper.observe(sample(60_000, T)).unwrap();
    keeper.observe(sample(120_000, T + 3_660_000)).unwrap();
    assert_eq!(keeper.observe(sample(180_000, T + 3_720_000)).unwrap(), Observed::Corrected);
    assert_eq!(keeper.stamp(180_001).wall_ms, T + 3_720_001);
}

#[test]
fn a_leap_second_is_followed_without_a_step_back() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    keeper.observe(sample(60_000, T)).unwrap();
    // The system clock repeats a second, or has been smeared by one.
    assert_eq!(keeper.observe(sample(120_000, T + 59_000)).unwrap(), Observed::Agrees { renewed: true });
    assert_eq!(keeper.stamp(120_000).wall_ms, T + 60_000);
    assert_eq!(keeper.stamp(123_000).wall_ms, T + 62_000);
}

#[test]
fn certainty_is_renewed_when_it_is_worth_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path());
    keeper.observe(sample(60_000, T)).unwrap();
    let mut renewed = 0;
    for minute in 1..=24 * 60 {
        let sample = sample(60_000 + minute * 60_000, T + minute as i64 * 60_000);
        renewed += u32::from(keeper.observe(sample).unwrap() == Observed::Agrees { renewed: true });
    }
    assert!((7..=9).contains(&renewed), "{renewed} writes a day");
    assert!(keeper.health(86_460_000).uncertainty_s.is_some_and(|s| s < 2.0));
}

#[test]
fn what_cannot_be_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Timekeeper::new(dir.path(), Start { written_ms: T, ..start(5_000) });
    assert_eq!(keeper.stamp(5_000).wall_ms, T, "never below the last time that was written");
    assert_eq!(keeper.observe(sample(10_000, BUILT - 1)).unwrap(), Observed::Impossible);
    assert_eq!(keeper.observe(sample(10_000, T - 86_400_000)).unwrap(), Observed::Doubted);
    assert!(!keeper.synced());
    // It insists: then it was the written time that was wrong.
    assert_eq!(keeper.observe(sample(70_000, T - 86_340_000)).unwrap(), Observed::First);
}

#[test]
fn a_guess_follows_forward_and_never_back_not_even_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Timekeeper::new(dir.path(), start(T));
    keeper.learn(&[]).unwrap();
    keeper.guess(6_000, T - 3_600_000).unwrap();
    assert_eq!(keeper.stamp(6_000).wall_ms, T + 1_000);
    keeper.guess(7_000, T + 3_602_000).unwrap();
    assert_eq!(keeper.stamp(7_000).wall_ms, T + 3_602_000);
    let again = Timekeeper::new(dir.path(), Start { uptime_ms: 8_000, ..start(T) });
    assert_eq!(again.stamp(8_000).wall_ms, T + 3_603_000);
    assert_eq!(again.stamp(8_000).quality, WallQuality::Unsynced);
}

#[test]
fn what_cannot_be_written_is_not_told_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let keeper = keeper(&state);
    std::fs::remove_dir(&state).unwrap();
    assert!(keeper.observe(sample(60_000, T)).is_err());
    assert_eq!(keeper.stamp(60_000).wall_ms, T, "stamps are right all the same");
    assert_eq!(keeper.anchors().revision(), 0);
    std::fs::create_dir(&state).unwrap();
    assert_eq!(keeper.observe(sample(120_000, T + 60_000)).unwrap(), Observed::Agrees { renewed: true });
    assert_eq!(keeper.anchors().revision(), 1);
}

#[test]
fn a_damaged_table_loses_anchors_and_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("clock.json"), b"\0\0\0").unwrap();
    let keeper = Timekeeper::new(dir.path(), start(5_000));
    assert_eq!(i64::from(keeper.anchors().revision()), BUILT / 1000, "above any that a batch was given");
    keeper.observe(sample(60_000, T)).unwrap();
    let again = Timekeeper::new(dir.path(), start(5_000));
    assert!(again.synced());
}

#[test]
fn stamps_rise_while_anchors_come_and_many_threads_look() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Timekeeper::new(dir.path(), start(T));
    keeper.observe(sample(6_000, T)).unwrap();
    let began = std::time::Instant::now();
    // Five times as fast as life.
    let uptime = || 10_000 + u64::try_from(began.elapsed().as_micros()).unwrap() / 200;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while uptime() < 26_000 {
                    let stamp = keeper.stamp(uptime());
                    assert!(stamp.wall_ms >= last, "{} after {last}", stamp.wall_ms);
                    last = stamp.wall_ms;
                }
            });
        }
        for wrong in [400, -400, 300, -300, 0, 450, -450, 400, -400] {
            let now = uptime();
            let there = T + (now - 6_000) as i64;
            keeper.observe(Sample { uptime_ms: now, wall_ms: there + wrong, error_ms: 500 }).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    });
    assert!(keeper.anchors().revision() > 3);
}

proptest! {
    // Each case writes some hundred files.
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is said about the clock: once it is synchronised, stamps rise; what they say of their uncertainty
    /// counts the last anchor in.
    #[test]
    fn stamps_never_step_back(samples in prop::collection::vec((1u64..200_000, -5_000_000i64..5_000_000, 1u64..5_000), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Timekeeper::new(dir.path(), start(T));
        let (mut uptime, mut last, mut steady) = (5_000, i64::MIN, 0);
        for (index, (wait, wrong, error)) in samples.into_iter().enumerate() {
            // Every third contradiction is repeated, so that some are believed.
            if index % 3 != 0 { steady = wrong; }
            for _ in 0..4 {
                uptime += wait;
                let stamp = keeper.stamp(uptime);
                if stamp.quality == WallQuality::Synced {
                    prop_assert!(stamp.wall_ms >= last, "{} after {}", stamp.wall_ms, last);
                    last = stamp.wall_ms;
                }
                let wall_ms = T + uptime as i64 + steady;
                let seen = keeper.observe(Sample { uptime_ms: uptime, wall_ms, error_ms: error }).unwrap();
                if matches!(seen, Observed::First | Observed::Corrected) {
                    let resolved = keeper.anchors().times(BOOT, u32::MAX).resolve(keeper.stamp(uptime));
                    prop_assert!(resolved.wall_ms.abs_diff(wall_ms) <= resolved.error_ms);
                }
            }
        }
    }
}
