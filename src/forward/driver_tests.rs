//! The driver against an uplink and a journal that misbehave on request.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Mutex;

use super::*;
use crate::clock::{BootId, Stamp};
use crate::forward::feed::Backlog;
use crate::forward::{Handle, Metrics, start_task};
use crate::journal::{ClockNote, CursorError, Entry, Page, ReadError, Tally};
use crate::reading::validity::DeviceTimeWindow;
use crate::reading::{Contact, DeviceId, Reading, RrIntervals, Source};

struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Stamp {
        Stamp { wall_ms: 1_800_000_000_000, ..Stamp::default() }
    }
    fn boot(&self) -> BootId {
        BootId([0; 16])
    }
}

/// What happened, in order: the cursor's file and the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Begin(u64, u64),
    /// First numbers of the members of one delivery.
    Deliver(Vec<u64>),
    Confirm(u64, u64),
    Sync,
}

type Log = Arc<Mutex<Vec<Act>>>;

struct FakeFeed {
    log: Log,
    watermark: watch::Sender<Seq>,
    cursor: Mutex<Seq>,
    open: Vec<Bounds>,
    /// Begun in this run and not confirmed.
    begun: Mutex<Vec<Bounds>>,
    reads: std::sync::atomic::AtomicU64,
    begin_fails: Mutex<u32>,
    /// Batches whose readings change before they are begun.
    changes: Mutex<u32>,
    read_from: Mutex<Vec<u64>>,
    read_fails: Mutex<u32>,
    longest_page: Mutex<usize>,
}

impl FakeFeed {
    fn new(log: &Log, readings: u64) -> Self {
        Self {
            log: Arc::clone(log),
            watermark: watch::Sender::new(Seq(readings)),
            cursor: Mutex::new(Seq(0)),
            open: Vec::new(),
            begun: Mutex::default(),
            reads: std::sync::atomic::AtomicU64::new(0),
            begin_fails: Mutex::new(0),
            changes: Mutex::new(0),
            read_from: Mutex::default(),
            read_fails: Mutex::new(0),
            longest_page: Mutex::new(0),
        }
    }
}

fn reading() -> Reading {
    Reading {
        device: DeviceId(0),
        source: Source::Mqtt,
        arrival: Stamp::default(),
        device_time: None,
        bpm: NonZeroU16::new(61),
        rr: RrIntervals::default(),
        contact: Contact::Unsupported,
        energy_kj: None,
        battery_percent: None,
        rssi_dbm: None,
        reason: None,
        gap_ms: None,
    }
}

