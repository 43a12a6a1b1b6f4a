//! A radio that is none: straps, passers-by, adapters, and a stack that can be told to fail in every way in which BlueZ,
//! btleplug and real straps were seen to. Time goes by many times faster.
//!
//! It punishes what a real stack punishes: two connects at once on one adapter, one on the heels of a power-off, one
//! after a failed one without a disconnect between, a power-on of what the operator switched off.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fogbeat::clock::{BootId, Clock, Stamp, WallQuality};
use fogbeat::source::bluetooth::radio::{
    AdapterId, AdapterInfo, Address, Advert, Characteristic, Event, Peer, Radio, RadioError,
};
use tokio::sync::mpsc;

/// How long after a power-off a connect crashes the kernel.
const DEADLY: Duration = Duration::from_millis(1400);

/// What is wrong at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// A connect gets no answer for 30 s, and BlueZ goes on trying.
    ConnectHangs,
    /// `le-connection-abort-by-local`.
    ConnectAborts,
    /// HCI 0x0d.
    NoRoom,
    /// `Operation already in progress`.
    ConnectBusy,
    /// Connected, and no service is found.
    NoService,
    /// Connected, subscribed, and no notification comes: another app holds the strap.
    Silent,
    DisconnectHangs,
    ScanRefused,
    ReadHangs,
    ReadFails,
    NoStream,
    /// Losses of links are not told.
    Unsaid,
    /// ... or told three times.
    SaidThrice,
    /// Nothing is heard.
    Deaf,
}

pub const FAULTS: [Fault; 14] = [
    Fault::ConnectHangs,
    Fault::ConnectAborts,
    Fault::NoRoom,
    Fault::ConnectBusy,
    Fault::NoService,
    Fault::Silent,
    Fault::DisconnectHangs,
    Fault::ScanRefused,
    Fault::ReadHangs,
    Fault::ReadFails,
    Fault::NoStream,
    Fault::Unsaid,
    Fault::SaidThrice,
    Fault::Deaf,
];

/// A wearable.
#[derive(Debug, Clone)]
pub struct Strap {
    pub address: Address,
    pub random: bool,
    pub on_air: bool,
    /// Announces 0x180D.
    pub service: bool,
    /// Broadcasts a Polar frame a second.
    pub broadcasts: bool,
    /// Only this one can hear it.
    pub adapter: u8,
    count: u16,
}

pub fn strap(number: u16) -> Strap {
    let [high, low] = number.to_be_bytes();
    let address = Address([0xC0, 0, 0, 0, high, low]);
    Strap { address, random: false, on_air: true, service: true, broadcasts: false, adapter: 0, count: 0 }
}

#[derive(Debug)]
struct Dongle {
    powered: bool,
    scanning: bool,
    off_by_operator: bool,
    lost_at: Option<Instant>,
    connecting: usize,
}

#[derive(Debug, Default)]
struct State {
    straps: Vec<Strap>,
    dongles: BTreeMap<u8, Dongle>,
    links: BTreeSet<(u8, Address)>,
    trying: BTreeSet<(u8, Address)>,
    events: Option<mpsc::Sender<Event>>,
    streams: HashMap<(u8, Address), mpsc::Sender<Bytes>>,
    faults: BTreeSet<Fault>,
    stack_down: bool,
    sent: u64,
    /// By strap.
    frames: Vec<u64>,
    connects: u64,
    crimes: Vec<String>,
}

/// The fake; clones share it.
#[derive(Clone)]
pub struct Air {
    state: Arc<Mutex<State>>,
    factor: u32,
}

/// A clock that goes with it.
pub struct FastClock {
    pub begun: Instant,
    pub factor: u32,
}

impl Clock for FastClock {
    fn now(&self) -> Stamp {
        let uptime_ms = 60_000 + (self.begun.elapsed() * self.factor).as_millis() as u64;
        Stamp { uptime_ms, wall_ms: 1_795_460_700_000 + uptime_ms as i64, quality: WallQuality::Synced }
    }

    fn boot(&self) -> BootId {
        BootId([7; 16])
    }
}

fn hci(number: u8) -> AdapterId {
    AdapterId(format!("hci{number}").into())
}

fn number(adapter: &AdapterId) -> u8 {
    adapter.0.trim_start_matches("hci").parse().unwrap()
}

fn key(peer: &Peer) -> (u8, Address) {
    (number(&peer.adapter), peer.address)
}

