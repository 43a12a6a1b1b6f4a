//! Reading the log, and whether it is whole.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::log::{FILE, Head, closed, hash, head};

/// A line, as far as the chain goes.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    pub n: u64,
    pub prev: String,
}

/// What the log holds.
#[derive(Debug, Clone, Default)]
pub struct Audited {
    /// Whole lines, oldest first.
    pub lines: Vec<String>,
    pub verdict: Verdict,
}

/// Whether the chain is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub sound: bool,
    pub entries: u64,
    /// Number of the first and the last line found.
    pub first: u64,
    pub last: u64,
    /// SHA-256 of the last line: the same as was seen elsewhere, or the log was written anew.
    pub hash: String,
    pub problems: Vec<String>,
}

impl Audited {
    /// Reads and checks everything that is kept. Blocking.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn read(state_dir: &Path) -> io::Result<Self> {
        let mut text = String::new();
        for path in closed(state_dir)? {
            text.push_str(&fs::read_to_string(path)?);
        }
        // Before the file: a line that is added meanwhile is then behind the head, which is no fault.
        let head = head(state_dir)?;
        match fs::read_to_string(state_dir.join(FILE)) {
            Ok(current) => text.push_str(&current),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        // Cut off by a power cut; the next entry removes it.
        if !text.ends_with('\n') {
            lines.pop();
        }
        let verdict = verify(&lines, &head);
        Ok(Self { lines, verdict })
    }
}

