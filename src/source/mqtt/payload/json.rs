//! The default JSON payload, read straight into a fixed struct: nothing is allocated per message.
//!
//! Keys: `bpm` (or `hr`, `heart_rate`, `heartRate`, `hbr`), `time` (RFC 3339, or a number since the Unix epoch, its
//! unit told by its size), `rr_ms` (a number or an array), `contact` (bool), `energy_kj`, `battery` (or
//! `battery_percent`, as published lines have it). A field given twice, under whatever key, is an error unless all but
//! one are `null`.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::convert::{self, Intervals, Scalar};
use super::error::{Cause, PayloadError};
use super::{MAX_RR, Sink};
use crate::config::mapping::{RrInput, TimeUnit};
use crate::reading::DeviceId;
use crate::reading::validity::Measurement;

/// One reading: `{...}`.
pub(super) fn object(text: &[u8], device: DeviceId, sink: &mut Sink<'_>) -> Result<(), PayloadError> {
    let fields: Fields<'_> = serde_json::from_slice(text).map_err(|e| PayloadError::json(&e))?;
    fields.push(device, sink)
}

/// Many readings: `[{...}, ...]`.
pub(super) fn array(text: &[u8], device: DeviceId, sink: &mut Sink<'_>) -> Result<(), PayloadError> {
    let mut problem = None;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let elements = Elements { device, sink, problem: &mut problem };
    let parsed = elements.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (problem, parsed) {
        (Some(problem), _) => Err(problem),
        (None, parsed) => parsed.map_err(|e| PayloadError::json(&e)),
    }
}

struct Elements<'a, 'b> {
    device: DeviceId,
    sink: &'a mut Sink<'b>,
    /// The first reading that was refused; it stops the array.
    problem: &'a mut Option<PayloadError>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of readings")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(fields) = seq.next_element::<Fields<'de>>()? {
            if let Err(problem) = fields.push(self.device, self.sink) {
                *self.problem = Some(problem);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Fields<'a> {
    bpm: Scalar<'a>,
    time: Scalar<'a>,
    contact: Scalar<'a>,
    energy_kj: Scalar<'a>,
    battery: Scalar<'a>,
    rr: Rr,
    duplicate: Option<&'static str>,
}

impl Fields<'_> {
    fn push(self, device: DeviceId, sink: &mut Sink<'_>) -> Result<(), PayloadError> {
        if let Some(field) = self.duplicate {
            return Err(PayloadError::new(Cause::Duplicate, field, "one value"));
        }
        let rr = match self.rr {
            Rr::Absent => Default::default(),
            Rr::Intervals(intervals) => intervals.finish(),
            Rr::Refused(problem) => return Err(problem),
        };
        let measured = Measurement {
            bpm: convert::bpm(&self.bpm)?,
            rr,
            contact: convert::contact(&self.contact)?,
            energy_kj: convert::energy_kj(&self.energy_kj)?,
            battery_percent: convert::battery(&self.battery)?,
            rssi_dbm: None,
        };
        let device_ms = convert::time(&self.time, TimeUnit::Auto)?;
        sink.push(device, measured, device_ms)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reading")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<Key>()? {
            let (slot, name) = match key {
                Key::Bpm => (&mut fields.bpm, "bpm"),
                Key::Time => (&mut fields.time, "time"),
                Key::Contact => (&mut fields.contact, "contact"),
                Key::Energy => (&mut fields.energy_kj, "energy_kj"),
                Key::Battery => (&mut fields.battery, "battery"),
                Key::Rr => {
                    match (&fields.rr, map.next_value()?) {
                        (_, Rr::Absent) => {}
                        (Rr::Absent, rr) => fields.rr = rr,
                        _ => fields.duplicate = Some("rr_ms"),
                    }
                    continue;
                }
                Key::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            match (&slot, map.next_value()?) {
                (_, Scalar::Absent) => {}
                (Scalar::Absent, value) => *slot = value,
                _ => fields.duplicate = Some(name),
            }
        }
        Ok(fields)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Key {
    #[serde(rename = "bpm", alias = "hr", alias = "heart_rate", alias = "heartRate", alias = "hbr")]
    Bpm,
    #[serde(rename = "time")]
    Time,
    #[serde(rename = "rr_ms")]
    Rr,
    #[serde(rename = "contact")]
    Contact,
    #[serde(rename = "energy_kj")]
    Energy,
    #[serde(rename = "battery", alias = "battery_percent")]
    Battery,
    #[serde(other)]
    Unknown,
}

#[derive(Default)]
enum Rr {
    #[default]
    Absent,
    Intervals(Intervals),
    Refused(PayloadError),
}

impl Rr {
    fn one(value: &Scalar<'_>) -> Self {
        let mut intervals = Intervals::new(RrInput::Millis);
        match intervals.push(value) {
            Ok(()) => Self::Intervals(intervals),
            Err(problem) => Self::Refused(problem),
        }
    }
}

impl<'de> Deserialize<'de> for Rr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RrVisitor)
    }
}

struct RrVisitor;

impl<'de> Visitor<'de> for RrVisitor {
    type Value = Rr;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RR intervals")
    }
    fn visit_unit<E>(self) -> Result<Rr, E> {
        Ok(Rr::Absent)
    }
    fn visit_i64<E>(self, value: i64) -> Result<Rr, E> {
        Ok(Rr::one(&Scalar::Int(value)))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Rr, E> {
        Ok(Rr::one(&i64::try_from(value).map_or(Scalar::Float(f64::MAX), Scalar::Int)))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Rr, E> {
        Ok(Rr::one(&Scalar::Float(value)))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Rr, E> {
        Ok(Rr::one(&Scalar::Bool(value)))
    }
    fn visit_str<E>(self, _: &str) -> Result<Rr, E> {
        Ok(Rr::one(&Scalar::Other))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rr, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Rr::one(&Scalar::Other))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Rr, A::Error> {
        let mut intervals = Intervals::new(RrInput::Millis);
        let mut count = 0;
        let mut refused = None;
        while let Some(value) = seq.next_element::<Scalar<'de>>()? {
            count += 1;
            // One more than is allowed is kept, so that the reading is refused; the rest is only stepped over.
            if refused.is_none() && count <= MAX_RR + 1 {
                refused = intervals.push(&value).err();
            }
        }
        Ok(refused.map_or(Rr::Intervals(intervals), Rr::Refused))
    }
}
