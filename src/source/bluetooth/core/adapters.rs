//! Adapters that come, go, are switched, and fall silent.

use std::time::Instant;

use super::super::ladder::{self, Step};
use super::super::radio::{AdapterId, AdapterInfo, Address};
use super::super::session;
use super::adapter::{Adapter, Power, Wish};
use super::{Call, Core, Note, Output};

impl Core {
    pub(super) fn adapter_added(&mut self, info: AdapterInfo, now: Instant, jitter: f64) {
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

    pub(super) fn powered(&mut self, id: &AdapterId, on: bool, now: Instant, jitter: f64) {
        let Some(adapter) = self.adapters.get_mut(id) else { return };
        if adapter.info.powered != on && !matches!(adapter.power, Power::Cycling(_)) {
            self.out.push(Output::Note(Note::Power(id.clone(), on)));
        }
        if adapter.powered(on, now) {
            self.adapter_lost(id, now, jitter);
        }
    }

    pub(super) fn adapter_lost(&mut self, id: &AdapterId, now: Instant, jitter: f64) {
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

    pub(super) fn renewed(&mut self, now: Instant, jitter: f64) {
        let peers: Vec<_> = self.known.keys().cloned().collect();
        for peer in &peers {
            self.session(peer, session::Event::AdapterLost, now, jitter);
        }
        for adapter in self.adapters.values_mut() {
            adapter.renewed(now);
        }
    }

    pub(super) fn advance_adapter(&mut self, id: &AdapterId, now: Instant) {
        let hears = |adapter: &Adapter| {
            let heard = adapter.heard_at.map(|at| now.saturating_duration_since(at));
            adapter.is_on() && heard.is_some_and(|silence| silence < ladder::SILENCE)
        };
        let others_hear = self.adapters.iter().any(|(other, adapter)| other != id && hears(adapter));
        let Some(adapter) = self.adapters.get_mut(id) else { return };
        while let Some(wish) = adapter.next(now, others_hear) {
            let call = match wish {
                Wish::Listen => Some(Call::Scan(id.clone(), true)),
                Wish::Pause => Some(Call::Scan(id.clone(), false)),
                Wish::SwitchOn => Some(Call::Power(id.clone(), true)),
                Wish::Climb { step, first } => {
                    self.out.push(Output::Note(Note::Step(id.clone(), step, first)));
                    match step {
                        Step::RestartScan => Some(Call::Scan(id.clone(), false)),
                        Step::RebuildSession => Some(Call::Rebuild),
                        Step::PowerCycle => Some(Call::Power(id.clone(), false)),
                        Step::ReportStuck => {
                            let restarts = first && self.settings.restart_stack && !others_hear;
                            restarts.then_some(Call::RestartStack)
                        }
                    }
                }
            };
            self.out.extend(call.map(Output::Call));
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
}
