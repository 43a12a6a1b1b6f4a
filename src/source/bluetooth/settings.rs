//! What the configuration means to this source, and what is wrong with it.

use std::collections::HashSet;

use super::core::{Core, Settings};
use super::radio::Address;
use super::roster::{Key, ListError, Listed, Roster};
use crate::config::{Ble, BleDevice, Problem};

/// Connections one adapter may be asked for: no controller holds more.
const SLOTS: std::ops::RangeInclusive<u8> = 1..=32;
/// Longest name a wearable can give itself (Bluetooth Core, Vol 3 Part C 12.1), in bytes.
const LONGEST_NAME: usize = 248;
/// As for names of devices that publish by MQTT.
const LONGEST_ALIAS: usize = 64;

/// Everything that is wrong with the settings beyond what their types tell.
pub fn problems(ble: &Ble) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |key: &str, what: String, remedy: &str| problems.push(Problem::new(key, what, remedy));
    if !SLOTS.contains(&ble.slots) {
        add("ble.slots", format!("{} is out of range", ble.slots), "choose 1 to 32");
    }
    for (index, adapter) in ble.adapters.iter().enumerate() {
        let number = adapter.strip_prefix("hci").unwrap_or_default();
        let by_name = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        if !by_name && adapter.parse::<Address>().is_err() {
            let what = format!("\"{adapter}\" names no adapter");
            add(
                &format!("ble.adapters[{index}]"),
                what,
                "write \"hci0\", or its address like \"B8:27:EB:11:22:33\"",
            );
        }
    }
    let mut keys = HashSet::new();
    let mut aliases = HashSet::new();
    for (index, device) in ble.devices.iter().enumerate() {
        let key = |field: &str| format!("ble.device[{index}].{field}");
        match Listed::from_config(device) {
            Ok(listed) => {
                let field = field_of(&listed.key);
                if let Key::Name(name) = &listed.key
                    && (name.is_empty() || name.len() > LONGEST_NAME)
                {
                    add(&key(field), format!("{name:?} cannot be a name"), "use 1 to 248 bytes");
                }
                if !keys.insert(listed.key) {
                    add(&key(field), "is listed twice".to_owned(), "remove one of the two entries");
                }
            }
            Err(error @ ListError::Key) => {
                add(&format!("ble.device[{index}]"), error.to_string(), "leave out the others");
            }
            Err(error @ ListError::PolarId(_)) => {
                add(&key("polar_id"), error.to_string(), "write it like \"75087320\"");
            }
            Err(error @ ListError::Address(_)) => {
                add(&key("address"), error.to_string(), "`fogbeat scan` shows addresses");
            }
        }
        if let Some(alias) = &device.alias {
            if !is_alias(alias) {
                let remedy = "use 1 to 64 characters, no control characters";
                add(&key("alias"), format!("{alias:?} cannot be an alias"), remedy);
            }
            if !aliases.insert(alias) {
                let what = format!("\"{alias}\" is the alias of another device");
                add(&key("alias"), what, "two wearables of one alias would be one heart: choose another");
            }
        }
        if device.priority == 0 {
            add(&key("priority"), "0 is out of range".to_owned(), "choose 1 (first) to 255");
        }
    }
    problems
}

/// Whether a wearable can be called that on the lines.
pub fn is_alias(alias: &str) -> bool {
    !alias.is_empty() && alias.chars().count() <= LONGEST_ALIAS && !alias.chars().any(char::is_control)
}

const fn field_of(key: &Key) -> &'static str {
    match key {
        Key::Address(_) => "address",
        Key::PolarId(_) => "polar_id",
        Key::Name(_) => "name",
    }
}

/// The core that `ble` asks for, with `allowed` besides the devices in the file. An entry of the file wins over one of
/// `allowed` for the same wearable. Entries that cannot be used were refused when the configuration was read.
pub fn set_up(ble: &Ble, allowed: &[BleDevice]) -> Core {
    make(ble, allowed, ble.connect)
}

/// The same for a look around: it connects to nobody.
pub fn set_up_look(ble: &Ble, allowed: &[BleDevice]) -> Core {
    make(ble, allowed, false)
}

fn make(ble: &Ble, allowed: &[BleDevice], connect: bool) -> Core {
    let settings = Settings {
        broadcast: ble.broadcast,
        connect,
        slots: usize::from(ble.slots),
        restart_stack: ble.restart_bluetooth,
    };
    let mut roster = Roster::new(Vec::new(), ble.accept_unknown);
    let devices = allowed.iter().chain(&ble.devices);
    for listed in devices.filter_map(|device| Listed::from_config(device).ok()) {
        roster.allow(listed);
    }
    Core::new(settings, ble.adapters.clone(), roster)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_toml;

    fn found(toml: &str) -> Vec<String> {
        let config = from_toml(toml).unwrap();
        problems(&config.ble).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_and_a_full_list_are_sound() {
        assert!(found("").is_empty());
        let list = "[ble]\nadapters = [\"hci0\", \"B8:27:EB:11:22:33\"]\n\
            [[ble.device]]\naddress = \"C4:AC:05:11:22:33\"\nalias = \"bike-12\"\npriority = 1\n\
            [[ble.device]]\npolar_id = \"7508732a\"\n[[ble.device]]\nname = \"TICKR 1234\"\n";
        assert!(found(list).is_empty());
    }

    #[test]
    fn every_fault_is_told_with_its_field_value_and_remedy() {
        let told = found(
            "[ble]\nslots = 0\nadapters = [\"hci\", \"usb0\"]\n\
             [[ble.device]]\naddress = \"C4:AC\"\n\
             [[ble.device]]\npolar_id = \"12\"\npriority = 0\n\
             [[ble.device]]\nalias = \"x\"\n\
             [[ble.device]]\nname = \"A\"\nalias = \"x\"\n\
             [[ble.device]]\nname = \"A\"\n",
        );
        for part in [
            "ble.slots: 0 is out of range; choose 1 to 32",
            "ble.adapters[0]: \"hci\" names no adapter",
            "ble.adapters[1]: \"usb0\"",
            "ble.device[0].address: \"C4:AC\" is not a Bluetooth address",
            "ble.device[1].polar_id: \"12\" is not a Polar id",
            "ble.device[1].priority: 0 is out of range",
            "ble.device[2]: names no wearable",
            "ble.device[3].alias: \"x\" is the alias of another device",
            "ble.device[4].name: is listed twice",
        ] {
            assert!(told.iter().any(|line| line.contains(part)), "{part}: {told:#?}");
        }
        assert_eq!(told.len(), 9, "{told:#?}");
    }
}
