//! What a heart rate is worth in the light of those before it: pure, one [`History`] per wearable.
//!
//! - `frozen`: the same rate without RR intervals for [`FROZEN_AFTER`]: a watch off the wrist, a strap unclipped. RR
//!   intervals prove a beating heart, so a wearable that sends them is never frozen while they come.
//! - `jump`: a change that no heart makes within the time passed. A new level that holds for [`SETTLED`] readings is
//!   believed; those before it stay marked.
//! - the same bytes twice within [`TWICE`] are one notification heard twice (two streams after a reconnect).
//!
//! A reason that the measurement itself gives (zero, no contact, implausible) goes first, and such a reading is not
//! part of the history.

use std::time::Duration;

use crate::reading::{Reading, Reason};

/// The same value for so long, without RR.
pub const FROZEN_AFTER: Duration = Duration::from_secs(180);
/// ... and seen at least so often: a wearable that sends every minute may well say the same three times.
const FROZEN_LEAST: u32 = 60;
/// The same payload again within this time is no new measurement; identical payloads a second apart are legal.
pub const TWICE: Duration = Duration::from_millis(50);
/// A heart changes by at most this at once, averaging of the sensor included, bpm.
const STEP_BPM: u64 = 25;
/// ... and by this per second on top.
const SLOPE_BPM: u64 = 10;
/// Readings of a new level until it is believed.
const SETTLED: u32 = 3;

