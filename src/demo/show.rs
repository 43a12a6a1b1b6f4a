//! Performs the story: starts the gateway and the straps, lets things happen on cue, and closes the account.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::DemoError;
use super::audit::audit;
use super::gateway::{Gateway, metric};
use super::hearts::Hearts;
use super::lake::{Lake, disk_bytes};
use super::ledger::{Ledger, StrapAccount};
use super::place::Place;
use super::report::{Facts, Report, Spool, count};
use super::sample::Encoding;
use super::screen::{Figures, Mood, Screen};
use super::story::{Act, Story};
use super::strap::{Live, Plan, wear};
use crate::config::Speed;

/// Hearts of straps with a stamp beat this much faster: a minute a second.
const FAST: f64 = 60.0;
/// One strap in so many is a Bluetooth bridge that passes on raw packets.
const RAW_EVERY: usize = 6;
/// This strap hangs loose from the fifth to the seventh minute of its recording.
const LOOSE_STRAP: usize = 1;
const LOOSE_MS: std::ops::Range<u64> = 300_000..420_000;
/// How long the straps wait for their last acknowledgements.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the uplink may take to deliver the rest: a gateway tries a dead uplink at least once a minute.
const DRAIN: Duration = Duration::from_secs(90);
/// Between two drawings, and between two looks into the lake.
const FRAME: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(400);
/// The gateway's count of re-sent readings that it had stored already.
const DUPLICATES: &str = "fogbeat_journal_duplicates_total";

/// Everything that the figures on the screen are made of.
struct Stage<'a> {
    place: &'a Place,
    screen: &'a Screen,
    live: Arc<Live>,
    delivered: Arc<AtomicU64>,
    begun: Instant,
}

/// Shows the whole story and gives the account.
///
/// # Errors
/// Something prevented the show; a broken promise is no error but stands in the report.
pub async fn perform(
    story: Story,
    straps: usize,
    place: &Place,
    screen: &Screen,
) -> Result<Report, DemoError> {
    let hearts = Hearts::load()
        .map_err(|(name, line, problem)| DemoError::Recording { name, line, problem })
        .map(Arc::new)?;
    let gateway = Gateway::start(place).await?;
    let pid = gateway.pid().unwrap_or_default();
    screen.event(Mood::Calm, &format!("gateway started (pid {pid}), MQTT on {}", place.mqtt));
    let stage =
        Stage { place, screen, live: Arc::default(), delivered: Arc::default(), begun: Instant::now() };
    // Both end with this scope: a JoinSet aborts its tasks when it is dropped.
    let mut watcher = JoinSet::new();
    watcher.spawn(watch(place.lake(), Arc::clone(&stage.delivered)));
    let mut wearing = JoinSet::new();
    for plan in (0..straps).map(|strap| plan(strap, story, stage.begun)) {
        wearing.spawn(wear(plan, Arc::clone(&hearts), place.mqtt, Arc::clone(&stage.live)));
    }
    let minutes = story.length().as_secs_f64() * FAST / 60.0;
    screen.event(
        Mood::Calm,
        &format!(
            "{straps} straps with recorded hearts, {minutes:.0} minutes in {} s",
            story.length().as_secs()
        ),
    );

    let (gateway, spool) = stage.drawn(stage.acts(story, gateway)).await?;
    let ledger = Ledger { straps: stage.drawn(accounts(wearing)).await? };
    stage.drawn(stage.drained()).await;
    let duplicates_dropped = metric(place.http, DUPLICATES).await.map(|number| number as u64);
    screen.event(Mood::Calm, "SIGTERM: the gateway delivers what is left and ends");
    let status = stage.drawn(gateway.stop()).await?;
    watcher.abort_all();

    let root = place.lake();
    let lake = blocking(move || {
        let mut lake = Lake::default();
        lake.look(&root).map(|()| lake)
    })
    .await??;
    screen.event(
        Mood::Calm,
        &format!("read {} delivered lines for the account", count(lake.lines.len() as u64)),
    );
    Ok(Report::new(Facts {
        straps: straps as u64,
        seconds: story.length().as_secs(),
        published: ledger.sums(),
        found: audit(&ledger, &lake.lines),
        batches: &lake.batches,
        duplicates_dropped,
        spool,
        bad_exit: (!status.success()).then(|| status.to_string()),
        lake: place.shown().join("lake").to_string_lossy().into_owned(),
    }))
}

