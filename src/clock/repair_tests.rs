use proptest::prelude::*;

use super::*;
use crate::clock::SeenBoot;

const HOUR: u64 = 3_600_000;
const T: i64 = 1_800_000_000_000;

fn boot(n: u8) -> BootId {
    BootId([n; 16])
}

fn guessed(uptime_ms: u64) -> Stamp {
    Stamp { uptime_ms, wall_ms: 7, quality: WallQuality::Unsynced }
}

fn synced(uptime_ms: u64, wall_ms: i64) -> Stamp {
    Stamp { uptime_ms, wall_ms, quality: WallQuality::Synced }
}

fn anchor(uptime_ms: u64, wall_ms: i64) -> Anchor {
    Anchor { uptime_ms, wall_ms, error_ms: 500, ahead_ms: 0 }
}

fn seen(boots: &[(u8, u64)]) -> Vec<SeenBoot> {
    boots.iter().map(|(n, lasted)| SeenBoot { boot: boot(*n), lasted_ms: Some(*lasted) }).collect()
}

#[test]
fn what_is_told_at_a_revision_stays_so() {
    let mut table = Anchors::default();
    table.anchor(boot(1), anchor(10 * HOUR, T));
    let first = table.revision();
    let told = table.times(boot(1), first).resolve(guessed(HOUR));
    assert_eq!(
        (told.wall_ms, told.quality, told.error_ms),
        (T - 9 * 3_600_000, TimeQuality::Repaired, 3_740)
    );
    table.anchor(boot(1), anchor(20 * HOUR, T + 10 * 3_600_000 + 400));
    assert_eq!(table.times(boot(1), first).resolve(guessed(HOUR)), told);
    assert_eq!(table.times(boot(1), table.revision()).resolve(guessed(HOUR)), told, "the first one's line");
    let before = table.times(boot(1), 0).resolve(guessed(HOUR));
    assert_eq!((before.wall_ms, before.quality), (7, TimeQuality::Unsynced));
    assert_eq!(table.times(boot(1), 0).correction(), None);
}

#[test]
fn between_anchors_that_contradict_each_other_both_are_counted_in() {
    let mut table = Anchors::default();
    table.anchor(boot(1), anchor(HOUR, T));
    table.anchor(boot(1), anchor(2 * HOUR, T + 3_600_000 - 10_000));
    let times = table.times(boot(1), table.revision());
    let stamped = times.resolve(synced(HOUR + 1_000, T + 1_000));
    assert_eq!((stamped.wall_ms, stamped.error_ms), (T + 1_000, 10_000 + 500 + 359));
    let after = times.resolve(synced(2 * HOUR + 5, T + 3_600_000 - 10_000 + 5 + 4_000));
    assert_eq!(after.error_ms, 4_500, "still coming back from being ahead");
}

#[test]
fn boots_without_an_anchor_lie_between_their_neighbours_in_order() {
    let mut table = Anchors::default();
    table.anchor(boot(1), anchor(HOUR, T));
    // Two boots of an hour and of two, somewhere in a day without power.
    table.learn(&seen(&[(1, HOUR), (2, HOUR), (3, 2 * HOUR)]), boot(4));
    assert_eq!(table.waiting(), 3);
    let before = table.revision();
    table.anchor(boot(4), anchor(HOUR, T + 25 * 3_600_000));
    assert_eq!(table.waiting(), 0);
    let at = |n, uptime| table.times(boot(n), table.revision()).resolve(guessed(uptime));
    let (first, second) = (at(2, 0), at(3, 0));
    assert_eq!(first.quality, TimeQuality::Repaired);
    // 24 hours less the three that were lived: 21 to share, so 10.5 either way.
    assert!(first.error_ms.abs_diff(37_800_000) < 2_000, "{first:?}");
    assert!((first.wall_ms - T).abs_diff(37_800_000) < 2_000, "{first:?}");
    assert!(at(2, HOUR).wall_ms <= second.wall_ms);
    assert!(at(3, 2 * HOUR).wall_ms <= at(4, 0).wall_ms);
    assert_eq!(table.times(boot(2), before).resolve(guessed(0)).quality, TimeQuality::Unsynced);
}

#[test]
fn without_a_known_moment_before_it_a_boot_keeps_its_guess() {
    let mut table = Anchors::default();
    table.learn(&seen(&[(1, HOUR)]), boot(2));
    table.anchor(boot(2), anchor(HOUR, T));
    assert_eq!(table.times(boot(1), u32::MAX).resolve(guessed(5)).quality, TimeQuality::Unsynced);
}

