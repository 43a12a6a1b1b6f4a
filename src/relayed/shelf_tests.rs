use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::relayed::lane::Lane;

const WINDOW: Duration = Duration::from_secs(600);

fn member(spool: &str, first: u64, count: u64) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for seq in first..first + count {
        writeln!(encoder, "{{\"id\":\"{spool}-{seq}\",\"bpm\":60}}").unwrap();
    }
    encoder.finish().unwrap()
}

fn open(dir: &Path) -> Shelf {
    Shelf::open(dir, 1 << 20, WINDOW).unwrap()
}

/// All that is handed out, without confirming.
fn all(lane: &Lane) -> Vec<crate::forward::Member> {
    std::iter::from_fn(|| lane.next().unwrap()).collect()
}

#[test]
fn a_member_leaves_as_it_came_to_every_uplink_once() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = open(dir.path());
    let lanes = [shelf.lane("a", From::Oldest, 1 << 20), shelf.lane("b", From::Oldest, 1 << 20)];
    let members: Vec<Vec<u8>> = (0..5).map(|n| member("sp", n * 10, 10)).collect();
    for bytes in &members {
        shelf.put(bytes, 77).unwrap();
        shelf.put(bytes, 78).unwrap();
    }
    for lane in &lanes {
        let given = all(lane);
        assert_eq!(given.iter().map(|member| member.bytes.to_vec()).collect::<Vec<_>>(), members);
        assert!(given.iter().all(|member| member.readings == 10 && member.bounds.fixed_ms == 77));
        assert_eq!(lane.unconfirmed(), 5);
        for member in given {
            lane.confirm(member.bounds).unwrap();
        }
        assert_eq!((lane.unconfirmed(), lane.is_waiting()), (0, false));
    }
    assert_eq!((shelf.status().received, shelf.status().duplicates), (5, 5));
}

#[test]
fn a_restart_forgets_neither_members_nor_who_has_them() {
    let dir = tempfile::tempdir().unwrap();
    {
        let shelf = open(dir.path());
        let lane = shelf.lane("a", From::Oldest, 1 << 20);
        for n in 0..4 {
            shelf.put(&member("sp", n, 1), 0).unwrap();
        }
        let given = all(&lane);
        // Out of order.
        for n in [0, 2] {
            lane.confirm(given[n].bounds).unwrap();
        }
        lane.sync().unwrap();
    }
    let shelf = open(dir.path());
    let lane = shelf.lane("a", From::Oldest, 1 << 20);
    assert_eq!(all(&lane).iter().map(|member| member.first.0).collect::<Vec<_>>(), [1, 3]);
    shelf.put(&member("sp", 2, 1), 0).unwrap();
    assert_eq!(shelf.status().duplicates, 1, "what was delivered is recognised");
    let late = shelf.lane("b", From::Now, 1 << 20);
    assert!(!late.is_waiting());
}

#[test]
fn numbers_are_not_used_again_after_everything_was_delivered_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let shelf = Shelf::open(dir.path(), 1 << 20, Duration::ZERO).unwrap();
        let lane = shelf.lane("a", From::Oldest, 1 << 20);
        shelf.put(&member("sp", round, 1), 0).unwrap();
        let given = all(&lane);
        assert_eq!(given.iter().map(|member| member.first.0).collect::<Vec<_>>(), [round]);
        lane.confirm(given[0].bounds).unwrap();
        shelf.sweep();
        assert_eq!(shelf.status().members, 1, "what an uplink has is not on disk yet");
        lane.sync().unwrap();
        shelf.sweep();
        assert_eq!((shelf.status().members, shelf.status().bytes), (0, 0));
    }
}

#[test]
fn at_the_limit_nothing_is_taken_and_nothing_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let one = member("sp", 0, 1).len() as u64;
    let shelf = Shelf::open(dir.path(), 2 * one, WINDOW).unwrap();
    let lane = shelf.lane("a", From::Oldest, 1 << 20);
    shelf.put(&member("sp", 0, 1), 0).unwrap();
    shelf.put(&member("sp", 1, 1), 0).unwrap();
    assert!(matches!(shelf.put(&member("sp", 2, 1), 0), Err(PutError::Full)));
    shelf.put(&member("sp", 1, 1), 0).unwrap();
    assert_eq!(all(&lane).len(), 2);
    let narrow = shelf.lane("b", From::Oldest, 10);
    assert_eq!(narrow.unconfirmed(), 2);
    assert!(matches!(shelf.put(&member("sp", 3, 1), 0), Err(PutError::TooLarge { largest: 10, .. })));
}

#[test]
fn a_damaged_member_is_put_aside_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    {
        let shelf = open(dir.path());
        for n in 0..3 {
            shelf.put(&member("sp", n, 1), 0).unwrap();
        }
    }
    let relayed = dir.path().join("relayed");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&relayed).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut bytes = std::fs::read(&files[1]).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&files[1], bytes).unwrap();
    std::fs::write(relayed.join("0000000000000009-0-sp-9-9-00000000.gz.new"), b"half").unwrap();
    let shelf = open(dir.path());
    let lane = shelf.lane("a", From::Oldest, 1 << 20);
    assert_eq!(all(&lane).iter().map(|member| member.first.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(shelf.metrics().lost.get(), 1);
    assert!(files[1].with_extension("damaged").exists());
}

#[test]
fn what_is_let_go_is_handed_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = open(dir.path());
    let lane = shelf.lane("a", From::Oldest, 1 << 20);
    shelf.put(&member("sp", 0, 1), 0).unwrap();
    assert_eq!(all(&lane).len(), 1);
    assert!(!lane.is_waiting());
    lane.let_go();
    assert_eq!(all(&lane).len(), 1);
}