fn take_one(left: &Mutex<u32>) -> bool {
    let mut left = left.lock().unwrap();
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

impl Backlog for FakeFeed {
    fn queued(&self) -> u64 {
        self.watermark.borrow().0 - self.cursor.lock().unwrap().0
    }
    fn cursor(&self) -> Seq {
        *self.cursor.lock().unwrap()
    }
}

impl Feed for FakeFeed {
    fn watermark(&self) -> watch::Receiver<Seq> {
        self.watermark.subscribe()
    }
    fn read(&self, from: Seq, max: usize) -> Result<Page, ReadError> {
        if take_one(&self.read_fails) {
            return Err(read_error());
        }
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.read_from.lock().unwrap().push(from.0);
        let to = self.watermark.borrow().0.min(from.0 + max as u64).max(from.0);
        let entries: Vec<Entry> = (from.0..to)
            .map(|n| Entry::Reading { seq: Seq(n), device: format!("d{}", n % 3).into(), reading: reading() })
            .collect();
        let mut longest = self.longest_page.lock().unwrap();
        *longest = (*longest).max(entries.len());
        Ok(Page { spool: "s".into(), boot: BootId([0; 16]), entries, next: Seq(to) })
    }
    fn open(&self) -> Vec<Bounds> {
        [self.open.as_slice(), &self.begun.lock().unwrap()].concat()
    }
    fn clocks_owed(&self) -> Vec<BootId> {
        Vec::new()
    }
    fn clocks_carried(&self, _: Bounds) -> Vec<BootId> {
        Vec::new()
    }
    fn begin(&self, bounds: Bounds, _: &ClockNote) -> Result<(), CursorError> {
        if take_one(&self.begin_fails) {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(CursorError::Write { path: "cursor".into(), source });
        }
        if take_one(&self.changes) {
            return Err(CursorError::Changed { generation: 0 });
        }
        self.begun.lock().unwrap().push(bounds);
        self.log.lock().unwrap().push(Act::Begin(bounds.from.0, bounds.to.0));
        Ok(())
    }
    fn confirm(&self, bounds: Bounds, tally: Tally) -> Result<(), CursorError> {
        assert_eq!(
            tally.delivered,
            bounds.to.0 - bounds.from.0,
            "the tally of a batch is that of its numbers"
        );
        let mut cursor = self.cursor.lock().unwrap();
        assert_eq!(*cursor, bounds.from, "confirmed in order, without holes");
        *cursor = bounds.to;
        self.begun.lock().unwrap().retain(|open| *open != bounds);
        self.log.lock().unwrap().push(Act::Confirm(bounds.from.0, bounds.to.0));
        Ok(())
    }
    fn sync(&self) -> Result<(), CursorError> {
        self.log.lock().unwrap().push(Act::Sync);
        Ok(())
    }
}

fn read_error() -> ReadError {
    ReadError::Open { generation: 0, cause: "made to fail".into() }
}

/// Decides each member's fate; is told the attempt and the member's first number.
type Script = Box<dyn FnMut(u32, u64) -> Delivery + Send>;

struct FakeUplink {
    log: Log,
    attempts: u32,
    script: Script,
    limits: Limits,
    /// Bytes of each member by its first number: they never change.
    bytes: Arc<Mutex<BTreeMap<u64, bytes::Bytes>>>,
    stall: bool,
    looks: Arc<std::sync::atomic::AtomicU64>,
}

impl Uplink for FakeUplink {
    fn kind(&self) -> &'static str {
        "fake"
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    async fn deliver(&mut self, members: &[Member]) -> Vec<Delivery> {
        self.attempts += 1;
        self.log.lock().unwrap().push(Act::Deliver(members.iter().map(|m| m.first.0).collect()));
        for member in members {
            let mut bytes = self.bytes.lock().unwrap();
            let first = bytes.entry(member.first.0).or_insert_with(|| member.bytes.clone());
            assert_eq!(*first, member.bytes, "sent again: the same bytes");
        }
        if self.stall {
            std::future::pending::<()>().await;
        }
        members.iter().map(|m| (self.script)(self.attempts, m.first.0)).collect()
    }
    async fn keep_house(&mut self, _now: Stamp) {
        self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

struct Rig {
    log: Log,
    feed: Arc<FakeFeed>,
    handle: Handle,
    bytes: Arc<Mutex<BTreeMap<u64, bytes::Bytes>>>,
    looks: Arc<std::sync::atomic::AtomicU64>,
}

const WINDOW: Limits = Limits { member_bytes: 1 << 20, members: 8, delivery_bytes: 1 << 20, window: 4 };

fn rig(
    readings: u64,
    max_bytes: usize,
    prepare: impl FnOnce(&mut FakeFeed),
    script: impl FnMut(u32, u64) -> Delivery + Send + 'static,
) -> Rig {
    rig_with(readings, max_bytes, WINDOW, false, prepare, script)
}

fn rig_with(
    readings: u64,
    max_bytes: usize,
    limits: Limits,
    stall: bool,
    prepare: impl FnOnce(&mut FakeFeed),
    script: impl FnMut(u32, u64) -> Delivery + Send + 'static,
) -> Rig {
    let log = Log::default();
    let mut feed = FakeFeed::new(&log, readings);
    prepare(&mut feed);
    let feed = Arc::new(feed);
    let bytes = Arc::new(Mutex::new(BTreeMap::new()));
    let looks = Arc::default();
    let uplink = FakeUplink {
        log: Arc::clone(&log),
        attempts: 0,
        script: Box::new(script),
        limits,
        bytes: Arc::clone(&bytes),
        stall,
        looks: Arc::clone(&looks),
    };
    let settings = Settings {
        name: "fake".into(),
        encoding: Encoding::Gzip,
        remote: None,
        policy: Policy { max_age: Duration::from_millis(30), max_bytes },
        origin: Origin {
            gateway: "g".into(),
            site: None,
            state_dir: "/nowhere".into(),
            pseudonyms: None,
            window: DeviceTimeWindow::default(),
        },
        retry: retry::Limits { min: Duration::from_millis(1), max: Duration::from_millis(5) },
        stuck_interval: Duration::from_millis(300),
        housekeeping: Duration::from_millis(20),
        turn: Duration::from_millis(50),
    };
    let handle =
        start_task(uplink, Arc::clone(&feed), settings, Arc::new(StillClock), &Metrics::default()).unwrap();
    Rig { log, feed, handle, bytes, looks }
}

impl Rig {
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; {:?}", self.log.lock().unwrap());
    }
    async fn drain(self, grace: Duration) -> (Drained, Vec<Act>) {
        let log = Arc::clone(&self.log);
        let drained = self.handle.drain(Instant::now() + grace).await.unwrap();
        let log = log.lock().unwrap().clone();
        (drained, log)
    }
}

fn throttled() -> Delivery {
    Delivery::Retry(Failure::new("throttled", "slow down"))
}

fn deliveries(log: &[Act]) -> Vec<Vec<u64>> {
    log.iter()
        .filter_map(|act| if let Act::Deliver(firsts) = act { Some(firsts.clone()) } else { None })
        .collect()
}

/// Bounds are on disk before the first send, and only what was delivered is confirmed.
fn assert_order(log: &[Act]) {
    let mut begun = Vec::new();
    let mut sent = Vec::new();
    for act in log {
        match act {
            Act::Begin(from, _) => begun.push(*from),
            Act::Deliver(firsts) => {
                assert!(firsts.iter().all(|first| begun.contains(first)), "{log:?}");
                sent.extend(firsts);
            }
            Act::Confirm(from, _) => assert!(sent.contains(from), "{log:?}"),
            Act::Sync => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_batch_goes_by_age_and_is_confirmed() {
    let rig = rig(10, 1 << 20, |_| {}, |_, _| Delivery::Confirmed);
    rig.until("at rest", |rig| rig.feed.cursor() == Seq(10) && rig.handle.status().state == "idle").await;
    let status = rig.handle.status();
    assert_eq!((status.delivered_readings, status.delivered_batches, status.queued_readings), (10, 1, 0));
    rig.feed.watermark.send_replace(Seq(15));
    rig.until("confirmed", |rig| rig.feed.cursor() == Seq(15)).await;
    let (drained, log) = rig.drain(Duration::from_secs(5)).await;
    assert_eq!(drained, Drained::Empty);
    assert_order(&log);
    assert_eq!(log.last(), Some(&Act::Sync));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_goes_by_size_with_bounded_memory() {
    let rig = rig(20_000, 50_000, |_| {}, |_, _| Delivery::Confirmed);
    rig.until("confirmed", |rig| rig.feed.cursor() == Seq(20_000)).await;
    assert!(*rig.feed.longest_page.lock().unwrap() <= 1_000);
    rig.until("counted", |rig| rig.handle.status().delivered_readings == 20_000).await;
    assert!(rig.handle.status().delivered_batches > 20);
    let (_, log) = rig.drain(Duration::from_secs(5)).await;
    assert_order(&log);
    let open = log.iter().scan(0i64, |open, act| {
        *open += match act {
            Act::Begin(..) => 1,
            Act::Confirm(..) => -1,
            _ => 0,
        };
        Some(*open)
    });
    assert!(open.max().unwrap() <= WINDOW.window as i64 + 1, "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_failed_is_sent_again_with_the_same_bytes() {
    // The first attempt blocks the way until several batches wait; the next refuses the odd ones, once.
    let mut refused = std::collections::BTreeSet::new();
    let mut count = 0;
    let rig = rig(
        3_000,
        50_000,
        |_| {},
        move |_, first| {
            count += 1;
            if count % 2 == 0 && refused.insert(first) { throttled() } else { Delivery::Confirmed }
        },
    );
    rig.until("confirmed", |rig| rig.feed.cursor() == Seq(3_000)).await;
    let batches = rig.bytes.lock().unwrap().len();
    let (drained, log) = rig.drain(Duration::from_secs(5)).await;
    assert_eq!(drained, Drained::Empty);
    assert_order(&log);
    let sent: usize = deliveries(&log).iter().map(Vec::len).sum();
    assert!(sent > batches, "something was refused");
    let mut times = BTreeMap::<u64, u32>::new();
    deliveries(&log).concat().iter().for_each(|first| *times.entry(*first).or_default() += 1);
    assert!(times.values().all(|times| *times <= 2), "confirmed members are not sent again: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_outlasted_and_begins_nothing_new() {
    let up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let open = Arc::clone(&up);
    let rig = rig(
        5_000,
        50_000,
        |_| {},
        move |_, _| {
            if open.load(std::sync::atomic::Ordering::SeqCst) { Delivery::Confirmed } else { throttled() }
        },
    );
    rig.until("many attempts", |rig| deliveries(&rig.log.lock().unwrap()).len() > 20).await;
    let status = rig.handle.status();
    assert_eq!((status.state, status.queued_readings), ("retrying", 5_000));
    assert_eq!(status.failure.unwrap().cause, "throttled");
    let begun = rig.log.lock().unwrap().iter().filter(|act| matches!(act, Act::Begin(..))).count();
    assert!(begun <= WINDOW.window, "{begun}");
    up.store(true, std::sync::atomic::Ordering::SeqCst);
    rig.until("confirmed", |rig| rig.feed.cursor() == Seq(5_000)).await;
    assert_order(&rig.drain(Duration::from_secs(5)).await.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_succeed_is_shown_tried_slowly_and_kept() {
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = Arc::clone(&mended);
    let rig = rig(
        10,
        1 << 20,
        |_| {},
        move |_, _| {
            let failure = Failure::new("unknown_stream", "no such stream").remedy("create it");
            if flag.load(std::sync::atomic::Ordering::SeqCst) {
                Delivery::Confirmed
            } else {
                Delivery::Stuck(failure)
            }
        },
    );
    rig.until("stuck", |rig| rig.handle.status().state == "stuck").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let status = rig.handle.status();
    assert_eq!(status.failure.unwrap().remedy.as_deref(), Some("create it"));
    assert_eq!(status.queued_readings, 10);
    assert_eq!(deliveries(&rig.log.lock().unwrap()).len(), 1, "slowly");
    mended.store(true, std::sync::atomic::Ordering::SeqCst);
    rig.handle.watcher().retry_now();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.feed.cursor(), Seq(10), "a reload does not wait for the interval");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_is_confirmed_while_the_rest_is_stuck() {
    let rig = rig(
        3_000,
        50_000,
        |_| {},
        |_, first| {
            if first == 0 { Delivery::Confirmed } else { Delivery::Stuck(Failure::new("refused", "no")) }
        },
    );
    rig.until("stuck", |rig| rig.handle.status().state == "stuck").await;
    rig.until("the first is confirmed", |rig| rig.feed.cursor() > Seq(0)).await;
    assert_eq!(rig.handle.status().state, "stuck");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_bounds_of_an_earlier_run_go_first_and_unchanged() {
    let open = [(0, 7), (7, 11)].map(|(from, to)| Bounds {
        from: Seq(from),
        to: Seq(to),
        fixed_ms: 5,
        clock: 0,
        guessed: false,
    });
    let rig = rig(30, 1 << 20, move |feed| feed.open = open.to_vec(), |_, _| Delivery::Confirmed);
    rig.until("confirmed", |rig| rig.feed.cursor() == Seq(30)).await;
    let (_, log) = rig.drain(Duration::from_secs(5)).await;
    let firsts = deliveries(&log).concat();
    assert_eq!(firsts, [0, 7, 11]);
    let begun: Vec<_> = log.iter().filter(|act| matches!(act, Act::Begin(..))).collect();
    assert_eq!(begun, [&Act::Begin(11, 30)], "open bounds are not fixed anew: {log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_or_a_journal_that_fails_stops_sending_and_loses_nothing() {
    let rig = rig(
        10,
        1 << 20,
        |feed| {
            feed.begin_fails = Mutex::new(1);
            feed.read_fails = Mutex::new(1);
        },
        |_, _| Delivery::Confirmed,
    );
    rig.until("shown", |rig| rig.handle.status().failure.is_some_and(|f| f.cause == "journal")).await;
    rig.until("shown", |rig| rig.handle.status().failure.is_some_and(|f| f.cause == "cursor")).await;
    assert_eq!(
        deliveries(&rig.log.lock().unwrap()).len(),
        0,
        "nothing is sent before its bounds are on disk"
    );
    rig.until("confirmed", |rig| rig.feed.cursor() == Seq(10)).await;
    assert_order(&rig.drain(Duration::from_secs(5)).await.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_closes_the_batch_at_once() {
    let rig = rig(10, 1 << 20, |_| {}, |_, _| Delivery::Confirmed);
    let started = Instant::now();
    let (drained, log) = rig.drain(Duration::from_secs(5)).await;
    assert_eq!(drained, Drained::Empty);
    assert!(log.contains(&Act::Confirm(0, 10)), "{log:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_readings_were_dropped_before_it_was_begun_is_read_again() {
    let rig = rig(10, 1 << 20, |feed| feed.changes = Mutex::new(1), |_, _| Delivery::Confirmed);
    let feed = Arc::clone(&rig.feed);
    let (drained, log) = rig.drain(Duration::from_secs(5)).await;
    assert_eq!(drained, Drained::Empty);
    assert_eq!(log.iter().filter(|act| matches!(act, Act::Begin(..))).count(), 1, "{log:?}");
    assert!(log.contains(&Act::Confirm(0, 10)), "each reading once: {log:?}");
    assert_eq!(feed.read_from.lock().unwrap().iter().filter(|from| **from == 0).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_at_its_deadline_although_the_uplink_never_answers() {
    let rig = rig_with(10, 1 << 20, WINDOW, true, |_| {}, |_, _| Delivery::Confirmed);
    let (drained, log) = rig.drain(Duration::from_millis(200)).await;
    assert_eq!(drained, Drained::TimedOut);
    assert!(!log.iter().any(|act| matches!(act, Act::Confirm(..))), "{log:?}");
    assert_eq!(log.last(), Some(&Act::Sync));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_does_not_wait_for_what_cannot_succeed() {
    let rig = rig(10, 1 << 20, |_| {}, |_, _| Delivery::Stuck(Failure::new("access_denied", "no")));
    let started = Instant::now();
    let (drained, _) = rig.drain(Duration::from_millis(250)).await;
    assert_eq!(drained, Drained::TimedOut);
    assert!(started.elapsed() < Duration::from_millis(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_uplink_holds_no_reading_and_makes_its_batch_again_from_the_journal() {
    let dead = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let broken = Arc::clone(&dead);
    let rig = rig(
        10,
        1 << 20,
        |_| {},
        move |_, _| match broken.load(std::sync::atomic::Ordering::Relaxed) {
            true => throttled(),
            false => Delivery::Confirmed,
        },
    );
    rig.until("a batch under way", |rig| deliveries(&rig.log.lock().unwrap()).len() > 2).await;
    let watcher = rig.handle.watcher();
    let patience = Duration::from_secs(10);
    let held = tokio::task::spawn_blocking(move || watcher.hold(patience)).await.unwrap().unwrap();
    let reads = |rig: &Rig| rig.feed.reads.load(std::sync::atomic::Ordering::Relaxed);
    let (sent, read) = (deliveries(&rig.log.lock().unwrap()).len(), reads(&rig));
    dead.store(false, std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(deliveries(&rig.log.lock().unwrap()).len(), sent, "it sends while it is held");
    drop(held);
    rig.until("delivered", |rig| rig.feed.cursor() == Seq(10)).await;
    assert!(reads(&rig) > read, "the batch is not from memory");
    let (drained, log) = rig.drain(Duration::from_secs(1)).await;
    assert_eq!(drained, Drained::Empty);
    let begun = log.iter().filter(|act| matches!(act, Act::Begin(..))).count();
    assert_eq!(begun, 1, "within the same bounds: {log:?}");
}

#[tokio::test]
async fn an_uplink_keeps_house_although_nothing_is_delivered() {
    let rig = rig(0, 1 << 20, |_| {}, |_, _| Delivery::Confirmed);
    rig.until("looked twice", |rig| rig.looks.load(std::sync::atomic::Ordering::Relaxed) > 1).await;
    assert!(deliveries(&rig.log.lock().unwrap()).is_empty());
}

/// Longer than anything but a task that does not turn.
const STILL: Duration = Duration::from_secs(2);

fn age(rig: &Rig) -> Duration {
    rig.handle.watcher().mark().age(Instant::now().into_std())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_never_ends_is_no_progress_and_one_that_fails_is() {
    let stuck = rig_with(10, 1 << 20, WINDOW, true, |_| {}, |_, _| Delivery::Confirmed);
    let failing = rig(10, 1 << 20, |_| {}, |_, _| throttled());
    let resting = rig(0, 1 << 20, |_| {}, |_, _| Delivery::Confirmed);
    let held = rig(0, 1 << 20, |_| {}, |_, _| Delivery::Confirmed);
    let watcher = held.handle.watcher();
    let hold = tokio::task::spawn_blocking(move || watcher.hold(Duration::from_secs(5))).await.unwrap();
    assert!(hold.is_some());
    stuck.until("stuck", |rig| age(rig) > STILL).await;
    assert_eq!([&failing, &resting, &held].map(|rig| age(rig) < STILL / 2), [true; 3]);
}
