//! The document behind `fogbeat status` and `/status`. No health data, no secrets.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use serde::Serialize;

use super::accounted::Accounted;
use super::words::{self, Facts};
use crate::audit::{Head, Scribe};
use crate::clock::{self, SystemClock};
use crate::flight;
use crate::forward;
use crate::health::{Health, Phase};
use crate::journal::{Journal, JournalStatus};
use crate::privacy::Pseudonyms;
use crate::reading::validity::DeviceTimeWindow;
use crate::relayed::{self, Shelf};
use crate::remote::Remote;
use crate::source::{bluetooth, mqtt};
use crate::telemetry::process::{self, Usage};

/// The whole document.
#[derive(Debug, Serialize)]
pub struct Status {
    pub version: &'static str,
    pub gateway: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The site's time zone, if it is known. Every time here is in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    pub phase: Phase,
    /// Stages that have not made progress within their deadline.
    pub late: Vec<String>,
    /// What keeps readings from being taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    pub uptime_s: u64,
    pub clock: clock::Status,
    pub process: Usage,
    pub journal: JournalStatus,
    pub accounts: Accounted,
    /// Left out when no port is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<mqtt::Status>,
    pub external_brokers: Vec<mqtt::ExternalStatus>,
    /// Left out when it is switched off in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bluetooth: Option<bluetooth::Shown>,
    pub uplinks: Vec<forward::Status>,
    /// Settings from afar; left out where none are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<crate::remote::Status>,
    /// Batches of other gateways; left out where none are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<relayed::Status>,
    /// Uplinks that are gone from the configuration and hold their place (`fogbeat uplink forget NAME`).
    pub left_behind: Vec<LeftBehind>,
    /// Where the audit log ends: what is noted down elsewhere tells later whether it was written anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Head>,
}

/// A place in the journal that no configured uplink has.
#[derive(Debug, Serialize)]
pub struct LeftBehind {
    pub name: String,
    pub queued_readings: u64,
}

impl Status {
    /// For the page, which has no password: payloads that were not understood may hold somebody's heart rate, and who
    /// wears what is nobody's business either.
    pub fn without_payloads(mut self) -> Self {
        self.accounts.forget_devices();
        if let Some(remote) = &mut self.remote {
            remote.forget_devices();
        }
        if let Some(listener) = &mut self.listener {
            listener.refused.clear();
        }
        if let Some(bluetooth) = &mut self.bluetooth {
            bluetooth.view.wearables.clear();
        }
        self.external_brokers.iter_mut().for_each(|broker| broker.refused.clear());
        self
    }
}

/// Where the document's facts are.
pub struct Sources {
    pub gateway: String,
    pub site: Option<String>,
    pub timezone: Option<String>,
    pub started: Instant,
    pub health: Arc<Health>,
    pub clock: Arc<SystemClock>,
    pub window: DeviceTimeWindow,
    pub journal: Journal,
    pub registry: Arc<Registry>,
    pub listener: Option<mqtt::Handle>,
    pub externals: Vec<mqtt::ExternalHandle>,
    pub bluetooth: bluetooth::Commands,
    pub uplinks: Vec<forward::Watcher>,
    pub members: Option<Shelf>,
    pub remote: Option<Remote>,
    pub scribe: Scribe,
    pub state_dir: PathBuf,
    /// Directory uplinks' lakes, by the uplinks' names.
    pub lakes: Vec<(String, PathBuf)>,
    pub pseudonyms: Option<Arc<Pseudonyms>>,
    /// Held while a device is erased.
    pub erasing: Mutex<()>,
}

impl Sources {
    /// Takes stock. Looks at files: not for the runtime's workers.
    pub fn status(&self) -> Status {
        let now = Instant::now();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            gateway: self.gateway.clone(),
            site: self.site.clone(),
            timezone: self.timezone.clone(),
            phase: self.health.phase(),
            late: self.health.late(now),
            trouble: self.health.trouble(),
            uptime_s: now.saturating_duration_since(self.started).as_secs(),
            clock: self.clock.status(),
            process: process::usage(),
            journal: self.journal.status(),
            accounts: Accounted::of(&self.journal),
            listener: self.listener.as_ref().map(mqtt::Handle::status),
            external_brokers: self.externals.iter().map(mqtt::ExternalHandle::status).collect(),
            bluetooth: self.bluetooth.handle().map(bluetooth::Handle::shown),
            uplinks: self.uplinks.iter().map(forward::Watcher::status).collect(),
            remote: self.remote.as_ref().map(Remote::status),
            members: self.members.as_ref().map(Shelf::status),
            left_behind: self.left_behind(),
            audit: self.scribe.head(),
        }
    }

    /// The same in short. Looks at files as well.
    pub fn facts(&self) -> Facts {
        let uplink = |watcher: &forward::Watcher| {
            let status = watcher.status();
            let failing = status.failing_s.zip(status.failure);
            words::Uplink {
                name: status.name,
                queued: status.queued_readings,
                failing: failing
                    .map(|(since, failure)| (Duration::from_secs(since), failure.cause.to_owned())),
            }
        };
        Facts {
            trouble: self.health.trouble(),
            connections: self.listener.as_ref().map(|listener| listener.metrics().connections.get()),
            readings: self.journal.status().readings,
            synced: self.clock.status().health.synced,
            uplinks: self.uplinks.iter().filter(|watcher| watcher.carries_batches()).map(uplink).collect(),
        }
    }

    /// Tells the flight recorder. Looks at files as well.
    pub fn figures(&self) {
        let usage = process::usage();
        let quota = self.journal.quota();
        let queued = self.uplinks.iter().map(|uplink| uplink.status().queued_readings).max();
        let failing = self.uplinks.iter().filter(|uplink| uplink.status().failing_s.is_some()).count();
        tracing::info!(
            target: flight::FIGURES,
            resident_bytes = usage.resident_bytes,
            open_fds = usage.open_fds,
            threads = usage.threads,
            cpu_seconds = usage.cpu_seconds,
            uptime_s = self.started.elapsed().as_secs(),
            used_bytes = quota.used_bytes,
            free_bytes = quota.free_bytes,
            readings = self.journal.status().readings,
            queued,
            failure = failing,
            connections = self.listener.as_ref().map(|listener| listener.metrics().connections.get()),
            synced = self.clock.status().health.synced,
            "figures"
        );
    }

    pub fn left_behind(&self) -> Vec<LeftBehind> {
        let places = self.journal.uplinks();
        let unknown = places.iter().filter(|place| !self.configured(place.name()));
        let told = |place: &crate::journal::UplinkCursor| LeftBehind {
            name: place.name().to_owned(),
            queued_readings: self.journal.backlog(place.cursor()),
        };
        unknown.map(told).collect()
    }

    /// An uplink of this name has a place in the journal by the configuration.
    pub fn configured(&self, uplink: &str) -> bool {
        self.uplinks.iter().any(|watcher| watcher.name() == uplink && watcher.carries_batches())
    }
}