fn verify(lines: &[String], head: &Head) -> Verdict {
    let mut verdict = Verdict { entries: lines.len() as u64, ..Verdict::default() };
    let mut before: Option<(u64, String)> = None;
    let mut met_head = head.n == 0;
    for text in lines {
        let hash = hash(text.as_bytes());
        let number = match serde_json::from_str::<Line>(text) {
            Ok(line) => {
                match &before {
                    Some((n, expected)) => {
                        if line.n != n + 1 {
                            verdict.problems.push(format!("after entry {n} comes {}", line.n));
                        } else if line.prev != *expected {
                            verdict
                                .problems
                                .push(format!("entry {n} was changed after {} was written", line.n));
                        }
                    }
                    None if line.n > head.first => {
                        verdict.problems.push(format!(
                            "entries {} to {} are missing",
                            head.first,
                            line.n - 1
                        ));
                    }
                    None => {}
                }
                line.n
            }
            Err(error) => {
                let after = before.as_ref().map_or(0, |(n, _)| *n);
                verdict.problems.push(format!("the line after entry {after} is not an entry: {error}"));
                after + 1
            }
        };
        if number == head.n {
            met_head = true;
            if hash != head.hash {
                verdict.problems.push(format!("entry {number}, the last one written, was changed"));
            }
        }
        if before.is_none() {
            verdict.first = number;
        }
        verdict.last = number;
        verdict.hash.clone_from(&hash);
        before = Some((number, hash));
    }
    // One line may be there before there is a head.
    if head.n == 0 && lines.len() > 1 {
        verdict.problems.push("audit.head is gone: a cut at the end would go unnoticed".into());
    }
    if !met_head {
        verdict.problems.push(format!("entries {} to {} are missing", verdict.last + 1, head.n));
    }
    verdict.sound = verdict.problems.is_empty();
    verdict
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::{Act, Audit, Outcome, Who};
    use super::*;
    use crate::clock::{BootId, Clock, Stamp, WallQuality};

    struct TestClock(Mutex<Stamp>);

    impl Clock for TestClock {
        fn now(&self) -> Stamp {
            *self.0.lock().unwrap()
        }
        fn boot(&self) -> BootId {
            BootId([7; 16])
        }
    }

    fn clock(quality: WallQuality) -> TestClock {
        TestClock(Mutex::new(Stamp { uptime_ms: 5, wall_ms: 1_790_000_000_000, quality }))
    }

    fn who() -> Who {
        Who { uid: 1000, name: Some("alice".into()), login_uid: None }
    }

    fn filled(entries: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        for _ in 0..entries {
            audit.record(&clock(WallQuality::Synced), &who(), &Act::Export, Outcome::Done).unwrap();
        }
        dir
    }

    fn problems(dir: &tempfile::TempDir) -> Vec<String> {
        Audited::read(dir.path()).unwrap().verdict.problems
    }

    fn edit(dir: &tempfile::TempDir, change: impl FnOnce(&mut Vec<String>)) {
        let path = dir.path().join(FILE);
        let mut lines: Vec<String> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    #[test]
    fn an_entry_says_who_when_and_what_and_no_name_of_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let device = audit.device("strap-17");
        let act = Act::DeviceAdd { device: device.clone(), publish: 1, subscribe: 0 };
        audit.record(&clock(WallQuality::Unsynced), &who(), &act, Outcome::Done).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["n"], 1);
        assert_eq!(line["who"]["name"], "alice");
        assert_eq!((&line["act"], &line["outcome"]), (&"device_add".into(), &"done".into()));
        assert_eq!((&line["time_quality"], &line["uptime_ms"]), (&"unsynced".into(), &5.into()));
        assert!(!text.contains("strap"), "{text}");
        assert_eq!(Audit::open(dir.path()).unwrap().device("strap-17"), device);
        assert!(problems(&dir).is_empty());
    }

    #[test]
    fn every_edit_and_every_cut_is_noticed() {
        assert!(problems(&filled(5)).is_empty());
        let headless = filled(5);
        fs::remove_file(headless.path().join("audit.head")).unwrap();
        assert!(!problems(&headless).is_empty());
        let changes: [fn(&mut Vec<String>); 8] = [
            |lines| lines[2] = lines[2].replace("alice", "mallory"),
            |lines| lines[4] = lines[4].replace("alice", "mallory"),
            |lines| drop(lines.remove(2)),
            |lines| drop(lines.remove(0)),
            |lines| drop(lines.pop()),
            Vec::clear,
            |lines| lines.swap(1, 2),
            |lines| lines.insert(2, "nothing".into()),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let dir = filled(5);
            edit(&dir, change);
            assert!(!problems(&dir).is_empty(), "change {number} went unnoticed");
            // Nor does it heal by itself.
            let audit = Audit::open(dir.path()).unwrap();
            audit.record(&clock(WallQuality::Synced), &who(), &Act::Export, Outcome::Done).unwrap();
            assert!(!problems(&dir).is_empty(), "change {number} was forgotten");
        }
    }

    #[test]
    fn a_power_cut_in_the_middle_is_no_fault() {
        let dir = filled(3);
        let path = dir.path().join(FILE);
        let before = fs::read(dir.path().join("audit.head")).unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let add = || audit.record(&clock(WallQuality::Synced), &who(), &Act::Export, Outcome::Done).unwrap();
        add();
        // The line is there, the head was not replaced any more.
        fs::write(dir.path().join("audit.head"), before).unwrap();
        assert!(problems(&dir).is_empty());
        // The line is cut off.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"n\":5,\"pre")).unwrap();
        assert!(problems(&dir).is_empty());
        add();
        let audited = Audited::read(dir.path()).unwrap();
        assert!(audited.verdict.sound, "{:?}", audited.verdict);
        assert_eq!((audited.lines.len(), audited.verdict.last), (5, 5));
    }

    #[test]
    fn the_log_is_bounded_and_the_chain_goes_on_over_its_files() {
        let dir = filled(1);
        let path = dir.path().join(FILE);
        let audit = Audit::open(dir.path()).unwrap();
        let long = Act::UplinkForget { uplink: "x".repeat(60_000) };
        let turns = (super::super::MOST_FILES + 3) * 18;
        for _ in 0..turns {
            audit.record(&clock(WallQuality::Synced), &who(), &long, Outcome::Done).unwrap();
        }
        let kept = closed(dir.path()).unwrap();
        assert_eq!(kept.len(), super::super::MOST_FILES);
        assert!(fs::metadata(&path).unwrap().len() < super::super::MOST_BYTES + 65_536);
        let verdict = Audited::read(dir.path()).unwrap().verdict;
        assert!(verdict.sound, "{verdict:?}");
        assert!(verdict.first > 1);
        assert_eq!(verdict.last, turns as u64 + 1);
        fs::remove_file(&kept[3]).unwrap();
        assert!(!problems(&dir).is_empty());
        let dir_first = filled(1);
        fs::remove_file(dir_first.path().join(FILE)).unwrap();
        assert!(!problems(&dir_first).is_empty());
        fs::remove_file(&kept[0]).unwrap();
        assert!(problems(&dir).iter().any(|problem| problem.contains("are missing")));
    }
}
