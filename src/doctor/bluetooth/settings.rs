//! BlueZ's own settings, of which two matter: how soon a link is given up, and whether classic Bluetooth shares the air.
//!
//! Linux gives a link up after 420 ms of silence, which a body between strap and gateway lasts longer than
//! (`ConnectionSupervisionTimeout`, in units of 10 ms; Bluetooth Core, vol. 6 part B section 4.5.2).

use std::collections::BTreeMap;
use std::time::Duration;

use super::SYS;
use crate::config::Ble;
use crate::doctor::{Finding, probe};

const TIMEOUT: &str = "bluetooth links";
const MODE: &str = "bluetooth mode";
const FILE: &str = "/etc/bluetooth/main.conf";
/// The kernel's default, and what suits straps, in units of 10 ms.
const KERNEL: u32 = 42;
const ENOUGH: u32 = 200;

pub fn findings(ble: &Ble) -> Vec<Finding> {
    let text = probe::text(FILE);
    let settings = Settings::of(text.as_deref().unwrap_or_default());
    // The one in force, where this user may see it.
    let in_force: Option<u32> = probe::names(SYS)
        .iter()
        .filter_map(|name| probe::text(format!("/sys/kernel/debug/bluetooth/{name}/supervision_timeout")))
        .filter_map(|text| text.parse().ok())
        .min();
    let mut found = vec![judge_mode(settings.get("General", "ControllerMode"))];
    if ble.connect {
        let configured =
            settings.get("LE", "ConnectionSupervisionTimeout").and_then(|text| text.parse().ok());
        found.push(judge_timeout(configured, in_force));
    }
    found
}

/// An INI file's settings by section and key.
struct Settings(BTreeMap<(String, String), String>);

impl Settings {
    fn of(text: &str) -> Self {
        let mut section = String::new();
        let mut settings = BTreeMap::new();
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                settings.insert((section.clone(), key.trim().to_owned()), value.trim().to_owned());
            }
        }
        Self(settings)
    }

    fn get(&self, section: &str, key: &str) -> Option<&str> {
        self.0.get(&(section.to_owned(), key.to_owned())).map(String::as_str)
    }
}

fn judge_timeout(configured: Option<u32>, in_force: Option<u32>) -> Finding {
    let now = in_force.or(configured).unwrap_or(KERNEL);
    let time = humantime::format_duration(Duration::from_millis(u64::from(now) * 10));
    let reason = format!("a link is given up after {time} of silence");
    match configured {
        Some(configured) if configured >= ENOUGH && now < ENOUGH => {
            let next = "`systemctl restart bluetooth`, or boot anew";
            Finding::warning(TIMEOUT, format!("{reason}: {FILE} says better, and it is not in force"), next)
        }
        _ if now < ENOUGH => {
            let next = format!(
                "in {FILE}, section [LE]: ConnectionSupervisionTimeout={ENOUGH}, then `systemctl restart bluetooth`"
            );
            Finding::warning(TIMEOUT, format!("{reason}: straps drop behind a body"), next)
        }
        _ => Finding::ok(TIMEOUT, reason),
    }
}

fn judge_mode(mode: Option<&str>) -> Finding {
    match mode.unwrap_or("dual") {
        "le" => Finding::ok(MODE, "ControllerMode is le: the air is the wearables' alone"),
        "bredr" => {
            let next = format!(
                "in {FILE}, section [General]: ControllerMode=le, then `systemctl restart bluetooth`"
            );
            Finding::error(
                MODE,
                "ControllerMode is bredr: Bluetooth LE is switched off, no wearable can be heard",
                next,
            )
        }
        mode => {
            let next = format!(
                "where nothing else uses Bluetooth, ControllerMode=le in {FILE} gives wearables all of it"
            );
            Finding::ok(MODE, format!("ControllerMode is {mode}")).next(next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn main_conf_is_read_without_its_comments() {
        let settings = Settings::of(
            "[General]\n#ControllerMode = dual\nControllerMode = le\n[LE]\n# x\nConnectionSupervisionTimeout=300\n",
        );
        assert_eq!(settings.get("General", "ControllerMode"), Some("le"));
        assert_eq!(settings.get("LE", "ConnectionSupervisionTimeout"), Some("300"));
        assert_eq!(Settings::of("[General]\n#ControllerMode = le\n").get("General", "ControllerMode"), None);
    }

    #[test]
    fn the_trap_of_420_ms() {
        let verdict = |configured, in_force| judge_timeout(configured, in_force).verdict;
        assert_eq!(verdict(None, None), Verdict::Warning);
        assert!(judge_timeout(None, None).reason.contains("420ms"));
        assert_eq!(verdict(Some(200), None), Verdict::Ok);
        assert_eq!(verdict(Some(200), Some(42)), Verdict::Warning);
        assert_eq!(verdict(None, Some(500)), Verdict::Ok);
        assert_eq!(judge_mode(Some("le")).verdict, Verdict::Ok);
        assert_eq!(judge_mode(Some("bredr")).verdict, Verdict::Error);
        assert!(judge_mode(None).next.is_some());
    }
}
