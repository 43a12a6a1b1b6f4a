//! A desired document and its judgement. Pure.
//!
//! ```json
//! {"batch": {"max_age": "60s"}, "live": {"interval": "10s"},
//!  "uplinks": {"iot": {"paused": true}}, "devices": {"strap-17": {"alias": "anna"}}}
//! ```
//!
//! What is left out is as in the file. Nothing else can be changed from afar: no address, no file, no secret, nothing
//! that could cut the gateway off or open it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// AWS IoT takes shadow documents of 8 KiB.
const MOST_ALIASES: usize = 1_000;

/// Settings in force beside the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Desired {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub uplinks: BTreeMap<String, Uplink>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, Device>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    pub paused: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// What it is called from now on.
    pub alias: String,
}

/// What is wrong with a document, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Refused(BTreeMap<String, String>);

impl Refused {
    pub(super) fn one(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self(BTreeMap::from([(key.into(), why.into())]))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Keys without those that hold a device's name.
    pub(super) fn outside_devices(&self) -> Vec<&str> {
        self.keys().into_iter().filter(|key| !key.starts_with("devices.")).collect()
    }

    pub(super) fn forget_devices(&mut self) {
        self.0.retain(|key, _| !key.starts_with("devices."));
    }

    fn add(&mut self, key: impl Into<String>, why: impl Into<String>) {
        self.0.insert(key.into(), why.into());
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (key, why) in &self.0 {
            let between = if std::mem::take(&mut first) { "" } else { "; " };
            write!(f, "{between}{key}: {why}")?;
        }
        Ok(())
    }
}

impl Desired {
    /// Reads a document; every problem is told.
    ///
    /// # Errors
    /// What is wrong, by key.
    pub fn judge(document: &Value, uplinks: &[String]) -> Result<Self, Refused> {
        if !document.is_object() {
            return Err(Refused::one("desired", "it is no object"));
        }
        let desired: Self = serde_path_to_error::deserialize(document)
            .map_err(|error| Refused::one(error.path().to_string(), error.inner().to_string()))?;
        let mut refused = Refused::default();
        let mut bound = |key: &str, value: Option<Duration>, low: Duration, high: Duration| {
            if value.is_some_and(|value| !(low..=high).contains(&value)) {
                let shown = |duration| humantime::format_duration(duration).to_string();
                refused.add(key, format!("choose \"{}\" to \"{}\"", shown(low), shown(high)));
            }
        };
        // The bounds of the file.
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let batch = desired.batch.as_ref().map(|batch| batch.max_age);
        bound("batch.max_age", batch, Duration::from_millis(10), 24 * hour);
        bound("live.interval", desired.live.as_ref().map(|live| live.interval), second, hour);
        for name in desired.uplinks.keys().filter(|name| !uplinks.contains(name)) {
            refused.add(format!("uplinks.{name}"), "there is no such uplink");
        }
        if desired.devices.len() > MOST_ALIASES {
            refused.add("devices", format!("at most {MOST_ALIASES}"));
        }
        for (device, Device { alias }) in &desired.devices {
            let fits = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
            if alias.is_empty() || alias.len() > 64 || !alias.chars().all(fits) {
                refused.add(format!("devices.{device}.alias"), "use 1 to 64 letters, digits and -_.:");
            }
            if desired.devices.contains_key(alias) {
                refused.add(format!("devices.{device}.alias"), "this is the name of another device here");
            }
        }
        if refused.is_empty() { Ok(desired) } else { Err(refused) }
    }

    pub fn paused(&self, uplink: &str) -> bool {
        self.uplinks.get(uplink).is_some_and(|uplink| uplink.paused)
    }

    /// New names by old ones.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.devices.iter().map(|(device, Device { alias })| (device.as_str(), alias.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(document: Value) -> Result<Desired, Refused> {
        Desired::judge(&document, &["iot".to_owned(), "lake".to_owned()])
    }

    #[test]
    fn a_whole_document() {
        let text = json!({"batch": {"max_age": "1m"}, "live": {"interval": "2s"},
            "uplinks": {"lake": {"paused": false}}, "devices": {"strap-17": {"alias": "anna"}}});
        let desired = judge(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&desired).unwrap(), text);
        assert_eq!(desired.aliases().collect::<Vec<_>>(), [("strap-17", "anna")]);
        assert_eq!(judge(json!({})).unwrap(), Desired::default());
    }

    #[test]
    fn everything_wrong_is_told_by_key() {
        let refused = judge(json!({"batch": {"max_age": "3d"}, "live": {"interval": "10ms"},
            "uplinks": {"moon": {"paused": true}}, "devices": {"a": {"alias": ""}, "b": {"alias": "a"}}}));
        let expected =
            ["batch.max_age", "devices.a.alias", "devices.b.alias", "live.interval", "uplinks.moon"];
        assert_eq!(refused.unwrap_err().keys(), expected);
    }

    #[test]
    fn what_may_not_be_changed_from_afar_is_refused() {
        for document in [
            json!({"http": {"bind": "0.0.0.0:1"}}),
            json!({"batch": {"max_age": "1m", "max_bytes": 1}}),
            json!({"uplinks": {"iot": {"endpoint": "x", "paused": false}}}),
            json!({"batch": {"max_age": 60}}),
            json!([]),
            json!("x"),
        ] {
            assert!(judge(document.clone()).is_err(), "{document}");
        }
    }
}
