//! Which adapter hears a wearable best: pure.
//!
//! The signal of a strap on a moving body swings by 20 dB within seconds, so it is smoothed, and a wearable changes its
//! adapter only when another one has heard it clearly better for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::radio::AdapterId;

/// Weight of the newest of a smoothed signal.
const NEWEST: f32 = 0.2;
/// What was not heard for so long is not heard at all.
const FADES: Duration = Duration::from_secs(15);
/// So much better another adapter must hear it, dB ...
const CLEARLY_DB: f32 = 12.0;
/// ... for so long.
const FOR_LONG: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Signal {
    heard: BTreeMap<AdapterId, Heard>,
    better: Option<(AdapterId, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    dbm: f32,
    at: Instant,
}

impl Signal {
    pub fn heard(&mut self, adapter: &AdapterId, rssi_dbm: i8, now: Instant) {
        let newest = f32::from(rssi_dbm);
        match self.heard.get_mut(adapter).filter(|heard| now.saturating_duration_since(heard.at) < FADES) {
            Some(heard) => *heard = Heard { dbm: heard.dbm + NEWEST * (newest - heard.dbm), at: now },
            None => {
                self.heard.insert(adapter.clone(), Heard { dbm: newest, at: now });
            }
        }
    }

    pub fn lost(&mut self, adapter: &AdapterId) {
        self.heard.remove(adapter);
    }

    /// Smoothed, dBm, while it is heard.
    pub fn dbm(&self, adapter: &AdapterId, now: Instant) -> Option<f32> {
        self.heard
            .get(adapter)
            .filter(|heard| now.saturating_duration_since(heard.at) < FADES)
            .map(|heard| heard.dbm)
    }

    /// The adapter that hears it best among those `usable`.
    pub fn best(&self, now: Instant, mut usable: impl FnMut(&AdapterId) -> bool) -> Option<AdapterId> {
        self.heard
            .iter()
            .filter(|(adapter, heard)| now.saturating_duration_since(heard.at) < FADES && usable(adapter))
            .max_by(|a, b| a.1.dbm.total_cmp(&b.1.dbm))
            .map(|(adapter, _)| adapter.clone())
    }

    /// The adapter a wearable connected on `now_on` should move to, if it should. A connected wearable is not heard by
    /// its own adapter any more, so the signal it had there is what counts.
    pub fn hand_over(
        &mut self,
        now_on: &AdapterId,
        now: Instant,
        usable: impl FnMut(&AdapterId) -> bool,
    ) -> Option<AdapterId> {
        let here = self.heard.get(now_on)?.dbm;
        let mut usable = usable;
        let other = self.best(now, |adapter| adapter != now_on && usable(adapter));
        let clearly = other.filter(|other| self.dbm(other, now).is_some_and(|dbm| dbm >= here + CLEARLY_DB));
        match (clearly, &self.better) {
            (None, _) => {
                self.better = None;
                None
            }
            (Some(other), Some((known, since))) if *known == other => {
                (now.saturating_duration_since(*since) >= FOR_LONG).then_some(other)
            }
            (Some(other), _) => {
                self.better = Some((other, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hci(number: u8) -> AdapterId {
        AdapterId(format!("hci{number}").into())
    }

    #[test]
    fn the_best_of_those_that_can_be_used() {
        let now = Instant::now();
        let mut signal = Signal::default();
        signal.heard(&hci(0), -80, now);
        signal.heard(&hci(1), -60, now);
        assert_eq!(signal.best(now, |_| true), Some(hci(1)));
        assert_eq!(signal.best(now, |adapter| *adapter == hci(0)), Some(hci(0)));
        assert_eq!(signal.best(now + FADES, |_| true), None);
    }

    #[test]
    fn a_change_of_adapter_needs_a_clear_and_lasting_difference() {
        let start = Instant::now();
        let mut signal = Signal::default();
        signal.heard(&hci(0), -80, start);
        for second in 0..30 {
            let now = start + Duration::from_secs(second);
            signal.heard(&hci(1), -60, now);
            assert_eq!(signal.hand_over(&hci(0), now, |_| true), None, "{second}");
        }
        let now = start + Duration::from_secs(30);
        signal.heard(&hci(1), -60, now);
        assert_eq!(signal.hand_over(&hci(0), now, |_| true), Some(hci(1)));
        assert_eq!(signal.hand_over(&hci(0), now, |_| false), None, "no room there");
        let mut little = Signal::default();
        little.heard(&hci(0), -70, start);
        for second in 0..100 {
            little.heard(&hci(1), -60, start + Duration::from_secs(second));
            assert_eq!(little.hand_over(&hci(0), start + Duration::from_secs(second), |_| true), None);
        }
    }
}
