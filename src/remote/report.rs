//! What a shadow is told. Pure.

use serde_json::{Map, Value, json};

use super::Status;

/// The document for `update`: what is in force under the keys of the desired one, so that nothing differs once all is
/// applied; `refused` with the reasons. What the shadow has reported before and does not hold any more is taken out
/// (a shadow merges: `null` removes).
pub fn update(status: &Status, reported_before: &Value) -> Value {
    let mut reported = serde_json::to_value(&status.applied).unwrap_or_default();
    if let Value::Object(fields) = &mut reported {
        let refused = serde_json::to_value(&status.refused).unwrap_or_default();
        fields.insert("refused".to_owned(), if status.refused.is_empty() { Value::Null } else { refused });
        fields.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    }
    json!({"state": {"reported": patch(reported_before, reported)}})
}

/// `new` with a `null` for whatever `old` has beyond it.
fn patch(old: &Value, new: Value) -> Value {
    match (old, new) {
        (Value::Object(old), Value::Object(mut new)) => {
            let mut merged = Map::new();
            for (key, value) in old {
                merged.insert(key.clone(), new.remove(key).map_or(Value::Null, |new| patch(value, new)));
            }
            merged.extend(new);
            Value::Object(merged)
        }
        (_, new) => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Desired;

    #[test]
    fn what_was_reported_and_holds_no_more_is_taken_out() {
        let desired = json!({"batch": {"max_age": "5s"}});
        let applied = Desired::judge(&desired, &[]).unwrap();
        let before = json!({"batch": {"max_age": "9s"}, "live": {"interval": "1s"}, "refused": {"x": "y"}});
        let told = update(&Status { applied, ..Status::default() }, &before);
        let expected = json!({"batch": {"max_age": "5s"}, "live": null, "refused": null,
            "version": env!("CARGO_PKG_VERSION")});
        assert_eq!(told["state"]["reported"], expected);
    }
}
