//! Reads a payload by a mapping.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, engine::DecodePaddingMode};
use serde_json::Value;

use super::compile::{Bytes, Table, Test, Wanted};
use super::pointer::Pointer;
use super::{Route, device_name};
use crate::config::mapping::{Encoding, Literal, RawFormat};
use crate::reading::validity::Measurement;
use crate::reading::{DeviceId, advert};
use crate::source::mqtt::payload::{self, Cause, Intervals, PayloadError, Scalar, Sink};

pub(super) fn no_device() -> PayloadError {
    PayloadError::new(Cause::NoDevice, "device", "a name of 1 to 128 bytes without control characters")
}

pub(super) fn too_many_devices() -> PayloadError {
    PayloadError::new(Cause::TooManyDevices, "device", "no more distinct devices than journal.max_devices")
}

impl Table {
    /// The device, if topic and mapping alone tell it.
    pub(super) fn topic_device<'a>(&'a self, topic: &'a str) -> Option<&'a str> {
        if self.device.pointer.is_some() {
            return None;
        }
        self.fallback(topic)
    }

    /// The device where the payload does not name it.
    fn fallback<'a>(&'a self, topic: &'a str) -> Option<&'a str> {
        let level = self.device.level.and_then(|level| topic.split('/').nth(level)).and_then(device_name);
        level.or(self.device.name.as_deref())
    }

    pub(super) fn decode(
        &self,
        payload: &[u8],
        route: &Route,
        sink: &mut Sink<'_>,
    ) -> Result<(), PayloadError> {
        if payload.trim_ascii().is_empty() {
            return Err(PayloadError::new(Cause::Empty, "payload", "what the mapping of this topic reads"));
        }
        if let Some(raw) = self.raw.as_ref().filter(|raw| raw.pointer.is_none()) {
            let device = route.device(sink.cx)?;
            let bytes = raw.bytes(payload)?;
            return raw.push(&bytes, device, None, None, sink);
        }
        let document: Value = serde_json::from_slice(payload).map_err(|e| PayloadError::json(&e))?;
        let Some(each) = &self.each else {
            return self.element(&document, &document, route, sink);
        };
        match each.find(&document) {
            None => Ok(()),
            Some(Value::Array(elements)) => {
                elements.iter().try_for_each(|element| self.element(element, &document, route, sink))
            }
            Some(_) => Err(PayloadError::new(Cause::WrongType, "payload", "an array where `each` points")),
        }
    }

    /// One reading of a JSON payload.
    fn element(
        &self,
        element: &Value,
        document: &Value,
        route: &Route,
        sink: &mut Sink<'_>,
    ) -> Result<(), PayloadError> {
        if !self.when.iter().all(|test| test.holds(element)) {
            return Ok(());
        }
        let rssi_dbm = payload::rssi(&number(self.rssi.as_ref(), element))?;
        let device_ms = payload::time(&self.stamp(element), self.time_unit)?;
        if let Some(raw) = &self.raw {
            let Some(value) = raw.pointer.as_ref().and_then(|pointer| pointer.find(element)) else {
                return Ok(());
            };
            let text = value.as_str().ok_or(raw.error())?;
            let bytes = raw.bytes(text.as_bytes())?;
            let device = self.device(element, document, route, sink)?;
            return raw.push(&bytes, device, rssi_dbm, device_ms, sink);
        }
        let mut intervals = Intervals::new(self.rr_unit);
        for pointer in &self.rr {
            match pointer.find(element) {
                Some(Value::Array(values)) => values.iter().try_for_each(|v| intervals.push(&numeric(v)))?,
                Some(value) => intervals.push(&numeric(value))?,
                None => {}
            }
        }
        let measured = Measurement {
            bpm: payload::bpm(&number(self.bpm.as_ref(), element))?,
            rr: intervals.finish(),
            contact: payload::contact(&flag(self.contact.as_ref(), element))?,
            energy_kj: payload::energy_kj(&number(self.energy_kj.as_ref(), element))?,
            battery_percent: payload::battery(&number(self.battery.as_ref(), element))?,
            rssi_dbm,
        };
        if measured.bpm.is_none() && measured.rr.values.is_empty() {
            // Not a reading: its sender may well leave out the device too.
            return Ok(());
        }
        let device = self.device(element, document, route, sink)?;
        sink.push(device, measured, device_ms)
    }

    fn stamp<'v>(&self, element: &'v Value) -> Scalar<'v> {
        match self.time.as_ref().and_then(|pointer| pointer.find(element)) {
            Some(value @ Value::String(text)) => match numeric(value) {
                Scalar::Text(_) => Scalar::Text(Cow::Borrowed(text)),
                number => number,
            },
            Some(value) => scalar(value),
            None => Scalar::Absent,
        }
    }

    fn device(
        &self,
        element: &Value,
        document: &Value,
        route: &Route,
        sink: &Sink<'_>,
    ) -> Result<DeviceId, PayloadError> {
        let Some(pointer) = &self.device.pointer else {
            return route.device(sink.cx);
        };
        let name = match pointer.find(element).or_else(|| pointer.find(document)) {
            Some(Value::String(name)) => Cow::Borrowed(name.as_str()),
            Some(Value::Number(number)) => Cow::Owned(number.to_string()),
            Some(_) => return Err(PayloadError::new(Cause::WrongType, "device", "text or a number")),
            None => Cow::Borrowed(route.0.payload_device.as_deref().ok_or(no_device())?),
        };
        let name = device_name(&name).ok_or(no_device())?;
        (sink.cx.devices)(name).ok_or(too_many_devices())
    }

    /// The device for payloads of `topic` that should name it and do not.
    pub(super) fn payload_device(&self, topic: &str) -> Option<String> {
        self.device.pointer.as_ref()?;
        self.fallback(topic).map(str::to_owned)
    }
}

