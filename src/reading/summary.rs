//! What is left of a device's readings in one stretch of time when there is no room for each of them. Pure.
//!
//! A [`Summary`] is made of one reading or merged from two of the same [`Window`]; counts, sum, smallest and largest
//! value are exact in whatever order that happens, and 10 s summaries merged to 1 min ones say the same as 1 min
//! summaries of the readings themselves.
//!
//! A window lies on one clock that does not step: the device's own stamps where they are believed, else the wall clock
//! where it was synchronised, else the time since boot. Where the gateway did not know the time, it cannot have judged a
//! device's stamp for good either: such a window is one on both the device's clock and the time since boot. A window's
//! start is kept as a reading keeps its time, so that whatever finds a reading's true time later, and judges its stamp by
//! it, does so with the window's as well.
//!
//! Not kept: contact, energy, battery, signal strength, the single RR intervals, stamps that were not believed for good.

use super::{DeviceId, DeviceTime, Reading, Source};
use crate::clock::{Stamp, WallQuality};

/// The clock a window lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum By {
    Device,
    Wall,
    Uptime,
    /// ... with stamps that are believed so far, and with such that are not.
    BelievedAndUptime,
    RejectedAndUptime,
}

/// One device's stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    device: DeviceId,
    by: By,
    /// Windows since that clock's zero; of the second clock, if there is one.
    index: i64,
    second: i64,
}

/// How the readings of a window reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sources(u8);

/// The readings of one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub device: DeviceId,
    /// Length of the window, s; 0 for a single reading.
    pub window_s: u16,
    /// The window's start as the gateway's clocks stood then; where the window is one of believed stamps, the earliest
    /// arrival.
    pub arrival: Stamp,
    /// The window's start by the device's own stamps, as they were judged: where they are the time of its readings, or may
    /// yet turn out to be.
    pub device_time: Option<DeviceTime>,
    pub sources: Sources,
    /// Readings.
    pub n: u32,
    /// Those that have a heart rate and no reason against it; only they enter what follows.
    pub bpm_n: u32,
    pub bpm_sum: u64,
    /// 0 without any such reading.
    pub bpm_min: u16,
    pub bpm_max: u16,
    /// RR intervals of all readings.
    pub rr_n: u32,
}

// === impl Sources ===

impl Sources {
    const ALL: [Source; 4] = [Source::Gatt, Source::Advert, Source::Mqtt, Source::Replay];

    pub const fn of(source: Source) -> Self {
        Self(1 << source as u8)
    }

    /// One bit per source, by its number.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// `None` when a bit is of no known source.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits < 1 << Self::ALL.len() { Some(Self(bits)) } else { None }
    }

    /// The source, if there is only one.
    pub fn only(self) -> Option<Source> {
        Self::ALL.into_iter().find(|source| Self::of(*source) == self)
    }
}

// === impl Summary ===

impl Summary {
    /// The summary of one reading, at its own time.
    pub fn of(reading: &Reading) -> Self {
        let bpm = reading.bpm.filter(|_| reading.reason.is_none()).map_or(0, std::num::NonZeroU16::get);
        Self {
            device: reading.device,
            window_s: 0,
            arrival: reading.arrival,
            device_time: match reading.device_time {
                // Judged by a clock that was right.
                Some(DeviceTime::Rejected(_)) if reading.arrival.quality == WallQuality::Synced => None,
                stamp => stamp,
            },
            sources: Sources::of(reading.source),
            n: 1,
            bpm_n: u32::from(bpm > 0),
            bpm_sum: u64::from(bpm),
            bpm_min: bpm,
            bpm_max: bpm,
            rr_n: reading.rr.values.len() as u32,
        }
    }

    /// Widens it to the window of `seconds` it starts in.
    pub fn widen(mut self, seconds: u16) -> (Window, Self) {
        let width = i64::from(seconds.max(1)) * 1000;
        self.window_s = seconds.max(1);
        let synced = self.arrival.quality == WallQuality::Synced;
        let stamped = match &mut self.device_time {
            Some(DeviceTime::Accepted(at)) => Some((By::BelievedAndUptime, widen_stamp(at, width))),
            Some(DeviceTime::Rejected(at)) => Some((By::RejectedAndUptime, widen_stamp(at, width))),
            None => None,
        };
        let (by, index, second) = match (stamped, synced) {
            (Some((_, index)), true) => (By::Device, index, 0),
            (Some((by, index)), false) => (by, index, self.widen_uptime(width)),
            (None, true) => (By::Wall, self.widen_wall(width), 0),
            (None, false) => (By::Uptime, self.widen_uptime(width), 0),
        };
        (Window { device: self.device, by, index, second }, self)
    }

    fn widen_wall(&mut self, width: i64) -> i64 {
        let arrival = &mut self.arrival;
        let index = arrival.wall_ms.div_euclid(width);
        let start = arrival.wall_ms.saturating_sub(arrival.wall_ms.rem_euclid(width));
        arrival.uptime_ms = arrival.uptime_ms.saturating_sub(arrival.wall_ms.abs_diff(start));
        arrival.wall_ms = start;
        index
    }

    fn widen_uptime(&mut self, width: i64) -> i64 {
        let (arrival, width) = (&mut self.arrival, width.unsigned_abs());
        let index = arrival.uptime_ms / width;
        let past = arrival.uptime_ms % width;
        arrival.uptime_ms -= past;
        arrival.wall_ms = arrival.wall_ms.saturating_sub_unsigned(past);
        index as i64
    }

    /// Adds the readings of another summary of the same window; `false`, and nothing is done, when the counts would
    /// not fit.
    pub fn merge(&mut self, other: &Self) -> bool {
        let (Some(n), Some(rr_n)) = (self.n.checked_add(other.n), self.rr_n.checked_add(other.rr_n)) else {
            return false;
        };
        let Some(bpm_sum) = self.bpm_sum.checked_add(other.bpm_sum) else { return false };
        if other.bpm_n > 0 {
            let none = self.bpm_n == 0;
            self.bpm_min = if none { other.bpm_min } else { self.bpm_min.min(other.bpm_min) };
            self.bpm_max = self.bpm_max.max(other.bpm_max);
        }
        (self.n, self.rr_n, self.bpm_sum) = (n, rr_n, bpm_sum);
        // At most `n`, so it fits.
        self.bpm_n = self.bpm_n.saturating_add(other.bpm_n);
        self.sources.0 |= other.sources.0;
        let key = |stamp: &Stamp| (stamp.uptime_ms, stamp.wall_ms, stamp.quality as u8);
        if key(&other.arrival) < key(&self.arrival) {
            self.arrival = other.arrival;
        }
        true
    }

    /// The mean in thousandths of a beat per minute, rounded half up; `None` without a reading that counts.
    pub fn bpm_mean_milli(&self) -> Option<u64> {
        let n = u64::from(self.bpm_n);
        (n > 0).then(|| {
            let rest = self.bpm_sum % n;
            (self.bpm_sum / n).saturating_mul(1000).saturating_add((rest * 1000 + n / 2) / n)
        })
    }
}

fn widen_stamp(at: &mut i64, width: i64) -> i64 {
    let index = at.div_euclid(width);
    *at = index.saturating_mul(width);
    index
}

#[cfg(test)]
#[path = "summary_tests.rs"]
pub(crate) mod tests;
