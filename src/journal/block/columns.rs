//! The body of a block: one column after the other, each with its length in front.
//!
//! | column | holds |
//! |---|---|
//! | device | difference of device numbers |
//! | arrival | uptime in ms: a device's first against the block's first, then the change of its interval |
//! | wall | change of (wall clock - uptime), ms; all zero while the clock does not step |
//! | traits | quality, source, contact, kind of device stamp, RR unit; XOR with the reading before |
//! | extras | which of reason, energy, battery, RSSI, gap are there; XOR with the reading before |
//! | bpm | difference to the reading before; 0 = none |
//! | rr count | |
//! | rr | a device's first against what its bpm predicts, then differences, in the source's own unit |
//! | stamp | device stamp: a device's first against the wall clock, then the change of its interval |
//! | values | reason, energy (difference), battery (difference), RSSI, gap in ms, of those readings that have them |
//!
//! Everything is a varint, signed ones by zigzag. zstd takes out what repeats.

use std::num::NonZeroU16;

use smallvec::SmallVec;

use super::super::varint::{put, put_signed};
use super::MAX_BODY;
use super::column::{Column, end_column};
use super::moments::{Moments, Row, stamp_kind};
use crate::clock::{Stamp, WallQuality};
use crate::reading::{Contact, DeviceId, Reading, Reason, RrIntervals, RrUnit, Source};

const COLUMNS: usize = 10;

/// The columns of one block while it is written; keeps its buffers.
#[derive(Default)]
pub struct Columns {
    device: Vec<u8>,
    arrival: Vec<u8>,
    wall: Vec<u8>,
    traits: Vec<u8>,
    extras: Vec<u8>,
    bpm: Vec<u8>,
    rr_count: Vec<u8>,
    rr: Vec<u8>,
    stamp: Vec<u8>,
    values: Vec<u8>,
}

/// What the next reading is told against; writer and reader move it in step.
struct Context {
    device: u32,
    moments: Moments,
    traits: u64,
    extras: u64,
    bpm: u16,
    rr: Option<u32>,
    rr_unit: RrUnit,
    energy: u16,
    battery: u8,
}

impl Context {
    fn new() -> Self {
        Self {
            device: 0,
            // The 1 s of a chest strap.
            moments: Moments::new(1000),
            traits: 0,
            extras: 0,
            bpm: 0,
            rr: None,
            rr_unit: RrUnit::Ticks,
            energy: 0,
            battery: 0,
        }
    }

    /// Starts a device's run, if it is one.
    fn turn_to(&mut self, device: u32, first: bool) -> Row {
        if !first && device == self.device {
            return Row::Further;
        }
        self.device = device;
        self.rr = None;
        if first { Row::FirstOfBlock } else { Row::FirstOfDevice }
    }
}

/// What one heart rate says of the next interval, in the given unit.
fn expected_rr(bpm: u16, unit: RrUnit) -> u32 {
    let minute = match unit {
        RrUnit::Ticks => 61_440,
        RrUnit::Millis => 60_000,
        RrUnit::Micros => 60_000_000,
    };
    minute / u32::from(bpm.max(30))
}

fn traits_of(reading: &Reading) -> u64 {
    reading.arrival.quality as u64
        | (reading.source as u64) << 1
        | (reading.contact as u64) << 4
        | stamp_kind(reading.device_time) << 6
        | (reading.rr.unit as u64) << 8
}

fn extras_of(reading: &Reading) -> u64 {
    u64::from(reading.reason.is_some())
        | u64::from(reading.energy_kj.is_some()) << 1
        | u64::from(reading.battery_percent.is_some()) << 2
        | u64::from(reading.rssi_dbm.is_some()) << 3
        | u64::from(reading.gap_ms.is_some()) << 4
}

impl Columns {
    fn all(&mut self) -> [&mut Vec<u8>; COLUMNS] {
        [
            &mut self.device,
            &mut self.arrival,
            &mut self.wall,
            &mut self.traits,
            &mut self.extras,
            &mut self.bpm,
            &mut self.rr_count,
            &mut self.rr,
            &mut self.stamp,
            &mut self.values,
        ]
    }

    /// Appends the body of a block to `out`.
    pub fn write<'a>(&mut self, readings: impl Iterator<Item = &'a Reading>, out: &mut Vec<u8>) {
        for column in self.all() {
            column.clear();
        }
        let mut cx = Context::new();
        for (index, reading) in readings.enumerate() {
            put_signed(&mut self.device, i64::from(reading.device.0) - i64::from(cx.device));
            let row = cx.turn_to(reading.device.0, index == 0);

            let Stamp { uptime_ms, wall_ms, .. } = reading.arrival;
            cx.moments.put_arrival(row, uptime_ms, wall_ms, &mut self.arrival, &mut self.wall);

            let traits = traits_of(reading);
            put(&mut self.traits, traits ^ cx.traits);
            cx.traits = traits;
            let extras = extras_of(reading);
            put(&mut self.extras, extras ^ cx.extras);
            cx.extras = extras;

            let bpm = reading.bpm.map_or(0, NonZeroU16::get);
            put_signed(&mut self.bpm, i64::from(bpm) - i64::from(cx.bpm));
            cx.bpm = bpm;

            put(&mut self.rr_count, reading.rr.values.len() as u64);
            if reading.rr.unit != cx.rr_unit {
                cx.rr = None;
                cx.rr_unit = reading.rr.unit;
            }
            for &value in &reading.rr.values {
                let before = cx.rr.unwrap_or_else(|| expected_rr(bpm, cx.rr_unit));
                put_signed(&mut self.rr, i64::from(value) - i64::from(before));
                cx.rr = Some(value);
            }

            cx.moments.put_stamp(reading.device_time, wall_ms, &mut self.stamp);
            if let Some(reason) = reading.reason {
                put(&mut self.values, reason as u64);
            }
            if let Some(energy) = reading.energy_kj {
                put_signed(&mut self.values, i64::from(energy) - i64::from(cx.energy));
                cx.energy = energy;
            }
            if let Some(battery) = reading.battery_percent {
                put_signed(&mut self.values, i64::from(battery) - i64::from(cx.battery));
                cx.battery = battery;
            }
            if let Some(rssi) = reading.rssi_dbm {
                put_signed(&mut self.values, i64::from(rssi));
            }
            if let Some(gap) = reading.gap_ms {
                put(&mut self.values, u64::from(gap));
            }
        }
        self.all().into_iter().for_each(|column| end_column(column, out));
    }
}

