//! The body of a block of summaries: one column after the other, each with its length in front.
//!
//! | column | holds |
//! |---|---|
//! | device | difference of device numbers |
//! | traits | quality, kind of device stamp, sources; XOR with the summary before |
//! | arrival | uptime in ms: a device's first against the block's first, then the change of its interval |
//! | wall | change of (wall clock - uptime), ms |
//! | stamp | start by the device's clock: a device's first against the wall clock, then the change of its interval |
//! | n | difference to the summary before |
//! | idle | readings that do not enter the heart rate |
//! | least, spread, excess | of the heart rate: smallest (difference), largest - smallest, sum - count x smallest |
//! | rr | number of RR intervals: difference to the summary before |
//!
//! In front of them stands the length of the windows in seconds; blocks never mix lengths. Varints as in
//! [`super::columns`].

use super::super::varint::{put, put_signed, take};
use super::columns::Column;
use crate::clock::{Stamp, WallQuality};
use crate::reading::summary::{Sources, Summary};
use crate::reading::{DeviceId, DeviceTime};

const COLUMNS: usize = 11;

/// What the next summary is told against; writer and reader move it in step.
struct Context {
    device: u32,
    traits: u64,
    uptime: u64,
    interval: i64,
    offset: i64,
    stamp: Option<i64>,
    stamp_interval: i64,
    n: u32,
    least: u16,
    rr: u32,
}

impl Context {
    fn new(window_s: u16) -> Self {
        let interval = i64::from(window_s) * 1000;
        Self {
            device: 0,
            traits: 0,
            uptime: 0,
            interval,
            offset: 0,
            stamp: None,
            stamp_interval: interval,
            n: 0,
            least: 0,
            rr: 0,
        }
    }

    /// Starts a device's run; `true` when it is one.
    fn turn_to(&mut self, device: u32, first: bool) -> bool {
        let turned = first || device != self.device;
        if turned {
            self.device = device;
            self.stamp = None;
        }
        turned
    }
}

/// As in a block of readings.
const fn stamp_kind(stamp: Option<DeviceTime>) -> u64 {
    match stamp {
        None => 0,
        Some(DeviceTime::Accepted(_)) => 1,
        Some(DeviceTime::Rejected(_)) => 2,
    }
}

/// Appends the body of a block of windows of `window_s` to `out`.
pub fn write<'a>(window_s: u16, summaries: impl Iterator<Item = &'a Summary>, out: &mut Vec<u8>) {
    let mut columns: [Vec<u8>; COLUMNS] = Default::default();
    let [device, traits, arrival, wall, stamp, n, idle, least, spread, excess, rr] = &mut columns;
    let mut cx = Context::new(window_s);
    let mut base_uptime = 0;
    for (index, summary) in summaries.enumerate() {
        let first = index == 0;
        put_signed(device, i64::from(summary.device.0) - i64::from(cx.device));
        let turned = cx.turn_to(summary.device.0, first);

        let now = summary.arrival.quality as u64
            | stamp_kind(summary.device_time) << 1
            | u64::from(summary.sources.bits()) << 3;
        put(traits, now ^ cx.traits);
        cx.traits = now;

        let uptime = summary.arrival.uptime_ms;
        if first {
            base_uptime = uptime;
            put(arrival, uptime);
        } else if turned {
            put_signed(arrival, uptime.wrapping_sub(base_uptime) as i64);
        } else {
            let interval = uptime.wrapping_sub(cx.uptime) as i64;
            put_signed(arrival, interval.wrapping_sub(cx.interval));
            cx.interval = interval;
        }
        cx.uptime = uptime;
        let offset = summary.arrival.wall_ms.wrapping_sub(uptime as i64);
        put_signed(wall, offset.wrapping_sub(cx.offset));
        cx.offset = offset;

        if let Some(DeviceTime::Accepted(at) | DeviceTime::Rejected(at)) = summary.device_time {
            match cx.stamp {
                None => put_signed(stamp, at.wrapping_sub(summary.arrival.wall_ms)),
                Some(before) => {
                    let interval = at.wrapping_sub(before);
                    put_signed(stamp, interval.wrapping_sub(cx.stamp_interval));
                    cx.stamp_interval = interval;
                }
            }
            cx.stamp = Some(at);
        }

        put_signed(n, i64::from(summary.n) - i64::from(cx.n));
        cx.n = summary.n;
        put(idle, u64::from(summary.n.saturating_sub(summary.bpm_n)));
        if summary.bpm_n > 0 {
            put_signed(least, i64::from(summary.bpm_min) - i64::from(cx.least));
            cx.least = summary.bpm_min;
            put(spread, u64::from(summary.bpm_max.saturating_sub(summary.bpm_min)));
            let floor = u64::from(summary.bpm_n) * u64::from(summary.bpm_min);
            put(excess, summary.bpm_sum.saturating_sub(floor));
        }
        put_signed(rr, i64::from(summary.rr_n) - i64::from(cx.rr));
        cx.rr = summary.rr_n;
    }
    put(out, u64::from(window_s));
    for column in &mut columns {
        // As with readings: a column of zeros says nothing.
        if column.iter().all(|&byte| byte == 0) {
            column.clear();
        }
        put(out, column.len() as u64);
        out.extend_from_slice(column);
    }
}

