//! Moments in a block, told as changes: the same way for readings and for summaries.
//!
//! Three columns: `arrival` (uptime in ms: a device's first against the block's first, then the change of its interval),
//! `wall` (change of wall clock - uptime, ms), `stamp` (device stamp: a device's first against the wall clock, then the
//! change of its interval). Writer and reader move a [`Moments`] in step.

use super::super::varint::{put, put_signed};
use super::column::Column;
use crate::reading::DeviceTime;

/// Where a row stands in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    FirstOfBlock,
    FirstOfDevice,
    Further,
}

/// What the next row's moments are told against.
pub(super) struct Moments {
    base: u64,
    uptime: u64,
    /// Interval between the last two rows of a device.
    interval: i64,
    offset: i64,
    stamp: Option<i64>,
    stamp_interval: i64,
}

impl Moments {
    /// `interval`: the one to expect between rows of a device, ms.
    pub(super) const fn new(interval: i64) -> Self {
        Self { base: 0, uptime: 0, interval, offset: 0, stamp: None, stamp_interval: interval }
    }

    /// Begins a row: when it arrived.
    pub(super) fn put_arrival(
        &mut self,
        row: Row,
        uptime_ms: u64,
        wall_ms: i64,
        arrival: &mut Vec<u8>,
        wall: &mut Vec<u8>,
    ) {
        match row {
            Row::FirstOfBlock => {
                self.base = uptime_ms;
                put(arrival, uptime_ms);
            }
            Row::FirstOfDevice => put_signed(arrival, uptime_ms.wrapping_sub(self.base) as i64),
            Row::Further => {
                let interval = uptime_ms.wrapping_sub(self.uptime) as i64;
                put_signed(arrival, interval.wrapping_sub(self.interval));
                self.interval = interval;
            }
        }
        self.turn(row, uptime_ms);
        let offset = wall_ms.wrapping_sub(uptime_ms as i64);
        put_signed(wall, offset.wrapping_sub(self.offset));
        self.offset = offset;
    }

    /// Begins a row: uptime and wall clock of its arrival, ms.
    pub(super) fn take_arrival(
        &mut self,
        row: Row,
        arrival: &mut Column<'_>,
        wall: &mut Column<'_>,
    ) -> Option<(u64, i64)> {
        let uptime_ms = match row {
            Row::FirstOfBlock => {
                self.base = arrival.unsigned()?;
                self.base
            }
            Row::FirstOfDevice => self.base.wrapping_add(arrival.signed()? as u64),
            Row::Further => {
                self.interval = self.interval.wrapping_add(arrival.signed()?);
                self.uptime.wrapping_add(self.interval as u64)
            }
        };
        self.turn(row, uptime_ms);
        self.offset = self.offset.wrapping_add(wall.signed()?);
        Some((uptime_ms, self.offset.wrapping_add(uptime_ms as i64)))
    }

    fn turn(&mut self, row: Row, uptime_ms: u64) {
        self.uptime = uptime_ms;
        if row != Row::Further {
            self.stamp = None;
        }
    }

    /// The row's device stamp, if it has one; its [`stamp_kind`] is told elsewhere.
    pub(super) fn put_stamp(&mut self, device_time: Option<DeviceTime>, wall_ms: i64, column: &mut Vec<u8>) {
        let Some(DeviceTime::Accepted(at) | DeviceTime::Rejected(at)) = device_time else { return };
        match self.stamp {
            None => put_signed(column, at.wrapping_sub(wall_ms)),
            Some(before) => {
                let interval = at.wrapping_sub(before);
                put_signed(column, interval.wrapping_sub(self.stamp_interval));
                self.stamp_interval = interval;
            }
        }
        self.stamp = Some(at);
    }

    /// The row's device stamp, of that [`stamp_kind`]. `None`: malformed.
    pub(super) fn take_stamp(
        &mut self,
        kind: u64,
        wall_ms: i64,
        column: &mut Column<'_>,
    ) -> Option<Option<DeviceTime>> {
        if kind == 0 {
            return Some(None);
        }
        let at = match self.stamp {
            None => wall_ms.wrapping_add(column.signed()?),
            Some(before) => {
                self.stamp_interval = self.stamp_interval.wrapping_add(column.signed()?);
                before.wrapping_add(self.stamp_interval)
            }
        };
        self.stamp = Some(at);
        match kind {
            1 => Some(Some(DeviceTime::Accepted(at))),
            2 => Some(Some(DeviceTime::Rejected(at))),
            _ => None,
        }
    }
}

/// Two bits that say whether there is a device stamp, and whether it is believed.
pub(super) const fn stamp_kind(stamp: Option<DeviceTime>) -> u64 {
    match stamp {
        None => 0,
        Some(DeviceTime::Accepted(_)) => 1,
        Some(DeviceTime::Rejected(_)) => 2,
    }
}
