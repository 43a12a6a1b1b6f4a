//! What a measurement is worth, decided here and nowhere else, from the measurement alone.
//!
//! A heart rate that must not enter an average keeps its number and gets a [`Reason`]; only 0 ("no clean signal")
//! is no number at all. RR intervals that no sensor means (0, and the full 16-bit counter) are dropped and counted,
//! all others are kept raw: filtering beats is the analysis' part. Reasons that need a history (stale, jump, frozen)
//! are given by the sources that have one.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::hrm::HeartRateMeasurement;
use super::{Contact, DeviceId, DeviceTime, Reading, Reason, RrIntervals, RrUnit, Source};
use crate::clock::{Stamp, WallQuality};

/// Heart rates a living human has, in bpm.
pub const PLAUSIBLE_BPM: RangeInclusive<u16> = 25..=250;

/// What a sensor said, before it is judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Measurement {
    /// `None`: it said nothing about the rate. 0 is what many say without a clean signal.
    pub bpm: Option<u16>,
    pub rr: RrIntervals,
    pub contact: Contact,
    /// Cumulative, kJ.
    pub energy_kj: Option<u16>,
    /// 0 to 100 %.
    pub battery_percent: Option<u8>,
    pub rssi_dbm: Option<i8>,
}

impl From<HeartRateMeasurement> for Measurement {
    fn from(value: HeartRateMeasurement) -> Self {
        Self {
            bpm: Some(value.bpm),
            rr: RrIntervals {
                unit: RrUnit::Ticks,
                values: value.rr.iter().map(|interval| u32::from(*interval)).collect(),
            },
            contact: value.contact,
            energy_kj: value.energy_kj,
            battery_percent: None,
            rssi_dbm: None,
        }
    }
}

impl Measurement {
    /// Judges the measurement; gives the reading and how many RR artefacts were dropped from it.
    pub fn judge(
        self,
        device: DeviceId,
        source: Source,
        arrival: Stamp,
        device_time: Option<DeviceTime>,
    ) -> (Reading, usize) {
        let mut rr = self.rr;
        let before = rr.values.len();
        rr.values.retain(|interval| !is_artefact(rr.unit, *interval));
        let dropped = before - rr.values.len();
        let reading = Reading {
            device,
            source,
            arrival,
            device_time,
            bpm: self.bpm.and_then(NonZeroU16::new),
            rr,
            contact: self.contact,
            energy_kj: self.energy_kj,
            battery_percent: self.battery_percent,
            rssi_dbm: self.rssi_dbm,
            reason: reason(self.bpm, self.contact),
            gap_ms: None,
        };
        (reading, dropped)
    }
}

/// Why a measurement must not enter an average. 0 comes before a missing contact: it says why there is no number,
/// and the contact stands on the line besides.
pub fn reason(bpm: Option<u16>, contact: Contact) -> Option<Reason> {
    match bpm {
        Some(0) => Some(Reason::Zero),
        _ if contact == Contact::NotDetected => Some(Reason::NoContact),
        Some(bpm) if !PLAUSIBLE_BPM.contains(&bpm) => Some(Reason::Implausible),
        _ => None,
    }
}

/// 0, and 65,535 where the interval comes from a 16-bit counter.
fn is_artefact(unit: RrUnit, interval: u32) -> bool {
    interval == 0 || (unit != RrUnit::Micros && interval == u32::from(u16::MAX))
}

/// How far a wearable's own stamp may lie from the gateway's clock and still be believed.
///
/// While the gateway's own clock is not synchronised it cannot judge anybody. What it believes then is preliminary: on
/// its way out the reading is judged again, if its time of arrival is known by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceTimeWindow {
    /// A wearable may have kept readings for this long before it could send them.
    pub back_ms: i64,
    /// A wearable's clock may be fast by this much.
    pub ahead_ms: i64,
    /// Without a synchronised clock every stamp from here on is believed. Clocks that were never set stand at 1970 or
    /// 2000, which this still tells.
    pub unsynced_from_ms: i64,
}

