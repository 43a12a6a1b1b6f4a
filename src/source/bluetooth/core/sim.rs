//! A gym for tests: straps, adapters and a stack with the faults that real ones were seen to have, in simulated time.
//!
//! It fails the test by itself when the core does what a real stack punishes: two connects at once on one adapter, a
//! connect on the heels of a loss, a connect after a failed one without a disconnect between, a power-on of what the
//! operator switched off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::radio::{AdapterId, AdapterInfo, Address, Advert, Characteristic, Event, Peer, RadioError};
use super::super::roster::{Listed, Roster};
use super::super::session::SETTLE;
use super::{Call, Core, Input, Note, Output, Settings, Sight};
use crate::clock::{Stamp, WallQuality};
use crate::reading::Reading;

const STEP: Duration = Duration::from_millis(100);
const CONNECT_TAKES: Duration = Duration::from_millis(900);
const CALL_TAKES: Duration = Duration::from_millis(200);
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// A wearable and how it behaves.
#[derive(Debug, Clone)]
pub struct Strap {
    pub address: Address,
    pub random: bool,
    pub name: Option<&'static str>,
    pub serial: Option<&'static str>,
    pub on_air: bool,
    /// Connected and silent.
    pub mute: bool,
    /// Announces 0x180D.
    pub service: bool,
    /// Has room for a second link, and goes on advertising while it has one.
    pub two_links: bool,
    /// Does not answer when it is asked for its serial number.
    pub shy: bool,
    /// Broadcasts a Polar frame each second.
    pub broadcasts: bool,
    pub rssi: BTreeMap<u8, i8>,
    /// Heart rate it sends; RR follows from it.
    pub bpm: u8,
    /// Notifications it sent while connected.
    pub sent: u64,
    /// Broadcast frames it sent.
    pub frames: u64,
    /// Time that its beats have not yet filled, 1/1024 s.
    pub owed: u32,
}

#[derive(Debug)]
struct Dongle {
    info: AdapterInfo,
    scanning: bool,
    /// Hears nothing, whatever is on the air, until this is done.
    deaf_until: Option<Call>,
    /// Its scan has died, and no other starts before it was switched off and on.
    jammed: bool,
    capacity: usize,
    switched_off_by_operator: bool,
    lost_at: Option<Instant>,
}

pub struct Sim {
    pub core: Core,
    start: Instant,
    pub now: Instant,
    pub straps: Vec<Strap>,
    dongles: BTreeMap<AdapterId, Dongle>,
    pending: Vec<(Instant, Call)>,
    /// Connected wearables, and until when BlueZ is still trying to connect others.
    pub links: BTreeSet<Peer>,
    trying: BTreeSet<Peer>,
    lost: BTreeMap<Peer, Instant>,
    pub readings: Vec<(Arc<str>, Reading)>,
    pub calls: Vec<Call>,
    pub notes: Vec<Note>,
    pub stack_up: bool,
}

pub fn hci(number: u8) -> AdapterId {
    AdapterId(format!("hci{number}").into())
}

pub fn strap(number: u16) -> Strap {
    let [high, low] = number.to_be_bytes();
    Strap {
        address: Address([0xC0, 0, 0, 0, high, low]),
        random: false,
        name: None,
        serial: None,
        on_air: true,
        mute: false,
        service: true,
        two_links: false,
        shy: false,
        broadcasts: false,
        rssi: [(0, -60)].into(),
        bpm: 60 + (number % 100) as u8,
        sent: 0,
        frames: 0,
        owed: 0,
    }
}

impl Sim {
    pub fn new(settings: Settings, listed: Vec<Listed>, accept_unknown: bool, straps: Vec<Strap>) -> Self {
        let start = Instant::now();
        let mut sim = Self {
            core: Core::new(settings, Vec::new(), Roster::new(listed, accept_unknown)),
            start,
            now: start,
            straps,
            dongles: BTreeMap::new(),
            pending: Vec::new(),
            links: BTreeSet::new(),
            trying: BTreeSet::new(),
            lost: BTreeMap::new(),
            readings: Vec::new(),
            calls: Vec::new(),
            notes: Vec::new(),
            stack_up: true,
        };
        sim.take(Input::Renewed);
        sim
    }

