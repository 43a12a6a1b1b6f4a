//! The lake on a real file system.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::config::Encoding;
use crate::journal::{Bounds, Seq};
use crate::reading::validity::DeviceTimeWindow;

/// 2026-11-23 19:05:00 UTC
const NOON: i64 = 1_795_460_700_000;
const DAY: i64 = 86_400_000;

fn guessed(mut member: Member) -> Member {
    member.bounds.guessed = true;
    member
}

fn member(first: u64, fixed_ms: i64, size: usize) -> Member {
    Member {
        bounds: Bounds { from: Seq(first), to: Seq(first + 10), fixed_ms, clock: 0, guessed: false },
        spool: "sp".into(),
        first: Seq(first),
        last: Seq(first + 9),
        encoding: Encoding::Gzip,
        readings: 10,
        lines: 10,
        text_bytes: 1_000,
        bytes: Bytes::from(vec![u8::try_from(first % 251).unwrap(); size]),
    }
}

fn lake(path: &Path, max_bytes: Option<u64>) -> Directory {
    let config = config::Directory {
        path: Some(path.to_owned()),
        max_bytes: max_bytes.map(bytesize::ByteSize),
        keep: Duration::from_secs(30 * 86_400),
    };
    let origin = Origin {
        gateway: "gym/12".into(),
        site: None,
        state_dir: PathBuf::new(),
        pseudonyms: None,
        window: DeviceTimeWindow::default(),
    };
    Directory::new("lake", &config, &origin, StoreMetrics::default())
}

fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = vec![root.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                rest.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_member_is_a_file_below_the_hour_of_its_delivery() {
    let root = tempfile::tempdir().unwrap();
    let mut lake = lake(root.path(), None);
    let one = member(100, NOON, 50);
    assert_eq!(lake.deliver(std::slice::from_ref(&one)).await, [Delivery::Confirmed]);
    let name = "readings/dt=2026-11-23/hour=19/gym_12-sp-100-109.json.gz";
    assert_eq!(files(root.path()), [name]);
    assert_eq!(fs::read(root.path().join(name)).unwrap(), one.bytes);
}

#[tokio::test]
async fn sent_again_it_is_the_same_file() {
    let root = tempfile::tempdir().unwrap();
    let one = member(100, NOON, 50);
    lake(root.path(), None).deliver(std::slice::from_ref(&one)).await;
    let before = files(root.path());
    let again = lake(root.path(), None).deliver(&[one, member(110, NOON, 50)]).await;
    assert_eq!(again, [Delivery::Confirmed, Delivery::Confirmed]);
    assert_eq!(files(root.path()).len(), before.len() + 1);
}

#[tokio::test]
async fn what_an_interrupted_write_left_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let hour = root.path().join("readings/dt=2026-11-20/hour=01");
    fs::create_dir_all(&hour).unwrap();
    fs::write(hour.join("gym-sp-1-2.json.gz.tmp"), b"half").unwrap();
    fs::write(hour.join("gym-sp-3-4.json.gz"), b"whole").unwrap();
    lake(root.path(), None).deliver(&[member(100, NOON, 50)]).await;
    let names = files(root.path());
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| !name.ends_with(".tmp")), "{names:?}");
}

#[tokio::test]
async fn the_oldest_whole_day_goes_at_the_limit_and_what_is_too_old_goes_anyway() {
    let root = tempfile::tempdir().unwrap();
    let mut lake = lake(root.path(), Some(2_500));
    lake.deliver(&[member(0, NOON - 40 * DAY, 10)]).await;
    lake.deliver(&[member(100, NOON - 2 * DAY, 1_000), member(110, NOON - DAY, 1_000)]).await;
    assert_eq!(files(root.path()).len(), 2, "older than `keep`");
    assert_eq!(lake.deliver(&[member(200, NOON, 1_000)]).await, [Delivery::Confirmed]);
    let names = files(root.path());
    assert_eq!(names.len(), 2);
    assert!(names[0].contains("dt=2026-11-22") && names[1].contains("dt=2026-11-23"), "{names:?}");
}

