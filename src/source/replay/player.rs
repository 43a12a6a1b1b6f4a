//! Plays one recording into the journal: the driver.
//!
//! A replayed reading is a new reading from source `replay`, taken when it is played; it never pretends to be the one
//! that was recorded. It carries no stamp of a wearable, so nothing is taken for a duplicate. The pace is kept against
//! the monotonic clock from the start of the replay, so a slow disk delays readings and never thins them out.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

use super::Metrics;
use super::error::ReplayError;
use super::moment::Moment;
use super::recording::Recording;
use crate::clock::Clock;
use crate::config;
use crate::config::Speed;
use crate::journal::{Appended, Journal, Ticket};
use crate::reading::validity::Measurement;
use crate::reading::{DeviceId, Reading, Source};

/// Readings handed to the journal at once: bounds the delay before a stop is seen at speed `max`.
const CHUNK: usize = 256;

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Played {
    /// Readings that are on disk.
    pub readings: u64,
    /// Times the recording was begun.
    pub rounds: u64,
}

/// Plays `[[replay]]` until the recording ends (with `loop`: for ever) or `stop` is ready, and waits until what was
/// played is on disk.
///
/// # Errors
/// The recording cannot be read, or the journal has no number left for its devices.
pub async fn play(
    settings: &config::Replay,
    journal: &Journal,
    clock: &dyn Clock,
    metrics: &Metrics,
    stop: impl Future<Output = ()>,
) -> Result<Played, ReplayError> {
    let path = settings.path.clone();
    let recording = tokio::task::spawn_blocking(move || Recording::open(&path))
        .await
        .map_err(|error| ReplayError::Task(error.to_string()))??;
    tracing::info!(path = %settings.path.display(), speed = %settings.speed, "replaying a recording");
    let mut stop = std::pin::pin!(stop);
    let mut player = Player {
        journal,
        clock,
        metrics,
        names: Names::new(settings),
        last: None,
        played: Played::default(),
    };
    loop {
        player.played.rounds += 1;
        let stopped = player.round(&recording, settings.speed, stop.as_mut()).await?;
        if stopped || !settings.repeat {
            break;
        }
    }
    if let Some(ticket) = player.last {
        journal.wait(ticket).await;
    }
    Ok(player.played)
}

struct Player<'a> {
    journal: &'a Journal,
    clock: &'a dyn Clock,
    metrics: &'a Metrics,
    names: Names,
    last: Option<Ticket>,
    played: Played,
}

impl Player<'_> {
    /// Once through the recording; whether it was told to stop.
    async fn round(
        &mut self,
        recording: &Recording,
        speed: Speed,
        mut stop: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, ReplayError> {
        let start = Instant::now();
        let mut rest = recording.moments();
        let mut readings = Vec::with_capacity(CHUNK);
        let mut appended: Vec<Appended> = Vec::with_capacity(CHUNK);
        while let Some(first) = rest.first() {
            if wait_until(start, speed, first.offset_ms, stop.as_mut()).await {
                return Ok(true);
            }
            // While nothing can be stored it stands still.
            tokio::select! {
                biased;
                () = stop.as_mut() => return Ok(true),
                () = self.journal.admitted() => {}
            }
            let elapsed = start.elapsed();
            let due =
                rest.iter().take(CHUNK).take_while(|moment| speed.due(moment.offset_ms) <= elapsed).count();
            let (now, later) = rest.split_at(due.clamp(1, rest.len()));
            rest = later;
            for moment in now {
                readings.push(self.reading(moment)?);
            }
            self.journal.append(&mut readings, &mut appended).await;
            self.last = appended.last().map(|appended| appended.ticket).or(self.last);
            self.played.readings += now.len() as u64;
            self.metrics.readings.inc_by(now.len() as u64);
            readings.clear();
            appended.clear();
        }
        // A repetition begins one period after the last reading, not on top of it.
        Ok(wait_until(start, speed, recording.length_ms(), stop).await)
    }

    fn reading(&mut self, moment: &Moment) -> Result<Reading, ReplayError> {
        let device = self.names.number(moment, self.journal)?;
        let measurement = Measurement {
            bpm: moment.bpm,
            rr: moment.rr.clone(),
            contact: moment.contact,
            energy_kj: moment.energy_kj,
            battery_percent: moment.battery_percent,
            rssi_dbm: None,
        };
        let (reading, artefacts) = measurement.judge(device, Source::Replay, self.clock.now(), None);
        self.metrics.artefacts.inc_by(artefacts as u64);
        Ok(reading)
    }
}

/// Waits until a moment of the recording is due; true when `stop` came first. Stop wins also at speed `max`.
async fn wait_until(
    start: Instant,
    speed: Speed,
    offset_ms: u64,
    stop: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> bool {
    let due = start.checked_add(speed.due(offset_ms));
    tokio::select! {
        biased;
        () = stop => true,
        () = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        } => false,
    }
}

/// The journal's numbers of the recording's devices.
struct Names {
    /// Overrides what the recording says.
    fixed: Option<Arc<str>>,
    fallback: Arc<str>,
    known: HashMap<Arc<str>, DeviceId>,
}

impl Names {
    fn new(settings: &config::Replay) -> Self {
        let stem = settings.path.file_name().map_or_else(
            || "replay".to_owned(),
            |name| {
                let name = name.to_string_lossy();
                name.split('.').next().filter(|stem| !stem.is_empty()).unwrap_or("replay").to_owned()
            },
        );
        Self {
            fixed: settings.device.as_deref().map(Arc::from),
            fallback: Arc::from(stem),
            known: HashMap::new(),
        }
    }

    fn number(&mut self, moment: &Moment, journal: &Journal) -> Result<DeviceId, ReplayError> {
        let name = self.fixed.as_ref().or(moment.device.as_ref()).unwrap_or(&self.fallback);
        if let Some(id) = self.known.get(name) {
            return Ok(*id);
        }
        let id =
            journal.devices().intern(name).ok_or_else(|| ReplayError::TooManyDevices(name.to_string()))?;
        self.known.insert(Arc::clone(name), id);
        Ok(id)
    }
}