impl Air {
    pub fn new(factor: u32, adapters: u8, straps: Vec<Strap>) -> Self {
        let dongle = || Dongle {
            powered: true,
            scanning: false,
            off_by_operator: false,
            lost_at: None,
            connecting: 0,
        };
        let dongles = (0..adapters).map(|number| (number, dongle())).collect();
        Self { state: Arc::new(Mutex::new(State { straps, dongles, ..State::default() })), factor }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// `time` of the simulation.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time / self.factor).await;
    }

    /// Lets straps send and advertise once a second, for ever.
    pub async fn blow(self) {
        let mut second = tokio::time::interval(Duration::from_secs(1) / self.factor);
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            self.beat();
        }
    }

    fn beat(&self) {
        let mut state = self.state();
        if state.stack_down {
            return;
        }
        for index in 0..state.straps.len() {
            let strap = state.straps[index].clone();
            if !strap.on_air {
                continue;
            }
            let linked = state.links.iter().find(|(_, address)| *address == strap.address).copied();
            if let Some(link) = linked {
                if !state.faults.contains(&Fault::Silent) {
                    state.notify(index, link);
                }
                continue;
            }
            state.straps[index].count = strap.count.wrapping_add(1);
            let hearing: Vec<u8> =
                state.dongles.iter().filter(|(_, d)| d.powered && d.scanning).map(|(n, _)| *n).collect();
            if state.faults.contains(&Fault::Deaf) || hearing.is_empty() {
                continue;
            }
            let count = state.straps.len();
            state.frames.resize(count, 0);
            state.frames[index] += u64::from(strap.broadcasts);
            for adapter in hearing.into_iter().filter(|adapter| *adapter == strap.adapter) {
                state.advertise(&strap, adapter);
            }
        }
    }

    /// The link is lost, as far as the fault lets it be told.
    pub fn drop_link(&self, index: usize) {
        let mut state = self.state();
        let address = state.straps[index].address;
        let links: Vec<_> = state.links.iter().filter(|link| link.1 == address).copied().collect();
        for link in links {
            state.lose(link);
        }
    }

    pub fn set(&self, fault: Fault, on: bool) {
        let mut state = self.state();
        if on {
            state.faults.insert(fault)
        } else {
            state.faults.remove(&fault)
        };
    }

    pub fn strap(&self, index: usize, change: impl FnOnce(&mut Strap)) {
        change(&mut self.state().straps[index]);
    }

    /// The operator switches an adapter.
    pub fn switch(&self, adapter: u8, on: bool) {
        let mut state = self.state();
        if let Some(dongle) = state.dongles.get_mut(&adapter) {
            dongle.off_by_operator = !on;
        }
        state.power(adapter, on);
    }

    pub fn stack(&self, up: bool) {
        let mut state = self.state();
        state.stack_down = !up;
        if up {
            state.tell(Event::StackBack);
        } else {
            for link in std::mem::take(&mut state.links) {
                state.trying.remove(&link);
            }
            state.trying.clear();
            state.dongles.values_mut().for_each(|dongle| dongle.scanning = false);
            state.tell(Event::StackLost);
        }
    }

    /// The connection to the bus is gone.
    pub fn cut_bus(&self) {
        self.state().events = None;
    }

    pub fn links(&self) -> usize {
        self.state().links.len()
    }

    pub fn linked(&self, index: usize) -> bool {
        let state = self.state();
        state.links.iter().any(|(_, address)| *address == state.straps[index].address)
    }

    /// Streams that somebody takes.
    pub fn streams(&self) -> usize {
        self.state().streams.values().filter(|stream| !stream.is_closed()).count()
    }

    /// Notifications that somebody took.
    pub fn sent(&self) -> u64 {
        self.state().sent
    }

    /// Broadcast frames of the first `straps` that an adapter heard.
    pub fn frames_of(&self, straps: usize) -> u64 {
        self.state().frames.iter().take(straps).sum()
    }

    pub fn connects(&self) -> u64 {
        self.state().connects
    }

    /// What a real stack would have punished.
    pub fn crimes(&self) -> Vec<String> {
        self.state().crimes.clone()
    }
}

impl State {
    fn tell(&self, event: Event) {
        if let Some(events) = &self.events {
            let _ = events.try_send(event);
        }
    }

    fn notify(&mut self, index: usize, link: (u8, Address)) {
        let strap = &mut self.straps[index];
        strap.count = strap.count.wrapping_add(1);
        // 60 bpm, the counter as energy, one interval of a second.
        let [low, high] = strap.count.to_le_bytes();
        let payload = Bytes::copy_from_slice(&[0x18, 60, low, high, 0, 4]);
        if let Some(stream) = self.streams.get(&link)
            && stream.try_send(payload).is_ok()
        {
            self.sent += 1;
        }
    }

