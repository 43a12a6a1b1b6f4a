//! The domain: what a heart-rate reading is. Pure; knows no other module of the house but `clock`'s plain stamps.
//!
//! [`hrm`] and [`advert`] turn a sensor's bytes into a [`validity::Measurement`], [`validity`] judges it and makes the
//! [`Reading`], [`line`] writes the published line.

pub mod advert;
pub mod hrm;
pub mod line;
pub mod rfc3339;
pub mod summary;
pub mod validity;

use std::num::NonZeroU16;

use smallvec::SmallVec;

use crate::clock::Stamp;

/// A device's run-local number, given by [`crate::journal::Devices`]; its name is the stable identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// How a reading reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    Gatt = 0,
    Advert = 1,
    Mqtt = 2,
    Replay = 3,
}

impl Source {
    /// The name on the published line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gatt => "gatt",
            Self::Advert => "advert",
            Self::Mqtt => "mqtt",
            Self::Replay => "replay",
        }
    }
}

/// Skin contact as the sensor reports it (0x2A37 flag bits 1-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Contact {
    /// The sensor cannot tell.
    #[default]
    Unsupported = 0,
    NotDetected = 1,
    Detected = 2,
}

/// Why a reading must not enter an average.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The wearable said 0: no clean signal.
    Zero = 1,
    NoContact = 2,
    /// Outside what a human heart does (25 to 250 bpm).
    Implausible = 3,
    /// Older than it claims: a value that is repeated without being measured anew.
    Stale = 4,
    /// A change no heart makes within the time passed.
    Jump = 5,
    /// The same value without RR intervals for minutes.
    Frozen = 6,
}

impl Reason {
    /// The name on the published line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::NoContact => "no_contact",
            Self::Implausible => "implausible",
            Self::Stale => "stale",
            Self::Jump => "jump",
            Self::Frozen => "frozen",
        }
    }
}

/// The unit in which a source gave its RR intervals; kept, so that nothing is rounded on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RrUnit {
    /// 1/1024 s (Bluetooth SIG Heart Rate Measurement).
    #[default]
    Ticks = 0,
    /// Whole milliseconds.
    Millis = 1,
    /// Microseconds: milliseconds with up to three decimals.
    Micros = 2,
}

impl RrUnit {
    /// `value` of this unit in microseconds, rounded half up.
    pub const fn to_micros(self, value: u32) -> u64 {
        match self {
            Self::Ticks => (value as u64 * 1_000_000 + 512) / 1024,
            Self::Millis => value as u64 * 1000,
            Self::Micros => value as u64,
        }
    }
}

/// RR intervals of one reading, oldest first, exactly as the source gave them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RrIntervals {
    pub unit: RrUnit,
    pub values: SmallVec<[u32; 4]>,
}

impl RrIntervals {
    /// Most of one reading: four minutes of a quiet heart, and well below the 4 KiB of a journal value.
    pub const MOST: usize = 256;
}

/// The wearable's own stamp, in ms since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceTime {
    /// Plausible against arrival: it is the time of the reading.
    Accepted(i64),
    /// Not believed: kept aside, the gateway's stamp is the time of the reading.
    Rejected(i64),
}

impl DeviceTime {
    /// The stamp, whatever it is thought of.
    pub const fn ms(self) -> i64 {
        match self {
            Self::Accepted(ms) | Self::Rejected(ms) => ms,
        }
    }
}

/// One heart-rate reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub device: DeviceId,
    pub source: Source,
    /// When the gateway got it.
    pub arrival: Stamp,
    pub device_time: Option<DeviceTime>,
    /// Beats per minute; `None` when the wearable said 0.
    pub bpm: Option<NonZeroU16>,
    pub rr: RrIntervals,
    pub contact: Contact,
    /// Cumulative energy expended, kJ.
    pub energy_kj: Option<u16>,
    /// 0 to 100 %.
    pub battery_percent: Option<u8>,
    pub rssi_dbm: Option<i8>,
    pub reason: Option<Reason>,
    /// Something of this wearable was not heard between its reading before this one and this one, which lie so far apart,
    /// ms: `rr` does not continue the intervals before it.
    pub gap_ms: Option<u32>,
}
