//! Whether the time is right, and who says so.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use super::scene::Scene;
use super::{Finding, probe};
use crate::clock::{Heard, heard_now, is_before_build};
use crate::config::Trust;

const NAME: &str = "clock";
const LIMIT: Duration = Duration::from_secs(5);

/// What there is to be known of the clock.
#[derive(Debug, Clone, Default)]
struct Facts {
    trust: Trust,
    heard: Heard,
    /// The running gateway believes its clock, and how far off it may be, s.
    believed: Option<(bool, Option<f64>)>,
    doubted: bool,
    /// The system's clock lies before the build of this program.
    impossible: bool,
    year: i32,
    /// Who sets it.
    source: Option<String>,
    /// A clock with a battery.
    battery: bool,
}

pub fn findings(scene: &Scene) -> Vec<Finding> {
    let health = scene.told("/clock");
    let flag = |key: &str| health.and_then(|health| health.get(key)).and_then(Value::as_bool);
    let off = health.and_then(|health| health.get("uncertainty_s")).and_then(Value::as_f64);
    vec![judge(&Facts {
        trust: scene.config.clock.trust,
        heard: heard_now(),
        believed: flag("synced").map(|synced| (synced, off)),
        doubted: flag("doubted").unwrap_or(false),
        impossible: is_before_build(),
        year: OffsetDateTime::now_utc().year(),
        source: source(),
        battery: Path::new("/sys/class/rtc/rtc0").exists(),
    })]
}

/// The service that sets the clock, as far as systemd knows it.
fn source() -> Option<String> {
    let known = ["systemd-timesyncd", "chrony", "chronyd", "ntpsec", "ntp", "ntpd", "openntpd"];
    let units: Vec<String> = known.iter().map(|name| format!("{name}.service")).collect();
    let mut words = vec!["show", "--property", "Id,ActiveState"];
    words.extend(units.iter().map(String::as_str));
    let shown = probe::run("systemctl", &words, LIMIT).said()?;
    shown.split("\n\n").find_map(|unit| {
        let of = probe::properties(unit);
        (of.get("ActiveState") == Some(&"active"))
            .then(|| of.get("Id").map(|id| id.trim_end_matches(".service").to_owned()))?
    })
}

fn judge(facts: &Facts) -> Finding {
    let Facts { year, source, .. } = facts;
    let by = source.as_deref().map(|source| format!(" by {source}")).unwrap_or_default();
    let battery = if facts.battery { "" } else { "; this machine has no clock with a battery" };
    let set = match source {
        Some(source) => {
            format!("see what `systemctl status {source}` says, and whether NTP (UDP port 123) is let out")
        }
        None => "`timedatectl set-ntp true`, or install chrony".to_owned(),
    };
    if facts.impossible {
        let reason = format!(
            "it stands in {year}, before this program was built: certificates cannot be judged{battery}"
        );
        return Finding::error(NAME, reason, set);
    }
    if facts.doubted {
        let reason =
            "the system's clock contradicts what was known to be right; which one is wrong shows in minutes";
        return Finding::warning(NAME, reason, "see who sets the clock: `timedatectl`");
    }
    let off = |off: Option<f64>| off.map(|off| format!(", off by at most {off:.1} s")).unwrap_or_default();
    match (facts.trust, facts.heard, facts.believed) {
        (Trust::Always, ..) => {
            Finding::ok(NAME, format!("is taken for right as configured ([clock] trust), {year}"))
        }
        (Trust::Never, ..) => Finding::warning(
            NAME,
            "is never believed ([clock] trust = \"never\"): readings leave as `unsynced`",
            "remove [clock] trust unless you mean it",
        ),
        (_, _, Some((true, uncertainty))) => {
            Finding::ok(NAME, format!("is synchronised{by}{}{battery}", off(uncertainty)))
        }
        (_, Heard::Synchronised, None) => Finding::ok(NAME, format!("is synchronised{by}{battery}")),
        (_, Heard::Synchronised, Some((false, _))) => {
            let next = "wait a minute, and ask again";
            Finding::warning(NAME, format!("is synchronised{by}, and the gateway has not noticed yet"), next)
        }
        (_, Heard::NotSynchronised, _) => {
            let reason = format!("is not synchronised: readings get their true time later{battery}");
            Finding::warning(NAME, reason, set)
        }
        (_, Heard::NobodyThere | Heard::Nothing, _) => {
            let reason = "nobody on this machine can say whether it is right: readings leave as `unsynced`";
            let next = "install systemd-timesyncd or chrony; where the host keeps the clock: [clock] trust = \"always\"";
            Finding::warning(NAME, reason, next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn each_state_of_the_clock_has_its_verdict() {
        let fine = Facts { heard: Heard::Synchronised, year: 2026, ..Facts::default() };
        let verdict = |facts: Facts| judge(&facts).verdict;
        assert_eq!(verdict(fine.clone()), Verdict::Ok);
        assert_eq!(verdict(Facts { believed: Some((true, Some(0.6))), ..fine.clone() }), Verdict::Ok);
        assert_eq!(verdict(Facts { believed: Some((false, None)), ..fine.clone() }), Verdict::Warning);
        assert_eq!(verdict(Facts { heard: Heard::NotSynchronised, ..fine.clone() }), Verdict::Warning);
        assert_eq!(verdict(Facts { heard: Heard::NobodyThere, ..fine.clone() }), Verdict::Warning);
        assert_eq!(verdict(Facts { doubted: true, ..fine.clone() }), Verdict::Warning);
        assert_eq!(verdict(Facts { impossible: true, year: 1970, ..fine.clone() }), Verdict::Error);
        assert_eq!(verdict(Facts { trust: Trust::Never, ..fine.clone() }), Verdict::Warning);
        assert_eq!(verdict(Facts { trust: Trust::Always, heard: Heard::NobodyThere, ..fine }), Verdict::Ok);
    }
}
