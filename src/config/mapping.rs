//! One `[[mqtt.mapping]]` as it is written.

use serde::{Deserialize, Serialize};

/// Says which topics carry readings and where their values stand.
///
/// Pointers are JSON pointers (RFC 6901; `/` alone is the whole document as well) with selectors for arrays of named
/// values: `/data[name=HR]/value` is the `value` of the first element of `data` whose `name` is `HR`; several
/// selectors in a row must all hold. Numbers may be written as text.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MappingConfig {
    /// Topic filter; `+` is any one level, `#` at the end any number of them.
    pub topic: String,
    pub device: DeviceFrom,
    /// Pointer to an array: each of its elements is a reading of its own, and all other pointers start there (the
    /// device's is looked for in the whole document as well).
    pub each: Option<String>,
    pub bpm: Option<String>,
    /// One pointer to a number or an array of numbers, or several pointers.
    pub rr: Option<OneOrMany>,
    /// `ms` (default), `s` or `1/1024 s`.
    pub rr_unit: RrInput,
    pub time: Option<String>,
    /// `auto` (default), `s`, `cs`, `ms`, `us`, `ns`, `rfc3339` or `yyyy-MM-dd HH:mm:ss` (UTC).
    pub time_unit: TimeUnit,
    pub contact: Option<String>,
    pub energy_kj: Option<String>,
    pub battery: Option<String>,
    pub rssi: Option<String>,
    /// The values are in a sensor's own bytes.
    pub raw: Option<Raw>,
    /// What does not meet all of these is not a reading.
    pub when: Vec<Condition>,
}

/// Whose reading it is; tried in the order pointer, level, name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceFrom {
    /// A field of the payload, text or number.
    pub pointer: Option<String>,
    /// A level of the topic, counted from 0; a leading slash makes level 0 empty.
    pub level: Option<usize>,
    /// The same for all messages.
    pub name: Option<String>,
}

/// `"/rr"` or `["/rri1", "/rri2"]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A sensor's own bytes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub format: RawFormat,
    #[serde(default)]
    pub encoding: Encoding,
    /// Where in a JSON payload; without it the payload is nothing else.
    #[serde(default)]
    pub pointer: Option<String>,
    /// `manufacturer`: the Bluetooth company id, where the bytes do not begin with it.
    #[serde(default)]
    pub company: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum RawFormat {
    /// Heart Rate Measurement, characteristic 0x2A37.
    #[serde(rename = "2a37")]
    Hrm,
    /// Manufacturer specific data of an advertisement.
    #[serde(rename = "manufacturer")]
    Manufacturer,
    /// A whole advertisement (length, type, data, ...), or manufacturer specific data with its company id.
    #[serde(rename = "advert")]
    Advert,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Binary,
    /// Hexadecimal digits, also within JSON quotes.
    Hex,
    /// Standard alphabet, padded or not, also within JSON quotes.
    Base64,
}

/// A condition on a field: either `equals` or `present`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub pointer: String,
    #[serde(default)]
    pub equals: Option<Literal>,
    #[serde(default)]
    pub present: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Literal {
    Bool(bool),
    Number(f64),
    Text(String),
}

/// How a sender writes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum TimeUnit {
    /// RFC 3339 text, or a number since the Unix epoch whose unit shows in its size: below 10^11 seconds (until the
    /// year 5138), below 10^14 milliseconds, below 10^17 microseconds, else nanoseconds.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "s")]
    Seconds,
    /// Hundredths of a second.
    #[serde(rename = "cs")]
    Centiseconds,
    #[serde(rename = "ms")]
    Millis,
    #[serde(rename = "us")]
    Micros,
    #[serde(rename = "ns")]
    Nanos,
    #[serde(rename = "rfc3339")]
    Rfc3339,
    /// `2017-09-20 10:11:12`, meant as UTC.
    #[serde(rename = "yyyy-MM-dd HH:mm:ss")]
    UtcText,
}

/// The unit a sender gives its RR intervals in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub enum RrInput {
    #[default]
    #[serde(rename = "ms")]
    Millis,
    #[serde(rename = "s")]
    Seconds,
    /// Bluetooth's own ticks.
    #[serde(rename = "1/1024 s")]
    Ticks,
}
