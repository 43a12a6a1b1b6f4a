//! Who is on the air, for `fogbeat scan`: kept while somebody looks and for [`LOOKED`] after, never stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::radio::{Address, Advert, Peer};
use super::super::roster::{self, Verdict};
use super::super::session::Standing;
use super::super::signal::Signal;
use super::{Core, Known, Wearable};
use crate::clock::Stamp;
use crate::config::BleDevice;
use crate::reading::advert::Broadcast;

/// After the last look everything is forgotten.
const LOOKED: Duration = Duration::from_secs(15);
/// Wearables that are shown at most: a gym full of them, several times over.
const MOST: usize = 1024;
/// What was not heard for so long has left.
const LEFT: Duration = Duration::from_secs(30);
/// A heart rate is shown for so long.
const FRESH_MS: u64 = 5_000;
/// Rows are in order of the signal in steps of so many dB: a table whose rows change places cannot be read.
const STEP_DB: i8 = 6;

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// What it is called on the lines, once it is allowed and known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Printed on Polar's straps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub polar_id: Option<String>,
    pub address: String,
    /// The address will be another one soon: it is no way to know the wearable by.
    pub address_changes: bool,
    pub adapter: String,
    /// Smoothed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rssi_dbm: Option<i8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpm: Option<u16>,
    /// The last interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rr_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery_percent: Option<u8>,
    /// Its heart rate is heard without a connection.
    pub broadcast: bool,
    /// It can be connected to for its heart rate.
    pub gatt: bool,
    pub connected: bool,
    pub allowed: bool,
    /// Seconds since it was last heard.
    pub age_s: u64,
}

#[derive(Debug)]
pub struct Survey {
    until: Instant,
    heard: HashMap<Peer, Heard>,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    name: Option<Arc<str>>,
    random_address: bool,
    signal: Signal,
    broadcast: Option<(Instant, Broadcast)>,
    gatt: bool,
    allowed: bool,
}

impl Survey {
    pub fn new(now: Instant) -> Self {
        Self { until: now + LOOKED, heard: HashMap::new() }
    }

    /// Somebody looks.
    pub fn renew(&mut self, now: Instant) {
        self.until = now + LOOKED;
        self.heard.retain(|_, heard| now.saturating_duration_since(heard.at) < LEFT);
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// An advertisement, and what was decided about it.
    pub fn note(&mut self, advert: &Advert, broadcast: Option<Broadcast>, verdict: &Verdict, now: Instant) {
        let allowed = matches!(verdict, Verdict::Wanted(_));
        let has_heart_rate = advert.heart_rate_service || broadcast.is_some();
        if !allowed && !has_heart_rate && !self.heard.contains_key(&advert.peer) {
            return;
        }
        if self.heard.len() >= MOST && !self.heard.contains_key(&advert.peer) {
            return;
        }
        let heard = self.heard.entry(advert.peer.clone()).or_insert_with(|| Heard {
            at: now,
            name: None,
            random_address: advert.random_address,
            signal: Signal::default(),
            broadcast: None,
            gatt: false,
            allowed,
        });
        heard.at = now;
        heard.name = advert.name.clone().or(heard.name.take());
        if let Some(rssi_dbm) = advert.rssi_dbm {
            heard.signal.heard(&advert.peer.adapter, rssi_dbm, now);
        }
        heard.broadcast = broadcast.map(|broadcast| (now, broadcast)).or(heard.broadcast.take());
        heard.gatt |= advert.heart_rate_service;
        heard.allowed = allowed;
    }
}

impl Sight {
    fn new(peer: &Peer, random_address: bool, name: Option<&str>) -> Self {
        Self {
            device: None,
            polar_id: name.and_then(roster::polar_id).map(|id| id.to_string()),
            name: name.map(str::to_owned),
            address: peer.address.to_string(),
            address_changes: random_address && !roster::is_static(peer.address),
            adapter: peer.adapter.to_string(),
            rssi_dbm: None,
            bpm: None,
            rr_ms: None,
            battery_percent: None,
            broadcast: false,
            gatt: false,
            connected: false,
            allowed: false,
            age_s: 0,
        }
    }

    /// Whether an operator would call it that.
    pub fn goes_by(&self, id: &str) -> bool {
        self.address.eq_ignore_ascii_case(id)
            || self.polar_id.as_ref().is_some_and(|polar_id| polar_id.eq_ignore_ascii_case(id))
            || self.name.as_deref() == Some(id)
            || self.device.as_deref() == Some(id)
    }

