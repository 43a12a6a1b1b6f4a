//! SIGKILL at random moments under load, also while the daemon starts.

use std::time::Duration;

use crate::Bench;
use crate::support::daemon::{Daemon, Setup};
use crate::support::env_number;
use crate::support::fleet::{Account, Fleet};
use crate::support::lake::{Lake, Verdict, judge};
use crate::support::rng::Rng;

const CLIENTS: usize = 50;
const PER_SECOND: f64 = 5_000.0;
/// A clean stop delivers what it can within its grace of 10 s, and ends.
pub const STOP: Duration = Duration::from_secs(30);

/// `FOGBEAT_KILLS` kills (10): nothing acknowledged is lost, no id has two contents, nothing is stored twice, and every
/// number is accounted for.
#[test]
fn kills_at_random_moments_lose_nothing() {
    let bench = Bench::new("kill");
    let mut rng = Rng::from_env("kill");
    let mut setup = Setup::new(bench.path());
    let fleet = Fleet::start(setup.mqtt, CLIENTS, PER_SECOND, Rng::new(rng.next()));
    let kills = env_number("FOGBEAT_KILLS", 10);
    let mut in_start = 0;
    for _ in 0..kills {
        // Groups that are committed at once, and groups that stay open for a while.
        setup.commit_interval = ["0ms", "0ms", "100ms", "1s"][rng.between(0, 4) as usize].into();
        if rng.one_in(4) {
            setup.rotate_key();
        }
        let mut daemon = setup.spawn();
        if rng.one_in(3) {
            std::thread::sleep(Duration::from_micros(rng.between(0, 300_000)));
            in_start += 1;
        } else {
            daemon.wait_ready();
            std::thread::sleep(Duration::from_micros(rng.between(20_000, 1_200_000)));
        }
        if let Some(status) = daemon.ended() {
            panic!("fogbeat ended by itself with {status}\n{}", setup.log_tail());
        }
        daemon.kill();
    }
    let (account, verdict) = finish(&setup, fleet);
    setup.check_encryption("strap-0");
    println!(
        "kill: {kills} kills, {in_start} of them during start; {} connections, {} publishes repeated with DUP, {} \
         readings sent twice",
        account.connections, account.sent_again, account.sent_twice
    );
    verdict.require("kill");
    assert!(
        account.sent_again > 0 && account.sent_twice > 0,
        "no publish was repeated: the test proves little"
    );
    assert!(verdict.acked as u64 > kills * 200, "only {} acknowledged: the load did not flow", verdict.acked);
}

/// The last act of a series: the daemon once more, everything acknowledged, a clean stop, and the account. A second
/// short life ends the generation that was the head of the first one.
pub fn finish(setup: &Setup, fleet: Fleet) -> (Account, Verdict) {
    let daemon = setup.start();
    std::thread::sleep(Duration::from_secs(1));
    let account = fleet.settle();
    assert_eq!(account.unacknowledged, 0, "publishes without an answer after 60 s\n{}", setup.log_tail());
    stop(setup, daemon);
    stop(setup, setup.start());
    let verdict = judge(&account.readings, &Lake::read(&setup.lake));
    (account, verdict)
}

fn stop(setup: &Setup, daemon: Daemon) {
    let status = daemon.terminate(STOP);
    assert!(status.success(), "a clean stop ended with {status}\n{}", setup.log_tail());
}
