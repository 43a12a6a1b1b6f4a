//! What of the program's `tracing` events is recorded. Runs where the event happens: it copies a few bounded words and
//! hands them over, or drops them; nothing here waits.

use std::fmt::{Debug, Write};

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// Longest text of a message or a field that is handed over; a slot holds less.
const LONGEST: usize = 600;
/// Fields of one event that are handed over.
const MOST_FIELDS: usize = 16;

/// Which events are recorded, whatever the log shows.
pub fn filter() -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("rumqttd", LevelFilter::OFF)
        .with_target("fogbeat", LevelFilter::INFO)
        .with_target("flight", LevelFilter::INFO)
}

/// What an event says.
#[derive(Debug, Default)]
pub struct Said {
    pub text: String,
    pub fields: Vec<(&'static str, Value)>,
    /// Set where the event came through the `log` crate.
    pub target: Option<String>,
}

impl Said {
    fn note(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.text = text,
            ("log.target", Value::String(target)) => self.target = Some(target),
            (name, _) if name.starts_with("log.") => {}
            (name, value) if self.fields.len() < MOST_FIELDS => self.fields.push((name, value)),
            _ => {}
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = Bounded(String::new());
        // An error means that it is full.
        let _ = write!(text, "{value:?}");
        self.note(field, Value::String(text.0));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, Value::from(value.get(..value.floor_char_boundary(LONGEST)).unwrap_or_default()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, json!(value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.note(field, json!(u64::try_from(value).unwrap_or(u64::MAX)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.note(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, json!(value));
    }
}

/// A text that grows to [`LONGEST`] and then says so.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = LONGEST.saturating_sub(self.0.len());
        let taken = text.floor_char_boundary(room);
        self.0.push_str(text.get(..taken).unwrap_or_default());
        if taken < text.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}
