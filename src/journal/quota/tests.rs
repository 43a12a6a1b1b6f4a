use super::*;

const MIB: u64 = 1 << 20;

fn limits() -> Limits {
    Limits::new(256 * MIB, 16 * MIB, 8 << 30)
}

fn measured(data: u64, free: u64) -> Measured {
    Measured { data, ballast: 32 * MIB, free, read_only: false }
}

#[test]
fn the_default_quota_is_the_smaller_of_2_gib_and_half_of_what_is_free() {
    assert_eq!(default_quota(100 << 30), 2 << 30);
    assert_eq!(default_quota(1 << 30), 512 * MIB);
    assert_eq!(default_quota(0), 16 * MIB, "a quota of nothing would take no reading ever");
}

#[test]
fn sizes_follow_from_the_quota_and_the_disk() {
    let limits = limits();
    assert_eq!((limits.ballast, limits.floor, limits.generation), (32 * MIB, 16 * MIB, 16 * MIB));
    assert_eq!((limits.data(), limits.line()), (224 * MIB, 208 * MIB));
    let small = Limits::new(24 * MIB, 16 * MIB, 64 * MIB);
    assert_eq!((small.ballast, small.floor), (3 * MIB, MIB));
    assert_eq!(small.generation, 21 * MIB / 6, "a few generations fit at least");
    assert_eq!(small.reserve(), 4 * MIB, "room for a few groups");
}

#[test]
fn a_group_is_written_only_when_quota_and_disk_have_room() {
    let limits = limits();
    assert_eq!(limits.room(&measured(200 * MIB, 1 << 30), need(1000)), Ok(()));
    assert_eq!(limits.room(&measured(215 * MIB, 1 << 30), need(1000)), Ok(()));
    assert_eq!(limits.room(&measured(216 * MIB, 1 << 30), need(1000)), Err(Trouble::Quota));
    assert_eq!(limits.room(&measured(0, 16 * MIB), need(1000)), Err(Trouble::DiskFull));
    let read_only = Measured { read_only: true, ..measured(0, 1 << 30) };
    assert_eq!(limits.room(&read_only, need(1)), Err(Trouble::ReadOnly));
}

#[test]
fn data_over_the_line_makes_something_give_way_while_new_readings_go_on() {
    let plan = limits().plan(&measured(210 * MIB, 1 << 30), WhenFull::DropOldest, None);
    assert_eq!((plan.over, plan.trouble, plan.delivered_goes), (2 * MIB, None, true));
    let plan = limits().plan(&measured(208 * MIB, 1 << 30), WhenFull::DropOldest, None);
    assert_eq!((plan.over, plan.delivered_goes), (0, false));
}

#[test]
fn refuse_new_shuts_the_door_before_the_end_and_opens_it_at_the_line() {
    let plan = |data, before| limits().plan(&measured(data, 1 << 30), WhenFull::RefuseNew, before).trouble;
    assert_eq!(plan(212 * MIB, None), None);
    assert_eq!(plan(213 * MIB, None), Some(Trouble::Quota));
    assert_eq!(plan(210 * MIB, Some(Trouble::Quota)), Some(Trouble::Quota));
    assert_eq!(plan(208 * MIB, Some(Trouble::Quota)), None);
}

#[test]
fn the_ballast_goes_when_the_disk_is_nearly_full_and_comes_back() {
    let order = |ballast, free| {
        let measured = Measured { data: 0, ballast, free, read_only: false };
        limits().plan(&measured, WhenFull::DropOldest, None)
    };
    assert_eq!(order(32 * MIB, 32 * MIB).ballast, BallastOrder::Leave);
    let released = order(32 * MIB, 10 * MIB);
    assert_eq!(
        (released.ballast, released.trouble),
        (BallastOrder::Release, None),
        "its space counts at once"
    );
    assert!(released.delivered_goes, "nothing is lost by it");
    assert_eq!(order(0, 95 * MIB).ballast, BallastOrder::Leave);
    assert_eq!(order(0, 96 * MIB).ballast, BallastOrder::Make);
    assert_eq!(order(0, 15 * MIB).trouble, Some(Trouble::DiskFull));
}

#[test]
fn a_full_disk_is_over_only_when_there_is_clearly_room() {
    let trouble = |free, before| {
        let measured = Measured { data: 0, ballast: 0, free, read_only: false };
        limits().plan(&measured, WhenFull::DropOldest, before).trouble
    };
    assert_eq!(trouble(16 * MIB, None), None);
    assert_eq!(trouble(16 * MIB, Some(Trouble::DiskFull)), Some(Trouble::DiskFull));
    assert_eq!(trouble(24 * MIB, Some(Trouble::DiskFull)), None);
}

#[test]
fn a_disk_that_others_fill_makes_nothing_give_way_that_is_not_delivered() {
    let plan = limits().plan(&measured(100 * MIB, 0), WhenFull::DropOldest, None);
    assert_eq!(plan.over, 0);
}

#[test]
fn senders_are_told_at_once_at_the_quota_and_after_a_while_of_a_full_disk() {
    let of = |trouble, since, when_full| Admission::of(Some((trouble, since)), when_full);
    let (now, later) = (Duration::ZERO, PATIENCE);
    assert_eq!(Admission::of(None, WhenFull::RefuseNew), Admission::Open);
    assert_eq!(of(Trouble::Quota, now, WhenFull::RefuseNew), Admission::Refused(Trouble::Quota));
    assert_eq!(of(Trouble::Quota, now, WhenFull::DropOldest), Admission::Held(Trouble::Quota));
    assert_eq!(of(Trouble::DiskFull, now, WhenFull::RefuseNew), Admission::Held(Trouble::DiskFull));
    assert_eq!(of(Trouble::ReadOnly, later, WhenFull::DropOldest), Admission::Refused(Trouble::ReadOnly));
}