    fn advertise(&self, strap: &Strap, adapter: u8) {
        let mut advert = Advert {
            peer: Peer { adapter: hci(adapter), address: strap.address },
            random_address: strap.random,
            name: None,
            rssi_dbm: Some(-60),
            heart_rate_service: strap.service,
            manufacturer: Default::default(),
        };
        if strap.broadcasts {
            let frame = (strap.count % 8) as u8;
            advert.manufacturer.push((0x006B, Bytes::copy_from_slice(&[0x23 | frame << 2, 0, 0, 60])));
        }
        self.tell(Event::Heard(advert));
    }

    fn lose(&mut self, link: (u8, Address)) {
        self.links.remove(&link);
        let times = match () {
            () if self.faults.contains(&Fault::Unsaid) => 0,
            () if self.faults.contains(&Fault::SaidThrice) => 3,
            () => 1,
        };
        for _ in 0..times {
            self.tell(Event::Disconnected(Peer { adapter: hci(link.0), address: link.1 }));
        }
    }

    fn power(&mut self, adapter: u8, on: bool) {
        let links: Vec<_> = self.links.iter().filter(|link| link.0 == adapter).copied().collect();
        if !on {
            links.into_iter().for_each(|link| self.lose(link));
        }
        self.trying.retain(|link| link.0 != adapter);
        if let Some(dongle) = self.dongles.get_mut(&adapter) {
            dongle.powered = on;
            dongle.scanning = false;
            if !on {
                dongle.lost_at = Some(Instant::now());
            }
        }
        self.tell(Event::Powered(hci(adapter), on));
    }

    fn reachable(&self) -> Result<(), RadioError> {
        if self.stack_down { Err(RadioError::NoStack("nobody".into())) } else { Ok(()) }
    }
}

impl Radio for Air {
    async fn events(&self) -> Result<mpsc::Receiver<Event>, RadioError> {
        let mut state = self.state();
        state.reachable()?;
        let (sender, receiver) = mpsc::channel(1024);
        state.streams.clear();
        state.events = Some(sender);
        for (number, dongle) in &state.dongles {
            let info = AdapterInfo {
                id: hci(*number),
                address: Address([0, 0, 0, 0, 0, *number]),
                powered: dongle.powered,
            };
            state.tell(Event::AdapterAdded(info));
        }
        for link in &state.links {
            let advert = Advert {
                peer: Peer { adapter: hci(link.0), address: link.1 },
                random_address: false,
                name: None,
                rssi_dbm: None,
                heart_rate_service: true,
                manufacturer: Default::default(),
            };
            state.tell(Event::Linked(advert));
        }
        Ok(receiver)
    }

    async fn scan(&self, adapter: &AdapterId, on: bool) -> Result<(), RadioError> {
        self.pass(Duration::from_millis(100)).await;
        let mut state = self.state();
        state.reachable()?;
        if on && state.faults.contains(&Fault::ScanRefused) {
            return Err(RadioError::Busy);
        }
        let dongle = state.dongles.get_mut(&number(adapter)).ok_or(RadioError::NoAdapter)?;
        if on && !dongle.powered {
            return Err(RadioError::Off);
        }
        dongle.scanning = on;
        Ok(())
    }

    async fn power(&self, adapter: &AdapterId, on: bool) -> Result<(), RadioError> {
        self.pass(Duration::from_millis(200)).await;
        let mut state = self.state();
        state.reachable()?;
        let number = number(adapter);
        if on && state.dongles.get(&number).is_some_and(|dongle| dongle.off_by_operator) {
            state.crimes.push(format!("{adapter} was switched on against the operator's will"));
        }
        state.power(number, on);
        Ok(())
    }

    async fn notifications(&self, peer: &Peer) -> Result<mpsc::Receiver<Bytes>, RadioError> {
        let mut state = self.state();
        state.reachable()?;
        if state.faults.contains(&Fault::NoStream) {
            return Err(RadioError::Unknown);
        }
        let (sender, receiver) = mpsc::channel(16);
        let before = state.streams.insert(key(peer), sender);
        if before.is_some_and(|before| !before.is_closed()) {
            state.crimes.push(format!("a second stream of {peer:?}: every beat twice"));
        }
        Ok(receiver)
    }