#[derive(Debug, Default)]
pub struct History {
    same: Option<Same>,
    level: Option<Level>,
    /// A level that was jumped to, and how many readings agree.
    rumour: Option<(Level, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Same {
    bpm: u16,
    since_ms: u64,
    count: u32,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    bpm: u16,
    at_ms: u64,
}

impl History {
    /// Gives the reading a reason if its past demands one.
    pub fn judge(&mut self, reading: &mut Reading) {
        let Some(bpm) = reading.bpm.map(std::num::NonZeroU16::get) else { return };
        let now_ms = reading.arrival.uptime_ms;
        if reading.reason.is_some() {
            return;
        }
        let frozen = self.frozen(bpm, !reading.rr.values.is_empty(), now_ms);
        let jump = self.jump(bpm, now_ms);
        reading.reason = if frozen { Some(Reason::Frozen) } else { jump.then_some(Reason::Jump) };
    }

    fn frozen(&mut self, bpm: u16, beats: bool, now_ms: u64) -> bool {
        if beats {
            self.same = None;
            return false;
        }
        let same = match self.same {
            Some(same) if same.bpm == bpm => Same { count: same.count.saturating_add(1), ..same },
            _ => Same { bpm, since_ms: now_ms, count: 1 },
        };
        self.same = Some(same);
        same.count >= FROZEN_LEAST && now_ms.saturating_sub(same.since_ms) >= FROZEN_AFTER.as_millis() as u64
    }

    fn jump(&mut self, bpm: u16, now_ms: u64) -> bool {
        let here = Level { bpm, at_ms: now_ms };
        let Some(level) = self.level else {
            self.level = Some(here);
            return false;
        };
        if within_reach(level, here) {
            self.level = Some(here);
            self.rumour = None;
            return false;
        }
        let agree = match self.rumour {
            Some((rumour, agree)) if within_reach(rumour, here) => agree + 1,
            _ => 1,
        };
        if agree >= SETTLED {
            self.level = Some(here);
            self.rumour = None;
            return false;
        }
        self.rumour = Some((here, agree));
        true
    }
}

fn within_reach(before: Level, now: Level) -> bool {
    let passed_ms = now.at_ms.saturating_sub(before.at_ms);
    u64::from(before.bpm.abs_diff(now.bpm)) <= STEP_BPM + SLOPE_BPM.saturating_mul(passed_ms) / 1000
}

/// Tells a notification heard twice, by its bytes.
#[derive(Debug, Default)]
pub struct Echo {
    last: Option<(u64, Vec<u8>)>,
}

impl Echo {
    pub fn is_echo(&mut self, payload: &[u8], now_ms: u64) -> bool {
        match &mut self.last {
            Some((at_ms, last)) => {
                let echo = last == payload && now_ms.saturating_sub(*at_ms) <= TWICE.as_millis() as u64;
                *at_ms = now_ms;
                last.clear();
                last.extend_from_slice(payload);
                echo
            }
            None => {
                self.last = Some((now_ms, payload.to_vec()));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Stamp;
    use crate::reading::validity::Measurement;
    use crate::reading::{DeviceId, RrIntervals, RrUnit, Source};

    fn reading(bpm: u16, rr: &[u32], second: u64) -> Reading {
        let measured = Measurement {
            bpm: Some(bpm),
            rr: RrIntervals { unit: RrUnit::Ticks, values: rr.iter().copied().collect() },
            ..Measurement::default()
        };
        let arrival = Stamp { uptime_ms: second * 1000, ..Stamp::default() };
        measured.judge(DeviceId(0), Source::Gatt, arrival, None).0
    }

    fn judged(history: &mut History, bpm: u16, rr: &[u32], second: u64) -> Option<Reason> {
        let mut reading = reading(bpm, rr, second);
        history.judge(&mut reading);
        reading.reason
    }

    #[test]
    fn the_same_rate_for_minutes_without_beats_is_frozen() {
        let mut history = History::default();
        for second in 0..180 {
            assert_eq!(judged(&mut history, 71, &[], second), None);
        }
        assert_eq!(judged(&mut history, 71, &[], 180), Some(Reason::Frozen));
        assert_eq!(judged(&mut history, 72, &[], 181), None);
        let mut beating = History::default();
        assert!((0..1000).all(|second| judged(&mut beating, 71, &[865], second).is_none()));
        let mut seldom = History::default();
        assert!((0..50).all(|minute| judged(&mut seldom, 71, &[], minute * 60).is_none()));
    }

    #[test]
    fn a_jump_is_marked_until_the_new_level_holds() {
        let mut history = History::default();
        assert_eq!(judged(&mut history, 70, &[], 0), None);
        assert_eq!(judged(&mut history, 180, &[], 1), Some(Reason::Jump));
        assert_eq!(judged(&mut history, 71, &[], 2), None, "one wrong value changes nothing");
        assert_eq!(judged(&mut history, 150, &[], 3), Some(Reason::Jump));
        assert_eq!(judged(&mut history, 152, &[], 4), Some(Reason::Jump));
        assert_eq!(judged(&mut history, 151, &[], 5), None, "a level that holds is real");
        assert_eq!(judged(&mut history, 60, &[], 60), None, "a minute later a heart may be anywhere");
    }

    #[test]
    fn a_sprint_is_no_jump() {
        let mut history = History::default();
        for second in 0..20 {
            assert_eq!(judged(&mut history, 60 + 6 * second as u16, &[], second), None);
        }
    }

    #[test]
    fn a_measurement_with_a_reason_of_its_own_is_no_history() {
        let mut history = History::default();
        assert_eq!(judged(&mut history, 70, &[], 0), None);
        assert_eq!(judged(&mut history, 254, &[], 1), Some(Reason::Implausible));
        assert_eq!(judged(&mut history, 0, &[], 2), Some(Reason::Zero));
        assert_eq!(judged(&mut history, 70, &[], 3), None);
    }

    #[test]
    fn identical_payloads_are_an_echo_only_at_once() {
        let mut echo = Echo::default();
        assert!(!echo.is_echo(&[0x10, 60], 1000));
        assert!(echo.is_echo(&[0x10, 60], 1050));
        assert!(!echo.is_echo(&[0x10, 60], 2050));
        assert!(!echo.is_echo(&[0x10, 61], 2051));
    }
}
