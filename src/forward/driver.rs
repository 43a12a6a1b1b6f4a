//! The task of one uplink: keeps a workshop and a delivery going side by side, and moves the cursor.
//!
//! While one delivery is under way the next batch is made on another thread. Batches sent and not yet confirmed wait
//! in the window with their packed bytes, so that sending again costs nothing and changes nothing. While the uplink
//! fails nothing new is begun: what piles up in the journal becomes few large batches afterwards. Waits are counted
//! by the monotonic clock.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::batch::Policy;
use super::feed::Feed;
use super::hands::Hands;
use super::hold::Hold;
use super::jitter;
use super::member::Member;
use super::pace::Pace;
use super::retry::{self, Backoff};
use super::status::{Board, State};
use super::workshop::{Built, Job, Outcome, Workshop, ahead};
use super::{Delivery, Failure, Limits, Origin, SetupError, Uplink};
use crate::clock::Clock;
use crate::config::Encoding;
use crate::journal::{Bounds, Seq};
use crate::remote::Desired;

/// How often a failure that somebody must mend is tried again.
pub(super) const STUCK_INTERVAL: Duration = Duration::from_secs(60);
/// How often an uplink is made to keep its own bounds.
pub(super) const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// New readings that are worth a look at the journal before their batch is due.
const READ_AHEAD: u64 = 1_000;
/// How often readings that wait for the clock are looked at again.
const HELD_INTERVAL: Duration = Duration::from_secs(2);
/// How often the journal is asked again for what is being salvaged there.
const SALVAGE_POLL: Duration = Duration::from_millis(250);
/// A task at rest shows this often that it is alive.
pub(super) const TURN: Duration = Duration::from_secs(5);
/// A wait without an end, for a timer that is not set.
const FAR: Duration = Duration::from_secs(86_400);

pub(super) struct Settings {
    pub(super) name: String,
    pub(super) encoding: Encoding,
    pub(super) policy: Policy,
    /// Settings from afar, which come before the file's.
    pub(super) remote: Option<watch::Receiver<Arc<Desired>>>,
    pub(super) origin: Origin,
    pub(super) retry: retry::Limits,
    pub(super) stuck_interval: Duration,
    pub(super) housekeeping: Duration,
    /// [`TURN`].
    pub(super) turn: Duration,
}

/// What the task is told from outside.
pub(super) struct Signals {
    pub(super) draining: watch::Receiver<Option<Instant>>,
    pub(super) retry_now: Arc<Notify>,
    pub(super) hold: Hold,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything durable is confirmed, but for what waits for the clock.
    Empty,
    /// The rest stays in the journal and is sent after the next start.
    TimedOut,
}

/// A batch in the window.
struct Sent {
    batch: Built,
    /// Which members the other side has, in the members' order.
    taken: Vec<bool>,
    since: Instant,
}

type Answer<U> = (U, Vec<Delivery>);
type Call<U> = Pin<Box<dyn Future<Output = Answer<U>> + Send>>;
type Work<F> = oneshot::Receiver<(Box<Workshop<F>>, Outcome)>;

/// What the loop woke up for.
enum Event<U, F> {
    Worked(Result<(Box<Workshop<F>>, Outcome), oneshot::error::RecvError>),
    Delivered(Answer<U>),
    /// The watermark or a timer: look again.
    Look,
    /// Do not wait any longer: a reload, or the daemon stops.
    RetryNow,
    /// No time is left: the grace is over, or the handle was dropped.
    Deadline,
}

pub(super) struct Driver<U, F> {
    limits: Limits,
    feed: Arc<F>,
    settings: Settings,
    board: Board,
    /// The uplink while it rests; else it is inside `call`.
    uplink: Option<U>,
    call: Option<Call<U>>,
    /// Batch (its bounds) and member of each thing in `call`.
    called: Vec<(Bounds, usize)>,
    hands: Hands,
    /// The workshop while it rests; else it is inside `work`.
    workshop: Option<Box<Workshop<F>>>,
    work: Option<Work<F>>,
    /// Batches of an earlier run that must be sent again first.
    again: VecDeque<Bounds>,
    window: VecDeque<Sent>,
    watermark: watch::Receiver<Seq>,
    pace: Pace,
    draining: watch::Receiver<Option<Instant>>,
    retry_now: Arc<Notify>,
    hold: Hold,
    clock: Arc<dyn Clock>,
    house_at: Instant,
    backoff: Backoff,
    /// Nothing is tried before this moment.
    pause: Option<Instant>,
    /// The cursor could not be written: not tried before this moment.
    confirm_after: Option<Instant>,
    /// Since when entries wait that are in no batch yet.
    waiting: Option<Instant>,
    /// The watermark at which the journal was found to hold nothing more.
    exhausted: Option<Seq>,
    /// Where the workshop's next read goes on.
    position: Seq,
    holds_lines: bool,
    /// What comes next waits for the clock: not looked at before this moment.
    held: Option<Instant>,
    /// Told when another gateway has handed in a batch.
    members: Option<watch::Receiver<u64>>,
    /// The last job was such a batch: now it is our own readings' turn.
    member_last: bool,
}

