//! Tells the program when it was built, as `FOGBEAT_BUILT_S` (seconds since the Unix epoch): no correct clock is before
//! that. `SOURCE_DATE_EPOCH` is honoured, so that a build can be repeated to the byte.

use std::time::{SystemTime, UNIX_EPOCH};

#[allow(clippy::disallowed_methods, reason = "a build has no clock seam")]
fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // Named so that an edit of the program, and not only of this file, moves the date.
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.lock");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    println!("cargo::rustc-env=FOGBEAT_BUILT_S={}", given.unwrap_or_else(now));
}
