//! The radio: whether there is one that may be used, whether its settings suit straps, and who is heard.

mod settings;
mod straps;
mod wifi;

use std::time::Duration;

use serde_json::Value;

use super::scene::Scene;
use super::{Finding, probe};
use crate::config::Ble;
use crate::source::bluetooth::radio::RadioError;
use straps::Heard;

const NAME: &str = "bluetooth";
const SYS: &str = "/sys/class/bluetooth";
const LIMIT: Duration = Duration::from_secs(3);
/// Where distributions put the daemon, which tells its version.
const BLUETOOTHD: [&str; 3] =
    ["/usr/libexec/bluetooth/bluetoothd", "/usr/lib/bluetooth/bluetoothd", "/usr/sbin/bluetoothd"];
/// Older ones lose advertisements and connections (Debian 11 has it).
const LEAST_BLUEZ: (u32, u32) = (5, 55);

pub fn findings(scene: &Scene) -> Vec<Finding> {
    let ble = &scene.config.ble;
    if !ble.enabled {
        return vec![Finding::skipped(NAME, "is switched off in the configuration (ble.enabled)")];
    }
    let facts = Facts::look(scene);
    let mut found = vec![facts.judge(ble)];
    if facts.hardware.is_empty() && facts.heard.is_err() {
        return found;
    }
    found.extend(settings::findings(ble));
    found.extend(wifi::findings());
    if let Ok(heard) = &facts.heard {
        found.push(straps::judge(heard, scene.listen));
    }
    found
}

/// What there is to be known of the radio.
struct Facts {
    /// `hci0`, ... as the kernel knows them.
    hardware: Vec<String>,
    version: Option<String>,
    /// Blocked by a switch (`hard`) or by software.
    blocked: Option<&'static str>,
    /// How many straps each adapter holds, and how many it may, where a gateway tells.
    slots: Vec<String>,
    heard: Result<Heard, RadioError>,
}

impl Facts {
    fn look(scene: &Scene) -> Self {
        // Connections are listed as well, with a colon.
        let hardware = probe::names(SYS).into_iter().filter(|name| !name.contains(':')).collect();
        let version = BLUETOOTHD.iter().find_map(|program| probe::run(program, &["--version"], LIMIT).said());
        Self {
            hardware,
            version: version.map(|version| version.trim().to_owned()),
            blocked: blocked(),
            slots: scene.told("/bluetooth/adapters").map(slots).unwrap_or_default(),
            heard: straps::listen(scene),
        }
    }

    fn judge(&self, ble: &Ble) -> Finding {
        let wanted = !ble.devices.is_empty() || !ble.adapters.is_empty() || ble.accept_unknown;
        if self.hardware.is_empty()
            && !matches!(self.heard, Ok(_) | Err(RadioError::Off | RadioError::Denied(_)))
        {
            let reason = "there is no Bluetooth adapter";
            return match wanted {
                true => Finding::error(
                    NAME,
                    reason,
                    "plug one in; a Raspberry Pi's own: `dtoverlay=disable-bt` must not be set",
                ),
                false => Finding::skipped(NAME, format!("{reason}: wearables come by MQTT alone")),
            };
        }
        if let Some(how) = self.blocked
            && self.heard.is_err()
        {
            let next = match how {
                "hard" => "there is a switch on the machine: use it",
                _ => "`rfkill unblock bluetooth`",
            };
            return Finding::error(NAME, format!("the adapter is blocked ({how} rfkill)"), next);
        }
        let adapters = match self.hardware.is_empty() {
            true => "the adapter".to_owned(),
            false => self.hardware.join(", "),
        };
        match &self.heard {
            Ok(_) => self.judge_version(&adapters, ble),
            Err(error @ RadioError::NoStack(_)) => {
                let next = "`apt install bluez && systemctl enable --now bluetooth`";
                Finding::error(NAME, format!("{adapters}: {error}"), next)
            }
            Err(error @ RadioError::Denied(_)) => {
                let next = "`usermod -aG bluetooth fogbeat && systemctl restart fogbeat`";
                Finding::error(NAME, format!("{adapters}: {error}"), next)
            }
            Err(RadioError::Off) => {
                Finding::error(NAME, format!("{adapters} is switched off"), "`bluetoothctl power on`")
            }
            Err(RadioError::NoAdapter) => {
                let next = "compare [ble] adapters with `bluetoothctl list`";
                Finding::error(NAME, format!("none of {adapters} may be used"), next)
            }
            Err(error) => {
                Finding::error(NAME, format!("{adapters}: {error}"), "`systemctl restart bluetooth`")
            }
        }
    }

