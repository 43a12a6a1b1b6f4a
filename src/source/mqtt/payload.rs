//! The default payloads, as they come on `hr/<device>`, and what all payloads have in common.
//!
//! A payload is told apart in this order:
//! 1. an ASCII number: the heart rate in bpm;
//! 2. JSON, beginning with `{` (one reading) or `[` (an array of them): see [`json`] for the keys;
//! 3. a Heart Rate Measurement (0x2A37) as the sensor sent it. Its reserved flag bits must be clear and nothing may
//!    follow its last field (one odd byte excepted), for any text would make a heart rate otherwise.
//!
//! `null` is the same as absent, and unknown keys are ignored. A fractional heart rate is rounded half up. What has
//! neither a heart rate nor RR intervals is not a reading and not an error: nothing is made of it. Everything else
//! that cannot be taken as it stands is a [`PayloadError`], and then nothing of the payload is taken: a publish is
//! acknowledged as a whole.

mod convert;
mod error;
mod json;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

pub(super) use convert::{Intervals, Scalar, battery, bpm, contact, energy_kj, rssi, time};
pub use error::{Cause, PayloadError};

use crate::clock::Stamp;
use crate::reading::validity::{DeviceTimeWindow, Measurement};
use crate::reading::{DeviceId, Reading, RrIntervals, Source, hrm};

/// Most RR intervals of one reading.
pub const MAX_RR: usize = RrIntervals::MOST;

/// What decoding needs to know besides the payload.
pub struct DecodeContext<'a> {
    pub arrival: Stamp,
    /// The number of the route's `topic_device()`. `None`: the topic names no device, or there are too many.
    pub topic_device: Option<DeviceId>,
    /// Gives a device its number; `None`: the limit on distinct devices is reached.
    pub devices: &'a dyn Fn(&str) -> Option<DeviceId>,
    pub source: Source,
}

/// What was tolerated in payloads that were taken.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    rr_artefacts: Counter,
    trailing_bytes: Counter,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "mqtt_rr_artefacts",
            "RR intervals of 0 or 65535 that were dropped from readings",
            self.rr_artefacts.clone(),
        );
        registry.register(
            "mqtt_hrm_trailing_bytes",
            "Bytes behind the last field of raw Heart Rate Measurements",
            self.trailing_bytes.clone(),
        );
    }

    /// RR artefacts dropped since the start.
    pub fn rr_artefacts(&self) -> u64 {
        self.rr_artefacts.get()
    }

    /// Odd trailing bytes ignored since the start.
    pub fn trailing_bytes(&self) -> u64 {
        self.trailing_bytes.get()
    }
}

/// Where decoded measurements become readings.
pub(super) struct Sink<'a> {
    pub cx: &'a DecodeContext<'a>,
    pub window: &'a DeviceTimeWindow,
    pub metrics: &'a Metrics,
    pub out: &'a mut Vec<Reading>,
}

impl Sink<'_> {
    /// Judges a measurement and keeps the reading. `device_ms` is the wearable's stamp, ms since the epoch.
    pub fn push(
        &mut self,
        device: DeviceId,
        measured: Measurement,
        device_ms: Option<i64>,
    ) -> Result<(), PayloadError> {
        if measured.bpm.is_none() && measured.rr.values.is_empty() {
            return Ok(());
        }
        if measured.rr.values.len() > MAX_RR {
            return Err(PayloadError::new(
                Cause::OutOfRange,
                "rr_ms",
                "at most 256 intervals in one reading",
            ));
        }
        let device_time = device_ms.map(|ms| self.window.judge(ms, self.cx.arrival));
        let (reading, dropped) = measured.judge(device, self.cx.source, self.cx.arrival, device_time);
        if dropped > 0 {
            self.metrics.rr_artefacts.inc_by(dropped as u64);
        }
        self.out.push(reading);
        Ok(())
    }

    /// A raw 0x2A37 value.
    pub fn push_hrm(
        &mut self,
        device: DeviceId,
        bytes: &[u8],
        rssi_dbm: Option<i8>,
        device_ms: Option<i64>,
    ) -> Result<(), PayloadError> {
        let value = hrm::decode(bytes).map_err(|_| {
            PayloadError::new(
                Cause::BadHrm,
                "payload",
                "flags, a heart rate, and every field the flags announce",
            )
        })?;
        if value.trailing_bytes > 1 {
            return Err(PayloadError::new(
                Cause::BadHrm,
                "payload",
                "nothing behind the last announced field",
            ));
        }
        if value.trailing_bytes > 0 {
            self.metrics.trailing_bytes.inc();
        }
        self.push(device, Measurement { rssi_dbm, ..value.into() }, device_ms)
    }
}

/// Decodes a default payload of `device`.
pub(super) fn decode(payload: &[u8], device: DeviceId, sink: &mut Sink<'_>) -> Result<(), PayloadError> {
    let text = payload.trim_ascii();
    match text {
        [] => Err(PayloadError::new(Cause::Empty, "payload", "a number, JSON or a Heart Rate Measurement")),
        [b'{', .., b'}'] => json::object(text, device, sink),
        [b'[', .., b']'] => json::array(text, device, sink),
        _ if payload.first() == Some(&b'{') => json::object(payload, device, sink),
        _ if payload.first() == Some(&b'[') => json::array(payload, device, sink),
        _ => match ascii_number(text) {
            Some(number) => {
                let measured = Measurement { bpm: convert::bpm(&number)?, ..Measurement::default() };
                sink.push(device, measured, None)
            }
            None => raw(payload, device, sink),
        },
    }
}

/// `72`, `72.5`, `7.2e1`. `None`: not a number.
fn ascii_number(text: &[u8]) -> Option<Scalar<'static>> {
    if !text.iter().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    text.parse().map(Scalar::Int).or_else(|_| text.parse().map(Scalar::Float)).ok()
}

fn raw(payload: &[u8], device: DeviceId, sink: &mut Sink<'_>) -> Result<(), PayloadError> {
    const RESERVED_FLAGS: u8 = 0b1110_0000;
    if payload.first().is_some_and(|flags| flags & RESERVED_FLAGS != 0) {
        return Err(PayloadError::new(
            Cause::Unrecognised,
            "payload",
            "a number, a JSON object or array, or a Heart Rate Measurement; other payloads need a mapping",
        ));
    }
    sink.push_hrm(device, payload, None, None)
}

#[cfg(test)]
#[path = "payload/tests.rs"]
mod tests;
