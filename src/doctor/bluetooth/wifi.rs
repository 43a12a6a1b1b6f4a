//! Wi-Fi on 2.4 GHz beside Bluetooth on the same chip: they share one antenna, and an access point sends all the time.

use std::time::Duration;

use super::SYS;
use crate::doctor::{Finding, probe};

const NAME: &str = "wi-fi";
const LIMIT: Duration = Duration::from_secs(3);

/// What a Wi-Fi interface does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    access_point: bool,
    /// `None`: not on any channel.
    mhz: Option<u32>,
}

pub fn findings() -> Option<Finding> {
    let interfaces = match probe::run("iw", &["dev"], LIMIT) {
        probe::Ran::Said(text) => interfaces(&text),
        _ => {
            let there = probe::names("/sys/class/net")
                .into_iter()
                .find(|name| std::path::Path::new(&format!("/sys/class/net/{name}/phy80211")).exists())?;
            let reason = format!("what {there} does cannot be asked");
            return Some(Finding::skipped(NAME, reason).next("`apt install iw`"));
        }
    };
    // A Raspberry Pi's own Bluetooth is on a serial line, its Wi-Fi on the same chip.
    let serial = probe::names(SYS).iter().any(|name| {
        std::fs::canonicalize(format!("{SYS}/{name}")).is_ok_and(|path| {
            path.components().any(|part| part.as_os_str().to_string_lossy().contains("serial"))
        })
    });
    judge(&interfaces, serial)
}

/// Reads `iw dev`.
fn interfaces(text: &str) -> Vec<Interface> {
    let mut found: Vec<Interface> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("Interface ") {
            found.push(Interface { name: name.to_owned(), access_point: false, mhz: None });
        } else if let Some(interface) = found.last_mut() {
            if let Some(kind) = line.strip_prefix("type ") {
                interface.access_point = kind == "AP";
            } else if let Some((_, rest)) = line.split_once(" (").filter(|_| line.starts_with("channel ")) {
                interface.mhz = rest.split_once(" MHz").and_then(|(mhz, _)| mhz.parse().ok());
            }
        }
    }
    found
}

/// `same_chip`: the adapter and the Wi-Fi are one.
fn judge(interfaces: &[Interface], same_chip: bool) -> Option<Finding> {
    let crowded = |interface: &&Interface| interface.mhz.is_some_and(|mhz| (2_400..2_500).contains(&mhz));
    let mut on_24: Vec<&Interface> = interfaces.iter().filter(crowded).collect();
    on_24.sort_by_key(|interface| !interface.access_point);
    let Some(worst) = on_24.first() else {
        return (!interfaces.is_empty()).then(|| Finding::ok(NAME, "is not on 2.4 GHz, where Bluetooth is"));
    };
    let (name, what) = (&worst.name, if worst.access_point { "an access point" } else { "connected" });
    let reason = format!("{name} is {what} on 2.4 GHz");
    if !same_chip {
        let next = worst.access_point.then_some("keep the Bluetooth dongle a cable's length away from it");
        let found = Finding::ok(NAME, format!("{reason}, not on the Bluetooth adapter's chip"));
        return Some(match next {
            Some(next) => found.next(next),
            None => found,
        });
    }
    let next = match worst.access_point {
        true => "move the access point to 5 GHz (hostapd: hw_mode=a), or use a Bluetooth dongle on a cable",
        false => "use 5 GHz or a network cable, or a Bluetooth dongle on a cable",
    };
    Some(Finding::warning(NAME, format!("{reason}, on the Bluetooth adapter's own chip and antenna"), next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    const IW: &str = "phy#0\n\tUnnamed/non-netdev interface\n\t\twdev 0x2\n\t\ttype P2P-device\n\tInterface wlan0\n\
        \t\tifindex 3\n\t\taddr dc:a6:32:00:00:01\n\t\tssid gym\n\t\ttype AP\n\
        \t\tchannel 6 (2437 MHz), width: 20 MHz, center1: 2437 MHz\n\t\ttxpower 31.00 dBm\n\
        phy#1\n\tInterface wlan1\n\t\ttype managed\n";

    #[test]
    fn iw_is_understood() {
        let wlan0 = Interface { name: "wlan0".into(), access_point: true, mhz: Some(2437) };
        let wlan1 = Interface { name: "wlan1".into(), access_point: false, mhz: None };
        assert_eq!(interfaces(IW), [wlan0, wlan1]);
    }

    #[test]
    fn only_what_shares_the_chip_is_a_warning() {
        let at = |access_point, mhz| [Interface { name: "wlan0".into(), access_point, mhz }];
        let verdict =
            |access_point, mhz, same| judge(&at(access_point, mhz), same).map(|found| found.verdict);
        assert_eq!(verdict(true, Some(2437), true), Some(Verdict::Warning));
        assert_eq!(verdict(false, Some(2437), true), Some(Verdict::Warning));
        assert_eq!(verdict(true, Some(2437), false), Some(Verdict::Ok));
        assert_eq!(verdict(true, Some(5180), true), Some(Verdict::Ok));
        assert_eq!(verdict(false, None, true), Some(Verdict::Ok));
        assert_eq!(judge(&[], true), None);
    }
}
