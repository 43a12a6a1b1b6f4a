//! The whole chain on one machine: the script that README names, in a short form.

use std::process::Command;

use super::script;
use super::venv::program;

#[test]
fn the_chain_holds_from_straps_to_answers_on_both_ways() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(program("python3"))
        .arg(script("local.py"))
        .args(["--fogbeat", env!("CARGO_BIN_EXE_fogbeat"), "--straps", "3", "--minutes", "11"])
        .args(["--keep", folder.path().join("kept").to_str().unwrap()])
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{page}\n{}", String::from_utf8_lossy(&output.stderr));
    // Three straps for eleven minutes (any of which hold a whole window of five), one of them heard by both gateways.
    for said in [
        "both have enrolled",
        "2640 readings published",
        "an alert went by rule and Lambda to SNS",
        "The chain held",
    ] {
        assert!(page.contains(said), "{said} is not in:\n{page}");
    }
    for gateway in ["gym-12", "gym-13"] {
        let log = std::fs::read_to_string(folder.path().join("kept").join(gateway).join("log")).unwrap();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "normal operation warns nobody:\n{log}");
    }
}