    pub fn plug(&mut self, number: u8, capacity: usize) {
        let id = hci(number);
        let info = AdapterInfo { id: id.clone(), address: Address([0, 0, 0, 0, 0, number]), powered: true };
        let dongle = Dongle {
            info: info.clone(),
            scanning: false,
            deaf_until: None,
            jammed: false,
            capacity,
            switched_off_by_operator: false,
            lost_at: None,
        };
        self.dongles.insert(id, dongle);
        self.take(Input::Event(Event::AdapterAdded(info)));
    }

    pub fn unplug(&mut self, number: u8) {
        let id = hci(number);
        self.drop_links(&id);
        self.dongles.remove(&id);
        self.take(Input::Event(Event::AdapterRemoved(id)));
    }

    /// The operator switches an adapter on or off.
    pub fn switch(&mut self, number: u8, on: bool) {
        let id = hci(number);
        if let Some(dongle) = self.dongles.get_mut(&id) {
            dongle.switched_off_by_operator = !on;
        }
        self.power(&id, on);
    }

    /// The adapter hears nothing until `cure` is done to it.
    pub fn deafen(&mut self, number: u8, cure: Call) {
        if let Some(dongle) = self.dongles.get_mut(&hci(number)) {
            dongle.deaf_until = Some(cure);
        }
    }

    pub fn jam(&mut self, number: u8) {
        if let Some(dongle) = self.dongles.get_mut(&hci(number)) {
            dongle.jammed = true;
            dongle.scanning = false;
        }
    }

    /// bluetoothd dies; it says nothing.
    pub fn kill_stack(&mut self) {
        self.stack_up = false;
        let ids: Vec<_> = self.dongles.keys().cloned().collect();
        for id in &ids {
            self.drop_links(id);
        }
        for dongle in self.dongles.values_mut() {
            dongle.scanning = false;
        }
        self.take(Input::Event(Event::StackLost));
    }

    pub fn start_stack(&mut self) {
        self.stack_up = true;
        self.take(Input::Event(Event::StackBack));
    }

    /// The link of one strap is gone; with `word`, the stack says so.
    pub fn lose(&mut self, index: usize, word: bool) {
        let peers: Vec<_> =
            self.links.iter().filter(|peer| peer.address == self.straps[index].address).cloned().collect();
        for peer in peers {
            self.links.remove(&peer);
            self.lost.insert(peer.clone(), self.now);
            if word {
                self.take(Input::Event(Event::Disconnected(peer)));
            }
        }
    }

    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    pub fn linked(&self, index: usize) -> bool {
        self.links.iter().any(|peer| peer.address == self.straps[index].address)
    }

    pub fn readings_of(&self, device: &str) -> usize {
        self.readings.iter().filter(|(name, _)| **name == *device).count()
    }

    pub fn readings_for(&self, device: &str) -> impl Iterator<Item = &Reading> {
        self.readings.iter().filter(move |(name, _)| **name == *device).map(|(_, reading)| reading)
    }

    /// Between two readings, ms.
    pub fn longest_pause(&self, device: &str) -> u32 {
        let times: Vec<u64> = self.readings_for(device).map(|reading| reading.arrival.uptime_ms).collect();
        times.windows(2).map(|pair| (pair[1] - pair[0]) as u32).max().unwrap_or(0)
    }

    pub fn stamp(&self) -> Stamp {
        let uptime_ms = 1_000_000 + self.now.duration_since(self.start).as_millis() as u64;
        Stamp { uptime_ms, wall_ms: 1_790_000_000_000 + uptime_ms as i64, quality: WallQuality::Synced }
    }

    fn step(&mut self) {
        self.now += STEP;
        let mut due: Vec<(Instant, Call)> = Vec::new();
        self.pending.retain(|(at, call)| {
            let is_due = *at <= self.now;
            if is_due {
                due.push((*at, call.clone()));
            }
            !is_due
        });
        due.sort_by_key(|(at, _)| *at);
        for (_, call) in due {
            let result = self.finish(&call);
            match call {
                Call::Rebuild => {
                    let infos: Vec<_> = self.dongles.values().map(|dongle| dongle.info.clone()).collect();
                    self.take(Input::Renewed);
                    for info in infos {
                        self.take(Input::Event(Event::AdapterAdded(info)));
                    }
                }
                call => self.take(Input::Done(call, result)),
            }
        }
        let tenth = self.now.duration_since(self.start).as_millis() as u64 / 100;
        if self.stack_up {
            self.air(tenth);
        }
        self.take(Input::Tick);
    }

