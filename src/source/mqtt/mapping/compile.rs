//! From what is written to what is used: every mistake is found here, none at the first message.

use super::pointer::Pointer;
use super::topic::Filter;
use super::{MAX_DEVICE_NAME, Mapping, Payload, device_name};
use crate::config::mapping::{
    Condition, Encoding, Literal, MappingConfig, OneOrMany, Raw, RawFormat, RrInput, TimeUnit,
};

/// One mistake in the mapping table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value:?}: {remedy}")]
pub struct MappingError {
    /// As it stands in the configuration: `mqtt.mapping[1].bpm`, or `mqtt.mappings`.
    pub key: String,
    pub value: String,
    /// What is wrong, and what to write.
    pub remedy: String,
}

/// A checked mapping.
#[derive(Debug)]
pub(super) struct Table {
    pub device: Device,
    pub each: Option<Pointer>,
    pub when: Vec<Test>,
    pub bpm: Option<Pointer>,
    pub rr: Vec<Pointer>,
    pub rr_unit: RrInput,
    pub time: Option<Pointer>,
    pub time_unit: TimeUnit,
    pub contact: Option<Pointer>,
    pub energy_kj: Option<Pointer>,
    pub battery: Option<Pointer>,
    pub rssi: Option<Pointer>,
    pub raw: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct Device {
    pub pointer: Option<Pointer>,
    pub level: Option<usize>,
    pub name: Option<String>,
}

#[derive(Debug)]
pub(super) struct Bytes {
    pub format: RawFormat,
    pub encoding: Encoding,
    pub pointer: Option<Pointer>,
    pub company: Option<u16>,
}

#[derive(Debug)]
pub(super) struct Test {
    pub pointer: Pointer,
    pub wanted: Wanted,
}

#[derive(Debug)]
pub(super) enum Wanted {
    Equals(Literal),
    Present(bool),
}

/// Compiles the operator's own mappings. Of two with the same filter the second would never be used.
pub(super) fn custom(configs: &[MappingConfig], mappings: &mut Vec<Mapping>, errors: &mut Vec<MappingError>) {
    for (index, config) in configs.iter().enumerate() {
        let mut checker = Checker { prefix: format!("mqtt.mapping[{index}]"), errors };
        let first = configs.iter().take(index).position(|earlier| earlier.topic == config.topic);
        if let Some(first) = first {
            checker.error(
                "topic",
                &config.topic,
                format!("mqtt.mapping[{first}] has the same filter and is tried first; make one of the two"),
            );
        }
        mappings.extend(checker.mapping(config));
    }
}

/// Compiles one mapping of a preset.
pub(super) fn preset(name: &str, config: &MappingConfig, errors: &mut Vec<MappingError>) -> Option<Mapping> {
    Checker { prefix: format!("preset {name}"), errors }.mapping(config)
}

struct Checker<'a> {
    prefix: String,
    errors: &'a mut Vec<MappingError>,
}