#[test]
fn a_boot_that_nobody_needs_goes_and_leaves_its_end_behind() {
    let mut table = Anchors::default();
    table.anchor(boot(1), anchor(HOUR, T));
    assert!(table.learn(&seen(&[(1, HOUR), (2, HOUR)]), boot(3)));
    assert!(!table.learn(&seen(&[(1, HOUR), (2, HOUR)]), boot(3)), "nothing new");
    assert!(table.learn(&seen(&[(2, HOUR)]), boot(3)));
    assert_eq!(table.boots.len(), 2);
    table.anchor(boot(3), anchor(0, T + 10 * 3_600_000));
    let placed = table.times(boot(2), u32::MAX).resolve(guessed(0));
    assert_eq!(placed.quality, TimeQuality::Repaired);
    assert!(placed.error_ms.abs_diff(16_200_000) < 2_000, "{placed:?}");
    // A file that is read back is the same table.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clock.json");
    table.store(&path).unwrap();
    let back = Anchors::load(&path).unwrap().unwrap();
    assert_eq!((back.revision(), back.boots), (table.revision(), table.boots));
    let mut bytes = std::fs::read(&path).unwrap();
    let digit = bytes.iter().position(u8::is_ascii_digit).unwrap();
    bytes[digit + 40] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Anchors::load(&path).unwrap(), None, "a flipped bit is noticed");
    std::fs::write(&path, "rubbish").unwrap();
    assert_eq!(Anchors::load(&path).unwrap(), None);
}

/// One life of a machine.
#[derive(Debug, Clone)]
struct Life {
    /// Switched off before it, ms.
    off: u64,
    lasted: u64,
    /// The crystal is off by this, ppm.
    ppm: i64,
    /// Share of the life after which the clock is set, and by how much it is wrong then, ms.
    set: Option<(f64, i64)>,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let set = prop::option::of((0.0..1.0f64, -400..=400i64));
    let life = (1_000..200 * HOUR, 1_000..200 * HOUR, -100..=100i64, set);
    prop::collection::vec(life.prop_map(|(off, lasted, ppm, set)| Life { off, lasted, ppm, set }), 1..8)
}

proptest! {
    /// Whatever a machine lives through, a time that is told is within its uncertainty of the truth, times of one boot
    /// rise, and boots do not overlap.
    #[test]
    fn every_time_that_is_told_is_honest(lives in lives(), shares in prop::collection::vec(0.0..=1.0f64, 1..6)) {
        let mut table = Anchors::default();
        let mut truth = T;
        let mut past: Vec<SeenBoot> = Vec::new();
        let mut starts = Vec::new();
        for (n, life) in lives.iter().enumerate() {
            truth += life.off as i64;
            starts.push(truth);
            let id = boot(u8::try_from(n).unwrap() + 1);
            table.learn(&past, id);
            if let Some((share, wrong)) = life.set {
                let uptime = (life.lasted as f64 * share) as u64;
                let wall = truth + true_ms(uptime, life.ppm) + wrong;
                table.anchor(id, anchor(uptime, wall));
            }
            past.push(SeenBoot { boot: id, lasted_ms: Some(life.lasted) });
            truth += true_ms(life.lasted, life.ppm);
        }
        let mut shares = shares;
        shares.sort_by(f64::total_cmp);
        let mut last_of_all = i64::MIN;
        for (n, life) in lives.iter().enumerate() {
            let times = table.times(boot(u8::try_from(n).unwrap() + 1), table.revision());
            let mut last = i64::MIN;
            for share in &shares {
                let uptime = (life.lasted as f64 * share) as u64;
                let told = times.resolve(guessed(uptime));
                let anchored_before = lives[..n].iter().any(|life| life.set.is_some());
                let anchored_after = lives[n..].iter().any(|life| life.set.is_some());
                let known = life.set.is_some() || (anchored_before && anchored_after);
                prop_assert_eq!(told.quality == TimeQuality::Repaired, known, "{} of {:?}", n, lives);
                if !known {
                    continue;
                }
                let true_time = starts[n] + true_ms(uptime, life.ppm);
                let off = told.wall_ms.abs_diff(true_time);
                prop_assert!(off <= told.error_ms, "boot {n}, {uptime} ms: off by {off}, told {told:?}");
                prop_assert!(told.wall_ms >= last);
                last = told.wall_ms;
                // Two boots may each be off by what they say, not more.
                prop_assert!(told.wall_ms.saturating_add(2 * told.error_ms as i64) >= last_of_all);
            }
            last_of_all = last_of_all.max(last);
        }
    }
}

/// What truly passes while a crystal counts `ms`.
fn true_ms(ms: u64, ppm: i64) -> i64 {
    let ms = ms as i64;
    ms + ms * ppm / 1_000_000
}
