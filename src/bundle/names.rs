//! The names that this gateway knows: what is one of them is replaced even where it reads like a word of a message.

use std::path::Path;

use serde_json::Value;

use crate::config::UplinkKind;
use crate::privacy::Names;
use crate::redact::{Rule, rule};
use crate::source::bluetooth::Allowed;
use crate::source::mqtt::users::Store;

/// Default names, which tell nothing; as tags they would take their meaning from messages.
const PLAIN: [&str; 3] = ["fogbeat", "localhost", "hr"];

/// From the configuration, the device store, the allow-list, the pseudonyms, and the host's own name. What cannot be read
/// is passed over: words that are not known are replaced all the same.
pub fn of(config: &Value, state_dir: &Path) -> Vec<String> {
    let mut names = in_document(config);
    if let Ok(devices) = Store::new(state_dir).list() {
        for device in devices {
            let filters = device.publish.iter().chain(&device.subscribe);
            names.extend(filters.flat_map(|filter| filter.split('/').map(str::to_owned)));
            names.push(device.name);
        }
    }
    if let Ok(wearables) = Allowed::new(state_dir).list() {
        for wearable in wearables {
            names.extend(
                [wearable.address, wearable.polar_id, wearable.name, wearable.alias].into_iter().flatten(),
            );
        }
    }
    if let Ok(known) = Names::new(state_dir).list() {
        names.extend(known.into_iter().flat_map(|known| [known.device, known.pseudonym]));
    }
    names.push(rustix::system::uname().nodename().to_string_lossy().into_owned());
    names.retain(|name| !is_plain(name));
    names
}

/// What stands in a document where names stand.
pub fn in_document(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    below(value, Rule::Show, &mut names);
    names.retain(|name| !is_plain(name));
    names
}

fn below(value: &Value, here: Rule, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                if here == Rule::Names {
                    names.push(field.clone());
                }
                below(value, rule(field), names);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| below(item, here, names)),
        // Of a path, or of a topic that AWS has laid down, the parts are words like any other.
        Value::String(text) if here == Rule::Tag && !text.starts_with(['/', '$']) => {
            let rest = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
            names.extend(rest.split('/').map(str::to_owned));
            names.push(text.clone());
        }
        _ => {}
    }
}

fn is_plain(name: &str) -> bool {
    PLAIN.contains(&name) || UplinkKind::LABELS.contains(&name) || name.chars().all(|c| !c.is_alphanumeric())
}