impl Checker<'_> {
    fn error(&mut self, key: &str, value: &str, remedy: impl Into<String>) {
        self.errors.push(MappingError {
            key: format!("{}.{key}", self.prefix),
            value: value.to_owned(),
            remedy: remedy.into(),
        });
    }

    /// The checked mapping; without a usable filter there is none, and an error says so.
    fn mapping(&mut self, config: &MappingConfig) -> Option<Mapping> {
        let filter = match Filter::parse(&config.topic) {
            Ok(filter) => Some(filter),
            Err(problem) => {
                self.error("topic", &config.topic, problem);
                None
            }
        };
        let table = Table {
            device: self.device(config, filter.as_ref()),
            each: self.pointer("each", config.each.as_deref()),
            when: config.when.iter().enumerate().filter_map(|(i, c)| self.condition(i, c)).collect(),
            bpm: self.pointer("bpm", config.bpm.as_deref()),
            rr: config
                .rr
                .iter()
                .flat_map(OneOrMany::as_slice)
                .filter_map(|text| self.pointer("rr", Some(text)))
                .collect(),
            rr_unit: config.rr_unit,
            time: self.pointer("time", config.time.as_deref()),
            time_unit: config.time_unit,
            contact: self.pointer("contact", config.contact.as_deref()),
            energy_kj: self.pointer("energy_kj", config.energy_kj.as_deref()),
            battery: self.pointer("battery", config.battery.as_deref()),
            rssi: self.pointer("rssi", config.rssi.as_deref()),
            raw: config.raw.as_ref().map(|raw| self.raw(raw)),
        };
        self.values(config);
        filter.map(|filter| Mapping { filter, payload: Payload::Table(Box::new(table)) })
    }

    fn pointer(&mut self, key: &str, text: Option<&str>) -> Option<Pointer> {
        let text = text?;
        match Pointer::parse(text) {
            Ok(pointer) => Some(pointer),
            Err(problem) => {
                self.error(key, text, format!("{problem}; write a JSON pointer such as /heart_rate/value"));
                None
            }
        }
    }

    fn device(&mut self, config: &MappingConfig, filter: Option<&Filter>) -> Device {
        let device = &config.device;
        if let (Some(level), Some(filter)) = (device.level, filter)
            && !filter.reaches(level)
        {
            self.error(
                "device.level",
                &level.to_string(),
                format!("{} has no such level; they are counted from 0", filter.as_str()),
            );
        }
        if let Some(name) = device.name.as_deref().filter(|name| device_name(name).is_none()) {
            self.error(
                "device.name",
                name,
                format!("a name has 1 to {MAX_DEVICE_NAME} bytes and no control characters"),
            );
        }
        if device.pointer.is_none() && device.level.is_none() && device.name.is_none() {
            self.error("device", "", "say whose readings these are: a topic level, a pointer or a name");
        }
        Device {
            pointer: self.pointer("device.pointer", device.pointer.as_deref()),
            level: device.level,
            name: device.name.clone(),
        }
    }

    fn condition(&mut self, index: usize, condition: &Condition) -> Option<Test> {
        let key = format!("when[{index}]");
        let pointer = self.pointer(&format!("{key}.pointer"), Some(&condition.pointer));
        let wanted = match (&condition.equals, condition.present) {
            (Some(literal), None) => Wanted::Equals(literal.clone()),
            (None, Some(present)) => Wanted::Present(present),
            _ => {
                self.error(&key, &condition.pointer, "write either `equals` or `present`");
                return None;
            }
        };
        Some(Test { pointer: pointer?, wanted })
    }

    fn raw(&mut self, raw: &Raw) -> Bytes {
        if raw.pointer.is_some() && raw.encoding == Encoding::Binary {
            self.error("raw.encoding", "binary", "bytes within JSON are `hex` or `base64`");
        }
        if let Some(company) = raw.company.filter(|_| raw.format != RawFormat::Manufacturer) {
            self.error(
                "raw.company",
                &format!("{company:#06x}"),
                "only the format `manufacturer` has a company",
            );
        }
        Bytes {
            format: raw.format,
            encoding: raw.encoding,
            pointer: self.pointer("raw.pointer", raw.pointer.as_deref()),
            company: raw.company,
        }
    }

    /// Values come from pointers or from a sensor's bytes, not from both.
    fn values(&mut self, config: &MappingConfig) {
        let Some(raw) = &config.raw else {
            if config.bpm.is_none() && config.rr.as_ref().is_none_or(|rr| rr.as_slice().is_empty()) {
                self.error("bpm", "", "say where the heart rate (or `rr`) stands; `/` is the whole payload");
            }
            return;
        };
        let in_bytes = [
            ("bpm", config.bpm.as_deref()),
            ("rr", config.rr.as_ref().and_then(|rr| rr.as_slice().first()).map(String::as_str)),
            ("contact", config.contact.as_deref()),
            ("energy_kj", config.energy_kj.as_deref()),
            ("battery", config.battery.as_deref()),
        ];
        for (key, pointer) in in_bytes {
            if let Some(pointer) = pointer {
                self.error(key, pointer, "with `raw` this value is in the sensor's bytes; leave it out");
            }
        }
        if raw.pointer.is_some() {
            return;
        }
        let in_json = [
            ("each", config.each.as_deref()),
            ("time", config.time.as_deref()),
            ("rssi", config.rssi.as_deref()),
            ("device.pointer", config.device.pointer.as_deref()),
            ("when", config.when.first().map(|condition| condition.pointer.as_str())),
        ];
        for (key, pointer) in in_json {
            if let Some(pointer) = pointer {
                self.error(key, pointer, "without `raw.pointer` the payload is no JSON; leave it out");
            }
        }
    }
}
