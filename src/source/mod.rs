//! Where readings come from.
pub mod bluetooth;
pub mod mqtt;
pub mod replay;

use crate::config::{Config, Problem};

/// What is wrong with the sources' settings beyond what the configuration itself can tell: the mapping table, the list
/// of Bluetooth devices.
pub fn judge(config: &Config) -> Vec<Problem> {
    let errors = mqtt::mapping::Mappings::compile(&config.mqtt.custom, &config.mqtt.mappings).err();
    let problem = |error: mqtt::mapping::MappingError| {
        Problem::new(error.key, format!("{:?} is not usable", error.value), error.remedy)
    };
    let mappings = errors.unwrap_or_default().into_iter().map(problem);
    mappings.chain(bluetooth::problems(&config.ble)).collect()
}