impl Stage<'_> {
    /// Everything that happens to the gateway, up to the straps' last beat; its spool is measured before the kill.
    async fn acts(&self, story: Story, gateway: Gateway) -> Result<(Gateway, Option<Spool>), DemoError> {
        let mut gateway = Some(gateway);
        let mut spool = None;
        let mut owed = None;
        for cue in story.cues() {
            self.until(self.begun + cue.at, &mut owed).await;
            match cue.act {
                Act::UplinkDown => {
                    self.place.unplug()?;
                    self.screen
                        .event(Mood::Trouble, "uplink down: nothing can be delivered, the backlog grows");
                }
                Act::Kill => {
                    let (readings, path) = (self.figures().acknowledged, self.place.databases());
                    let disk_bytes = blocking(move || disk_bytes(&path)).await?;
                    spool = (disk_bytes > 0).then_some(Spool { readings, disk_bytes });
                    if let Some(gateway) = gateway.take() {
                        let pid = gateway.pid().unwrap_or_default();
                        gateway.kill().await?;
                        self.screen.event(
                            Mood::Trouble,
                            &format!("kill -9 {pid}: the gateway is gone without a word"),
                        );
                    }
                }
                Act::Restart => {
                    let started = Gateway::start(self.place).await?;
                    let pid = started.pid().unwrap_or_default();
                    let text =
                        format!("gateway started again (pid {pid}); the straps send what had no answer");
                    self.screen.event(Mood::Good, &text);
                    gateway = Some(started);
                }
                Act::UplinkBack => {
                    self.place.plug_in()?;
                    owed = Some(self.figures().acknowledged);
                    self.screen.event(Mood::Good, "uplink back: the gateway's next try will find it");
                }
                Act::RadioLost => {
                    self.screen.event(Mood::Trouble, "a third of the straps walks out of range");
                }
                Act::RadioBack => {
                    self.screen.event(Mood::Good, "they are back and send what had no answer");
                }
                Act::LastBeat => {
                    self.screen.event(Mood::Calm, "last beat; waiting for the last acknowledgements")
                }
            }
        }
        let gateway =
            gateway.ok_or_else(|| DemoError::Task("the gateway was not started again".to_owned()))?;
        Ok((gateway, spool))
    }

    /// Until the moment; on the way it tells once that what was owed at the end of the outage is delivered.
    async fn until(&self, moment: Instant, owed: &mut Option<u64>) {
        let delivered = async {
            match *owed {
                Some(owed) => {
                    while self.figures().delivered < owed {
                        sleep(FRAME).await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep_until(moment) => return,
            () = delivered => {}
        }
        if let Some(owed) = owed.take() {
            self.screen.event(
                Mood::Good,
                &format!("the backlog is delivered: {} readings are where they belong", count(owed)),
            );
        }
        sleep_until(moment).await;
    }

    /// Until everything that was acknowledged is delivered, or for as long as the demo waits for that.
    async fn drained(&self) {
        let deadline = Instant::now() + DRAIN;
        while self.figures().backlog() > 0 && Instant::now() < deadline {
            sleep(FRAME).await;
        }
    }

    fn figures(&self) -> Figures {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Figures {
            elapsed: self.begun.elapsed(),
            published: read(&self.live.published),
            acknowledged: read(&self.live.acknowledged),
            resent: read(&self.live.resent),
            connected: read(&self.live.connected),
            delivered: read(&self.delivered),
        }
    }

    /// Draws while something goes on.
    async fn drawn<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                _ = frames.tick() => self.screen.draw(self.figures()),
            }
        }
    }
}

/// Readings that pile up during the outage.
#[must_use]
pub fn expected_backlog(story: Story, straps: usize) -> u64 {
    let fast = (0..straps).filter(|strap| encoding(*strap) == Encoding::Json).count();
    (story.outage().as_secs_f64() * FAST) as u64 * fast as u64
}

fn encoding(strap: usize) -> Encoding {
    if strap % RAW_EVERY == RAW_EVERY - 1 { Encoding::Packet } else { Encoding::Json }
}

/// What strap number `strap` does.
fn plan(strap: usize, story: Story, start: Instant) -> Plan {
    let encoding = encoding(strap);
    let speed = match encoding {
        Encoding::Json => FAST,
        // Without a stamp the time of a reading is that of its arrival.
        Encoding::Packet => 1.0,
    };
    // The strap's clock is right when it has played its recording to the end.
    let played_ms = (story.length().as_secs_f64() * speed * 1000.0) as i64;
    let now_ms =
        i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Plan {
        device: format!("strap-{:02}", strap + 1),
        heart: strap,
        encoding,
        speed: Speed::Times(speed),
        start,
        measure_for: story.length(),
        clock_ms: now_ms.saturating_sub(played_ms),
        radio_gap: story.radio_gap(strap),
        loose: (strap == LOOSE_STRAP).then_some(LOOSE_MS),
        patience: PATIENCE,
    }
}

/// Waits for all straps; their accounts in the order of their names.
async fn accounts(mut wearing: JoinSet<StrapAccount>) -> Result<Vec<StrapAccount>, DemoError> {
    let mut accounts = Vec::with_capacity(wearing.len());
    while let Some(account) = wearing.join_next().await {
        accounts.push(account.map_err(|error| DemoError::Task(error.to_string()))?);
    }
    accounts.sort_by(|one, other| one.device.cmp(&other.device));
    Ok(accounts)
}

/// Counts what has been delivered, for the figures. While the uplink is down there is nothing to see; the account at
/// the end reads everything anew and takes no error for granted.
async fn watch(root: PathBuf, delivered: Arc<AtomicU64>) {
    let mut lake = Lake::default();
    loop {
        sleep(LOOK).await;
        let path = root.clone();
        let looked = blocking(move || {
            let _ = lake.look(&path);
            lake
        })
        .await;
        let Ok(looked) = looked else { return };
        lake = looked;
        delivered.store(lake.readings(), Ordering::Relaxed);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DemoError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| DemoError::Task(error.to_string()))
}
