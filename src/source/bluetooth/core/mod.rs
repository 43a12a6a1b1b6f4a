//! Everything that is decided about Bluetooth, as one function of (state, input, now): pure. The driver beside it
//! makes the calls, carries readings to the journal and keeps the time.
//!
//! Promised: one connect at a time per adapter, never on the heels of a loss; what is not wanted leaves no trace but a
//! count; one heart is one stream, whatever hears it; an adapter that the operator switched off stays off; memory is
//! bounded by the wearables that are wanted, not by those that pass by.

mod adapter;
#[cfg(test)]
mod sim;
mod survey;
#[cfg(test)]
mod tests;
mod view;
mod wearable;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ladder::Step;
use super::radio::{AdapterId, AdapterInfo, Address, Advert, Characteristic, Event, Peer, RadioError};
use super::roster::{Key, Listed, Roster, Sighting, Verdict, Wanted};
use super::session::{self, Action, Session};
use super::slots::Grant;
use crate::clock::Stamp;
use crate::reading::{Reading, advert};
use adapter::{Adapter, Power, Wish};
use wearable::Wearable;

pub use survey::Sight;
pub use view::{AdapterView, View, WearableView};

/// A wearable not heard for so long is forgotten; it is found again when it comes back.
const FORGOTTEN: Duration = Duration::from_secs(30 * 60);
/// Wanted wearables that are kept in mind, per way of hearing them: beyond a full gym on several adapters.
const MOST_PEERS: usize = 2048;
/// What is heard asks for no decision at once: time is looked at as often as this meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A wearable that was heard within this time is there to be connected to; an attempt on one that has gone would keep
/// the others waiting.
const PRESENT: Duration = Duration::from_secs(10);
/// Notifications that wait for a wearable's serial number to tell whose they are.
const MOST_HELD: usize = 32;

/// What the core is told.
#[derive(Debug)]
pub enum Input {
    Event(Event),
    /// A notification of 0x2A37.
    Data(Peer, Bytes),
    /// A call has ended.
    Done(Call, Result<Bytes, RadioError>),
    /// The connection to the stack is new; adapters are announced after it.
    Renewed,
    Allow(Listed),
    /// This entry of the allow-list is gone.
    Forget(Key),
    /// Readings were lost on their way to the journal.
    Dropped,
    Tick,
}

/// What the core wants done with the radio. Each is answered by [`Input::Done`], except [`Call::Rebuild`], which is
/// answered by [`Input::Renewed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Scan(AdapterId, bool),
    Power(AdapterId, bool),
    /// Opens the notification stream first, if it is not open yet. `bool`: pair before.
    Connect(Peer, bool),
    Disconnect(Peer),
    Read(Peer, Characteristic),
    Rebuild,
    /// The system's Bluetooth service is started anew.
    RestartStack,
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    Call(Call),
    /// A reading of the wearable of that name.
    Reading(Arc<str>, Reading),
    Note(Note),
}

/// What the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Connected twice, and no heart rate: another app may hold the strap.
    Silent(Arc<str>),
    /// Two wearables go by one listed name.
    Rival(Arc<str>),
    /// The ladder's step on that adapter.
    Step(AdapterId, Step),
    /// It is heard again after that step.
    Recovered(AdapterId, Step),
    /// An adapter that is used was found on or off, or was switched by somebody else.
    Power(AdapterId, bool),
}

/// What the core is told once.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub broadcast: bool,
    pub connect: bool,
    pub slots: usize,
    /// The last step of the ladder may restart the system's Bluetooth service.
    pub restart_stack: bool,
}

/// Whether a wearable could be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Not heard since its last connection.
    Away,
    /// Its last advertisement came at that time.
    Heard(Instant),
    /// The stack holds a connection to it, from a life of ours before this one: it advertises no more.
    Linked,
}

impl Presence {
    fn is_there(self, now: Instant) -> bool {
        match self {
            Self::Away => false,
            Self::Heard(at) => now.saturating_duration_since(at) < PRESENT,
            Self::Linked => true,
        }
    }
}