#[tokio::test]
async fn today_is_never_removed_the_uplink_stops_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let mut lake = lake(root.path(), Some(1_500));
    let answers = lake.deliver(&[member(100, NOON, 1_000), member(110, NOON, 1_000)]).await;
    assert_eq!(answers[0], Delivery::Confirmed);
    let Delivery::Stuck(failure) = &answers[1] else { panic!("{answers:?}") };
    assert_eq!(failure.cause, "max_bytes");
    assert!(failure.remedy.as_ref().unwrap().contains("max_bytes"));
    assert_eq!(files(root.path()).len(), 1);
    let tomorrow = lake.deliver(&[member(110, NOON + DAY, 1_000)]).await;
    assert_eq!(tomorrow, [Delivery::Confirmed], "the next day makes room");
}

#[tokio::test]
async fn a_path_that_is_no_directory_is_shown_and_recovers() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("lake");
    fs::write(&path, b"a file in the way").unwrap();
    let mut lake = lake(&path, None);
    let answers = lake.deliver(&[member(100, NOON, 50)]).await;
    assert!(matches!(&answers[0], Delivery::Retry(failure) if failure.remedy.is_some()), "{answers:?}");
    fs::remove_file(&path).unwrap();
    assert_eq!(lake.deliver(&[member(100, NOON, 50)]).await, [Delivery::Confirmed]);
}

#[tokio::test]
async fn a_directory_that_may_not_be_written_names_the_remedy() {
    if rustix::process::geteuid().is_root() {
        // Root writes everywhere: the classification is what can be shown.
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = StoreError::Io { act: "write", path: "/lake".into(), source };
        let Delivery::Stuck(failure) = answer(error) else { panic!("not stuck") };
        assert!(failure.remedy.unwrap().contains("/lake"));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let answers = lake(root.path(), None).deliver(&[member(100, NOON, 50)]).await;
    assert!(matches!(&answers[0], Delivery::Stuck(failure) if failure.cause == "permission"), "{answers:?}");
}

#[tokio::test]
async fn what_is_too_old_goes_although_nothing_is_delivered() {
    let root = tempfile::tempdir().unwrap();
    let mut lake = lake(root.path(), None);
    assert_eq!(lake.deliver(&[member(1, NOON, 10)]).await, [Delivery::Confirmed]);
    let later = |days: i64, quality| Stamp { uptime_ms: 0, wall_ms: NOON + days * DAY, quality };
    lake.keep_house(later(29, WallQuality::Synced)).await;
    lake.keep_house(later(20_000, WallQuality::Unsynced)).await;
    assert_eq!(files(root.path()).len(), 1);
    lake.keep_house(later(32, WallQuality::Synced)).await;
    assert!(files(root.path()).is_empty());
}

#[tokio::test]
async fn what_was_delivered_under_a_guessed_day_is_kept_as_long_as_everything_else() {
    let root = tempfile::tempdir().unwrap();
    let mut lake = lake(root.path(), None);
    let mut deliver = async |member: Member| {
        assert_eq!(lake.deliver(&[member]).await, [Delivery::Confirmed]);
        files(root.path()).iter().filter(|name| name.ends_with(".gz")).count()
    };
    // A clock that stands months back is set.
    assert_eq!(deliver(guessed(member(0, NOON - 300 * DAY, 10))).await, 1);
    assert_eq!(deliver(member(10, NOON, 10)).await, 2);
    assert_eq!(deliver(member(20, NOON + 30 * DAY, 10)).await, 3);
    assert_eq!(deliver(member(30, NOON + 31 * DAY, 10)).await, 2, "it, and the day on which it was set");
}

#[tokio::test]
async fn a_guess_removes_nothing_by_its_age() {
    let root = tempfile::tempdir().unwrap();
    let mut lake = lake(root.path(), None);
    let mut deliver = async |member: Member| {
        assert_eq!(lake.deliver(&[member]).await, [Delivery::Confirmed]);
        files(root.path()).iter().filter(|name| name.ends_with(".gz")).count()
    };
    for day in 0..=30 {
        deliver(member(u64::try_from(day).unwrap() * 10, NOON + day * DAY, 10)).await;
    }
    assert_eq!(deliver(member(310, NOON + 30 * DAY, 10)).await, 32);
    // A clock that is years ahead.
    assert_eq!(deliver(guessed(member(320, NOON + 3_000 * DAY, 10))).await, 32, "31 days and no more");
}
