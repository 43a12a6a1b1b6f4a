//! SIGHUP: what of a new configuration takes effect at once, and what needs a restart. Pure.

use serde_json::Value;

use crate::config::Config;

/// Keys that a running gateway takes over.
const RELOADED: [&str; 2] = ["log.level", "journal.key_file"];

/// The keys in which two configurations differ, as paths, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub taken: Vec<String>,
    /// In force only after a restart.
    pub restart: Vec<String>,
}

/// Compares what runs with what the file says now.
pub fn changes(running: &Config, fresh: &Config) -> Result<Changes, serde_json::Error> {
    let mut paths = Vec::new();
    differences(&serde_json::to_value(running)?, &serde_json::to_value(fresh)?, String::new(), &mut paths);
    let (taken, restart) = paths.into_iter().partition(|path| RELOADED.contains(&path.as_str()));
    Ok(Changes { taken, restart })
}

fn differences(old: &Value, new: &Value, path: String, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences(&value(old), &value(new), path, found);
            }
        }
        (old, new) if old != new => found.push(path),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_toml;

    #[test]
    fn changes_are_named_and_sorted_into_taken_and_restart() {
        let running = from_toml("").unwrap();
        assert_eq!(changes(&running, &running).unwrap(), Changes::default());
        let fresh = from_toml(
            "[log]\nlevel = \"debug\"\n[mqtt.listener]\nbind = \"127.0.0.1:1884\"\n[gateway]\nsite = \"gym\"\n\
             [[uplink]]\nkind = \"firehose\"\nstream = \"x\"\n",
        )
        .unwrap();
        let found = changes(&running, &fresh).unwrap();
        assert_eq!(found.taken, ["log.level"]);
        assert_eq!(found.restart, ["gateway.site", "mqtt.listener.bind", "uplink"]);
    }
}