/// A wearable as one adapter knows it.
#[derive(Debug)]
struct Known {
    wanted: Wanted,
    name: Option<Arc<str>>,
    session: Session,
    heard_at: Instant,
    presence: Presence,
    rssi_dbm: Option<i8>,
    /// The same, until a reading has told it.
    untold_rssi: Option<i8>,
    /// It offers 0x180D: worth a connection.
    connectable: bool,
    random_address: bool,
    /// The address inside its broadcast.
    payload_address: Option<Address>,
    /// Not wanted any more: goes as soon as its connection has ended.
    dismissed: bool,
    /// Gives its slot back to wait for the next turn, not because it is lost.
    yielding: bool,
    held: Vec<(Bytes, Stamp)>,
    /// What is still to be read on this connection, last first.
    to_read: Vec<Characteristic>,
}

#[derive(Debug)]
pub struct Core {
    settings: Settings,
    roster: Roster,
    adapters: BTreeMap<AdapterId, Adapter>,
    /// Adapters by system name or address that are used; empty: all.
    chosen: Vec<String>,
    known: BTreeMap<Peer, Known>,
    wearables: HashMap<Arc<str>, Wearable>,
    rivals: HashMap<Arc<str>, Instant>,
    looked: Option<Instant>,
    /// Who is on the air, while somebody wants to know.
    survey: Option<survey::Survey>,
    out: Vec<Output>,
}

impl Core {
    pub fn new(settings: Settings, chosen: Vec<String>, roster: Roster) -> Self {
        Self {
            settings,
            roster,
            adapters: BTreeMap::new(),
            chosen,
            known: BTreeMap::new(),
            wearables: HashMap::new(),
            rivals: HashMap::new(),
            looked: None,
            survey: None,
            out: Vec::new(),
        }
    }

