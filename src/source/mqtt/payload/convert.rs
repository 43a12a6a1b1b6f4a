//! From loosely typed values to the fields of a reading: ranges, units, rounding.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use smallvec::SmallVec;

use super::error::{Cause, PayloadError};
use crate::config::mapping::{RrInput, TimeUnit};
use crate::reading::{Contact, RrIntervals, RrUnit, rfc3339};

/// One JSON value as far as a reading can use it; text is borrowed from the payload where it has no escapes.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Scalar<'a> {
    /// Missing or `null`.
    #[default]
    Absent,
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Bool(bool),
    /// An array, an object, or a whole number above 2^63.
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Absent)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Scalar::Other, Scalar::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(value))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

/// A number of `range`, rounded half up. `None`: absent.
fn whole(
    value: &Scalar<'_>,
    range: RangeInclusive<i64>,
    field: &'static str,
    expected: &'static str,
) -> Result<Option<i64>, PayloadError> {
    let number = match value {
        Scalar::Absent => return Ok(None),
        Scalar::Int(number) => *number,
        // A cast saturates, so that what is too large stays out of range; a small negative is not rounded up to 0.
        Scalar::Float(number) if *number < 0.0 && *range.start() >= 0 => -1,
        Scalar::Float(number) if number.is_finite() => (number + 0.5).floor() as i64,
        Scalar::Float(_) => i64::MAX,
        Scalar::Other | Scalar::Bool(_) | Scalar::Text(_) => {
            return Err(PayloadError::new(Cause::WrongType, field, expected));
        }
    };
    if range.contains(&number) {
        Ok(Some(number))
    } else {
        Err(PayloadError::new(Cause::OutOfRange, field, expected))
    }
}

/// [`whole`], for fields whose type is just the range.
fn fit<T: TryFrom<i64>>(
    value: &Scalar<'_>,
    range: RangeInclusive<i64>,
    field: &'static str,
    expected: &'static str,
) -> Result<Option<T>, PayloadError> {
    match whole(value, range, field, expected)? {
        None => Ok(None),
        Some(number) => {
            T::try_from(number).map(Some).map_err(|_| PayloadError::new(Cause::OutOfRange, field, expected))
        }
    }
}

/// Beats per minute, 0 to 65,535.
pub fn bpm(value: &Scalar<'_>) -> Result<Option<u16>, PayloadError> {
    fit(value, 0..=65_535, "bpm", "a number from 0 to 65535")
}

pub fn energy_kj(value: &Scalar<'_>) -> Result<Option<u16>, PayloadError> {
    fit(value, 0..=65_535, "energy_kj", "a number from 0 to 65535")
}

pub fn battery(value: &Scalar<'_>) -> Result<Option<u8>, PayloadError> {
    fit(value, 0..=100, "battery", "a number from 0 to 100")
}

pub fn rssi(value: &Scalar<'_>) -> Result<Option<i8>, PayloadError> {
    fit(value, -128..=127, "rssi", "a number from -128 to 127")
}

/// `true`, `false`, or absent: the sensor cannot tell.
pub fn contact(value: &Scalar<'_>) -> Result<Contact, PayloadError> {
    match value {
        Scalar::Absent => Ok(Contact::Unsupported),
        Scalar::Bool(true) => Ok(Contact::Detected),
        Scalar::Bool(false) => Ok(Contact::NotDetected),
        _ => Err(PayloadError::new(Cause::WrongType, "contact", "true, false or null")),
    }
}

/// Nanoseconds of one unit of a numeric stamp.
const NS_PER_S: i64 = 1_000_000_000;

/// `magnitude` tells the unit where the sender does not. `None`: stamps of this kind are text.
fn nanos(unit: TimeUnit, magnitude: f64) -> Option<i64> {
    Some(match unit {
        TimeUnit::Seconds => NS_PER_S,
        TimeUnit::Centiseconds => NS_PER_S / 100,
        TimeUnit::Millis => NS_PER_S / 1000,
        TimeUnit::Micros => NS_PER_S / 1_000_000,
        TimeUnit::Nanos => 1,
        TimeUnit::Auto if magnitude < 1e11 => NS_PER_S,
        TimeUnit::Auto if magnitude < 1e14 => NS_PER_S / 1000,
        TimeUnit::Auto if magnitude < 1e17 => NS_PER_S / 1_000_000,
        TimeUnit::Auto => 1,
        TimeUnit::Rfc3339 | TimeUnit::UtcText => return None,
    })
}

const fn expected(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Auto => "RFC 3339 text, or a number since the Unix epoch",
        TimeUnit::Seconds => "seconds since the Unix epoch",
        TimeUnit::Centiseconds => "hundredths of a second since the Unix epoch",
        TimeUnit::Millis => "milliseconds since the Unix epoch",
        TimeUnit::Micros => "microseconds since the Unix epoch",
        TimeUnit::Nanos => "nanoseconds since the Unix epoch",
        TimeUnit::Rfc3339 => "RFC 3339 text such as 2026-11-23T19:02:10Z",
        TimeUnit::UtcText => "UTC text such as 2017-09-20 10:11:12",
    }
}