impl Default for DeviceTimeWindow {
    fn default() -> Self {
        Self {
            back_ms: 31 * 86_400_000,
            ahead_ms: 5 * 60_000,
            // 2020-01-01T00:00:00Z
            unsynced_from_ms: 1_577_836_800_000,
        }
    }
}

impl DeviceTimeWindow {
    /// `past` and `future` are how far a stamp may lie before and after arrival.
    pub fn new(past: Duration, future: Duration) -> Self {
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self { back_ms: ms(past), ahead_ms: ms(future), ..Self::default() }
    }

    /// Judges the stamp of a reading that arrived at `arrival_ms`, give or take `error_ms`.
    pub fn judge_within(&self, device_ms: i64, arrival_ms: i64, error_ms: u64) -> DeviceTime {
        let error = i64::try_from(error_ms).unwrap_or(i64::MAX);
        let earliest = arrival_ms.saturating_sub(self.back_ms).saturating_sub(error);
        let latest = arrival_ms.saturating_add(self.ahead_ms).saturating_add(error);
        if (earliest..=latest).contains(&device_ms) {
            DeviceTime::Accepted(device_ms)
        } else {
            DeviceTime::Rejected(device_ms)
        }
    }

    /// Judges the wearable's stamp `device_ms` (ms since the epoch) of a reading that arrived at `arrival`.
    pub fn judge(&self, device_ms: i64, arrival: Stamp) -> DeviceTime {
        match arrival.quality {
            WallQuality::Synced => self.judge_within(device_ms, arrival.wall_ms, 0),
            WallQuality::Unsynced if device_ms >= self.unsynced_from_ms => DeviceTime::Accepted(device_ms),
            WallQuality::Unsynced => DeviceTime::Rejected(device_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason() {
        use Contact::{Detected, NotDetected, Unsupported};
        for (bpm, contact, expected) in [
            (Some(0), Unsupported, Some(Reason::Zero)),
            (Some(0), NotDetected, Some(Reason::Zero)),
            (Some(84), NotDetected, Some(Reason::NoContact)),
            (None, NotDetected, Some(Reason::NoContact)),
            (Some(24), Detected, Some(Reason::Implausible)),
            (Some(25), Detected, None),
            (Some(250), Unsupported, None),
            (Some(251), Unsupported, Some(Reason::Implausible)),
            (None, Unsupported, None),
        ] {
            assert_eq!(reason(bpm, contact), expected, "{bpm:?} {contact:?}");
        }
    }

    #[test]
    fn rr_artefacts_are_dropped_and_counted_the_rest_is_raw() {
        for (unit, kept) in [(RrUnit::Ticks, &[1, 32_895][..]), (RrUnit::Micros, &[1, 65_535, 32_895])] {
            let rr = RrIntervals { unit, values: [0, 1, 65_535, 32_895].into_iter().collect() };
            let measured = Measurement { bpm: Some(60), rr, ..Measurement::default() };
            let (reading, dropped) = measured.judge(DeviceId(1), Source::Gatt, Stamp::default(), None);
            assert_eq!(reading.rr.values.as_slice(), kept);
            assert_eq!(dropped, 4 - kept.len());
        }
    }

    #[test]
    fn device_time_at_the_bounds() {
        let window = DeviceTimeWindow::default();
        let now = 1_790_000_000_000;
        let synced = Stamp { uptime_ms: 5, wall_ms: now, quality: WallQuality::Synced };
        for (ms, believed) in [
            (now, true),
            (now + 300_000, true),
            (now + 300_001, false),
            (now - 31 * 86_400_000, true),
            (now - 31 * 86_400_000 - 1, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            assert_eq!(matches!(window.judge(ms, synced), DeviceTime::Accepted(_)), believed, "{ms}");
        }
        let unsynced = Stamp { quality: WallQuality::Unsynced, ..synced };
        assert_eq!(window.judge(now + 86_400_000, unsynced), DeviceTime::Accepted(now + 86_400_000));
        assert_eq!(window.judge(946_684_800_000, unsynced), DeviceTime::Rejected(946_684_800_000));
    }
}
