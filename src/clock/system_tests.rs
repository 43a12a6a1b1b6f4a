use super::*;
use crate::clock::WallQuality;

fn trusting(trust: Trust) -> config::Clock {
    config::Clock { trust, ..config::Clock::default() }
}

#[test]
fn an_unsynced_clock_is_never_before_the_last_time_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let far = 4_000_000_000_000_i64;
    std::fs::write(dir.path().join(FLOOR_FILE), floor_text(far)).unwrap();
    let clock = SystemClock::new(&trusting(Trust::Never), dir.path());
    let first = clock.now();
    assert_eq!(first.quality, WallQuality::Unsynced);
    assert!((far..far + 60_000).contains(&first.wall_ms), "{first:?}");
    std::thread::sleep(Duration::from_millis(5));
    assert!(clock.now().wall_ms > first.wall_ms, "time stands still at the floor");
}

#[test]
fn a_clock_that_is_always_believed_is_believed_also_below_the_floor() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FLOOR_FILE), floor_text(4_000_000_000_000)).unwrap();
    let clock = SystemClock::new(&trusting(Trust::Always), dir.path());
    assert_eq!(clock.now().quality, WallQuality::Synced);
    assert!(clock.now().wall_ms < 4_000_000_000_000);
}

#[test]
fn a_floor_file_of_rubbish_is_as_good_as_none() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FLOOR_FILE), b"\xff\x00 12").unwrap();
    let clock = SystemClock::new(&trusting(Trust::Never), dir.path());
    assert!(clock.now().wall_ms >= BUILT_MS);
    assert_eq!(clock.boot(), SystemClock::new(&trusting(Trust::Auto), dir.path()).boot());
}

#[tokio::test]
async fn a_trusted_time_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock::new(&trusting(Trust::Always), dir.path()));
    let before = clock.now().wall_ms;
    clock.write_floor().await;
    assert!(read_floor(&dir.path().join(FLOOR_FILE)).unwrap() >= before);
}

#[test]
fn an_anchor_holds_for_the_whole_boot_restarts_included() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::new(&trusting(Trust::Auto), dir.path());
    assert_eq!(clock.now().quality, WallQuality::Unsynced);
    assert!(clock.patient_until().is_some());
    clock.take(Word::Yes { error_ms: 500 });
    assert_eq!(clock.now().quality, WallQuality::Synced);
    assert_eq!(clock.patient_until(), None);
    let again = SystemClock::new(&trusting(Trust::Auto), dir.path());
    let (one, two) = (clock.now(), again.now());
    assert_eq!(two.quality, WallQuality::Synced, "it was so in this boot already");
    assert!(two.wall_ms.abs_diff(one.wall_ms) < 1_000, "{one:?} {two:?}");
    assert_eq!(again.anchors().revision(), 1);
    let status = again.status().health;
    assert!(status.synced && status.uncertainty_s.is_some_and(|s| (0.5..1.0).contains(&s)), "{status:?}");
}

#[test]
fn nobody_to_ask_means_nothing_to_wait_for() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::new(&trusting(Trust::Auto), dir.path());
    clock.take(Word::Nobody);
    assert_eq!(clock.patient_until(), None);
    clock.take(Word::NotYet);
    assert!(clock.patient_until().is_some());
    assert_eq!(SystemClock::new(&trusting(Trust::Never), dir.path()).patient_until(), None);
}

#[test]
fn timesyncds_mark_vouches_once_each_time_it_is_touched() {
    let mut asked = Asked::default();
    assert_eq!(asked.mark(1_000_000, 1_000_000), Word::Yes { error_ms: 500 });
    assert_eq!(asked.mark(1_000_000, 2_000_000), Word::Unchanged);
    assert_eq!(asked.mark(5_000_000, 15_000_000), Word::Yes { error_ms: 1_500 }, "old news drifts");
    assert_eq!(asked.mark(9_000_000, 8_000_000), Word::Unchanged, "the clock was set back since");
}

/// A bit can make a time of the next century out of this one, and time is never taken back.
#[test]
fn a_floor_that_is_damaged_is_no_floor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FLOOR_FILE);
    let written = floor_text(2_000_000_000_000);
    let whole = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read_floor(&path)
    };
    assert_eq!(whole(&written), Some(2_000_000_000_000));
    for bit in 0..written.len() * 8 {
        let mut hurt = written.clone();
        hurt[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(whole(&hurt), None, "bit {bit}");
    }
    for length in 0..written.len() {
        assert_eq!(whole(&written[..length]), None, "cut at {length}");
    }
}
