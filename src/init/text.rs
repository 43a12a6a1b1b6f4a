//! Answers into the commented text: keys are set where they stand, commented or not. Pure.

use toml::Value;

use super::{PACKAGED, Way, Wishes};

/// The text has no such place: it and this code have grown apart.
#[derive(Debug, thiserror::Error)]
#[error("config/fogbeat.toml has no place for {0}")]
pub struct TextError(String);

/// The configuration for `wishes`.
///
/// # Errors
/// [`TextError`], a defect.
pub fn configuration(wishes: &Wishes) -> Result<String, TextError> {
    let mut text = Text { lines: PACKAGED.lines().map(str::to_owned).collect() };
    let mut set = |section: &str, key: &str, value: Option<Value>| match value {
        Some(value) => text.set(section, key, &value),
        None => Ok(()),
    };
    let path = |path: &std::path::Path| Value::from(path.display().to_string());
    set("[gateway]", "id", wishes.id.clone().map(Value::from))?;
    set("[gateway]", "site", wishes.site.clone().map(Value::from))?;
    set("[gateway]", "state_dir", wishes.state_dir.as_deref().map(path))?;
    set("[site]", "timezone", wishes.timezone.clone().map(Value::from))?;
    set("[ble]", "enabled", Some(wishes.bluetooth.into()))?;
    set("[mqtt.listener]", "mdns", Some(wishes.mdns.into()))?;
    set("[mqtt.listener.tls]", "bind", wishes.lan.map(|bind| bind.to_string().into()))?;
    let own = |value: &Option<String>| value.clone().map(Value::from);
    let (kind, keys) = match &wishes.way {
        Way::Directory { path: place } => ("directory", vec![("path", place.as_deref().map(path))]),
        Way::Firehose { stream, region } => {
            ("firehose", vec![("stream", Some(stream.as_str().into())), ("region", own(region))])
        }
        Way::IotCore { endpoint, rule } => (
            "iot_core",
            vec![("endpoint", Some(endpoint.as_str().into())), ("rule", Some(rule.as_str().into()))],
        ),
        Way::Mqtt { url, username, password_file, ca } => (
            "mqtt",
            vec![
                ("url", Some(url.as_str().into())),
                ("username", own(username)),
                ("password_file", password_file.as_deref().map(path)),
                ("ca", ca.as_deref().map(path)),
            ],
        ),
    };
    let uplink = text.uplink(kind)?;
    text.set_below(uplink, "[[uplink]]", "kind", &kind.into())?;
    for (key, value) in keys {
        if let Some(value) = value {
            text.set_below(uplink, "[[uplink]]", key, &value)?;
        }
    }
    Ok(text.lines.join("\n") + "\n")
}

struct Text {
    lines: Vec<String>,
}

impl Text {
    fn set(&mut self, section: &str, key: &str, value: &Value) -> Result<(), TextError> {
        let header = self.lines.iter().position(|line| line.trim_start_matches('#') == section);
        let header = header.ok_or_else(|| TextError(section.to_owned()))?;
        self.set_below(header, section, key, value)
    }

    /// The header of the first `[[uplink]]` of a kind.
    fn uplink(&self, kind: &str) -> Result<usize, TextError> {
        let named = format!("#kind = \"{kind}\"");
        let of_kind =
            |pair: &[String]| matches!(pair, [header, first] if header == "#[[uplink]]" && *first == named);
        self.lines.windows(2).position(of_kind).ok_or_else(|| TextError(format!("an uplink of kind {kind}")))
    }

    /// Sets `key` below the header at line `header`, which comes into force by it.
    fn set_below(&mut self, header: usize, section: &str, key: &str, value: &Value) -> Result<(), TextError> {
        let missing = || TextError(format!("{section} {key}"));
        let is_header = |line: &&mut String| line.starts_with('[') || line.starts_with("#[");
        let (start, commented) = (format!("{key} = "), format!("#{key} = "));
        let mut lines = self.lines.iter_mut().skip(header);
        let first = lines.next().ok_or_else(missing)?;
        let found = lines
            .take_while(|line| !is_header(line))
            .find(|line| line.starts_with(&start) || line.starts_with(&commented));
        *found.ok_or_else(missing)? = format!("{key} = {value}");
        section.clone_into(first);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, UplinkKind};

