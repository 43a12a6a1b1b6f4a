//! Small files of the state directory: whichever is damaged, the gateway starts, delivers everything, and says what
//! happened to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::daemon::{Setup, binary};
use super::support::fleet::{Account, Fleet};
use super::support::lake::judge;
use super::support::rng::Rng;
use super::{HARMS, Harm, PATIENCE, START, alone, copy_dir, deliver, scratch, size, truncate};

/// Files of the state directory, and what the log says of each when it is damaged.
const FILES: [(&str, &str); 6] = [
    ("clock.json", "the clock's anchors are damaged"),
    ("clock-floor", "the time that was written down is damaged"),
    ("audit.jsonl", "the audit log does not end where it ended"),
    ("audit.head", "the audit log does not end where it ended"),
    ("audit.key", "the key of the audit log is not the one it was"),
    ("spool/quota.json", "default quota that was settled on is damaged"),
];

fn harms() -> impl Iterator<Item = (&'static str, Harm)> {
    let cut: (&str, Harm) = ("cut in half", |path| truncate(path, size(path) / 2));
    HARMS.into_iter().chain([cut])
}

/// A gateway that has lived for a moment, was killed, and still has to deliver.
struct Place {
    root: tempfile::TempDir,
    setup: Setup,
    account: Account,
}

impl Place {
    fn make() -> Self {
        let root = scratch("damage-small");
        let mut setup = Setup::new(root.path());
        setup.clock = "trust = \"always\"".to_owned();
        setup.block_lake();
        let daemon = setup.start();
        let fleet = Fleet::start(setup.mqtt, 3, 300.0, Rng::new(7));
        std::thread::sleep(Duration::from_millis(700));
        let account = fleet.settle();
        daemon.kill();
        setup.open_lake();
        for (file, _) in FILES {
            assert!(setup.state_dir.join(file).is_file(), "{file} is not there");
        }
        Self { root, setup, account }
    }

    /// A copy that may be damaged.
    fn copy(&self, name: &str) -> Setup {
        let name = name.replace(['/', ' '], "-");
        let path = |what: &str| -> PathBuf { self.root.path().join(format!("{what}-{name}")) };
        let copy =
            Setup { state_dir: path("state"), lake: path("lake"), log: path("log"), ..self.setup.clone() };
        copy_dir(&self.setup.state_dir, &copy.state_dir);
        copy
    }
}

/// Starts the gateway, and stops it; what it said meanwhile.
fn start(setup: &Setup, what: &str) -> String {
    let started = Instant::now();
    let daemon = setup.start();
    assert!(started.elapsed() < START, "{what}: the start took {:?}", started.elapsed());
    assert!(daemon.terminate(PATIENCE).success(), "{what}: {}", setup.log_tail());
    fs::read_to_string(&setup.log).unwrap()
}

/// Reads the whole audit log.
fn verified(config: &Path) -> bool {
    let verify = Command::new(binary()).args(["audit", "verify", "--config"]).arg(config).output().unwrap();
    verify.status.success()
}

#[test]
fn a_damaged_small_file_stops_no_start_costs_no_reading_and_is_told() {
    let _alone = alone();
    let place = Place::make();
    let whole = start(&place.copy("whole"), "undamaged");
    for (_, said) in FILES {
        assert!(!whole.contains(said), "a whole file is called damaged\n{whole}");
    }
    for (file, said) in FILES {
        for (name, harm) in harms() {
            let what = format!("{file} {name}");
            let setup = place.copy(&what);
            harm(&setup.state_dir.join(file));
            let log = start(&setup, &what);
            // A start looks at the end of the audit log only; whoever reads it looks at everything. What is gone without
            // a trace is made anew: nobody can tell it from what never was.
            let told = log.contains(said)
                || (file == "audit.jsonl" && !verified(&setup.config))
                || (name == "deleted" && !file.starts_with("audit."))
                // What flips may be the case of a digit: it is the same key.
                || (name == "flipped" && file == "audit.key");
            assert!(told, "{what}: nothing is said of it\n{log}");
        }
    }
    for (name, harm) in harms() {
        let what = format!("all of them {name}");
        let setup = place.copy(&what);
        FILES.iter().for_each(|(file, _)| harm(&setup.state_dir.join(file)));
        let lake = deliver(&setup);
        judge(&place.account.readings, &lake).require(&what);
        let log = fs::read_to_string(&setup.log).unwrap();
        for (file, said) in FILES.iter().filter(|(file, _)| name == "emptied" && *file != "audit.key") {
            assert!(log.contains(said), "{what}: nothing is said of {file}\n{log}");
        }
    }
}
