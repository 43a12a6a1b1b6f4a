//! What `fogbeat status` and `fogbeat scan` show. No heart rates: those are in [`super::Output::Reading`] alone.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use super::super::ladder::Step;
use super::super::roster::Key;
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
    /// `None` until what it goes by is known: its serial number is still to be read.
    pub device: Option<String>,
    /// `None`: absent.
    pub adapter: Option<String>,
    pub address: Option<String>,
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
    /// Why the last attempt to connect failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
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
        let in_reach = self.known.iter().map(|(peer, known)| WearableView {
            adapter: Some(peer.adapter.to_string()),
            address: Some(peer.address.to_string()),
            name: known.name.as_deref().map(str::to_owned),
            rssi_dbm: known.rssi_dbm,
            last_error: known.last_error.as_ref().map(ToString::to_string),
            ..self.wearable_view(known.wanted.identity.as_deref(), known.session.standing(), stamp)
        });
        let there: HashSet<&Key> =
            self.known.values().filter_map(|known| known.wanted.entry.as_ref()).collect();
        let listed = self.roster.listed().iter();
        let absent = listed
            .filter(|listed| !there.contains(&listed.key))
            .map(|listed| self.wearable_view(Some(&listed.name()), Standing::Absent, stamp));
        View { adapters: adapters.collect(), wearables: in_reach.chain(absent).collect() }
    }

    /// What its readings tell of it.
    fn wearable_view(&self, device: Option<&str>, state: Standing, stamp: Stamp) -> WearableView {
        let wearable = device.and_then(|device| self.wearables.get(device));
        WearableView {
            device: device.map(str::to_owned),
            adapter: None,
            address: None,
            name: None,
            state,
            source: wearable.and_then(super::Wearable::last_source).map(crate::reading::Source::as_str),
            silent_s: wearable.and_then(|wearable| wearable.silent_for_ms(stamp)).map(|ms| ms / 1000),
            rssi_dbm: None,
            battery_percent: wearable.and_then(super::Wearable::battery_percent),
            about: wearable.map(|wearable| wearable.about.clone()).unwrap_or_default(),
            counts: wearable.map(|wearable| wearable.counts).unwrap_or_default(),
            last_error: None,
        }
    }
}
