//! What the gateway does, in one line for people: the `STATUS=` of `systemctl status`. Pure. No health data, no names of
//! wearables.

use std::time::Duration;

/// What the line is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// What keeps readings from being taken, with its remedy.
    pub trouble: Option<String>,
    /// Connections of the listener; `None`: no port is open.
    pub connections: Option<i64>,
    /// Readings stored since the start.
    pub readings: u64,
    /// Somebody vouches for the clock.
    pub synced: bool,
    pub uplinks: Vec<Uplink>,
}

/// One uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    /// Readings that it has not got yet.
    pub queued: u64,
    /// Why it takes nothing, and since when.
    pub failing: Option<(Duration, String)>,
}

/// The line while some stage makes no progress.
pub fn stuck(late: &[String]) -> String {
    format!("no progress in: {}; the watchdog is not fed", late.join(", "))
}

/// The line.
pub fn sentence(facts: &Facts) -> String {
    if let Some(trouble) = &facts.trouble {
        return format!("takes no readings: {trouble}");
    }
    let mut parts = vec![format!("takes readings ({} stored since the start)", facts.readings)];
    match facts.connections {
        Some(1) => parts.push("1 MQTT connection".to_owned()),
        Some(connections) => parts.push(format!("{connections} MQTT connections")),
        None => {}
    }
    parts.extend(facts.uplinks.iter().map(uplink));
    if !facts.synced {
        parts.push("the clock is not synchronised".to_owned());
    }
    parts.join("; ")
}

fn uplink(uplink: &Uplink) -> String {
    let Uplink { name, queued, failing } = uplink;
    match failing {
        Some((since, cause)) => {
            let since = humantime::format_duration(Duration::from_secs(since.as_secs()));
            format!("uplink {name} takes nothing since {since} ({cause}), {queued} readings wait on disk")
        }
        None if *queued == 0 => format!("uplink {name} has everything"),
        None => format!("uplink {name} delivers, {queued} readings to go"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_matters_most() {
        let cloud = Uplink { name: "cloud".into(), queued: 0, failing: None };
        let mut facts = Facts {
            connections: Some(3),
            readings: 12,
            synced: true,
            uplinks: vec![cloud.clone()],
            ..Facts::default()
        };
        assert_eq!(
            sentence(&facts),
            "takes readings (12 stored since the start); 3 MQTT connections; uplink cloud has everything"
        );
        facts.synced = false;
        facts.connections = Some(1);
        facts.uplinks = vec![
            Uplink { queued: 7, ..cloud.clone() },
            Uplink {
                name: "lake".into(),
                queued: 900,
                failing: Some((Duration::from_millis(3_661_500), "connection".into())),
            },
        ];
        assert_eq!(
            sentence(&facts),
            "takes readings (12 stored since the start); 1 MQTT connection; uplink cloud delivers, 7 readings to go; \
             uplink lake takes nothing since 1h 1m 1s (connection), 900 readings wait on disk; the clock is not \
             synchronised"
        );
        facts.trouble = Some("the disk is full".into());
        assert_eq!(sentence(&facts), "takes no readings: the disk is full");
        let late = ["journal".into(), "listener".into()];
        assert_eq!(stuck(&late), "no progress in: journal, listener; the watchdog is not fed");
    }
}