/// Reads `count` summaries off a body; `None` when it is malformed (what was pushed to `out` is then void).
pub fn read(mut body: &[u8], count: usize, out: &mut Vec<Summary>) -> Option<()> {
    let window_s = u16::try_from(take(&mut body)?).ok()?;
    let mut column = || Column::take(&mut body);
    let (mut device, mut traits, mut arrival, mut wall) = (column()?, column()?, column()?, column()?);
    let (mut stamp, mut n, mut idle, mut least) = (column()?, column()?, column()?, column()?);
    let (mut spread, mut excess, mut rr) = (column()?, column()?, column()?);
    let mut cx = Context::new(window_s);
    let mut base_uptime = 0u64;
    out.reserve(count);
    for index in 0..count {
        let first = index == 0;
        let number = u32::try_from(i64::from(cx.device).checked_add(device.signed()?)?).ok()?;
        let turned = cx.turn_to(number, first);
        cx.traits ^= traits.unsigned()?;
        let quality = if cx.traits & 1 == 1 { WallQuality::Synced } else { WallQuality::Unsynced };
        let sources = Sources::from_bits(u8::try_from(cx.traits >> 3).ok()?)?;

        let uptime_ms = if first {
            base_uptime = arrival.unsigned()?;
            base_uptime
        } else if turned {
            base_uptime.wrapping_add(arrival.signed()? as u64)
        } else {
            cx.interval = cx.interval.wrapping_add(arrival.signed()?);
            cx.uptime.wrapping_add(cx.interval as u64)
        };
        cx.uptime = uptime_ms;
        cx.offset = cx.offset.wrapping_add(wall.signed()?);
        let wall_ms = cx.offset.wrapping_add(uptime_ms as i64);

        let device_time = match cx.traits >> 1 & 0b11 {
            0 => None,
            kind => {
                let at = match cx.stamp {
                    None => wall_ms.wrapping_add(stamp.signed()?),
                    Some(before) => {
                        cx.stamp_interval = cx.stamp_interval.wrapping_add(stamp.signed()?);
                        before.wrapping_add(cx.stamp_interval)
                    }
                };
                cx.stamp = Some(at);
                match kind {
                    1 => Some(DeviceTime::Accepted(at)),
                    2 => Some(DeviceTime::Rejected(at)),
                    _ => return None,
                }
            }
        };

        cx.n = u32::try_from(i64::from(cx.n).checked_add(n.signed()?)?).ok()?;
        let bpm_n = cx.n.checked_sub(u32::try_from(idle.unsigned()?).ok()?)?;
        let (mut bpm_min, mut bpm_max, mut bpm_sum) = (0, 0, 0);
        if bpm_n > 0 {
            cx.least = u16::try_from(i64::from(cx.least).checked_add(least.signed()?)?).ok()?;
            bpm_min = cx.least;
            bpm_max = bpm_min.checked_add(u16::try_from(spread.unsigned()?).ok()?)?;
            bpm_sum = (u64::from(bpm_n) * u64::from(bpm_min)).checked_add(excess.unsigned()?)?;
        }
        cx.rr = u32::try_from(i64::from(cx.rr).checked_add(rr.signed()?)?).ok()?;
        out.push(Summary {
            device: DeviceId(number),
            window_s,
            arrival: Stamp { uptime_ms, wall_ms, quality },
            device_time,
            sources,
            n: cx.n,
            bpm_n,
            bpm_sum,
            bpm_min,
            bpm_max,
            rr_n: cx.rr,
        });
    }
    Some(())
}
