//! Ready-made mappings for what is found in the field; each is a file of `config/mappings/`.

use serde::Deserialize;

use super::Mapping;
use super::compile::{self, MappingError};
use crate::config::mapping::MappingConfig;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../config/mappings/", $name, ".toml")))),*]
    };
}

/// Name and text of every preset.
pub(super) const PRESETS: &[(&str, &str)] = presets![
    "espruinohub",
    "heartrate2mqtt",
    "omh",
    "pozyx",
    "qz",
    "redback",
    "serverless-talk",
    "streampulse",
    "theengs",
    "theengs-xoss",
    "twente-h10",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PresetFile {
    mapping: Vec<MappingConfig>,
}

/// The names of all presets.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// Compiles the presets that are switched on, in their order.
pub(super) fn compile(wanted: &[String], mappings: &mut Vec<Mapping>, errors: &mut Vec<MappingError>) {
    for name in wanted {
        let Some((name, text)) = PRESETS.iter().find(|(known, _)| known == name) else {
            errors.push(unknown(name));
            continue;
        };
        match toml::from_str::<PresetFile>(text) {
            Ok(file) => mappings
                .extend(file.mapping.iter().filter_map(|config| compile::preset(name, config, errors))),
            Err(problem) => errors.push(MappingError {
                key: "mqtt.mappings".to_owned(),
                value: (*name).to_owned(),
                remedy: format!("this preset is damaged, please report it: {problem}"),
            }),
        }
    }
}

fn unknown(name: &str) -> MappingError {
    /// Below this likeness a suggestion confuses more than it helps.
    const ALIKE: f64 = 0.7;
    let nearest = names()
        .map(|known| (strsim::jaro_winkler(known, name), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let list = names().collect::<Vec<_>>().join(", ");
    let remedy = match nearest {
        Some((_, known)) => format!("there is no such preset, did you mean {known:?}? There are: {list}"),
        None => format!("there is no such preset. There are: {list}"),
    };
    MappingError { key: "mqtt.mappings".to_owned(), value: name.to_owned(), remedy }
}