impl<U: Uplink, F: Feed> Driver<U, F> {
    pub(super) fn new(
        uplink: U,
        feed: Arc<F>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        board: Board,
        signals: Signals,
    ) -> Result<Self, SetupError> {
        let hands = Hands::new(&settings.name)?;
        let watermark = feed.watermark();
        let pace = Pace::new(*watermark.borrow(), Instant::now());
        let limits = uplink.limits();
        let members = feed.member_changes();
        let workshop = Workshop::new(
            Arc::clone(&feed),
            Arc::clone(&clock),
            settings.origin.clone(),
            settings.encoding,
            limits.member_bytes,
            settings.policy.max_bytes,
        )?;
        Ok(Self {
            limits,
            again: feed.open().into(),
            window: VecDeque::new(),
            watermark,
            pace,
            position: workshop.position(),
            holds_lines: false,
            hands,
            workshop: Some(Box::new(workshop)),
            work: None,
            uplink: Some(uplink),
            call: None,
            called: Vec::new(),
            backoff: Backoff::new(settings.retry),
            feed,
            settings,
            board,
            draining: signals.draining,
            retry_now: signals.retry_now,
            hold: signals.hold,
            clock,
            house_at: Instant::now(),
            pause: None,
            confirm_after: None,
            waiting: None,
            exhausted: None,
            held: None,
            members,
            member_last: false,
        })
    }

    /// Runs until a drain is asked for and done.
    pub(super) async fn run(mut self) -> Drained {
        tracing::debug!(uplink = %self.settings.name, again = self.again.len(), "forwarder started");
        let ended = loop {
            let now = Instant::now();
            // What is under way has to end before it counts as progress.
            if self.work.is_none() && self.call.is_none() {
                self.board.alive(now);
            }
            if self.draining.has_changed().unwrap_or(false) {
                self.draining.mark_unchanged();
                self.pause = None;
                self.held = None;
            }
            if !self.paused(now) {
                self.pause = None;
            }
            self.settle(now).await;
            if self.hold.wanted() && self.work.is_none() && self.call.is_none() {
                self.let_go();
                if !self.rest().await {
                    break Drained::TimedOut;
                }
                continue;
            }
            self.keep_house(now).await;
            self.look(now);
            if self.draining.borrow().is_some() && self.is_empty() {
                break Drained::Empty;
            }
            if self.is_hopeless() {
                break Drained::TimedOut;
            }
            self.start_delivery(now);
            match self.next_event().await {
                Event::Worked(Ok((workshop, outcome))) => self.worked(workshop, outcome),
                Event::Worked(Err(_)) => {
                    std::panic::resume_unwind(Box::new("the thread that packs batches has panicked"))
                }
                Event::Delivered((uplink, answers)) => self.delivered(uplink, &answers),
                Event::RetryNow => self.pause = None,
                Event::Look => {}
                Event::Deadline => break Drained::TimedOut,
            }
        };
        self.finish().await;
        ended
    }

    /// Holds no reading any more; goes on later as after a start.
    fn let_go(&mut self) {
        self.window.clear();
        self.feed.let_members_go();
        self.board.open_batches(0);
        self.again = self.feed.open().into();
        if let Some(workshop) = &mut self.workshop {
            workshop.let_go();
            self.position = workshop.position();
        }
        self.holds_lines = false;
        self.waiting = None;
        self.exhausted = None;
    }

    /// Until nobody wants it held any more; `false`: the deadline of a drain came first, or the handle was dropped.
    async fn rest(&mut self) -> bool {
        loop {
            let deadline = *self.draining.borrow_and_update();
            self.board.alive(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(self.settings.turn) => {}
                () = self.hold.rest() => return true,
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return false,
                asked = self.draining.changed() => if asked.is_err() { return false },
            }
        }
    }

