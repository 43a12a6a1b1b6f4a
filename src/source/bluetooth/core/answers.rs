//! How calls ended.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::super::radio::{Characteristic, Peer, RadioError};
use super::super::session;
use super::{Call, Core, Output, Presence};

impl Core {
    pub(super) fn done(&mut self, call: Call, result: Result<Bytes, RadioError>, now: Instant, jitter: f64) {
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
            Call::Read(peer, what) => self.read_done(&peer, what, result, now, jitter),
            Call::Rebuild | Call::RestartStack => {}
        }
    }

    pub(super) fn connect_done(
        &mut self,
        peer: &Peer,
        result: Result<Bytes, RadioError>,
        now: Instant,
        jitter: f64,
    ) {
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
            known.last_error = result.as_ref().err().cloned();
        }
        let event = if result.is_ok() { session::Event::Connected } else { session::Event::Failed };
        self.session(peer, event, now, jitter);
    }

    pub(super) fn read_done(
        &mut self,
        peer: &Peer,
        what: Characteristic,
        result: Result<Bytes, RadioError>,
        now: Instant,
        jitter: f64,
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
            (_, Ok(value)) => {
                if let Some(identity) = &known.wanted.identity {
                    self.wearables.entry(Arc::clone(identity)).or_default().about.learn(what, value);
                }
            }
            _ => {}
        }
        if what == Characteristic::SerialNumber {
            self.settle(peer, now, jitter);
        }
        self.read_next(peer);
    }

    pub(super) fn read_next(&mut self, peer: &Peer) {
        if let Some(what) = self.known.get_mut(peer).and_then(|known| known.to_read.pop()) {
            self.out.push(Output::Call(Call::Read(peer.clone(), what)));
        }
    }
}