    /// The entry of the allow-list by which it is found again; `None`: it has neither a lasting address nor a name.
    pub fn entry(&self) -> Option<BleDevice> {
        let empty = BleDevice::default();
        Some(match (&self.polar_id, self.address_changes, &self.name) {
            (Some(polar_id), _, _) => BleDevice { polar_id: Some(polar_id.clone()), ..empty },
            (None, false, _) => BleDevice { address: Some(self.address.clone()), ..empty },
            (None, true, Some(name)) => BleDevice { name: Some(name.clone()), ..empty },
            (None, true, None) => return None,
        })
    }
}

impl Core {
    /// Who is on the air, loudest first; the first look begins with those that are known already.
    pub fn survey(&mut self, now: Instant, stamp: Stamp) -> Vec<Sight> {
        let survey = self.survey.get_or_insert_with(|| Survey::new(now));
        survey.renew(now);
        let mut rows: HashMap<Address, Sight> = HashMap::new();
        let mut add = |peer: &Peer, sight: Sight| match rows.get_mut(&peer.address) {
            Some(other) if other.rssi_dbm >= sight.rssi_dbm => other.take_over(sight),
            Some(other) => {
                let quieter = std::mem::replace(other, sight);
                other.take_over(quieter);
            }
            None => {
                rows.insert(peer.address, sight);
            }
        };
        for (peer, heard) in &survey.heard {
            add(peer, heard.sight(peer, now));
        }
        for (peer, known) in &self.known {
            let wearable = known.wanted.identity.as_ref().and_then(|identity| self.wearables.get(identity));
            if now.saturating_duration_since(known.heard_at) < LEFT || known.is_up() {
                add(peer, known.sight(peer, wearable, now, stamp));
            }
        }
        let mut rows: Vec<_> = rows.into_values().collect();
        let loudness = |row: &Sight| row.rssi_dbm.map(|dbm| dbm.div_euclid(STEP_DB));
        rows.sort_by(|a, b| loudness(b).cmp(&loudness(a)).then_with(|| a.address.cmp(&b.address)));
        rows
    }
}

impl Sight {
    /// What another way of hearing the same wearable knows besides.
    fn take_over(&mut self, other: Self) {
        self.device = self.device.take().or(other.device);
        self.name = self.name.take().or(other.name);
        self.polar_id = self.polar_id.take().or(other.polar_id);
        self.bpm = self.bpm.or(other.bpm);
        self.rr_ms = self.rr_ms.or(other.rr_ms);
        self.battery_percent = self.battery_percent.or(other.battery_percent);
        self.broadcast |= other.broadcast;
        self.gatt |= other.gatt;
        self.connected |= other.connected;
        self.allowed |= other.allowed;
        self.age_s = self.age_s.min(other.age_s);
    }
}

fn rounded(dbm: f32) -> i8 {
    dbm.round() as i8
}

impl Heard {
    fn sight(&self, peer: &Peer, now: Instant) -> Sight {
        let fresh = self
            .broadcast
            .filter(|(at, _)| now.saturating_duration_since(*at) < Duration::from_millis(FRESH_MS));
        Sight {
            rssi_dbm: self.signal.dbm(&peer.adapter, now).map(rounded),
            bpm: fresh.and_then(|(_, broadcast)| broadcast.bpm).filter(|bpm| *bpm > 0),
            battery_percent: self.broadcast.and_then(|(_, broadcast)| broadcast.battery_percent),
            broadcast: self.broadcast.is_some(),
            gatt: self.gatt,
            allowed: self.allowed,
            age_s: now.saturating_duration_since(self.at).as_secs(),
            ..Sight::new(peer, self.random_address, self.name.as_deref())
        }
    }
}

impl Known {
    /// Connected.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.session.standing(), Standing::Live | Standing::Silent)
    }

    fn sight(&self, peer: &Peer, wearable: Option<&Wearable>, now: Instant, stamp: Stamp) -> Sight {
        let beat = wearable.and_then(|wearable| wearable.beat(stamp, FRESH_MS));
        Sight {
            device: self.wanted.identity.as_deref().map(str::to_owned),
            rssi_dbm: wearable
                .and_then(|wearable| wearable.signal.dbm(&peer.adapter, now))
                .map(rounded)
                .or(self.rssi_dbm),
            bpm: beat.and_then(|beat| beat.bpm),
            rr_ms: beat.and_then(|beat| beat.rr_us).map(|us| us as f64 / 1000.0),
            battery_percent: wearable.and_then(Wearable::battery_percent),
            gatt: self.connectable,
            connected: self.is_up(),
            allowed: true,
            age_s: now.saturating_duration_since(self.heard_at).as_secs(),
            ..Sight::new(peer, self.random_address, self.name.as_deref())
        }
    }
}
