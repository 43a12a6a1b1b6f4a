//! Connections: whose turn it is, on which adapter, and what their sessions want done.

use std::time::Instant;

use super::super::radio::{AdapterId, Characteristic, Peer};
use super::super::session::{self, Action};
use super::super::slots::Grant;
use super::adapter::Adapter;
use super::{Call, Core, Known, Note, Output};

impl Core {
    pub(super) fn session(&mut self, peer: &Peer, event: session::Event, now: Instant, jitter: f64) {
        let Some(known) = self.known.get_mut(peer) else { return };
        let was_up = known.is_up();
        let actions = known.session.on(event, now, jitter);
        if was_up && matches!(event, session::Event::Lost | session::Event::AdapterLost) {
            self.count_drop(peer);
        }
        self.act(peer, &actions, now);
    }

    pub(super) fn count_drop(&mut self, peer: &Peer) {
        let identity = self.known.get(peer).and_then(|known| known.wanted.identity.as_ref());
        if let Some(wearable) = identity.and_then(|identity| self.wearables.get_mut(identity)) {
            wearable.counts.drops += 1;
        }
    }

    pub(super) fn act(&mut self, peer: &Peer, actions: &[Action], now: Instant) {
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

    pub(super) fn release(&mut self, peer: &Peer, now: Instant) {
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

    pub(super) fn tick_sessions(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (peer, known) in &mut self.known {
            let was_up = known.is_up();
            let actions = known.session.tick(now);
            if !actions.is_empty() {
                due.push((peer.clone(), was_up, actions));
            }
        }
        for (peer, was_up, actions) in due {
            if was_up && actions.contains(&Action::Disconnect) {
                self.count_drop(&peer);
            }
            self.act(&peer, &actions, now);
        }
    }

    /// Gives slots to those who want one.
    pub(super) fn grant(&mut self, id: &AdapterId, now: Instant, jitter: f64) {
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
    pub(super) fn is_best(&self, peer: &Peer, known: &Known, now: Instant) -> bool {
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
    pub(super) fn hand_over(&mut self, now: Instant, jitter: f64) {
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
}
