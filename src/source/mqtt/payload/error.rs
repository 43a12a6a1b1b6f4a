//! Why a payload made no reading.

use std::fmt;

/// The kind of defect; its label is a metric's label and never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No bytes (also what clears a retained message).
    Empty,
    /// No format that could be told.
    Unrecognised,
    /// Not well-formed JSON.
    BadJson,
    /// A value of another JSON type than the field has.
    WrongType,
    /// A number (or a count of them) that the field cannot have.
    OutOfRange,
    /// The same field twice.
    Duplicate,
    /// A time stamp that cannot be read.
    BadTime,
    /// Not a 0x2A37 value.
    BadHrm,
    /// Neither hexadecimal nor base64, where the mapping says so.
    BadEncoding,
    /// No usable device name in topic or payload.
    NoDevice,
    /// One more distinct device than the gateway takes.
    TooManyDevices,
}

impl Cause {
    /// Every cause, for metrics that start at 0.
    pub const ALL: [Self; 11] = [
        Self::Empty,
        Self::Unrecognised,
        Self::BadJson,
        Self::WrongType,
        Self::OutOfRange,
        Self::Duplicate,
        Self::BadTime,
        Self::BadHrm,
        Self::BadEncoding,
        Self::NoDevice,
        Self::TooManyDevices,
    ];

    /// The stable label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Unrecognised => "unrecognised",
            Self::BadJson => "bad_json",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::Duplicate => "duplicate",
            Self::BadTime => "bad_time",
            Self::BadHrm => "bad_hrm",
            Self::BadEncoding => "bad_encoding",
            Self::NoDevice => "no_device",
            Self::TooManyDevices => "too_many_devices",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A payload that cannot be read. Its message names the field and what belongs there, never the value: that is
/// somebody's health, and the message may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {field}: expected {expected}{}", At(*.at))]
pub struct PayloadError {
    pub cause: Cause,
    /// The field as fogbeat names it (`bpm`, `time`, ...), `device`, or `payload` for all of it.
    pub field: &'static str,
    /// What would have been taken.
    pub expected: &'static str,
    /// Where in the payload, for JSON that is not well-formed: bytes from the start of its line, from 1.
    pub at: Option<usize>,
}

impl PayloadError {
    pub(in crate::source::mqtt) const fn new(
        cause: Cause,
        field: &'static str,
        expected: &'static str,
    ) -> Self {
        Self { cause, field, expected, at: None }
    }

    pub(in crate::source::mqtt) fn json(error: &serde_json::Error) -> Self {
        if error.is_data() {
            return Self::new(Cause::WrongType, "payload", "a JSON object, or an array of objects");
        }
        Self { at: Some(error.column()), ..Self::new(Cause::BadJson, "payload", "well-formed JSON") }
    }
}

struct At(Option<usize>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(at) => write!(f, " (at byte {at})"),
            None => Ok(()),
        }
    }
}
