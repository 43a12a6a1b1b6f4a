//! What is heard: advertisements and notifications, and whose they are.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use smallvec::SmallVec;

use super::super::radio::{Address, Advert, Peer};
use super::super::roster::{CLAIM, Sighting, Verdict, Wanted};
use super::super::session;
use super::{Core, Known, MOST_HELD, MOST_PEERS, Note, Output, Presence};
use crate::clock::Stamp;
use crate::reading::advert::{self, Broadcast};

/// Somebody who goes by a listed name that another one had at that time.
#[derive(Debug)]
pub(super) struct Rival {
    /// Until it is judged again. A controller reports what does not change only once in ten seconds, so the next
    /// advertisement may come long after the other one has lost the name.
    advert: Option<Advert>,
    heard: Instant,
}

impl Core {
    pub(super) fn heard(&mut self, advert: Advert, presence: Presence, now: Instant, stamp: Stamp) {
        let Some(adapter) = self.adapters.get_mut(&advert.peer.adapter) else { return };
        let on_air = presence != Presence::Linked;
        if on_air {
            adapter.adverts += 1;
            adapter.advert_at = Some(now);
        }
        if on_air && let Some(step) = adapter.heard(now) {
            self.out.push(Output::Note(Note::Recovered(advert.peer.adapter.clone(), step)));
        }
        let broadcast = advert.manufacturer.iter().find_map(|(company, data)| advert::decode(*company, data));
        let inner_address = broadcast.and_then(|broadcast| broadcast.address).map(Address);
        // What is not in this packet may have been in one before.
        let known = self.known.get(&advert.peer);
        let sighting = Sighting {
            address: advert.peer.address,
            random_address: advert.random_address,
            name: advert.name.as_deref().or_else(|| known?.name.as_deref()),
            payload_address: inner_address.or_else(|| known?.payload_address),
            has_heart_rate: advert.heart_rate_service || broadcast.is_some(),
            connectable: self.settings.connect && advert.heart_rate_service,
        };
        let verdict = self.roster.judge(&sighting, now);
        if let Some(survey) = &mut self.survey {
            survey.note(&advert, broadcast, &verdict, now);
        }
        let wanted = match verdict {
            Verdict::Wanted(wanted) => wanted,
            Verdict::Stranger => {
                adapter.strangers += 1;
                return;
            }
            Verdict::Rival(name) => {
                let advert = Some(Advert { manufacturer: SmallVec::new(), ..advert });
                if self.rivals.insert(Arc::clone(&name), Rival { advert, heard: now }).is_none() {
                    self.out.push(Output::Note(Note::Rival(name)));
                }
                return;
            }
        };
        self.welcome(advert, broadcast, wanted, presence, now, stamp);
    }

    /// A second look at those who were turned away for their name, once the other one may have lost it.
    pub(super) fn judge_rivals(&mut self, now: Instant, stamp: Stamp) {
        let due =
            self.rivals.values_mut().filter(|rival| now.saturating_duration_since(rival.heard) >= CLAIM);
        let due: Vec<_> = due.filter_map(|rival| Some((rival.advert.take()?, rival.heard))).collect();
        for (advert, heard) in due {
            let sighting = Sighting {
                address: advert.peer.address,
                random_address: advert.random_address,
                name: advert.name.as_deref(),
                payload_address: None,
                has_heart_rate: advert.heart_rate_service,
                connectable: self.settings.connect && advert.heart_rate_service,
            };
            if let Verdict::Wanted(wanted) = self.roster.judge(&sighting, now) {
                self.welcome(advert, None, wanted, Presence::Heard(heard), now, stamp);
            }
        }
    }

    /// Somebody wanted was heard.
    fn welcome(
        &mut self,
        advert: Advert,
        broadcast: Option<Broadcast>,
        wanted: Wanted,
        presence: Presence,
        now: Instant,
        stamp: Stamp,
    ) {
        if !self.known.contains_key(&advert.peer) && self.known.len() >= MOST_PEERS {
            return;
        }
        let inner_address = broadcast.and_then(|broadcast| broadcast.address).map(Address);
        let known = self.known.entry(advert.peer.clone()).or_insert_with(|| Known::new(wanted.clone(), now));
        known.heard_at = now;
        known.presence = presence;
        known.rssi_dbm = advert.rssi_dbm.or(known.rssi_dbm);
        known.untold_rssi = advert.rssi_dbm.or(known.untold_rssi);
        known.name = advert.name.or(known.name.take());
        known.connectable |= advert.heart_rate_service;
        known.random_address = advert.random_address;
        known.payload_address = inner_address.or(known.payload_address);
        known.wanted = wanted;
        let Some(identity) = known.wanted.identity.clone() else { return };
        let wearable = self.wearables.entry(Arc::clone(&identity)).or_default();
        wearable.heard(&advert.peer.adapter, advert.rssi_dbm, now);
        if let Some(broadcast) = broadcast.filter(|_| self.settings.broadcast)
            && let Some(reading) =
                wearable.broadcast(&broadcast, &advert.peer.adapter, stamp, advert.rssi_dbm)
        {
            self.out.push(Output::Reading(identity, reading));
        }
    }

    pub(super) fn data(&mut self, peer: &Peer, payload: Bytes, now: Instant, stamp: Stamp, jitter: f64) {
        if let Some(step) = self.adapters.get_mut(&peer.adapter).and_then(|adapter| adapter.heard(now)) {
            self.out.push(Output::Note(Note::Recovered(peer.adapter.clone(), step)));
        }
        self.session(peer, session::Event::Data, now, jitter);
        self.roster.heard(peer.address, now);
        let Some(known) = self.known.get_mut(peer).filter(|known| !known.dismissed) else { return };
        known.heard_at = now;
        match known.wanted.identity.clone() {
            Some(identity) => {
                let wearable = self.wearables.entry(Arc::clone(&identity)).or_default();
                if let Some(reading) = wearable.notified(&payload, stamp, known.untold_rssi.take()) {
                    self.out.push(Output::Reading(identity, reading));
                }
            }
            None => {
                known.held.push((payload, stamp));
                if known.held.len() > MOST_HELD {
                    // It does not answer: it goes by what else is known of it.
                    self.roster.learn_serial(peer.address, None);
                    self.settle(peer, now, jitter);
                }
            }
        }
    }

    /// The serial number is known, or there is none: so is whose the held notifications are.
    pub(super) fn settle(&mut self, peer: &Peer, now: Instant, jitter: f64) {
        let Some(known) = self.known.get_mut(peer) else { return };
        if known.wanted.identity.is_some() {
            return;
        }
        let Verdict::Wanted(wanted) = self.roster.judge(&known.sighting(peer), now) else {
            known.held.clear();
            self.dismiss(peer, now, jitter);
            return;
        };
        known.wanted = wanted;
        let Some(identity) = known.wanted.identity.clone() else { return };
        let wearable = self.wearables.entry(Arc::clone(&identity)).or_default();
        for (payload, stamp) in std::mem::take(&mut known.held) {
            if let Some(reading) = wearable.notified(&payload, stamp, known.untold_rssi.take()) {
                self.out.push(Output::Reading(Arc::clone(&identity), reading));
            }
        }
    }
}
