//! Who is heard on the air within some seconds. Names and addresses are for `fogbeat scan`; here, how many and how loud.

use std::time::{Duration, Instant};

use crate::clock::SystemClock;
use crate::control::{self, Request};
use crate::doctor::Finding;
use crate::doctor::scene::{Daemon, Scene};
use crate::source::bluetooth::radio::RadioError;
use crate::source::bluetooth::{Allowed, BlueZ, Look, Sight, set_up_look};

const NAME: &str = "wearables";
/// The gateway forgets what it heard 15 s after it was last asked.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Also where nobody is to be listened for: adapters tell of themselves at once.
const LEAST: Duration = Duration::from_millis(500);
/// Weaker than this a connection does not hold.
const WEAK_DBM: i8 = -90;

/// Heart-rate wearables in reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Signals, strongest first, and whether the wearable is allowed.
    straps: Vec<(Option<i8>, bool)>,
}

impl Heard {
    fn of(sights: Vec<Sight>) -> Self {
        let mut straps: Vec<_> = sights.into_iter().map(|sight| (sight.rssi_dbm, sight.allowed)).collect();
        straps.sort_by_key(|(rssi, _)| std::cmp::Reverse(*rssi));
        Self { straps }
    }
}

/// Listens: a running gateway for us, or we ourselves.
///
/// # Errors
/// There is no radio; why.
pub fn listen(scene: &Scene) -> Result<Heard, RadioError> {
    let time = scene.left(scene.listen.max(LEAST));
    match &scene.daemon {
        Daemon::Answers { socket, .. } => {
            if let Some(why) = scene.told("/bluetooth/unavailable").and_then(serde_json::Value::as_str) {
                return Err(unavailable(why));
            }
            let ask = || control::ask_within(socket, &Request::BleScan, Duration::from_secs(5));
            let end = Instant::now() + time;
            loop {
                let rows = ask().map_err(|error| RadioError::Other(error.to_string()))?;
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let sights = serde_json::from_value(rows);
                    return sights.map(Heard::of).map_err(|error| RadioError::Other(error.to_string()));
                }
                std::thread::sleep(left.min(ASK_EVERY));
            }
        }
        // Who has the radio is not known: two who scan do not disturb each other.
        _ => alone(scene, time),
    }
}

fn alone(scene: &Scene, time: Duration) -> Result<Heard, RadioError> {
    let failed = |error: std::io::Error| RadioError::Other(error.to_string());
    let clock = SystemClock::new(&scene.config.clock, scene.state_dir());
    let allowed = Allowed::new(scene.state_dir()).list().unwrap_or_default();
    let core = set_up_look(&scene.config.ble, &allowed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let heard = runtime.block_on(async {
        let limit = time + Duration::from_secs(8);
        let looking = async {
            let mut look = Look::begin(BlueZ::default(), core, &clock).await?;
            let sights = look.listen(time).await;
            look.end().await;
            sights.map(Heard::of)
        };
        tokio::time::timeout(limit, looking).await.unwrap_or(Err(RadioError::Timeout))
    });
    runtime.shutdown_background();
    heard
}

/// What a gateway says of a radio that it cannot use, in the words of [`RadioError`].
fn unavailable(why: &str) -> RadioError {
    let is = |error: &RadioError| why.contains(&error.to_string());
    match () {
        () if is(&RadioError::NoAdapter) || why.contains("there is no Bluetooth adapter") => {
            RadioError::NoAdapter
        }
        () if is(&RadioError::Off) => RadioError::Off,
        () if why.contains("no Bluetooth service answers") => RadioError::NoStack(why.to_owned()),
        () if why.contains("access to Bluetooth is denied") => RadioError::Denied(why.to_owned()),
        () => RadioError::Other(why.to_owned()),
    }
}

pub fn judge(heard: &Heard, listened: Duration) -> Finding {
    if listened.is_zero() {
        return Finding::skipped(NAME, "were not listened for (--listen 0s)");
    }
    let time = humantime::format_duration(Duration::from_secs(listened.as_secs()));
    let straps = &heard.straps;
    if straps.is_empty() {
        let next = "wear one (a strap sleeps until it feels skin), or set a watch to broadcast heart rate; `fogbeat scan` shows who is on the air";
        return Finding::warning(NAME, format!("none was heard within {time}"), next);
    }
    let signals: Vec<String> =
        straps.iter().filter_map(|(rssi, _)| rssi.map(|rssi| rssi.to_string())).collect();
    let allowed = straps.iter().filter(|(_, allowed)| *allowed).count();
    let signals = if signals.is_empty() { String::new() } else { format!(" at {} dBm", signals.join(", ")) };
    let reason = format!("{} heard within {time}{signals}; {allowed} of them allowed", straps.len());
    if allowed == 0 {
        return Finding::warning(
            NAME,
            reason,
            "`fogbeat scan` shows them, `fogbeat scan --allow ID` lets one in",
        );
    }
    let weak =
        straps.iter().filter(|(rssi, allowed)| *allowed && rssi.is_some_and(|rssi| rssi < WEAK_DBM)).count();
    if weak == allowed {
        return Finding::warning(
            NAME,
            reason,
            "bring the gateway nearer, or put a dongle on a cable, away from metal",
        );
    }
    Finding::ok(NAME, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn who_is_heard_is_judged_by_number_and_signal() {
        let ten = Duration::from_secs(10);
        let of = |straps: &[(i8, bool)]| {
            let straps = straps.iter().map(|(rssi, allowed)| (Some(*rssi), *allowed)).collect();
            judge(&Heard { straps }, ten)
        };
        let fine = of(&[(-52, true), (-80, false)]);
        assert_eq!(fine.verdict, Verdict::Ok);
        assert_eq!(fine.reason, "2 heard within 10s at -52, -80 dBm; 1 of them allowed");
        assert_eq!(of(&[]).verdict, Verdict::Warning);
        assert_eq!(of(&[(-52, false)]).verdict, Verdict::Warning);
        assert_eq!(of(&[(-95, true)]).verdict, Verdict::Warning);
        assert_eq!(judge(&Heard::default(), Duration::ZERO).verdict, Verdict::Skipped);
    }

    #[test]
    fn a_gateways_words_are_understood() {
        for error in [
            RadioError::NoAdapter,
            RadioError::Off,
            RadioError::NoStack("x".into()),
            RadioError::Denied("x".into()),
        ] {
            let found = unavailable(&error.to_string());
            assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&error), "{error}");
        }
    }
}
