//! What one strap has measured, sent and been told: its memory. Pure.
//!
//! Promises: samples are handed over in the order in which they were measured; after a lost connection those without an
//! acknowledgement come first, in their order, with the same stamp; each sample's transmissions are counted.

use std::collections::{HashMap, VecDeque};

use super::sample::Sample;

/// One sample and its fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub sample: Sample,
    /// How often it was put on the wire.
    pub transmissions: u32,
    pub acknowledged: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    samples: Vec<Sent>,
    /// Indices of samples, oldest first, on their way: measured, given to the MQTT client, on the wire by packet id.
    waiting: VecDeque<usize>,
    handed: VecDeque<usize>,
    in_flight: HashMap<u16, usize>,
    measured_all: bool,
}

impl Outbox {
    pub fn measured(&mut self, sample: Sample) {
        self.waiting.push_back(self.samples.len());
        self.samples.push(Sent { sample, transmissions: 0, acknowledged: false });
    }

    /// Nothing more will be measured.
    pub fn close(&mut self) {
        self.measured_all = true;
    }

    /// Everything was measured and acknowledged.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.measured_all && self.waiting.is_empty() && self.handed.is_empty() && self.in_flight.is_empty()
    }

    /// The next payload for the MQTT client.
    pub fn hand_over(&mut self) -> Option<Vec<u8>> {
        let index = self.waiting.pop_front()?;
        self.handed.push_back(index);
        self.samples.get(index).map(|sent| sent.sample.encode())
    }

    /// The client put the oldest payload it was given on the wire; true when it was its first time there.
    pub fn on_wire(&mut self, packet_id: u16) -> bool {
        let Some(index) = self.handed.pop_front() else { return false };
        self.in_flight.insert(packet_id, index);
        self.samples.get_mut(index).is_some_and(|sent| {
            sent.transmissions += 1;
            sent.transmissions == 1
        })
    }

    /// True when the packet id was in flight.
    pub fn acknowledged(&mut self, packet_id: u16) -> bool {
        let sent = self.in_flight.remove(&packet_id).and_then(|index| self.samples.get_mut(index));
        sent.map(|sent| sent.acknowledged = true).is_some()
    }

    /// What was not acknowledged is sent again before anything new.
    pub fn connection_lost(&mut self) {
        let mut again: Vec<usize> =
            self.in_flight.drain().map(|(_, index)| index).chain(self.handed.drain(..)).collect();
        again.sort_unstable();
        for index in again.into_iter().rev() {
            self.waiting.push_front(index);
        }
    }

    #[must_use]
    pub fn into_samples(self) -> Vec<Sent> {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(count: i64) -> Outbox {
        let mut outbox = Outbox::default();
        for time in 0..count {
            outbox.measured(Sample { time_ms: Some(time), bpm: 60, rr_us: vec![], contact: None });
        }
        outbox
    }

    fn stamp(payload: &[u8]) -> String {
        String::from_utf8(payload.to_vec()).unwrap()
    }

    #[test]
    fn after_a_lost_connection_the_unacknowledged_come_first_and_in_order() {
        let mut outbox = outbox(5);
        let first: Vec<_> = (0..4).map(|_| outbox.hand_over().unwrap()).collect();
        for packet_id in 1..=3 {
            assert!(outbox.on_wire(packet_id));
        }
        assert!(outbox.acknowledged(2));
        outbox.connection_lost();
        let again: Vec<_> = std::iter::from_fn(|| outbox.hand_over()).collect();
        assert_eq!(again[..3], [first[0].clone(), first[2].clone(), first[3].clone()]);
        assert!(stamp(&again[3]).contains("\"time\":4"));
        assert!(!outbox.on_wire(1), "sent for the second time");
        let samples = outbox.into_samples();
        assert_eq!(samples.iter().map(|sent| sent.transmissions).collect::<Vec<_>>(), [2, 1, 1, 0, 0]);
    }

    #[test]
    fn it_is_finished_only_when_all_is_acknowledged() {
        let mut outbox = outbox(1);
        outbox.close();
        assert!(!outbox.finished());
        outbox.hand_over();
        assert!(!outbox.finished());
        outbox.on_wire(7);
        assert!(!outbox.finished());
        assert!(outbox.acknowledged(7));
        assert!(outbox.finished());
    }

    #[test]
    fn a_foreign_acknowledgement_changes_nothing() {
        let mut outbox = outbox(1);
        outbox.hand_over();
        outbox.on_wire(1);
        assert!(!outbox.acknowledged(9));
        assert!(!outbox.into_samples()[0].acknowledged);
    }
}
