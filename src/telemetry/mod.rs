//! Logs, and the metrics of the process. Readable text on standard error, the journal's own fields under systemd, JSON where asked for.
//!
//! Promise: data never goes to standard error and logs never to standard output; the level can be changed while
//! running. Levels are ours: what other crates say below a warning is not shown unless a filter asks for it. The flight
//! recorder ([`crate::flight`]) hears what it has to know whatever the level.

pub mod process;

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, filter::Targets, fmt, reload};

use crate::flight;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// The journal's fields when standard error goes to the journal, else text.
    #[default]
    Auto,
    Text,
    Json,
}

/// What is wrong with a filter.
#[derive(Debug, thiserror::Error)]
#[error(
    "\"{filter}\" is not a log filter ({why}); write error, warn, info, debug, trace, or `info,fogbeat::journal=debug`"
)]
pub struct FilterError {
    filter: String,
    why: String,
}

/// The handle to change the level of a running process, and its flight recorder.
pub struct Logs {
    filter: reload::Handle<Targets, Registry>,
    recorder: flight::Recorder,
}

/// Starts logging. A second call in one process changes nothing (tests).
pub fn start(format: Format, level: &str) -> Result<Logs, FilterError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let journald = (format == Format::Auto && stderr_is_the_journal()).then(tracing_journald::layer);
    let output: Box<dyn Layer<_> + Send + Sync> = match (journald, format) {
        (Some(Ok(layer)), _) => Box::new(layer),
        (_, Format::Json) => Box::new(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)),
        _ => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            Box::new(fmt::layer().with_ansi(colours).with_target(false).with_writer(std::io::stderr))
        }
    };
    let (recorded, recorder) = flight::channel();
    let layers = tracing_subscriber::registry()
        .with(output.with_filter(filter))
        .with(recorded.with_filter(flight::filter()));
    // An error here means that a subscriber is set already, as in tests that start several gateways.
    let _ = layers.try_init();
    crate::panics::tell();
    Ok(Logs { filter: handle, recorder })
}

impl Logs {
    /// What is told is kept in `state_dir` from now on, and what was told before as well. The state directory is ours.
    pub fn record(&mut self, state_dir: &Path) {
        self.recorder.record(state_dir.to_owned());
    }

    /// Waits for the flight recorder, at the end of the program.
    pub fn recorded(&self) -> flight::Recorded {
        self.recorder.recorded()
    }

    /// Changes the level from now on.
    pub fn set(&self, level: &str) -> Result<(), FilterError> {
        let fresh = filter(level)?;
        self.filter
            .reload(fresh)
            .map_err(|error| FilterError { filter: level.to_owned(), why: error.to_string() })
    }
}

/// A bare level is that of fogbeat; the crates below speak only of what is wrong. Anything else is taken literally.
pub fn filter(level: &str) -> Result<Targets, FilterError> {
    let text = match level.parse::<tracing::Level>() {
        // rumqttd calls a subscriber that leaves an error; what matters of it is told by our own router.
        Ok(level) => format!("warn,rumqttd=off,fogbeat={level},flight=off"),
        // What is meant for the flight recorder is shown to who asks for it by name.
        Err(_) if level.contains("flight") => level.to_owned(),
        Err(_) => format!("{level},flight=off"),
    };
    text.parse::<Targets>().map_err(|error| FilterError { filter: level.to_owned(), why: error.to_string() })
}

/// systemd names in `JOURNAL_STREAM` the device and inode of the stream it gave us; a shell below a service inherits
/// the variable, but not the stream.
fn stderr_is_the_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stream| named == format!("{}:{}", stream.dev(), stream.ino()))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_level_is_fogbeats_own_and_a_filter_is_literal() {
        let debug = filter("debug").unwrap();
        assert!(debug.would_enable("fogbeat::journal", &tracing::Level::DEBUG));
        assert!(
            debug.would_enable("sled", &tracing::Level::WARN)
                && !debug.would_enable("sled", &tracing::Level::INFO)
        );
        assert!(!debug.would_enable("rumqttd::router", &tracing::Level::ERROR));
        let literal = filter("error,fogbeat::web=trace").unwrap();
        assert!(literal.would_enable("fogbeat::web", &tracing::Level::TRACE));
        assert!(!literal.would_enable("fogbeat::journal", &tracing::Level::WARN));
        assert!(!literal.would_enable("flight::life", &tracing::Level::INFO));
        assert!(!debug.would_enable("flight::life", &tracing::Level::INFO));
        let told = filter("fogbeat=loud").unwrap_err().to_string();
        assert!(told.contains("fogbeat=loud"), "{told}");
    }
}
