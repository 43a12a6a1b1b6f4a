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
use super::column::{Column, end_column};
use super::moments::{Moments, Row, stamp_kind};
use crate::clock::{Stamp, WallQuality};
use crate::reading::DeviceId;
use crate::reading::summary::{Sources, Summary};

const COLUMNS: usize = 11;

/// What the next summary is told against; writer and reader move it in step.
struct Context {
    device: u32,
    traits: u64,
    moments: Moments,
    n: u32,
    least: u16,
    rr: u32,
}

impl Context {
    fn new(window_s: u16) -> Self {
        Self {
            device: 0,
            traits: 0,
            moments: Moments::new(i64::from(window_s) * 1000),
            n: 0,
            least: 0,
            rr: 0,
        }
    }

    /// Starts a device's run, if it is one.
    fn turn_to(&mut self, device: u32, first: bool) -> Row {
        if !first && device == self.device {
            return Row::Further;
        }
        self.device = device;
        if first { Row::FirstOfBlock } else { Row::FirstOfDevice }
    }
}

/// Appends the body of a block of windows of `window_s` to `out`.
pub fn write<'a>(window_s: u16, summaries: impl Iterator<Item = &'a Summary>, out: &mut Vec<u8>) {
    let mut columns: [Vec<u8>; COLUMNS] = Default::default();
    let [device, traits, arrival, wall, stamp, n, idle, least, spread, excess, rr] = &mut columns;
    let mut cx = Context::new(window_s);
    for (index, summary) in summaries.enumerate() {
        put_signed(device, i64::from(summary.device.0) - i64::from(cx.device));
        let row = cx.turn_to(summary.device.0, index == 0);

        let now = summary.arrival.quality as u64
            | stamp_kind(summary.device_time) << 1
            | u64::from(summary.sources.bits()) << 3;
        put(traits, now ^ cx.traits);
        cx.traits = now;

        let Stamp { uptime_ms, wall_ms, .. } = summary.arrival;
        cx.moments.put_arrival(row, uptime_ms, wall_ms, arrival, wall);
        cx.moments.put_stamp(summary.device_time, wall_ms, stamp);

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
    columns.iter_mut().for_each(|column| end_column(column, out));
}

/// Reads `count` summaries off a body; `None` when it is malformed (what was pushed to `out` is then void).
pub fn read(mut body: &[u8], count: usize, out: &mut Vec<Summary>) -> Option<()> {
    let window_s = u16::try_from(take(&mut body)?).ok()?;
    let mut column = || Column::take(&mut body);
    let (mut device, mut traits, mut arrival, mut wall) = (column()?, column()?, column()?, column()?);
    let (mut stamp, mut n, mut idle, mut least) = (column()?, column()?, column()?, column()?);
    let (mut spread, mut excess, mut rr) = (column()?, column()?, column()?);
    let mut cx = Context::new(window_s);
    out.reserve(count);
    for index in 0..count {
        let number = u32::try_from(i64::from(cx.device).checked_add(device.signed()?)?).ok()?;
        let row = cx.turn_to(number, index == 0);
        cx.traits ^= traits.unsigned()?;
        let quality = if cx.traits & 1 == 1 { WallQuality::Synced } else { WallQuality::Unsynced };
        let sources = Sources::from_bits(u8::try_from(cx.traits >> 3).ok()?)?;

        let (uptime_ms, wall_ms) = cx.moments.take_arrival(row, &mut arrival, &mut wall)?;
        let device_time = cx.moments.take_stamp(cx.traits >> 1 & 0b11, wall_ms, &mut stamp)?;

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