    /// What is on the air in this tenth of a second.
    fn air(&mut self, tenth: u64) {
        for index in 0..self.straps.len() {
            let strap = self.straps[index].clone();
            if !strap.on_air {
                continue;
            }
            // Each in its own tenth of the second.
            let turn = tenth % 10 == (index as u64) % 10;
            let linked: Vec<_> =
                self.links.iter().filter(|peer| peer.address == strap.address).cloned().collect();
            if turn
                && !strap.mute
                && let Some(peer) = linked.first()
            {
                self.straps[index].sent += 1;
                let interval = 61_440 / u32::from(strap.bpm.max(1));
                let beats = (strap.owed + 1024) / interval;
                self.straps[index].owed = (strap.owed + 1024) % interval;
                let mut payload = vec![0x10, strap.bpm];
                for _ in 0..beats {
                    payload.extend_from_slice(&(interval as u16).to_le_bytes());
                }
                self.take(Input::Data(peer.clone(), payload.into()));
            }
            if !linked.is_empty() && !strap.two_links {
                continue;
            }
            if turn && strap.broadcasts {
                self.straps[index].frames += 1;
            }
            let frame = (self.straps[index].frames % 8) as u8;
            let hearing: Vec<_> = self
                .dongles
                .iter()
                .filter(|(_, dongle)| dongle.scanning && dongle.info.powered && dongle.deaf_until.is_none())
                .map(|(id, _)| id.clone())
                .collect();
            for adapter in hearing {
                let number: u8 = adapter.0.trim_start_matches("hci").parse().unwrap();
                let Some(rssi) = strap.rssi.get(&number) else { continue };
                let mut advert = Advert {
                    peer: Peer { adapter, address: strap.address },
                    random_address: strap.random,
                    name: strap.name.map(Arc::from),
                    rssi_dbm: Some(*rssi),
                    heart_rate_service: strap.service,
                    manufacturer: Default::default(),
                };
                if strap.broadcasts {
                    let frame = Bytes::copy_from_slice(&[0x23 | frame << 2, 0, 0, strap.bpm]);
                    advert.manufacturer.push((0x006B, frame));
                }
                self.take(Input::Event(Event::Heard(advert)));
            }
        }
    }

    pub fn survey(&mut self) -> Vec<Sight> {
        let stamp = self.stamp();
        self.core.survey(self.now, stamp)
    }

    pub fn take(&mut self, input: Input) {
        let mut out = Vec::new();
        let stamp = self.stamp();
        self.core.take(input, self.now, stamp, 0.5, &mut out);
        for output in out {
            match output {
                Output::Call(call) => self.begin(call),
                Output::Reading(name, reading) => self.readings.push((name, reading)),
                Output::Note(note) => self.notes.push(note),
            }
        }
    }

    fn begin(&mut self, call: Call) {
        let takes = match &call {
            Call::Connect(peer, _) => {
                let others = self.pending.iter().filter(
                    |(_, other)| matches!(other, Call::Connect(known, _) if known.adapter == peer.adapter),
                );
                assert_eq!(others.count(), 0, "two connects at once: {call:?}");
                let settled = |at: &Instant| self.now.duration_since(*at) >= SETTLE;
                assert!(self.lost.get(peer).is_none_or(settled), "on the heels of a loss: {call:?}");
                let dongle = self.dongles.get(&peer.adapter);
                let powered = dongle.and_then(|dongle| dongle.lost_at).is_none_or(|at| settled(&at));
                assert!(powered, "on the heels of a power-off: {call:?}");
                assert!(!self.trying.contains(peer), "no disconnect after a failed connect: {call:?}");
                if self.strap_of(peer).is_some_and(|strap| strap.on_air) {
                    CONNECT_TAKES
                } else {
                    CONNECT_LIMIT
                }
            }
            Call::Disconnect(peer) => {
                // The driver gives the attempt up.
                self.pending.retain(|(_, call)| !matches!(call, Call::Connect(known, _) if known == peer));
                CALL_TAKES
            }
            Call::Power(id, true) => {
                let operator = self.dongles.get(id).is_some_and(|dongle| dongle.switched_off_by_operator);
                assert!(!operator, "switched on what the operator switched off");
                CALL_TAKES
            }
            _ => CALL_TAKES,
        };
        self.calls.push(call.clone());
        self.pending.push((self.now + takes, call));
    }

