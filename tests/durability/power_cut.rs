//! The power goes while readings come in: the state directory stands on a disk of its own that is shut down without a
//! last flush, and comes back with what had reached it. The lake is on another filesystem, as the cloud would be.

use std::time::Duration;

use crate::Bench;
use crate::kill::finish;
use crate::support::daemon::Setup;
use crate::support::env_number;
use crate::support::fleet::Fleet;
use crate::support::loopdev::LoopDisk;
use crate::support::rng::Rng;

/// `FOGBEAT_CUTS` cuts (5). Without root or loop devices this test fails, unless `FOGBEAT_NO_LOOP=1` says that it is
/// known and accepted that power cuts are not tested here.
#[test]
fn power_cuts_lose_nothing() {
    let bench = Bench::new("power-cut");
    let Some(disk) = LoopDisk::for_test(bench.path(), 512, "power cuts") else { return };
    let mut rng = Rng::from_env("power-cut");
    let mut setup = Setup::new(bench.path());
    setup.state_dir = disk.mount.join("state");
    let fleet = Fleet::start(setup.mqtt, 50, 5_000.0, Rng::new(rng.next()));
    let cuts = env_number("FOGBEAT_CUTS", 5);
    let mut in_start = 0;
    for _ in 0..cuts {
        if rng.one_in(4) {
            setup.rotate_key();
        }
        let mut daemon = setup.spawn();
        if rng.one_in(4) {
            std::thread::sleep(Duration::from_micros(rng.between(0, 400_000)));
            in_start += 1;
        } else {
            daemon.wait_ready();
            std::thread::sleep(Duration::from_micros(rng.between(100_000, 2_000_000)));
        }
        if let Some(status) = daemon.ended() {
            panic!("fogbeat ended by itself with {status}\n{}", setup.log_tail());
        }
        disk.cut().expect("cut the power");
        // The machine is dead now, but its last packets may be under way: an acknowledgement that leaves from here
        // on must still be true.
        std::thread::sleep(Duration::from_micros(rng.between(0, 200_000)));
        daemon.kill();
        disk.repair().expect("bring the disk back");
    }
    let (account, verdict) = finish(&setup, fleet);
    setup.check_encryption("strap-0");
    println!(
        "power-cut: {cuts} cuts, {in_start} of them during start; {} connections, {} publishes repeated with DUP",
        account.connections, account.sent_again
    );
    verdict.require("power-cut");
    assert!(verdict.acked as u64 > cuts * 200, "only {} acknowledged: the load did not flow", verdict.acked);
}
