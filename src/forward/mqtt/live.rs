//! The live lane: which device's newest reading is due, and what its message says. The plan is pure.
//!
//! Each device's newest reading goes out at most once per interval, as soon as it is due; what came in between is in the
//! batches and nowhere here. Nothing is kept: what cannot go when it is due goes with a newer value later.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::WallQuality;
use crate::config;
use crate::journal::{Journal, Live};
use crate::privacy::Pseudonyms;
use crate::reading::{Contact, DeviceId, DeviceTime, Reading, rfc3339};
use crate::remote::Desired;

/// How often devices are looked through: with the way on the wire this is the delay of a live value.
const LOOK: Duration = Duration::from_millis(200);
const TOPIC: &str = "fogbeat/live/{gateway}/{device}";
/// AWS IoT Core's bound, bytes.
const TOPIC_BYTES: usize = 256;

/// Which devices are due.
#[derive(Debug)]
struct Plan {
    interval: Duration,
    /// When each was last sent, and which of its readings that was.
    sent: HashMap<DeviceId, (Instant, u64)>,
    due: VecDeque<DeviceId>,
}

impl Plan {
    /// A device has had `count` readings.
    fn see(&mut self, device: DeviceId, count: u64, now: Instant) {
        let rests = |(at, seen): &(Instant, u64)| {
            *seen == count || now.saturating_duration_since(*at) < self.interval
        };
        if !self.sent.get(&device).is_some_and(rests) && !self.due.contains(&device) {
            self.due.push_back(device);
        }
    }

    fn sent(&mut self, device: DeviceId, count: u64, now: Instant) {
        self.sent.insert(device, (now, count));
    }
}

/// What a live lane is made of.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) live: Arc<Live>,
    pub(crate) journal: Journal,
    pub(crate) pseudonyms: Option<Arc<Pseudonyms>>,
}

/// One uplink's live lane.
pub(super) struct Lane {
    source: Source,
    gateway: String,
    topic: String,
    plan: Plan,
    look: Instant,
    /// As the file says; settings from afar come before it.
    interval: Duration,
    remote: Option<watch::Receiver<Arc<Desired>>>,
}

impl Lane {
    pub(super) fn new(
        config: &config::Live,
        source: Source,
        gateway: &str,
        thing: &str,
        remote: Option<watch::Receiver<Arc<Desired>>>,
    ) -> Self {
        let topic = config.topic.as_deref().unwrap_or(TOPIC);
        Self {
            source,
            gateway: gateway.to_owned(),
            topic: topic.replace("{gateway}", gateway).replace("{thing}", thing),
            plan: Plan { interval: config.interval, sent: HashMap::new(), due: VecDeque::new() },
            look: Instant::now(),
            interval: config.interval,
            remote,
        }
    }

    /// Looks devices through, if it is time.
    pub(super) fn look(&mut self, now: Instant) {
        if now >= self.look {
            self.look = now + LOOK;
            let remote = self.remote.as_ref();
            let afar = remote.and_then(|remote| remote.borrow().live.as_ref().map(|live| live.interval));
            let plan = &mut self.plan;
            plan.interval = afar.unwrap_or(self.interval);
            self.source.live.counts(|device, count| plan.see(device, count, now));
        }
    }

    /// When to look again.
    pub(super) fn wake(&self) -> Instant {
        self.look
    }

    /// With placeholders for the device.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn is_due(&self) -> bool {
        !self.plan.due.is_empty()
    }

    /// Topic and payload of what is due first.
    pub(super) fn next(&mut self, now: Instant) -> Option<(String, Bytes)> {
        let device = self.plan.due.pop_front()?;
        let (count, reading) = self.source.live.newest(device)?;
        self.plan.sent(device, count, now);
        let name = self.source.journal.devices().name(device)?;
        let name = match &self.source.pseudonyms {
            Some(pseudonyms) => pseudonyms.of(&name),
            None => name,
        };
        let topic = self.topic.replace("{device}", &level(&name));
        let topic = Some(topic).filter(|topic| topic.len() <= TOPIC_BYTES)?;
        let message = message(&self.gateway, &name, &reading);
        // A shadow takes its own form only.
        let shadow = topic.starts_with("$aws/things/") && topic.ends_with("/update");
        let message = match shadow {
            true => json!({"state": {"reported": {name.as_ref(): message}}}),
            false => message,
        };
        Some((topic, Bytes::from(message.to_string())))
    }
}

/// A name as one level of a topic.
fn level(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '/' | '+' | '#' | '\0') { '_' } else { c }).collect()
}

fn message(gateway: &str, device: &str, reading: &Reading) -> Value {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    let (ms, quality) = match (reading.device_time, reading.arrival.quality) {
        (Some(DeviceTime::Accepted(ms)), WallQuality::Synced) => (ms, Some("device")),
        (_, WallQuality::Synced) => (reading.arrival.wall_ms, None),
        (_, WallQuality::Unsynced) => (reading.arrival.wall_ms, Some("unsynced")),
    };
    let mut time = Vec::new();
    rfc3339::write(&mut time, ms);
    put("gateway", gateway.into());
    put("device", device.into());
    put("time", String::from_utf8_lossy(&time).into());
    if let Some(quality) = quality {
        put("time_quality", quality.into());
    }
    if let Some(bpm) = reading.bpm {
        put("bpm", bpm.get().into());
    }
    match reading.contact {
        Contact::Unsupported => {}
        contact => {
            put("contact", (contact == Contact::Detected).into());
        }
    }
    if let Some(battery) = reading.battery_percent {
        put("battery_percent", battery.into());
    }
    if let Some(reason) = reading.reason {
        put("reason", reason.as_str().into());
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_at_most_once_per_interval_and_nothing_twice() {
        let now = Instant::now();
        let interval = Duration::from_secs(10);
        let mut plan = Plan { interval, sent: HashMap::new(), due: VecDeque::new() };
        let mut sent = 0;
        for tick in 0..600u64 {
            // Readings come for 100 s, three a second.
            let (at, count) =
                (now + Duration::from_millis(200) * tick as u32, (tick.min(500) * 3).div_ceil(5) + 1);
            plan.see(DeviceId(1), count, at);
            plan.see(DeviceId(1), count, at);
            if let Some(device) = plan.due.pop_front() {
                plan.sent(device, count, at);
                sent += 1;
            }
            assert!(plan.due.is_empty(), "one device is due once");
        }
        assert_eq!(sent, 11, "every 10 s, and the last value once");
    }

    #[test]
    fn a_name_is_one_level() {
        assert_eq!(level("a/b+c#"), "a_b_c_");
    }
}