    fn judge_version(&self, adapters: &str, ble: &Ble) -> Finding {
        let slots = match self.slots.is_empty() {
            true => format!("{} connections each (ble.slots)", ble.slots),
            false => self.slots.join(", "),
        };
        let version = self.version.as_deref().unwrap_or("of an unknown version");
        let reason = format!("{adapters} works; BlueZ {version}; {slots}");
        let old = version.split_once('.').and_then(|(major, minor)| {
            let version: (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
            Some(version < LEAST_BLUEZ)
        });
        match old {
            Some(true) => {
                let (major, minor) = LEAST_BLUEZ;
                let next = format!("BlueZ {major}.{minor} or later: upgrade the system (Debian 12 has 5.66)");
                Finding::warning(NAME, reason, next)
            }
            _ => Finding::ok(NAME, reason),
        }
    }
}

fn slots(adapters: &Value) -> Vec<String> {
    let adapters = adapters.as_array().into_iter().flatten();
    let told = adapters.filter_map(|adapter| {
        let number = |key: &str| adapter.get(key).and_then(Value::as_u64);
        let id = adapter.get("id").and_then(Value::as_str)?;
        let (held, slots) = (number("connections")?, number("slots")?);
        Some(format!("{id}: {held} of {slots} connections, {} waiting", number("waiting").unwrap_or(0)))
    });
    told.collect()
}

/// Whether the kernel's switchboard blocks Bluetooth.
fn blocked() -> Option<&'static str> {
    const RFKILL: &str = "/sys/class/rfkill";
    probe::names(RFKILL).into_iter().find_map(|name| {
        let is = |file: &str, value: &str| {
            probe::text(format!("{RFKILL}/{name}/{file}")).as_deref() == Some(value)
        };
        if !is("type", "bluetooth") {
            return None;
        }
        [("hard", "hard"), ("soft", "soft")].into_iter().find_map(|(file, how)| is(file, "1").then_some(how))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BleDevice;
    use crate::doctor::Verdict;

    fn facts(hardware: &[&str], heard: Result<Heard, RadioError>) -> Facts {
        let hardware = hardware.iter().map(|&name| name.to_owned()).collect();
        Facts { hardware, version: Some("5.66".into()), blocked: None, slots: Vec::new(), heard }
    }

    #[test]
    fn each_state_of_the_radio_has_its_verdict() {
        let plain = Ble::default();
        let wanted = Ble { devices: vec![BleDevice::default()], ..Ble::default() };
        let no_stack = || Err(RadioError::NoStack("x".into()));
        let verdict = |facts: Facts, ble: &Ble| facts.judge(ble).verdict;
        assert_eq!(verdict(facts(&[], no_stack()), &plain), Verdict::Skipped);
        assert_eq!(verdict(facts(&[], no_stack()), &wanted), Verdict::Error);
        assert_eq!(verdict(facts(&["hci0"], no_stack()), &plain), Verdict::Error);
        assert_eq!(verdict(facts(&["hci0"], Ok(Heard::default())), &plain), Verdict::Ok);
        for error in
            [RadioError::Denied("x".into()), RadioError::Off, RadioError::NoAdapter, RadioError::Timeout]
        {
            assert_eq!(verdict(facts(&["hci0"], Err(error)), &plain), Verdict::Error);
        }
        let old = Facts { version: Some("5.50".into()), ..facts(&["hci0"], Ok(Heard::default())) };
        assert_eq!(verdict(old, &plain), Verdict::Warning);
        let blocked = Facts { blocked: Some("soft"), ..facts(&["hci0"], Err(RadioError::Off)) };
        assert!(blocked.judge(&plain).next.unwrap().contains("rfkill unblock"));
    }
}
