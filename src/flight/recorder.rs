//! The thread that writes, and the channel to it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::layer::Said;
use super::ring::{Before, Ring};
use super::{Entry, FIGURES, FILE, LIFE, Lane};
use crate::clock::{self, BootId};
use crate::redact::{Redactor, Rule, rule};

/// Events on their way; each holds some hundred bytes, at most 11 KB. When it is full they are dropped and counted.
const PLACES: usize = 256;
/// What is more than this long ago survives a power cut.
const SYNC_WITHIN: Duration = Duration::from_secs(30);
/// The same for starts, stops and errors; and the least time between two syncs.
const SYNC_SOON: Duration = Duration::from_secs(5);
/// How often one line of source is recorded in [`WINDOW`].
const MOST_ALIKE: u64 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Where the file cannot be opened (a full disk), it is tried again this often.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the end of the program waits for the last records.
const LAST_WAIT: Duration = Duration::from_millis(500);
/// Who speaks of the gateway's life in the log.
const WATCHDOG: &str = "fogbeat::gateway::watchdog";
const PANICS: &str = "fogbeat::panics";
/// The thread formats short texts.
const STACK: usize = 256 << 10;

enum Word {
    Event(Box<Told>),
    /// Everything before it is to be written and synced.
    Flush(SyncSender<()>),
}

/// An event as it was told.
struct Told {
    uptime_ms: u64,
    time_ms: i64,
    metadata: &'static Metadata<'static>,
    said: Said,
}

/// The side of those who tell.
pub struct FlightLayer {
    to: SyncSender<Word>,
    dropped: Arc<AtomicU64>,
}

/// The side that keeps; nothing is written before [`Recorder::record`].
pub struct Recorder {
    to: SyncSender<Word>,
    from: Option<Receiver<Word>>,
    dropped: Arc<AtomicU64>,
}

/// A recorder and the layer that feeds it.
pub fn channel() -> (FlightLayer, Recorder) {
    let (to, from) = sync_channel(PLACES);
    let dropped = Arc::new(AtomicU64::new(0));
    let layer = FlightLayer { to: to.clone(), dropped: Arc::clone(&dropped) };
    (layer, Recorder { to, from: Some(from), dropped })
}

