//! Replay: recordings played as if a wearable sent them, for demos, tests and support.
//!
//! Promises: every reading of the recording goes into the journal, in order, at the asked speed (`1x`, `60x`, `max`),
//! with source `replay` and the time at which it was played. RR intervals are kept exactly. Beats (CSV) become one
//! notification a second, as a chest strap sends them; JSON lines keep their own rhythm. What cannot be read is refused
//! before the first reading, with the file, the line and what would be understood.
//!
//! Does not: read recordings larger than memory ([`MAX_READINGS`]), nor keep the recorded times or verdicts.

mod beats;
mod csv;
mod error;
mod lines;
mod moment;
mod player;
mod recording;

pub use beats::{Beat, Frame, Notifications, PERIOD_MS, chained, notifications};
pub use csv::beats as csv_beats;
pub use error::{LineProblem, RecordingError, ReplayError};
pub use moment::Moment;
pub use player::{Played, play};
pub use recording::{MAX_READINGS, Problem, Recording};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of all replays together.
#[derive(Debug, Default, Clone)]
pub struct Metrics {
    readings: Counter,
    artefacts: Counter,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("replay_readings", "Readings played from recordings", self.readings.clone());
        registry.register(
            "replay_rr_artefacts",
            "RR intervals dropped as no sensor means them",
            self.artefacts.clone(),
        );
    }
}
