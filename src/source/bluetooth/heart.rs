//! One heart heard in several ways becomes one stream: pure, one [`Heart`] per wearable.
//!
//! A connection goes before a broadcast: it has RR intervals. While it brings data, broadcasts of the same heart are
//! the same beats and are left out. Two adapters that hear one broadcast are told apart from two broadcasts by the
//! frame counter where there is one; else the adapter that heard it first is listened to while it hears it.

use super::radio::AdapterId;
use crate::reading::advert::FrameFilter;

/// A connection that has brought nothing for so long no longer hides the broadcast.
pub const GATT_HOLDS_MS: u64 = 3_000;
/// An adapter that has not heard a broadcast for so long is no longer the one that is listened to.
const ADAPTER_HOLDS_MS: u64 = 3_000;
/// Broadcasts without a frame counter repeat one value many times: at most one a second is a reading.
const LEAST_APART_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub struct Heart {
    gatt_ms: Option<u64>,
    frames: FrameFilter,
    ear: Option<Ear>,
}

/// Who listens to a broadcast without a frame counter.
#[derive(Debug)]
struct Ear {
    adapter: AdapterId,
    heard_ms: u64,
    taken_ms: u64,
}

impl Heart {
    /// A notification came over a connection.
    pub fn connected_data(&mut self, now_ms: u64) {
        self.gatt_ms = Some(now_ms);
    }

    /// Whether a broadcast heard now is a reading of its own. `frame`: its counter, if it has one.
    pub fn takes_broadcast(&mut self, adapter: &AdapterId, frame: Option<u8>, now_ms: u64) -> bool {
        // The filters hear everything, so that they know where the broadcast stands when the connection ends.
        let fresh = match frame {
            Some(frame) => self.frames.is_new(frame, now_ms),
            None => self.unnumbered(adapter, now_ms),
        };
        fresh && self.gatt_ms.is_none_or(|at| now_ms.saturating_sub(at) > GATT_HOLDS_MS)
    }

    fn unnumbered(&mut self, adapter: &AdapterId, now_ms: u64) -> bool {
        let Some(ear) = self.ear.as_mut() else {
            self.ear = Some(Ear { adapter: adapter.clone(), heard_ms: now_ms, taken_ms: now_ms });
            return true;
        };
        if ear.adapter != *adapter {
            if now_ms.saturating_sub(ear.heard_ms) <= ADAPTER_HOLDS_MS {
                return false;
            }
            ear.adapter = adapter.clone();
        }
        ear.heard_ms = now_ms;
        let due = now_ms.saturating_sub(ear.taken_ms) >= LEAST_APART_MS;
        if due {
            ear.taken_ms = now_ms;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hci(number: u8) -> AdapterId {
        AdapterId(format!("hci{number}").into())
    }

    #[test]
    fn two_adapters_hear_one_frame_once() {
        let mut heart = Heart::default();
        assert!(heart.takes_broadcast(&hci(0), Some(1), 0));
        assert!(!heart.takes_broadcast(&hci(1), Some(1), 5));
        assert!(heart.takes_broadcast(&hci(1), Some(2), 1000));
        assert!(!heart.takes_broadcast(&hci(0), Some(2), 1005));
    }

    #[test]
    fn a_connection_hides_the_broadcast_while_it_brings_data() {
        let mut heart = Heart::default();
        heart.connected_data(0);
        assert!(!heart.takes_broadcast(&hci(0), Some(1), 1000));
        assert!(!heart.takes_broadcast(&hci(0), Some(2), 3000));
        assert!(heart.takes_broadcast(&hci(0), Some(3), 3001));
        assert!(!heart.takes_broadcast(&hci(0), Some(3), 3101));
    }

    #[test]
    fn broadcasts_without_numbers_come_from_one_adapter_once_a_second() {
        let mut heart = Heart::default();
        let taken: Vec<u64> = (0..=100)
            .map(|tenth| tenth * 100)
            .filter(|now| {
                let mut any = heart.takes_broadcast(&hci(0), None, *now);
                any |= heart.takes_broadcast(&hci(1), None, *now + 1);
                any
            })
            .collect();
        assert_eq!(taken, (0..=10).map(|second| second * 1000).collect::<Vec<_>>());
        assert!(!heart.takes_broadcast(&hci(1), None, 12_000));
        assert!(heart.takes_broadcast(&hci(1), None, 13_100), "the first adapter hears it no more");
    }
}