    async fn finish(mut self) {
        self.call = None;
        if let Some(uplink) = &mut self.uplink {
            uplink.close().await;
        }
        // A batch under way is a matter of milliseconds, and it holds the journal.
        if let Some(work) = self.work.take() {
            drop(work.await);
        }
        let feed = Arc::clone(&self.feed);
        if let Err(error) = blocking(move || feed.sync()).await {
            tracing::warn!(uplink = %self.settings.name,
                "{error}; what was delivered since the last write will be sent again after the next start");
        }
    }

    fn is_empty(&self) -> bool {
        self.work.is_none()
            && self.call.is_none()
            && self.window.is_empty()
            && self.again.is_empty()
            && !self.holds_lines
            && !self.something_new()
            && !self.feed.has_members()
    }

    /// The next attempt would come after the deadline: no use in waiting for it.
    fn is_hopeless(&self) -> bool {
        let deadline = *self.draining.borrow();
        let idle = self.work.is_none() && self.call.is_none();
        let late = deadline.zip(self.pause).is_some_and(|(deadline, pause)| pause >= deadline);
        idle && (late || deadline.is_some() && self.paused_from_afar())
    }

    /// The journal may hold something behind the workshop's position.
    fn something_new(&self) -> bool {
        let watermark = *self.watermark.borrow();
        watermark > self.position && self.exhausted != Some(watermark)
    }

    /// Somebody wants nothing to be sent.
    fn paused_from_afar(&self) -> bool {
        self.settings.remote.as_ref().is_some_and(|remote| remote.borrow().paused(&self.settings.name))
    }

    /// When batches are closed, as it is in force.
    fn policy(&self) -> Policy {
        let remote = self.settings.remote.as_ref();
        let max_age = remote.and_then(|remote| remote.borrow().batch.as_ref().map(|batch| batch.max_age));
        let policy = self.settings.policy;
        Policy { max_age: max_age.unwrap_or(policy.max_age), ..policy }
    }

    fn paused(&self, now: Instant) -> bool {
        self.pause.is_some_and(|until| until > now)
    }

    /// Confirms what is complete, in order; also while the rest waits for its next attempt.
    async fn settle(&mut self, now: Instant) {
        if self.confirm_after.is_some_and(|after| after > now && self.pause.is_some()) {
            return;
        }
        self.confirm_after = None;
        while let Some(sent) = self.window.front().filter(|sent| sent.taken.iter().all(|taken| *taken)) {
            let (feed, bounds) = (Arc::clone(&self.feed), sent.batch.bounds);
            let tally = sent.batch.tally.clone();
            if let Err(error) = blocking(move || feed.confirm(bounds, tally)).await {
                let failure =
                    Failure::new("cursor", error.to_string()).remedy(super::workshop::CURSOR_REMEDY);
                self.failed(failure, true);
                self.confirm_after = self.pause;
                return;
            }
            self.board.confirmed(&sent.batch.members, now);
            self.window.pop_front();
            self.board.open_batches(self.window.len());
        }
        if self.window.is_empty() && self.call.is_none() && self.backoff.failures() == 0 {
            self.board.working(State::Idle);
        }
    }

    /// What waits is not held up: it takes moments, and the workshop goes on meanwhile.
    async fn keep_house(&mut self, now: Instant) {
        if now >= self.house_at
            && let Some(uplink) = &mut self.uplink
        {
            uplink.keep_house(self.clock.now()).await;
            self.house_at = now + self.settings.housekeeping;
        }
    }

    /// Gives the workshop its next job, if there is one.
    fn look(&mut self, now: Instant) {
        self.pace.observe(*self.watermark.borrow(), now);
        if self.held.is_some_and(|until| until <= now) {
            self.held = None;
            self.exhausted = None;
        }
        let new = self.something_new() || self.held.is_some();
        if self.holds_lines || new {
            self.waiting.get_or_insert(now);
        } else if self.work.is_none() {
            self.waiting = None;
        }
        self.board.waiting_since(self.window.front().map(|sent| sent.since).or(self.waiting));
        let Some(job) = self.next_job(now, new) else { return };
        let Some(mut workshop) = self.workshop.take() else { return };
        self.member_last = job == Job::Member;
        if !self.member_last {
            // What becomes durable during the read is seen at the next look.
            self.exhausted = Some(*self.watermark.borrow());
        }
        self.work = Some(self.hands.give(move || {
            let outcome = workshop.work(job);
            (workshop, outcome)
        }));
    }

