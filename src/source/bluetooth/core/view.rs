//! What `fogbeat status` and `fogbeat scan` show. No heart rates: those are in [`super::Output::Reading`] alone.

use std::collections::BTreeMap;
use std::time::Instant;

use super::super::ladder::Step;
use super::super::session::Standing;
use super::Core;
use super::adapter::Power;
use super::wearable::{About, Counts};
use crate::clock::Stamp;

#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct View {
    pub adapters: Vec<AdapterView>,
    pub wearables: Vec<WearableView>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct AdapterView {
    pub id: String,
    pub address: String,
    pub on: bool,
    pub listening: bool,
    pub connections: usize,
    pub waiting: usize,
    pub slots: usize,
    /// Seconds since anything was heard.
    pub heard_s: Option<u64>,
    /// Seconds since the last advertisement.
    pub advert_s: Option<u64>,
    pub adverts: u64,
    /// Advertisements of wearables that are not wanted.
    pub strangers: u64,
    /// What is being done about its silence.
    pub step: Option<Step>,
    /// How often each step was taken.
    pub steps: BTreeMap<&'static str, u64>,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct WearableView {
    /// `None` until its serial number is known.
    pub device: Option<String>,
    pub adapter: String,
    pub address: String,
    pub name: Option<String>,
    pub state: Standing,
    /// The way its last reading came.
    pub source: Option<&'static str>,
    /// Seconds since its last reading.
    pub silent_s: Option<u64>,
    pub rssi_dbm: Option<i8>,
    pub battery_percent: Option<u8>,
    #[serde(flatten)]
    pub about: About,
    #[serde(flatten)]
    pub counts: Counts,
}

impl Core {
    pub fn view(&self, now: Instant, stamp: Stamp) -> View {
        let adapters = self.adapters.values().map(|adapter| AdapterView {
            id: adapter.info.id.to_string(),
            address: adapter.info.address.to_string(),
            on: adapter.power == Power::On,
            listening: adapter.scan == super::adapter::Scan::On,
            connections: adapter.slots.held(),
            waiting: adapter.slots.waiting(),
            slots: adapter.slots.budget(),
            advert_s: adapter.advert_at.map(|at| now.saturating_duration_since(at).as_secs()),
            heard_s: adapter.heard_at.map(|at| now.saturating_duration_since(at).as_secs()),
            adverts: adapter.adverts,
            strangers: adapter.strangers,
            step: adapter.ladder.step(),
            steps: Step::ALL.iter().map(|step| step.label()).zip(adapter.steps).collect(),
            last_error: adapter.last_error.as_ref().map(ToString::to_string),
        });
        let wearables = self.known.iter().map(|(peer, known)| {
            let wearable = known.wanted.identity.as_ref().and_then(|identity| self.wearables.get(identity));
            WearableView {
                device: known.wanted.identity.as_deref().map(str::to_owned),
                adapter: peer.adapter.to_string(),
                address: peer.address.to_string(),
                name: known.name.as_deref().map(str::to_owned),
                state: known.session.standing(),
                source: wearable.and_then(super::Wearable::last_source).map(crate::reading::Source::as_str),
                silent_s: wearable.and_then(|wearable| wearable.silent_for_ms(stamp)).map(|ms| ms / 1000),
                rssi_dbm: known.rssi_dbm,
                battery_percent: wearable.and_then(super::Wearable::battery_percent),
                about: wearable.map(|wearable| wearable.about.clone()).unwrap_or_default(),
                counts: wearable.map(|wearable| wearable.counts).unwrap_or_default(),
            }
        });
        View { adapters: adapters.collect(), wearables: wearables.collect() }
    }
}