    fn plain(way: Way) -> Wishes {
        Wishes {
            site: None,
            id: None,
            timezone: None,
            state_dir: None,
            way,
            bluetooth: true,
            lan: None,
            mdns: false,
        }
    }

    #[test]
    fn every_answer_has_its_place_and_every_comment_stays() {
        let wishes = Wishes {
            site: Some("Fitness \"Am Ring\" \\ 2".to_owned()),
            id: Some("gym-12".to_owned()),
            timezone: Some("Europe/Berlin".to_owned()),
            state_dir: Some("/srv/fogbeat".into()),
            bluetooth: false,
            lan: Some("0.0.0.0:8883".parse().unwrap()),
            mdns: true,
            ..plain(Way::Firehose { stream: "heart-rate".to_owned(), region: Some("eu-west-1".to_owned()) })
        };
        let text = configuration(&wishes).unwrap();
        let config = config::from_toml(&text).unwrap();
        assert_eq!(config.gateway.site, wishes.site);
        assert_eq!(config.gateway.id, wishes.id);
        assert_eq!(config.site.timezone, wishes.timezone);
        assert_eq!(config.gateway.state_dir, std::path::Path::new("/srv/fogbeat"));
        assert!(!config.ble.enabled && config.mqtt.listener.mdns);
        assert_eq!(config.mqtt.listener.tls.as_ref().unwrap().bind, wishes.lan.unwrap());
        assert!(config.mqtt.listener.tls.unwrap().is_own(&config.gateway.state_dir));
        let UplinkKind::Firehose(firehose) = &config.uplinks[0].kind else { panic!("{:?}", config.uplinks) };
        assert_eq!((firehose.stream.as_str(), firehose.region.as_deref()), ("heart-rate", Some("eu-west-1")));
        assert_eq!(config.uplinks.len(), 1);
        assert_eq!(text.lines().count(), PACKAGED.lines().count());
        for (before, after) in PACKAGED.lines().zip(text.lines()) {
            assert!(!before.starts_with("# ") || before == after, "{before:?} became {after:?}");
        }
    }

    #[test]
    fn every_kind_of_uplink_is_made() {
        let ways = [
            Way::Directory { path: None },
            Way::Directory { path: Some("/srv/fogbeat/lake".into()) },
            Way::Firehose { stream: "s".to_owned(), region: None },
            Way::IotCore {
                endpoint: "x-ats.iot.eu-west-1.amazonaws.com".to_owned(),
                rule: "fogbeat".to_owned(),
            },
            Way::Mqtt {
                url: "mqtts://hall:8883".to_owned(),
                username: Some("gym-12".to_owned()),
                password_file: Some("/etc/fogbeat/hall.secret".into()),
                ca: Some("/etc/fogbeat/hall.pem".into()),
            },
        ];
        for way in ways {
            let text = configuration(&plain(way.clone())).unwrap();
            let config = config::from_toml(&text).unwrap_or_else(|problems| panic!("{way:?}: {problems}"));
            assert_eq!(config.uplinks.len(), 1);
            let label = config.uplinks[0].kind.label();
            assert!(text.contains(&format!("\n[[uplink]]\nkind = \"{label}\"\n")), "{text}");
        }
    }

    #[test]
    fn what_the_package_brings_is_the_default() {
        let packaged = config::from_toml(PACKAGED).unwrap().to_toml().unwrap();
        assert_eq!(packaged, config::from_toml("").unwrap().to_toml().unwrap());
        let plain = configuration(&plain(Way::Directory { path: None })).unwrap();
        assert_eq!(config::from_toml(&plain).unwrap().to_toml().unwrap(), packaged);
    }
}