    /// Whether another batch may be begun.
    fn may_begin(&self, now: Instant) -> bool {
        self.has_room(now) && self.held.is_none()
    }

    fn has_room(&self, now: Instant) -> bool {
        let failing = self.backoff.failures() > 0;
        self.workshop.is_some()
            && !self.hold.wanted()
            && !self.paused(now)
            && !self.paused_from_afar()
            && self.window.len() < self.limits.window
            && (self.window.is_empty() || !failing)
    }

    /// Our own readings and other gateways' batches by turns.
    fn next_job(&self, now: Instant, new: bool) -> Option<Job> {
        let member = || (self.has_room(now) && self.feed.has_members()).then_some(Job::Member);
        match self.member_last {
            true => self.job(now, new).or_else(member),
            false => member().or_else(|| self.job(now, new)),
        }
    }

    fn job(&self, now: Instant, new: bool) -> Option<Job> {
        if !self.may_begin(now) {
            return None;
        }
        if let Some(bounds) = self.again.front() {
            return Some(Job::Again(*bounds));
        }
        let waiting = now.saturating_duration_since(self.waiting?);
        let draining = self.draining.borrow().is_some();
        if self.policy().due(waiting, draining).is_some() {
            return Some(Job::Close);
        }
        let enough = new && ahead(self.position, *self.watermark.borrow()) >= READ_AHEAD;
        let calm = self.pace.wait(self.policy().max_age, now).is_none();
        (enough && calm).then_some(Job::Fill)
    }

    fn worked(&mut self, workshop: Box<Workshop<F>>, outcome: Outcome) {
        self.work = None;
        self.board.alive(Instant::now());
        self.position = workshop.position();
        self.holds_lines = workshop.holds_lines();
        if !self.member_last {
            let held = workshop.held().filter(|_| matches!(outcome, Outcome::Exhausted));
            self.held = held.map(|left| Instant::now() + left.min(HELD_INTERVAL));
            self.board.waits_for_clock(held.is_some());
        }
        self.workshop = Some(workshop);
        let since = self.waiting.unwrap_or_else(Instant::now);
        // With an empty window it was the journal or the cursor that failed, and it does no longer.
        if self.window.is_empty() && self.backoff.failures() > 0 && !matches!(outcome, Outcome::Failed(_)) {
            self.backoff.succeeded();
            self.board.working(State::Idle);
        }
        match outcome {
            Outcome::Built(batch) if self.member_last => {
                let taken = vec![false; batch.members.len()];
                self.window.push_back(Sent { batch, taken, since: Instant::now() });
                self.board.open_batches(self.window.len());
            }
            Outcome::Built(batch) => {
                self.exhausted = None;
                self.waiting = None;
                if self.again.front() == Some(&batch.bounds) {
                    self.again.pop_front();
                }
                let taken = vec![false; batch.members.len()];
                self.window.push_back(Sent { batch, taken, since });
                self.board.open_batches(self.window.len());
            }
            Outcome::Exhausted => {}
            Outcome::Waiting => {
                self.exhausted = None;
                self.held = Some(Instant::now() + SALVAGE_POLL);
            }
            Outcome::Failed(failure) => {
                self.exhausted = None;
                self.failed(failure, true);
            }
        }
    }

    /// Sends what is in the window and not taken, as much as one delivery may carry.
    fn start_delivery(&mut self, now: Instant) {
        if self.paused(now) || self.call.is_some() || self.hold.wanted() || self.paused_from_afar() {
            return;
        }
        let mut members: Vec<Member> = Vec::new();
        let mut bytes = 0usize;
        self.called.clear();
        let open = self.window.iter().flat_map(|sent| {
            let parts = sent.batch.members.iter().zip(&sent.taken).enumerate();
            parts
                .filter(|(_, (_, taken))| !**taken)
                .map(|(index, (member, _))| (sent.batch.bounds, index, member))
        });
        for (bounds, index, member) in open {
            bytes = bytes.saturating_add(member.bytes.len());
            let over = members.len() >= self.limits.members || bytes > self.limits.delivery_bytes;
            if over && !members.is_empty() {
                break;
            }
            self.called.push((bounds, index));
            members.push(member.clone());
        }
        if members.is_empty() {
            return;
        }
        let Some(mut uplink) = self.uplink.take() else { return };
        if self.backoff.failures() == 0 {
            self.board.working(State::Sending);
        }
        self.call = Some(Box::pin(async move {
            let answers = uplink.deliver(&members).await;
            (uplink, answers)
        }));
    }