/// Reads `count` readings off a body; `None` when it is malformed (what was pushed to `out` is then void).
pub fn read(mut body: &[u8], count: usize, out: &mut Vec<Reading>) -> Option<()> {
    let mut column = || Column::take(&mut body);
    let mut device_column = column()?;
    let mut arrival_column = column()?;
    let mut wall_column = column()?;
    let mut traits_column = column()?;
    let mut extras_column = column()?;
    let mut bpm_column = column()?;
    let mut rr_count_column = column()?;
    let mut rr_column = column()?;
    let mut stamp_column = column()?;
    let mut values_column = column()?;
    let mut cx = Context::new();
    // A column of zeros is stored as an empty one, so that no length of a column bounds what it stands for.
    let mut room = MAX_BODY;
    out.reserve(count);
    for index in 0..count {
        let device = u32::try_from(i64::from(cx.device).checked_add(device_column.signed()?)?).ok()?;
        let row = cx.turn_to(device, index == 0);
        let (uptime_ms, wall_ms) = cx.moments.take_arrival(row, &mut arrival_column, &mut wall_column)?;
        cx.traits ^= traits_column.unsigned()?;
        cx.extras ^= extras_column.unsigned()?;
        let quality = if cx.traits & 1 == 1 { WallQuality::Synced } else { WallQuality::Unsynced };
        let source = source_from(cx.traits >> 1 & 0b111)?;
        let contact = contact_from(cx.traits >> 4 & 0b11)?;
        let unit = unit_from(cx.traits >> 8)?;
        let bpm = u16::try_from(i64::from(cx.bpm).checked_add(bpm_column.signed()?)?).ok()?;
        cx.bpm = bpm;

        let intervals = usize::try_from(rr_count_column.unsigned()?).ok()?;
        room = room.checked_sub(intervals)?;
        if unit != cx.rr_unit {
            cx.rr = None;
            cx.rr_unit = unit;
        }
        let mut values = SmallVec::new();
        for _ in 0..intervals {
            let before = cx.rr.unwrap_or_else(|| expected_rr(bpm, unit));
            let value = u32::try_from(i64::from(before).checked_add(rr_column.signed()?)?).ok()?;
            values.push(value);
            cx.rr = Some(value);
        }

        let device_time = cx.moments.take_stamp(cx.traits >> 6 & 0b11, wall_ms, &mut stamp_column)?;
        let reason = match cx.extras & 1 {
            0 => None,
            _ => Some(reason_from(values_column.unsigned()?)?),
        };
        let energy_kj = match cx.extras >> 1 & 1 {
            0 => None,
            _ => {
                cx.energy = u16::try_from(i64::from(cx.energy).checked_add(values_column.signed()?)?).ok()?;
                Some(cx.energy)
            }
        };
        let battery_percent = match cx.extras >> 2 & 1 {
            0 => None,
            _ => {
                cx.battery =
                    u8::try_from(i64::from(cx.battery).checked_add(values_column.signed()?)?).ok()?;
                Some(cx.battery)
            }
        };
        let rssi_dbm = match cx.extras >> 3 & 1 {
            0 => None,
            _ => Some(i8::try_from(values_column.signed()?).ok()?),
        };
        let gap_ms = match cx.extras >> 4 {
            0 => None,
            1 => Some(u32::try_from(values_column.unsigned()?).ok()?),
            _ => return None,
        };
        out.push(Reading {
            device: DeviceId(device),
            source,
            arrival: Stamp { uptime_ms, wall_ms, quality },
            device_time,
            bpm: NonZeroU16::new(bpm),
            rr: RrIntervals { unit, values },
            contact,
            energy_kj,
            battery_percent,
            rssi_dbm,
            reason,
            gap_ms,
        });
    }
    Some(())
}

fn source_from(raw: u64) -> Option<Source> {
    Some(match raw {
        0 => Source::Gatt,
        1 => Source::Advert,
        2 => Source::Mqtt,
        3 => Source::Replay,
        _ => return None,
    })
}

fn contact_from(raw: u64) -> Option<Contact> {
    Some(match raw {
        0 => Contact::Unsupported,
        1 => Contact::NotDetected,
        2 => Contact::Detected,
        _ => return None,
    })
}

fn unit_from(raw: u64) -> Option<RrUnit> {
    Some(match raw {
        0 => RrUnit::Ticks,
        1 => RrUnit::Millis,
        2 => RrUnit::Micros,
        _ => return None,
    })
}

fn reason_from(raw: u64) -> Option<Reason> {
    Some(match raw {
        1 => Reason::Zero,
        2 => Reason::NoContact,
        3 => Reason::Implausible,
        4 => Reason::Stale,
        5 => Reason::Jump,
        6 => Reason::Frozen,
        _ => return None,
    })
}
