//! JSON documents, field by field.

use serde_json::{Map, Value};

use super::{Redactor, Rule, rule};

/// Deeper than any document of ours; beyond it is nothing of ours.
const DEEPEST: usize = 32;
/// Stands for what was left out, so that its being there can be seen.
pub const WITHHELD: &str = "(withheld)";

impl Redactor {
    /// A document with only what may leave in it.
    pub fn document(&self, value: &Value) -> Value {
        self.below(value, Rule::Show, DEEPEST)
    }

    fn below(&self, value: &Value, rule_here: Rule, depth: usize) -> Value {
        match value {
            _ if depth == 0 => Value::from(WITHHELD),
            Value::Object(fields) => Value::Object(self.fields(fields, rule_here, depth - 1)),
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.below(item, rule_here, depth - 1)).collect())
            }
            scalar => self.scalar(scalar, rule_here),
        }
    }

    fn fields(&self, fields: &Map<String, Value>, around: Rule, depth: usize) -> Map<String, Value> {
        let mut kept = Map::new();
        for (name, value) in fields {
            // Below a map of names each key is one, also one that looks like a field.
            let (name, own) = match (around, rule(name)) {
                (Rule::Names, _) => (self.tag(name), Rule::Show),
                (Rule::Counts, _) => (self.text(name), Rule::Show),
                (_, Rule::Withhold) if value.is_object() || value.is_array() => {
                    (self.tag(name), Rule::Withhold)
                }
                (_, Rule::Withhold) => (self.text(name), Rule::Withhold),
                (_, own) => (name.clone(), own),
            };
            kept.insert(name, self.below(value, own, depth));
        }
        kept
    }

    /// One value of a field.
    pub fn scalar(&self, value: &Value, rule: Rule) -> Value {
        match (rule, value) {
            (_, Value::Null) => Value::Null,
            (Rule::Show | Rule::Counts, Value::String(text)) => Value::from(self.text(text)),
            (Rule::Show | Rule::Counts, other) => other.clone(),
            (Rule::Tag, Value::String(text)) => Value::from(self.named(text)),
            (Rule::Tag, other) => Value::from(self.tag(&other.to_string())),
            (Rule::Names, Value::String(text)) => Value::from(self.tag(text)),
            (Rule::Names, Value::Bool(_)) => value.clone(),
            (Rule::Names | Rule::Withhold, _) => Value::from(WITHHELD),
        }
    }
}