/// A time stamp as ms since the Unix epoch. `None`: absent.
pub fn time(value: &Scalar<'_>, unit: TimeUnit) -> Result<Option<i64>, PayloadError> {
    let error = |cause| PayloadError::new(cause, "time", expected(unit));
    let ms = match value {
        Scalar::Absent => return Ok(None),
        Scalar::Text(text) => {
            let parsed = match unit {
                TimeUnit::Auto | TimeUnit::Rfc3339 => rfc3339::parse(text),
                TimeUnit::UtcText => rfc3339::parse_utc_seconds(text),
                _ => return Err(error(Cause::WrongType)),
            };
            parsed.ok_or(error(Cause::BadTime))?
        }
        Scalar::Int(number) => {
            let nanos = nanos(unit, number.unsigned_abs() as f64).ok_or(error(Cause::WrongType))?;
            if nanos >= 1_000_000 {
                number.checked_mul(nanos / 1_000_000).ok_or(error(Cause::OutOfRange))?
            } else {
                number.div_euclid(1_000_000 / nanos)
            }
        }
        Scalar::Float(number) => {
            let nanos = nanos(unit, number.abs()).ok_or(error(Cause::WrongType))?;
            // The cast saturates, which the range below then refuses.
            (number * (nanos as f64 / 1e6)).round() as i64
        }
        Scalar::Bool(_) | Scalar::Other => return Err(error(Cause::WrongType)),
    };
    if (rfc3339::MIN_MS..=rfc3339::MAX_MS).contains(&ms) {
        Ok(Some(ms))
    } else {
        Err(error(Cause::OutOfRange))
    }
}

/// Collects a reading's RR intervals and finds the unit that loses nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Intervals {
    input: RrInput,
    /// Ticks where the sender gives ticks, else microseconds.
    values: SmallVec<[u32; 4]>,
}

impl Intervals {
    /// The longest interval taken, just above the largest tick count: 65.535 s.
    const MAX_MS: f64 = 65_535.0;

    pub fn new(input: RrInput) -> Self {
        Self { input, values: SmallVec::new() }
    }

    /// Adds one interval; an absent one adds nothing.
    pub fn push(&mut self, value: &Scalar<'_>) -> Result<(), PayloadError> {
        let expected = match self.input {
            RrInput::Millis => "milliseconds from 0 to 65535, or an array of them",
            RrInput::Seconds => "seconds from 0 to 65.535, or an array of them",
            RrInput::Ticks => "whole numbers from 0 to 65535, or an array of them",
        };
        let number = match value {
            Scalar::Absent => return Ok(()),
            Scalar::Int(number) => *number as f64,
            Scalar::Float(number) => *number,
            _ => return Err(PayloadError::new(Cause::WrongType, "rr_ms", expected)),
        };
        let (limit, scale) = match self.input {
            RrInput::Millis => (Self::MAX_MS, 1e3),
            RrInput::Seconds => (Self::MAX_MS / 1e3, 1e6),
            RrInput::Ticks => (65_535.0, 1.0),
        };
        let whole_enough = self.input != RrInput::Ticks || number.fract() == 0.0;
        if !(0.0..=limit).contains(&number) || !whole_enough {
            return Err(PayloadError::new(Cause::OutOfRange, "rr_ms", expected));
        }
        self.values.push((number * scale + 0.5).floor() as u32);
        Ok(())
    }

    /// The intervals: whole milliseconds as such, decimals that are 1/1024 s ticks as ticks, anything else as
    /// microseconds.
    pub fn finish(self) -> RrIntervals {
        let all = |test: fn(u32) -> bool| self.values.iter().all(|value| test(*value));
        if self.input == RrInput::Ticks {
            RrIntervals { unit: RrUnit::Ticks, values: self.values }
        } else if all(|micros| micros % 1000 == 0) {
            RrIntervals {
                unit: RrUnit::Millis,
                values: self.values.iter().map(|micros| micros / 1000).collect(),
            }
        } else if all(|micros| tick(micros).is_some()) {
            RrIntervals {
                unit: RrUnit::Ticks,
                values: self.values.iter().copied().filter_map(tick).collect(),
            }
        } else {
            RrIntervals { unit: RrUnit::Micros, values: self.values }
        }
    }
}

/// The tick that is written as these microseconds, if there is one.
fn tick(micros: u32) -> Option<u32> {
    let nearest = u32::try_from((u64::from(micros) * 1024 + 500_000) / 1_000_000).ok()?;
    (RrUnit::Ticks.to_micros(nearest) == u64::from(micros)).then_some(nearest)
}
