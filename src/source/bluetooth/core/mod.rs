//! Everything that is decided about Bluetooth, as one function of (state, input, now): pure. The driver beside it
//! makes the calls, carries readings to the journal and keeps the time.
//!
//! Promised: one connect at a time per adapter, never on the heels of a loss; what is not wanted leaves no trace but a
//! count; one heart is one stream, whatever hears it; an adapter that the operator switched off stays off; memory is
//! bounded by the wearables that are wanted, not by those that pass by.

mod adapter;
mod adapters;
mod answers;
mod ears;
mod links;
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
use super::radio::{AdapterId, Address, Characteristic, Event, Peer, RadioError};
use super::roster::{Key, Listed, Roster, Sighting, Verdict, Wanted};
use super::session::{self, Session};
use crate::clock::Stamp;
use crate::reading::Reading;
use adapter::Adapter;
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
    /// The ladder's step on that adapter; `true`: for the first time in this silence.
    Step(AdapterId, Step, bool),
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
    /// Why its last attempt to connect failed.
    last_error: Option<RadioError>,
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
    /// By the name they go by.
    rivals: HashMap<Arc<str>, ears::Rival>,
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
            Input::Allow(listed) => self.allow(listed, now),
            Input::Forget(key) => self.forget(&key, now, jitter),
            Input::Dropped => self.wearables.values_mut().for_each(Wearable::interrupted),
            Input::Tick => {}
        }
        let looked = self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY);
        if !(sound && looked) {
            self.looked = Some(now);
            self.judge_rivals(now, stamp);
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

    /// Whoever is meant is called so from now on, connected or not.
    fn allow(&mut self, listed: Listed, now: Instant) {
        let key = listed.key.clone();
        self.roster.allow(listed);
        for (peer, known) in &mut self.known {
            if key.fits(&known.sighting(peer))
                && let Verdict::Wanted(wanted) = self.roster.judge(&known.sighting(peer), now)
            {
                known.wanted = wanted;
            }
        }
    }

    /// Whoever is wanted no more is let go of, and is a stranger when it is heard again.
    fn forget(&mut self, key: &Key, now: Instant, jitter: f64) {
        self.roster.forget(key);
        let mut gone = Vec::new();
        for (peer, known) in &self.known {
            if !matches!(self.roster.judge(&known.sighting(peer), now), Verdict::Wanted(_)) {
                gone.push(peer.clone());
            }
        }
        for peer in &gone {
            self.dismiss(peer, now, jitter);
        }
    }

    /// Its connection ends, and with it what is known of it.
    fn dismiss(&mut self, peer: &Peer, now: Instant, jitter: f64) {
        self.session(peer, session::Event::Yield, now, jitter);
        if let Some(known) = self.known.get_mut(peer) {
            known.dismissed = true;
            known.presence = Presence::Away;
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
            last_error: None,
        }
    }

    /// What is known of it, for the allow-list.
    fn sighting(&self, peer: &Peer) -> Sighting<'_> {
        Sighting {
            address: peer.address,
            random_address: self.random_address,
            name: self.name.as_deref(),
            payload_address: self.payload_address,
            has_heart_rate: true,
            connectable: self.connectable,
        }
    }
}
