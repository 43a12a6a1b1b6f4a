//! The configuration as far as it may leave.

use serde_json::{Value, json};

use super::Question;
use crate::redact::Redactor;

/// Larger is no configuration.
const LARGEST: u64 = 1 << 20;

/// The settings in force; where they are wrong, what the file says.
pub fn tree(question: &Question) -> Value {
    let text = match &question.config {
        Ok(config) => config.to_toml().ok(),
        Err(_) => question.config_file.as_ref().and_then(|path| {
            let small = std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST);
            if small { std::fs::read_to_string(path).ok() } else { None }
        }),
    };
    let table = text.and_then(|text| text.parse::<toml::Table>().ok());
    table.and_then(|table| serde_json::to_value(table).ok()).unwrap_or(Value::Null)
}

/// The document of the bundle.
pub fn shown(question: &Question, tree: &Value, redactor: &Redactor) -> Value {
    let settings = redactor.document(tree);
    match &question.config {
        Ok(_) => json!({ "valid": true, "settings": settings }),
        Err(problems) => {
            let problems: Vec<String> =
                problems.0.iter().map(|problem| redactor.text(&problem.to_string())).collect();
            json!({ "valid": false, "problems": problems, "settings": settings })
        }
    }
}