    async fn connect(&self, peer: &Peer) -> Result<(), RadioError> {
        let link = key(peer);
        let guard = Connecting::begin(self, link);
        let result = guard.attempt(link).await;
        drop(guard);
        result
    }

    async fn disconnect(&self, peer: &Peer) -> Result<(), RadioError> {
        let hangs = self.state().faults.contains(&Fault::DisconnectHangs);
        self.pass(Duration::from_millis(if hangs { 10_000 } else { 2_400 })).await;
        let mut state = self.state();
        state.reachable()?;
        state.trying.remove(&key(peer));
        if state.links.contains(&key(peer)) {
            state.lose(key(peer));
        }
        if hangs { Err(RadioError::Timeout) } else { Ok(()) }
    }

    async fn read(&self, peer: &Peer, what: Characteristic) -> Result<Bytes, RadioError> {
        if self.state().faults.contains(&Fault::ReadHangs) {
            self.pass(Duration::from_secs(10)).await;
            return Err(RadioError::Timeout);
        }
        self.pass(Duration::from_millis(60)).await;
        let state = self.state();
        state.reachable()?;
        match what {
            _ if state.faults.contains(&Fault::ReadFails) => Err(RadioError::Other("0x0e".into())),
            _ if !state.links.contains(&key(peer)) => Err(RadioError::NotConnected),
            Characteristic::BatteryLevel => Ok(Bytes::from_static(&[77])),
            _ => Err(RadioError::NotOffered),
        }
    }

    async fn pair(&self, _: &Peer) -> Result<(), RadioError> {
        Err(RadioError::NotPaired)
    }

    async fn restart_stack(&self) -> Result<(), RadioError> {
        self.stack(false);
        self.pass(Duration::from_secs(3)).await;
        self.stack(true);
        Ok(())
    }
}

/// An attempt; dropped when it ends or is given up.
struct Connecting<'a> {
    air: &'a Air,
    adapter: u8,
}

impl<'a> Connecting<'a> {
    fn begin(air: &'a Air, link: (u8, Address)) -> Self {
        let mut state = air.state();
        state.connects += 1;
        let deadly = DEADLY / air.factor;
        let mut crime = None;
        if let Some(dongle) = state.dongles.get_mut(&link.0) {
            dongle.connecting += 1;
            if dongle.connecting > 1 {
                crime = Some("two connects at once on one adapter");
            }
            if dongle.lost_at.is_some_and(|at| at.elapsed() < deadly) {
                crime = Some("a connect on the heels of a power-off: the kernel has crashed");
            }
        }
        if state.trying.contains(&link) {
            crime = Some("a connect after a failed one without a disconnect");
        }
        state.crimes.extend(crime.map(str::to_owned));
        Self { air, adapter: link.0 }
    }

    async fn attempt(&self, link: (u8, Address)) -> Result<(), RadioError> {
        let (hangs, aborts, no_room, busy, no_service) = {
            let mut state = self.air.state();
            state.reachable()?;
            let there = state.straps.iter().any(|strap| strap.address == link.1 && strap.on_air);
            let has = |fault| state.faults.contains(&fault);
            let faults = (
                has(Fault::ConnectHangs) || !there,
                has(Fault::ConnectAborts),
                has(Fault::NoRoom),
                has(Fault::ConnectBusy),
                has(Fault::NoService),
            );
            // BlueZ goes on trying, whoever has given up.
            state.trying.insert(link);
            faults
        };
        if hangs {
            self.air.pass(Duration::from_secs(30)).await;
            return Err(RadioError::Timeout);
        }
        self.air.pass(Duration::from_millis(300)).await;
        let error = match () {
            () if aborts => Some(RadioError::Other("le-connection-abort-by-local".into())),
            () if no_room => Some(RadioError::NoRoom),
            () if busy => Some(RadioError::Busy),
            () => None,
        };
        if let Some(error) = error {
            return Err(error);
        }
        {
            let mut state = self.air.state();
            state.reachable()?;
            if !state.dongles.get(&link.0).is_some_and(|dongle| dongle.powered) {
                return Err(RadioError::Off);
            }
            state.trying.remove(&link);
            // Notifications are restored before the call is back.
            state.links.insert(link);
        }
        self.air.pass(Duration::from_millis(400)).await;
        if no_service { Err(RadioError::NotOffered) } else { Ok(()) }
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        let mut state = self.air.state();
        if let Some(dongle) = state.dongles.get_mut(&self.adapter) {
            dongle.connecting -= 1;
        }
    }
}
