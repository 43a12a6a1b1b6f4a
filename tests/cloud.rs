//! The cloud side: the template, the views and queries over what gateways delivered, what it all costs.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

#[path = "cloud/answers.rs"]
mod answers;
#[path = "cloud/bill.rs"]
mod bill;
#[path = "cloud/clocks.rs"]
mod clocks;
#[path = "cloud/hearts.rs"]
mod hearts;
#[path = "cloud/local.rs"]
mod local;
#[allow(dead_code, reason = "made for the tests of wrong clocks")]
#[path = "time/machine.rs"]
mod machine;
#[allow(dead_code, reason = "made for the tests of wrong clocks")]
#[path = "time/reader.rs"]
mod reader;
#[allow(dead_code, reason = "made for the durability tests")]
#[path = "support/hearts.rs"]
mod recorded;
#[path = "cloud/site.rs"]
mod site;
#[path = "cloud/template.rs"]
mod template;
#[path = "support/venv.rs"]
mod venv;

use std::path::{Path, PathBuf};
use std::process::Command;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A script of `tests/cloud`.
fn script(name: &str) -> PathBuf {
    project("tests/cloud").join(name)
}

/// Runs a Python script of the test environment; its standard output.
fn run(script: &Path, arguments: &[&str]) -> String {
    let output = Command::new(venv::program("python3")).arg(script).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}: {told}", script.display());
    String::from_utf8(output.stdout).unwrap()
}

/// The real binary; its standard output.
fn fogbeat(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fogbeat")).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fogbeat {arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}