    /// Takes one input; what is to be done about it is appended to `out`. `jitter` is a fresh random number from 0 to 1.
    pub fn take(&mut self, input: Input, now: Instant, stamp: Stamp, jitter: f64, out: &mut Vec<Output>) {
        std::mem::swap(&mut self.out, out);
        let sound = matches!(input, Input::Data(..) | Input::Event(Event::Heard(_)));
        match input {
            Input::Event(event) => self.event(event, now, stamp, jitter),
            Input::Data(peer, payload) => self.data(&peer, payload, now, stamp, jitter),
            Input::Done(call, result) => self.done(call, result, now, jitter),
            Input::Renewed => self.renewed(now, jitter),
            Input::Allow(listed) => self.roster.allow(listed),
            Input::Forget(key) => self.forget(&key, now, jitter),
            Input::Dropped => self.wearables.values_mut().for_each(Wearable::interrupted),
            Input::Tick => {}
        }
        let looked = self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY);
        if !(sound && looked) {
            self.looked = Some(now);
            self.advance(now, jitter);
        }
        std::mem::swap(&mut self.out, out);
    }

    fn event(&mut self, event: Event, now: Instant, stamp: Stamp, jitter: f64) {
        match event {
            Event::Heard(advert) => self.heard(advert, Presence::Heard(now), now, stamp),
            Event::Linked(advert) => self.heard(advert, Presence::Linked, now, stamp),
            Event::Disconnected(peer) => {
                if let Some(adapter) = self.adapters.get_mut(&peer.adapter) {
                    adapter.link_lost(now);
                }
                if let Some(known) = self.known.get_mut(&peer)
                    && known.presence == Presence::Linked
                {
                    known.presence = Presence::Away;
                }
                self.session(&peer, session::Event::Lost, now, jitter);
            }
            Event::AdapterAdded(info) => self.adapter_added(info, now, jitter),
            Event::AdapterRemoved(id) => {
                self.adapter_lost(&id, now, jitter);
                self.adapters.remove(&id);
                self.known.retain(|peer, _| peer.adapter != id);
            }
            Event::Powered(id, on) => self.powered(&id, on, now, jitter),
            Event::StackLost => {
                let all: Vec<_> = self.adapters.keys().cloned().collect();
                for id in &all {
                    self.adapter_lost(id, now, jitter);
                }
                self.adapters.clear();
            }
            Event::StackBack => self.out.push(Output::Call(Call::Rebuild)),
        }
    }

    fn adapter_added(&mut self, info: AdapterInfo, now: Instant, jitter: f64) {
        let named = |name: &String| {
            **name == *info.id.0 || name.parse::<Address>().is_ok_and(|address| address == info.address)
        };
        if !self.chosen.is_empty() && !self.chosen.iter().any(named) {
            return;
        }
        match self.adapters.get_mut(&info.id) {
            Some(adapter) if adapter.info.address == info.address => {
                if adapter.info.powered != info.powered {
                    self.powered(&info.id, info.powered, now, jitter);
                }
            }
            _ => {
                self.out.push(Output::Note(Note::Power(info.id.clone(), info.powered)));
                let adapter = Adapter::new(info.clone(), self.settings.slots, now);
                self.adapters.insert(info.id, adapter);
            }
        }
    }

    /// Whoever is wanted no more is let go of, and is a stranger when it is heard again.
    fn forget(&mut self, key: &Key, now: Instant, jitter: f64) {
        self.roster.forget(key);
        let mut gone = Vec::new();
        for (peer, known) in &self.known {
            let sighting = Sighting {
                address: peer.address,
                random_address: known.random_address,
                name: known.name.as_deref(),
                payload_address: known.payload_address,
                has_heart_rate: true,
            };
            if !matches!(self.roster.judge(&sighting, now), Verdict::Wanted(_)) {
                gone.push(peer.clone());
            }
        }
        for peer in &gone {
            self.session(peer, session::Event::Yield, now, jitter);
            if let Some(known) = self.known.get_mut(peer) {
                known.dismissed = true;
                known.presence = Presence::Away;
            }
        }
    }

    fn powered(&mut self, id: &AdapterId, on: bool, now: Instant, jitter: f64) {
        let Some(adapter) = self.adapters.get_mut(id) else { return };
        if adapter.info.powered != on && !matches!(adapter.power, Power::Cycling(_)) {
            self.out.push(Output::Note(Note::Power(id.clone(), on)));
        }
        if adapter.powered(on, now) {
            self.adapter_lost(id, now, jitter);
        }
    }

    fn adapter_lost(&mut self, id: &AdapterId, now: Instant, jitter: f64) {
        let peers: Vec<_> = self.known.keys().filter(|peer| peer.adapter == *id).cloned().collect();
        for peer in &peers {
            self.session(peer, session::Event::AdapterLost, now, jitter);
        }
        for wearable in self.wearables.values_mut() {
            wearable.signal.lost(id);
        }
        if let Some(adapter) = self.adapters.get_mut(id) {
            adapter.connecting = None;
        }
    }

    fn renewed(&mut self, now: Instant, jitter: f64) {
        let peers: Vec<_> = self.known.keys().cloned().collect();
        for peer in &peers {
            self.session(peer, session::Event::AdapterLost, now, jitter);
        }
        for adapter in self.adapters.values_mut() {
            adapter.renewed(now);
        }
    }

    fn heard(&mut self, advert: Advert, presence: Presence, now: Instant, stamp: Stamp) {
        let Some(adapter) = self.adapters.get_mut(&advert.peer.adapter) else { return };
        let on_air = presence != Presence::Linked;
        adapter.adverts += u64::from(on_air);
        if on_air && let Some(step) = adapter.heard(now) {
            self.out.push(Output::Note(Note::Recovered(advert.peer.adapter.clone(), step)));
        }
        let broadcast = advert.manufacturer.iter().find_map(|(company, data)| advert::decode(*company, data));
        let inner_address = broadcast.and_then(|broadcast| broadcast.address).map(Address);
        let sighting = Sighting {
            address: advert.peer.address,
            random_address: advert.random_address,
            name: advert.name.as_deref(),
            payload_address: inner_address,
            has_heart_rate: advert.heart_rate_service || broadcast.is_some(),
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
                if self.rivals.insert(Arc::clone(&name), now).is_none() {
                    self.out.push(Output::Note(Note::Rival(name)));
                }
                return;
            }
        };
        if !self.known.contains_key(&advert.peer) && self.known.len() >= MOST_PEERS {
            return;
        }
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

    fn data(&mut self, peer: &Peer, payload: Bytes, now: Instant, stamp: Stamp, jitter: f64) {
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
            None if known.held.len() < MOST_HELD => known.held.push((payload, stamp)),
            None => {}
        }
    }

    fn done(&mut self, call: Call, result: Result<Bytes, RadioError>, now: Instant, jitter: f64) {
        match call {
            Call::Scan(id, on) => {
                if let Some(adapter) = self.adapters.get_mut(&id) {
                    adapter.scan_done(on, result.map(drop), now);
                }
            }
            Call::Power(id, on) => {
                if let Some(adapter) = self.adapters.get_mut(&id) {
                    adapter.power_done(on, result.map(drop), now);
                }
            }
            Call::Connect(peer, _) => self.connect_done(&peer, result, now, jitter),
            Call::Disconnect(peer) => self.session(&peer, session::Event::Closed, now, jitter),
            Call::Read(peer, what) => self.read_done(&peer, what, result, now),
            Call::Rebuild | Call::RestartStack => {}
        }
    }

    fn connect_done(&mut self, peer: &Peer, result: Result<Bytes, RadioError>, now: Instant, jitter: f64) {
        if let Some(adapter) = self.adapters.get_mut(&peer.adapter) {
            if adapter.connecting.as_ref() == Some(peer) {
                adapter.connecting = None;
            }
            match &result {
                Ok(_) => adapter.last_error = None,
                Err(error) => {
                    if *error == RadioError::NoRoom {
                        adapter.slots.refused(peer, now);
                    }
                    adapter.last_error = Some(error.clone());
                }
            }
        }
        if let Some(known) = self.known.get_mut(peer) {
            known.presence = Presence::Away;
        }
        let event = if result.is_ok() { session::Event::Connected } else { session::Event::Failed };
        self.session(peer, event, now, jitter);
    }

    fn read_done(
        &mut self,
        peer: &Peer,
        what: Characteristic,
        result: Result<Bytes, RadioError>,
        now: Instant,
    ) {
        let Some(known) = self.known.get_mut(peer) else { return };
        match (what, &result) {
            (Characteristic::BatteryLevel, Ok(value)) => {
                let percent = value.first().copied().filter(|percent| *percent <= 100);
                if let (Some(percent), Some(identity)) = (percent, &known.wanted.identity) {
                    self.wearables.entry(Arc::clone(identity)).or_default().battery_read(percent);
                }
            }
            (Characteristic::SerialNumber, Ok(value)) => {
                self.roster.learn_serial(peer.address, std::str::from_utf8(value).ok());
            }
            // A link that broke while it was read says nothing about the wearable.
            (Characteristic::SerialNumber, Err(RadioError::NotOffered)) => {
                self.roster.learn_serial(peer.address, None);
            }
            _ => {}
        }
        if what == Characteristic::SerialNumber {
            self.settle(peer, now);
        }
        self.read_next(peer);
    }

    /// The serial number is known: so is whose the held notifications are.
    fn settle(&mut self, peer: &Peer, now: Instant) {
        let Some(known) = self.known.get_mut(peer) else { return };
        if known.wanted.identity.is_some() {
            return;
        }
        let sighting = Sighting {
            address: peer.address,
            random_address: true,
            name: known.name.as_deref(),
            payload_address: known.payload_address,
            has_heart_rate: true,
        };
        let Verdict::Wanted(wanted) = self.roster.judge(&sighting, now) else { return };
        known.wanted = wanted;
        let Some(identity) = known.wanted.identity.clone() else { return };
        let wearable = self.wearables.entry(Arc::clone(&identity)).or_default();
        for (payload, stamp) in std::mem::take(&mut known.held) {
            if let Some(reading) = wearable.notified(&payload, stamp, known.untold_rssi.take()) {
                self.out.push(Output::Reading(Arc::clone(&identity), reading));
            }
        }
    }

    fn read_next(&mut self, peer: &Peer) {
        if let Some(what) = self.known.get_mut(peer).and_then(|known| known.to_read.pop()) {
            self.out.push(Output::Call(Call::Read(peer.clone(), what)));
        }
    }

    fn session(&mut self, peer: &Peer, event: session::Event, now: Instant, jitter: f64) {
        let Some(known) = self.known.get_mut(peer) else { return };
        let actions = known.session.on(event, now, jitter);
        self.act(peer, &actions, now);
    }

    fn act(&mut self, peer: &Peer, actions: &[Action], now: Instant) {
        for action in actions {
            let Some(known) = self.known.get_mut(peer) else { return };
            match action {
                Action::Connect => {
                    self.out.push(Output::Call(Call::Connect(peer.clone(), known.wanted.pair)));
                }
                Action::Disconnect => self.out.push(Output::Call(Call::Disconnect(peer.clone()))),
                Action::ReadAbout => {
                    // The serial number first: readings may wait for it.
                    known.to_read = vec![
                        Characteristic::FirmwareRevision,
                        Characteristic::ModelNumber,
                        Characteristic::ManufacturerName,
                        Characteristic::BodySensorLocation,
                        Characteristic::BatteryLevel,
                        Characteristic::SerialNumber,
                    ];
                    self.read_next(peer);
                }
                Action::ReadBattery => {
                    known.to_read.push(Characteristic::BatteryLevel);
                    self.read_next(peer);
                }
                Action::ReleaseSlot => self.release(peer, now),
                Action::TellSilent => {
                    let name = known.wanted.identity.clone().or(known.name.clone());
                    let name = name.unwrap_or_else(|| peer.address.to_string().into());
                    self.out.push(Output::Note(Note::Silent(name)));
                }
            }
        }
    }

    fn release(&mut self, peer: &Peer, now: Instant) {
        let Some(known) = self.known.get_mut(peer) else { return };
        known.to_read.clear();
        let yielding = std::mem::take(&mut known.yielding);
        if let Some(identity) = &known.wanted.identity
            && let Some(wearable) = self.wearables.get_mut(identity)
        {
            wearable.interrupted();
        }
        if let Some(adapter) = self.adapters.get_mut(&peer.adapter) {
            if adapter.connecting.as_ref() == Some(peer) {
                adapter.connecting = None;
            }
            if yielding { adapter.slots.requeue(peer, now) } else { adapter.slots.release(peer) }
        }
    }

    /// What time and the new state bring.
    fn advance(&mut self, now: Instant, jitter: f64) {
        self.tick_sessions(now);
        self.hand_over(now, jitter);
        let ids: Vec<_> = self.adapters.keys().cloned().collect();
        for id in &ids {
            self.grant(id, now, jitter);
            self.advance_adapter(id, now);
        }
        self.known.retain(|_, known| {
            let idle =
                matches!(known.session.standing(), session::Standing::Resting | session::Standing::Backoff);
            !idle || !known.dismissed && now.saturating_duration_since(known.heard_at) < FORGOTTEN
        });
        self.survey = self.survey.take().filter(|survey| !survey.is_over(now));
    }

    fn tick_sessions(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (peer, known) in &mut self.known {
            let actions = known.session.tick(now);
            if !actions.is_empty() {
                due.push((peer.clone(), actions));
            }
        }
        for (peer, actions) in due {
            self.act(&peer, &actions, now);
        }
    }

    fn advance_adapter(&mut self, id: &AdapterId, now: Instant) {
        let Some(adapter) = self.adapters.get_mut(id) else { return };
        while let Some(wish) = adapter.next(now) {
            let step = adapter.ladder.step();
            let call = match wish {
                Wish::Scan(on) => Some(Call::Scan(id.clone(), on)),
                Wish::Pause => Some(Call::Scan(id.clone(), false)),
                Wish::Power(on) => Some(Call::Power(id.clone(), on)),
                Wish::Rebuild => Some(Call::Rebuild),
                Wish::Report { first } => {
                    (first && self.settings.restart_stack).then_some(Call::RestartStack)
                }
            };
            let climbed = !matches!(wish, Wish::Scan(true) | Wish::Pause | Wish::Power(true));
            if let Some(step) = step.filter(|_| climbed) {
                self.out.push(Output::Note(Note::Step(id.clone(), step)));
            }
            self.out.extend(call.map(Output::Call));
        }
    }

    /// Gives slots to those who want one.
    fn grant(&mut self, id: &AdapterId, now: Instant, jitter: f64) {
        if !self.settings.connect || !self.adapters.get(id).is_some_and(|adapter| adapter.may_connect(now)) {
            return;
        }
        let wanting: Vec<(Peer, u8)> = self
            .known
            .iter()
            .filter(|(peer, known)| {
                peer.adapter == *id
                    && known.connectable
                    && known.presence.is_there(now)
                    && known.session.wants_slot(now)
                    && self.is_best(peer, known, now)
            })
            .map(|(peer, known)| (peer.clone(), known.wanted.priority))
            .collect();
        let Some(adapter) = self.adapters.get_mut(id) else { return };
        let there = |peer: &Peer| self.known.get(peer).is_some_and(|known| known.presence.is_there(now));
        adapter.slots.retain_waiting(there);
        for (peer, priority) in wanting {
            adapter.slots.want(peer, priority, now);
        }
        loop {
            let Some(adapter) = self.adapters.get_mut(id) else { return };
            if !adapter.may_connect(now) {
                return;
            }
            let known = &self.known;
            let busy = |peer: &Peer| known.get(peer).is_some_and(|known| known.session.is_connecting());
            match adapter.slots.next(now, busy) {
                Some(Grant::Connect(peer)) => {
                    adapter.begin_connect(peer.clone(), now);
                    match known.get(&peer).map(|known| known.wanted.pair) {
                        Some(pair) => self.session(&peer, session::Event::Granted { pair }, now, jitter),
                        None => {
                            adapter.connecting = None;
                            adapter.slots.release(&peer);
                        }
                    }
                }
                Some(Grant::Yield(peer)) => {
                    let Some(known) = self.known.get_mut(&peer) else {
                        adapter.slots.release(&peer);
                        continue;
                    };
                    known.yielding = true;
                    self.session(&peer, session::Event::Yield, now, jitter);
                    return;
                }
                None => return,
            }
        }
    }

    /// Whether no other adapter holds this wearable or hears it better.
    fn is_best(&self, peer: &Peer, known: &Known, now: Instant) -> bool {
        let Some(identity) = &known.wanted.identity else { return true };
        let elsewhere = self.known.iter().any(|(other, k)| {
            other != peer
                && k.wanted.identity.as_ref() == Some(identity)
                && !k.session.wants_slot(now)
                && k.session.wake_at().is_none_or(|_| k.session.standing() != session::Standing::Backoff)
        });
        if elsewhere {
            return false;
        }
        let Some(wearable) = self.wearables.get(identity) else { return true };
        let usable = |id: &AdapterId| self.adapters.get(id).is_some_and(Adapter::is_on);
        wearable.signal.best(now, usable).is_none_or(|best| best == peer.adapter)
    }

    /// Moves connected wearables to an adapter that hears them clearly better and has room.
    fn hand_over(&mut self, now: Instant, jitter: f64) {
        if self.adapters.len() < 2 {
            return;
        }
        let mut moving = Vec::new();
        for (peer, known) in &self.known {
            if known.session.standing() != session::Standing::Live {
                continue;
            }
            let Some(wearable) = known.wanted.identity.as_ref().and_then(|id| self.wearables.get_mut(id))
            else {
                continue;
            };
            let adapters = &self.adapters;
            let room = |id: &AdapterId| {
                adapters.get(id).is_some_and(|a| a.is_on() && a.slots.held() < a.slots.budget())
            };
            if wearable.signal.hand_over(&peer.adapter, now, room).is_some() {
                moving.push(peer.clone());
            }
        }
        for peer in &moving {
            self.session(peer, session::Event::Yield, now, jitter);
        }
    }

    /// Whether there is an adapter that may be used, on or off.
    pub fn has_adapter(&self) -> bool {
        !self.adapters.is_empty()
    }

    /// Whether one of them is on.
    pub fn is_on(&self) -> bool {
        self.adapters.values().any(Adapter::is_on)
    }

    /// The adapters that are used.
    pub fn adapters(&self) -> Vec<AdapterId> {
        self.adapters.keys().cloned().collect()
    }

    /// Whether this wearable is kept in mind.
    pub fn knows(&self, peer: &Peer) -> bool {
        self.known.contains_key(peer)
    }

    /// Who is connected, or about to be.
    pub fn connected(&self) -> Vec<Peer> {
        let resting = |known: &Known| {
            matches!(known.session.standing(), session::Standing::Resting | session::Standing::Backoff)
        };
        self.known.iter().filter(|(_, known)| !resting(known)).map(|(peer, _)| peer.clone()).collect()
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        let sessions = self.known.values().filter_map(|known| known.session.wake_at());
        let adapters = self.adapters.values().filter_map(Adapter::wake_at);
        sessions.chain(adapters).min()
    }
}

impl Known {
    fn new(wanted: Wanted, now: Instant) -> Self {
        Self {
            wanted,
            name: None,
            session: Session::default(),
            heard_at: now,
            presence: Presence::Away,
            rssi_dbm: None,
            untold_rssi: None,
            connectable: false,
            random_address: false,
            payload_address: None,
            dismissed: false,
            yielding: false,
            held: Vec::new(),
            to_read: Vec::new(),
        }
    }
}