    fn finish(&mut self, call: &Call) -> Result<Bytes, RadioError> {
        if !self.stack_up {
            return Err(RadioError::NoStack("nobody".into()));
        }
        let empty = Ok(Bytes::new());
        match call {
            Call::Scan(id, on) => {
                let dongle = self.dongles.get_mut(id).ok_or(RadioError::NoAdapter)?;
                if *on && !dongle.info.powered {
                    return Err(RadioError::Off);
                }
                if *on && dongle.jammed {
                    return Err(RadioError::Busy);
                }
                dongle.scanning = *on;
                if *on && dongle.deaf_until == Some(Call::Scan(id.clone(), false)) {
                    dongle.deaf_until = None;
                }
                empty
            }
            Call::Power(id, on) => {
                self.power(id, *on);
                empty
            }
            Call::Connect(peer, _) => {
                let strap = self.strap_of(peer).cloned();
                let dongle = self.dongles.get(&peer.adapter).ok_or(RadioError::NoAdapter)?;
                if !dongle.info.powered {
                    return Err(RadioError::Off);
                }
                let held = self.links.iter().filter(|link| link.adapter == peer.adapter).count();
                if held >= dongle.capacity {
                    self.trying.insert(peer.clone());
                    return Err(RadioError::NoRoom);
                }
                if !strap.is_some_and(|strap| strap.on_air) {
                    self.trying.insert(peer.clone());
                    return Err(RadioError::Timeout);
                }
                self.links.insert(peer.clone());
                empty
            }
            Call::Disconnect(peer) => {
                self.trying.remove(peer);
                if self.links.remove(peer) {
                    self.lost.insert(peer.clone(), self.now);
                }
                empty
            }
            Call::Read(peer, what) => {
                let strap = self.strap_of(peer).filter(|_| self.links.contains(peer));
                let strap = strap.ok_or(RadioError::NotConnected)?;
                match what {
                    Characteristic::BatteryLevel => Ok(Bytes::from_static(&[77])),
                    Characteristic::SerialNumber if strap.shy => Err(RadioError::Timeout),
                    Characteristic::SerialNumber => {
                        strap.serial.map(Bytes::from).ok_or(RadioError::NotOffered)
                    }
                    _ => Err(RadioError::NotOffered),
                }
            }
            Call::RestartStack => empty,
            Call::Rebuild => {
                for (id, dongle) in &mut self.dongles {
                    dongle.scanning = false;
                    if dongle.deaf_until == Some(Call::Rebuild) {
                        dongle.deaf_until = None;
                    }
                    self.links.retain(|link| link.adapter != *id);
                }
                empty
            }
        }
    }

    fn power(&mut self, id: &AdapterId, on: bool) {
        if !on {
            self.drop_links(id);
        }
        let Some(dongle) = self.dongles.get_mut(id) else { return };
        dongle.info.powered = on;
        dongle.scanning = false;
        dongle.jammed &= on;
        if !on {
            dongle.lost_at = Some(self.now);
        }
        if on && dongle.deaf_until == Some(Call::Power(id.clone(), false)) {
            dongle.deaf_until = None;
        }
        self.take(Input::Event(Event::Powered(id.clone(), on)));
    }

    fn drop_links(&mut self, id: &AdapterId) {
        let gone: Vec<_> = self.links.iter().filter(|link| link.adapter == *id).cloned().collect();
        for peer in gone {
            self.links.remove(&peer);
            self.lost.insert(peer.clone(), self.now);
            if self.stack_up {
                self.take(Input::Event(Event::Disconnected(peer)));
            }
        }
        self.trying.retain(|peer| peer.adapter != *id);
    }

    fn strap_of(&self, peer: &Peer) -> Option<&Strap> {
        self.straps.iter().find(|strap| strap.address == peer.address)
    }
}
