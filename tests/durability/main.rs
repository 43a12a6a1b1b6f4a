//! The promise, put to the test on the real binary: what was acknowledged is on disk, arrives exactly accounted for,
//! and costs no more memory after a day than after a minute. `tests/README.md` names the promise behind each test.
//!
//! Sizes come from the environment so that a developer's run takes about a minute and `tests/heavy.sh` takes it to the
//! figures the project promises. The tests load the machine and run one after another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a surprise is a failure, and the figures go to standard output"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod ack_order;
mod days;
mod kill;
mod outage;
mod power_cut;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod trace;
mod verdicts;

use support::bench::Bench;