    fn delivered(&mut self, uplink: U, answers: &[Delivery]) {
        self.call = None;
        self.board.alive(Instant::now());
        self.uplink = Some(uplink);
        let called = std::mem::take(&mut self.called);
        let mut worst: Option<(&Failure, bool)> = None;
        let mut progress = false;
        let unanswered =
            Delivery::Retry(Failure::new("unanswered", "the uplink did not say what became of a batch"));
        let answers = answers.iter().chain(std::iter::repeat(&unanswered));
        for ((bounds, index), answer) in called.iter().zip(answers) {
            let (failure, stuck) = match answer {
                Delivery::Confirmed => {
                    progress = true;
                    let sent = self.window.iter_mut().find(|sent| sent.batch.bounds == *bounds);
                    if let Some(taken) = sent.and_then(|sent| sent.taken.get_mut(*index)) {
                        *taken = true;
                    }
                    continue;
                }
                Delivery::Retry(failure) => (failure, false),
                Delivery::Stuck(failure) => (failure, true),
            };
            self.board.refused(failure);
            if worst.is_none_or(|(_, worst_stuck)| stuck && !worst_stuck) {
                worst = Some((failure, stuck));
            }
        }
        if progress {
            self.backoff.succeeded();
        }
        match worst {
            Some((failure, stuck)) => self.failed(failure.clone(), stuck),
            None => self.board.working(State::Sending),
        }
    }

    /// Shows the failure and sets the next attempt.
    fn failed(&mut self, failure: Failure, stuck: bool) {
        let now = Instant::now();
        let delay = self.backoff.failed(jitter::share());
        let delay = if stuck { self.settings.stuck_interval } else { delay };
        tracing::debug!(uplink = %self.settings.name, cause = failure.cause, delay_s = delay.as_secs_f64(),
            "not delivered: {}", failure.message);
        self.board.failing(failure, stuck, self.backoff.failures(), now);
        self.pause = Some(now + delay);
    }

    /// When to look again although nothing happened.
    fn timer(&self, now: Instant) -> Instant {
        if let Some(pause) = self.pause {
            return pause;
        }
        // While it is inside a delivery, the delivery's end is what wakes us.
        let house = self.uplink.as_ref().map_or(now + FAR, |_| self.house_at);
        house.min(self.batch_timer(now))
    }

    fn batch_timer(&self, now: Instant) -> Instant {
        if let Some(held) = self.held {
            return held;
        }
        match self.waiting {
            Some(since) if self.may_begin(now) => {
                let due = since + self.policy().max_age;
                self.pace.wait(self.policy().max_age, now).map_or(due, |calm| calm.min(due))
            }
            _ => now + FAR,
        }
    }

    async fn next_event(&mut self) -> Event<U, F> {
        let now = Instant::now();
        let deadline = *self.draining.borrow();
        let timer = self.timer(now).min(now + self.settings.turn);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline.unwrap_or(now + FAR)), if deadline.is_some() => Event::Deadline,
            result = join(&mut self.work) => Event::Worked(result),
            answer = answer(&mut self.call) => Event::Delivered(answer),
            asked = self.draining.changed() => match asked {
                Ok(()) => Event::RetryNow,
                // The handle is gone, and with it whoever could ask for a drain.
                Err(_) => Event::Deadline,
            },
            () = self.retry_now.notified() => Event::RetryNow,
            () = self.hold.changed() => Event::Look,
            () = tokio::time::sleep_until(timer) => Event::Look,
            () = changed(&mut self.watermark) => Event::Look,
            () = changed_if(&mut self.members) => Event::Look,
            () = changed_if(&mut self.settings.remote) => Event::Look,
        }
    }
}

async fn join<T>(work: &mut Option<oneshot::Receiver<T>>) -> Result<T, oneshot::error::RecvError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn answer<U>(call: &mut Option<Call<U>>) -> Answer<U> {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

/// Waits for a new value; for ever if there will be none.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn changed_if<T>(receiver: &mut Option<watch::Receiver<T>>) {
    match receiver {
        Some(receiver) => changed(receiver).await,
        None => std::future::pending().await,
    }
}

/// Runs a short piece of blocking work off the runtime; a panic inside goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