impl Test {
    fn holds(&self, element: &Value) -> bool {
        let found = self.pointer.find(element);
        match &self.wanted {
            Wanted::Present(present) => found.is_some() == *present,
            Wanted::Equals(Literal::Bool(flag)) => found.and_then(Value::as_bool) == Some(*flag),
            Wanted::Equals(Literal::Number(number)) => found.and_then(Value::as_f64) == Some(*number),
            Wanted::Equals(Literal::Text(text)) => found.and_then(Value::as_str) == Some(text),
        }
    }
}

/// Base64 of the standard alphabet, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Bytes {
    /// The sensor's bytes in `text`.
    fn bytes<'a>(&self, text: &'a [u8]) -> Result<Cow<'a, [u8]>, PayloadError> {
        let trimmed = text.trim_ascii();
        let unquoted =
            trimmed.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(trimmed);
        match self.encoding {
            Encoding::Binary => Ok(Cow::Borrowed(text)),
            Encoding::Hex => hex::decode(unquoted).map(Cow::Owned).map_err(|_| self.error()),
            Encoding::Base64 => BASE64.decode(unquoted).map(Cow::Owned).map_err(|_| self.error()),
        }
    }

    fn error(&self) -> PayloadError {
        let expected = match self.encoding {
            Encoding::Binary => "bytes",
            Encoding::Hex => "hexadecimal text",
            Encoding::Base64 => "base64 text",
        };
        PayloadError::new(Cause::BadEncoding, "payload", expected)
    }

    fn push(
        &self,
        bytes: &[u8],
        device: DeviceId,
        rssi_dbm: Option<i8>,
        device_ms: Option<i64>,
        sink: &mut Sink<'_>,
    ) -> Result<(), PayloadError> {
        let manufacturer = match self.format {
            RawFormat::Hrm => return sink.push_hrm(device, bytes, rssi_dbm, device_ms),
            RawFormat::Manufacturer => match self.company {
                Some(company) => Some((company, bytes)),
                None => with_company(bytes),
            },
            RawFormat::Advert => match structures(bytes) {
                Some(manufacturer) => manufacturer.and_then(with_company),
                None => with_company(bytes),
            },
        };
        let Some(broadcast) = manufacturer.and_then(|(company, data)| advert::decode(company, data)) else {
            return Ok(());
        };
        let measured = Measurement {
            bpm: broadcast.bpm,
            contact: broadcast.contact,
            battery_percent: broadcast.battery_percent,
            rssi_dbm,
            ..Measurement::default()
        };
        sink.push(device, measured, device_ms)
    }
}

/// Manufacturer data that begins with its company id.
fn with_company(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (company, data) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_le_bytes(*company), data))
}

/// The manufacturer data of an advertisement. `None`: these are no advertising structures.
fn structures(bytes: &[u8]) -> Option<Option<&[u8]>> {
    const MANUFACTURER: u8 = 0xFF;
    let mut found = None;
    let mut rest = bytes;
    while let Some((&length, tail)) = rest.split_first() {
        // Zeros fill up what is not used.
        if length == 0 {
            return tail.iter().all(|b| *b == 0).then_some(found);
        }
        let (structure, tail) = tail.split_at_checked(usize::from(length))?;
        if let Some((&MANUFACTURER, data)) = structure.split_first() {
            found = Some(data);
        }
        rest = tail;
    }
    Some(found)
}

fn scalar(value: &Value) -> Scalar<'_> {
    match value {
        Value::Null => Scalar::Absent,
        Value::Bool(flag) => Scalar::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Scalar::Int(whole),
            (None, Some(real)) => Scalar::Float(real),
            (None, None) => Scalar::Other,
        },
        Value::String(text) => Scalar::Text(Cow::Borrowed(text)),
        Value::Array(_) | Value::Object(_) => Scalar::Other,
    }
}

/// A number, also when it is written as text.
fn numeric(value: &Value) -> Scalar<'_> {
    match value {
        Value::String(text) => {
            let text = text.trim();
            let whole = text.parse().map(Scalar::Int);
            whole.or_else(|_| text.parse().map(Scalar::Float)).unwrap_or_else(|_| scalar(value))
        }
        value => scalar(value),
    }
}

fn number<'v>(pointer: Option<&Pointer>, element: &'v Value) -> Scalar<'v> {
    pointer.and_then(|pointer| pointer.find(element)).map_or(Scalar::Absent, numeric)
}

/// A flag, also when it is written as 0 and 1.
fn flag<'v>(pointer: Option<&Pointer>, element: &'v Value) -> Scalar<'v> {
    match number(pointer, element) {
        Scalar::Int(number @ (0 | 1)) => Scalar::Bool(number == 1),
        Scalar::Text(text) if text == "true" => Scalar::Bool(true),
        Scalar::Text(text) if text == "false" => Scalar::Bool(false),
        other => other,
    }
}