impl<S: Subscriber> Layer<S> for FlightLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let (uptime_ms, time_ms) = clock::both();
        let told = Told { uptime_ms, time_ms, metadata: event.metadata(), said };
        if self.to.try_send(Word::Event(Box::new(told))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Recorder {
    /// From now on events are written into the ring in `state_dir`, those from before as well. A second call does nothing.
    pub fn record(&mut self, state_dir: PathBuf) {
        let Some(from) = self.from.take() else { return };
        let writer = Writer::new(state_dir, Arc::clone(&self.dropped));
        let started = std::thread::Builder::new()
            .name("flight".into())
            .stack_size(STACK)
            .spawn(move || writer.run(&from));
        if let Err(error) = started {
            tracing::warn!(%error, "the flight recorder cannot be started: what happens is only in the log");
        }
    }

    /// For who has to wait for the last records.
    pub fn recorded(&self) -> Recorded {
        Recorded(self.to.clone())
    }
}

/// The side of who waits for the last records.
pub struct Recorded(SyncSender<Word>);

impl Recorded {
    /// Waits until everything that was told is on the disk, but no longer than half a second.
    pub fn flush(&self) {
        let (done, ended) = sync_channel(1);
        if self.0.try_send(Word::Flush(done)).is_ok() {
            // Too late or never: the disk hangs, and the program's end does not wait for it.
            let _ = ended.recv_timeout(LAST_WAIT);
        }
    }
}

/// Where records go at the moment.
enum Place {
    Ring(Ring),
    /// It cannot be used; tried again then.
    None(Instant),
}

/// Unsynced records, and when they have to be on the disk.
enum Dirt {
    Clean,
    Due(Instant),
}

struct Alike {
    since: Instant,
    count: u64,
    suppressed: u64,
}

struct Writer {
    state_dir: PathBuf,
    boot: BootId,
    dropped: Arc<AtomicU64>,
    redactor: Option<Redactor>,
    place: Place,
    dirt: Dirt,
    synced: Instant,
    /// Whether this life's first record is written: the ring may be lost and found while it lasts.
    begun: bool,
    alike: HashMap<tracing::callsite::Identifier, Alike>,
}

impl Writer {
    fn new(state_dir: PathBuf, dropped: Arc<AtomicU64>) -> Self {
        let now = Instant::now();
        let boot = clock::boot_id();
        let place = Place::None(now);
        Self {
            state_dir,
            boot,
            dropped,
            redactor: None,
            place,
            dirt: Dirt::Clean,
            synced: now,
            begun: false,
            alike: HashMap::new(),
        }
    }

    fn run(mut self, from: &Receiver<Word>) {
        self.open();
        loop {
            let wait = match self.dirt {
                Dirt::Clean => None,
                Dirt::Due(at) => Some(at.saturating_duration_since(Instant::now())),
            };
            let word = match wait {
                None => from.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => from.recv_timeout(wait),
            };
            match word {
                Ok(Word::Event(told)) => self.write(*told),
                Ok(Word::Flush(done)) => {
                    self.sync();
                    // Who asked may have given up.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.sync();
                    return;
                }
            }
            if let Dirt::Due(at) = self.dirt
                && at <= Instant::now()
            {
                self.sync();
            }
        }
    }

    fn open(&mut self) {
        let Place::None(at) = self.place else { return };
        if at > Instant::now() {
            return;
        }
        match Ring::open(&self.state_dir.join(FILE)) {
            Ok((ring, before)) => {
                self.place = Place::Ring(ring);
                if !self.begun {
                    self.begin(&before);
                }
            }
            Err(_) => self.place = Place::None(Instant::now() + AGAIN),
        }
    }

    /// What the ring shows of the life before this one.
    fn begin(&mut self, before: &Before) {
        self.begun = true;
        let end = match &before.last {
            None => "nothing is known of one",
            Some(last) if last.text == "stop" => "stopped",
            Some(last) if last.boot == self.short_boot() => "killed or crashed",
            Some(_) => "cut off with its machine",
        };
        let fields = [("end", json!(end)), ("damaged", json!(before.damaged))];
        let (uptime_ms, time_ms) = clock::both();
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.put(
            Lane::Life,
            self.entry(uptime_ms, time_ms, "info", "flight", "the life before".into(), fields),
        );
        self.due(SYNC_SOON);
    }

    fn write(&mut self, told: Told) {
        self.open();
        let now = Instant::now();
        let Some(again) = self.admit(told.metadata.callsite(), now) else { return };
        if self.redactor.is_none() {
            self.redactor = Redactor::new(&self.state_dir).ok();
        }
        // Without random numbers there is no key, and nothing is written that was not redacted.
        let Some(redactor) = &self.redactor else { return };
        let target = told.said.target.as_deref().unwrap_or(told.metadata.target());
        let lane = match target {
            LIFE | WATCHDOG | PANICS => Lane::Life,
            FIGURES => Lane::Figures,
            _ => Lane::Events,
        };
        let mut fields = Map::new();
        for (name, value) in &told.said.fields {
            let shown = match (*name, value, lane) {
                // Made by the program itself, of nothing from outside.
                ("version" | "configuration" | "boot", Value::String(_), Lane::Life) => value.clone(),
                (name, value, _) if rule(name) != Rule::Withhold => redactor.scalar(value, rule(name)),
                _ => continue,
            };
            if !shown.is_null() {
                fields.insert((*name).to_owned(), shown);
            }
        }
        let level = told.metadata.level();
        let text = redactor.text(&told.said.text);
        let from = target.trim_start_matches("fogbeat::").to_owned();
        let shown = level.as_str().to_ascii_lowercase();
        let mut entry = self.entry(told.uptime_ms, told.time_ms, &shown, &from, text, fields);
        entry.again = again;
        if !redactor.is_lasting() {
            // The gateway's own key comes with its audit log, a moment after the first start began.
            self.redactor = None;
        }
        self.put(lane, entry);
        self.due(if lane == Lane::Life || *level == Level::ERROR { SYNC_SOON } else { SYNC_WITHIN });
    }

    /// Whether one more from this line of source is recorded; how many were not before it.
    fn admit(&mut self, callsite: tracing::callsite::Identifier, now: Instant) -> Option<u64> {
        let alike = self.alike.entry(callsite).or_insert(Alike { since: now, count: 0, suppressed: 0 });
        if now.saturating_duration_since(alike.since) >= WINDOW {
            (alike.since, alike.count) = (now, 0);
        }
        if alike.count >= MOST_ALIKE {
            alike.suppressed += 1;
            return None;
        }
        alike.count += 1;
        Some(std::mem::take(&mut alike.suppressed))
    }

    fn entry(
        &self,
        uptime_ms: u64,
        time_ms: i64,
        level: &str,
        from: &str,
        text: String,
        fields: Map<String, Value>,
    ) -> Entry {
        let (level, from) = (level.to_owned(), from.to_owned());
        Entry { time_ms, uptime_ms, boot: self.short_boot(), level, from, text, fields, again: 0, dropped: 0 }
    }

    fn put(&mut self, lane: Lane, mut entry: Entry) {
        let Place::Ring(ring) = &mut self.place else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        entry.dropped = self.dropped.swap(0, Ordering::Relaxed);
        let dropped = entry.dropped;
        if ring.append(lane, entry).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
            self.place = Place::None(Instant::now() + AGAIN);
        }
    }

    /// What was just written is to be on the disk after `within`, but syncs keep their distance.
    fn due(&mut self, within: Duration) {
        let now = Instant::now();
        let at = (now + within).max(self.synced + SYNC_SOON);
        match self.dirt {
            Dirt::Due(before) if before <= at => {}
            _ => self.dirt = Dirt::Due(at),
        }
    }

    fn sync(&mut self) {
        self.dirt = Dirt::Clean;
        self.synced = Instant::now();
        if let Place::Ring(ring) = &self.place
            && ring.sync().is_err()
        {
            self.place = Place::None(Instant::now() + AGAIN);
        }
    }

    fn short_boot(&self) -> String {
        hex::encode(self.boot.0.first_chunk::<4>().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::{filter, read};
    use super::*;

    #[test]
    fn what_is_told_is_kept_redacted_in_its_lane_and_no_flood_gets_far() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, mut recorder) = channel();
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "flight::life", version = "0.1.0", "start");
            tracing::info!(target: "fogbeat::forward", uplink = "Anna", cause = "network", queued = 7_u64, bpm = 173, "the uplink Anna is back");
            tracing::debug!(target: "fogbeat::forward", "nothing");
            tracing::info!(target: "sled", "nothing");
            recorder.record(dir.path().to_owned());
            recorder.recorded().flush();
            for _ in 0..100 {
                tracing::warn!(target: "fogbeat::journal", "the disk is full");
            }
            recorder.recorded().flush();
        });
        let text = String::from_utf8_lossy(&std::fs::read(dir.path().join(FILE)).unwrap()).into_owned();
        assert!(!text.contains("Anna") && !text.contains("bpm"), "{text}");
        let flight = read(&dir.path().join(FILE)).unwrap();
        let told: Vec<_> =
            flight.records.iter().map(|(_, lane, entry)| (*lane, entry.text.as_str())).collect();
        assert_eq!(told[0].0, Lane::Life);
        assert_eq!(told[1], (Lane::Life, "start"));
        assert!(!told.iter().any(|(_, text)| *text == "nothing"));
        assert_eq!(told.iter().filter(|(_, text)| *text == "the disk is full").count(), 10);
        let (.., uplink) = &flight.records[2];
        assert_eq!((&uplink.fields["cause"], &uplink.fields["queued"]), (&json!("network"), &json!(7)));
        assert!(uplink.fields["uplink"].as_str().unwrap().starts_with('~'), "{uplink:?}");
    }

    #[test]
    fn who_tells_never_waits_also_when_nobody_listens() {
        let (layer, recorder) = channel();
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter()));
        let begun = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..PLACES + 50 {
                tracing::warn!("the disk is full");
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(recorder.dropped.load(Ordering::Relaxed), 50);
        recorder.recorded().flush();
    }
}
