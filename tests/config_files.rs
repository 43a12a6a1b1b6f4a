//! The configuration files that are shipped are true.

use std::collections::BTreeSet;

use fogbeat::config::{Config, from_toml};
use serde_json::Value;

const FULL: &str = include_str!("../config/fogbeat.toml");

/// `#key` and `#[section]` (no space) are settings that are off; `# text` is prose.
fn switched_on(text: &str) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| on(line) + "\n").collect()
}

/// All paths of keys, list entries counted as one.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = format!("{path}.{key}");
                found.insert(path.clone());
                keys(value, &path, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, path, found)),
        _ => {}
    }
}

#[test]
fn the_full_file_shows_the_defaults() {
    let shown = from_toml(FULL).unwrap().to_toml().unwrap();
    assert_eq!(shown, from_toml("").unwrap().to_toml().unwrap());
}

#[test]
fn the_full_file_has_every_key() {
    // Everything at once needs more memory.
    let text = switched_on(FULL).replace("memory = \"192MiB\"", "memory = \"256MiB\"");
    let (mut known, mut written) = (BTreeSet::new(), BTreeSet::new());
    // Batches of other gateways and an encrypted journal exclude each other.
    for left_out in ["key_file = \"/etc/fogbeat/journal.keys\"\n", "members = \"1GiB\"\n"] {
        assert!(text.contains(left_out), "{left_out}");
        let text = text.replace(left_out, "");
        let config = from_toml(&text).unwrap();
        keys(&serde_json::to_value(&config).unwrap(), "", &mut known);
        keys(&serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap(), "", &mut written);
    }
    // Inside, an uplink's own keys are nested under its kind.
    let known: BTreeSet<String> = known
        .iter()
        .map(|key| {
            let kinds = [".kind.directory", ".kind.firehose", ".kind.iot_core", ".kind.mqtt"];
            kinds.iter().fold(key.clone(), |key, kind| key.replace(kind, ""))
        })
        .collect();
    let forgotten: Vec<&String> = known.difference(&written).collect();
    assert!(forgotten.is_empty(), "config/fogbeat.toml does not show {forgotten:?}");
}

#[test]
fn the_examples_are_usable_as_they_are() {
    for (name, text) in [
        ("clinic.toml", include_str!("../config/clinic.toml")),
        ("gym.toml", include_str!("../config/gym.toml")),
    ] {
        let config: Config = from_toml(text).unwrap_or_else(|problems| panic!("{name}: {problems}"));
        assert!(config.gateway.id.is_some(), "{name} has no gateway id");
        assert!(!config.mqtt.listener.anonymous, "{name} lets anybody in");
    }
}
