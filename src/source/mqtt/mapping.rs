//! The mapping table: which topics carry readings, whose they are, and where in the payload the values stand.
//!
//! [`Mappings::compile`] checks everything beforehand and reports every error at once. [`Mappings::route`] finds the
//! mapping of a topic: the operator's own first, then the presets in the order they were switched on, then the
//! built-in `hr/+`. A [`Route`] decodes the payloads of one topic; callers keep it, so that nothing is looked up per
//! message.

mod compile;
mod decode;
mod pointer;
mod presets;
mod topic;

use std::sync::Arc;

pub use compile::MappingError;
pub use presets::names as preset_names;

use super::payload::{self, Sink};
pub use super::payload::{Cause, DecodeContext, Metrics, PayloadError};
use crate::config::mapping::MappingConfig;
use crate::reading::Reading;
use crate::reading::validity::DeviceTimeWindow;

use compile::Table;
use topic::Filter;

/// Longest device name taken, in bytes.
pub const MAX_DEVICE_NAME: usize = 128;

/// All mappings of a gateway, checked.
#[derive(Debug)]
pub struct Mappings {
    mappings: Vec<Arc<Mapping>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Mapping {
    filter: Filter,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    /// `hr/<device>` with the default payloads.
    Default,
    Table(Box<Table>),
}

#[derive(Debug, Default)]
struct Shared {
    window: DeviceTimeWindow,
    metrics: Metrics,
}

/// The built-in topic filter; its last level is the device.
pub const DEFAULT_FILTER: &str = "hr/+";

impl Mappings {
    /// Checks the operator's own mappings (`custom`, in the order of `[[mqtt.mapping]]`) and the names of `presets`.
    ///
    /// # Errors
    /// Every mistake that was found, each with its key, value and remedy.
    pub fn compile(custom: &[MappingConfig], presets: &[String]) -> Result<Self, Vec<MappingError>> {
        let mut mappings = Vec::new();
        let mut errors = Vec::new();
        compile::custom(custom, &mut mappings, &mut errors);
        presets::compile(presets, &mut mappings, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        mappings.push(Mapping { filter: Filter::device_below("hr"), payload: Payload::Default });
        Ok(Self { mappings: mappings.into_iter().map(Arc::new).collect(), shared: Arc::default() })
    }

    /// Judges stamps of wearables by `window`; for before the first route is taken.
    #[must_use]
    pub fn judging_by(self, window: DeviceTimeWindow) -> Self {
        let shared = Shared { window, metrics: self.shared.metrics.clone() };
        Self { shared: Arc::new(shared), ..self }
    }

    /// The route of a topic. `None`: nobody maps it, its messages are not readings.
    pub fn route(&self, topic: &str) -> Option<Route> {
        let mapping = self.mappings.iter().find(|mapping| mapping.filter.matches(topic))?;
        let topic_device = match &mapping.payload {
            Payload::Default => device_name(topic.split('/').nth(1)?),
            Payload::Table(table) => table.topic_device(topic),
        };
        Some(Route(Arc::new(RouteInner {
            mapping: Arc::clone(mapping),
            topic_device: topic_device.map(str::to_owned),
            payload_device: match &mapping.payload {
                Payload::Default => None,
                Payload::Table(table) => table.payload_device(topic),
            },
            shared: Arc::clone(&self.shared),
        })))
    }

    /// The topic filters in the order they are tried.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.mappings.iter().map(|mapping| mapping.filter.as_str())
    }

    /// What was tolerated in payloads.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

/// How the messages of one topic are read; cheap to clone.
#[derive(Debug, Clone)]
pub struct Route(Arc<RouteInner>);

#[derive(Debug)]
struct RouteInner {
    mapping: Arc<Mapping>,
    topic_device: Option<String>,
    /// For payloads that should name their device and do not.
    payload_device: Option<String>,
    shared: Arc<Shared>,
}

impl Route {
    /// The device, where the topic alone (or the mapping) tells it. `None`: each payload names its own.
    pub fn topic_device(&self) -> Option<&str> {
        self.0.topic_device.as_deref()
    }

    /// The filter of the mapping that was chosen.
    pub fn filter(&self) -> &str {
        self.0.mapping.filter.as_str()
    }

    /// Whether this is the built-in `hr/<device>`.
    pub fn is_default(&self) -> bool {
        matches!(self.0.mapping.payload, Payload::Default)
    }

    /// Decodes one payload; its readings are appended to `out` in the order they stand there. `Ok` without a reading
    /// means that the payload has none (no heart rate now, a condition not met).
    ///
    /// # Errors
    /// When the payload cannot be read; then `out` is as it was.
    pub fn decode(
        &self,
        payload: &[u8],
        cx: &DecodeContext<'_>,
        out: &mut Vec<Reading>,
    ) -> Result<(), PayloadError> {
        let before = out.len();
        let shared = &self.0.shared;
        let mut sink = Sink { cx, window: &shared.window, metrics: &shared.metrics, out };
        let decoded = match &self.0.mapping.payload {
            Payload::Default => {
                self.device(cx).and_then(|device| payload::decode(payload, device, &mut sink))
            }
            Payload::Table(table) => table.decode(payload, self, &mut sink),
        };
        if decoded.is_err() {
            out.truncate(before);
        }
        decoded
    }

    /// The number of the topic's device.
    fn device(&self, cx: &DecodeContext<'_>) -> Result<crate::reading::DeviceId, PayloadError> {
        cx.topic_device.ok_or_else(|| {
            if self.0.topic_device.is_some() { decode::too_many_devices() } else { decode::no_device() }
        })
    }
}

/// A device name that can stand on a line: not empty, not too long, no control characters.
fn device_name(name: &str) -> Option<&str> {
    let fits = !name.is_empty() && name.len() <= MAX_DEVICE_NAME && !name.chars().any(char::is_control);
    fits.then_some(name)
}

#[cfg(test)]
#[path = "mapping/tests.rs"]
mod tests;
