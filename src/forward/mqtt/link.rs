//! The task that owns an uplink's connection: makes it when there is something to send, publishes, hears the answers.
//!
//! One delivery at a time. Whatever ends a connection, what was acknowledged on it is confirmed and the rest is told
//! why not; the next delivery makes a new connection, at the earliest [`CONNECT_INTERVAL`] after the last attempt.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Place;
use super::Settings;
use super::certificate::{Certificates, Trial};
use super::flight::Flight;
use super::live;
use super::pace::Pace;
use super::session::{NoSession, Session, context};
use super::shadow::Shadow;
use super::status::Board;
use super::verdict;
use super::wire::{Event, PublishAnswer, publish_bytes};
use crate::clock::Clock;
use crate::forward::jitter;
use crate::forward::retry::{self, Backoff};
use crate::forward::verdict::Verdict;
use crate::forward::{Delivery, Member};

/// AWS IoT takes one CONNECT a second of each client id.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the certificate's files are looked at while a connection stands.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(10);
/// A service that does not want live values must not lose batches by them: they rest for so long.
const LIVE_REST: Duration = Duration::from_secs(600);
/// Connections in a row that end after a live value, before anything is acknowledged.
const LIVE_STRIKES: u32 = 2;
/// What may be unwritten when the next publish is given: less than a TLS record.
const UNWRITTEN: u64 = 8 * 1024;

pub(super) enum Command {
    /// Do not wait any longer for the next attempt to connect.
    Connect,
    Deliver {
        members: Vec<Member>,
        answer: oneshot::Sender<Vec<Delivery>>,
    },
    /// Say goodbye and end.
    Close(oneshot::Sender<()>),
}

/// What is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// A member of the delivery.
    Member(usize),
    /// A live value: it is not sent again, whatever becomes of it.
    Live,
    /// Something for the shadow.
    Shadow,
}

/// One delivery.
struct Job {
    members: Vec<Member>,
    answers: Vec<Option<Delivery>>,
    /// Members that wait to be given to the connection.
    waiting: VecDeque<usize>,
    answer: oneshot::Sender<Vec<Delivery>>,
}

/// Why a connection is not used any more.
enum Left {
    /// Something went wrong.
    Lost(Verdict),
    /// There is a new certificate to be tried.
    Renew,
    /// The uplink ends.
    Closing(Option<oneshot::Sender<()>>),
}

/// One connection while it is used.
struct Use {
    session: Session,
    flight: Flight<Load>,
    /// Plain bytes of all publishes given.
    given: u64,
    /// Of these, what had not passed when that was last looked at.
    behind: u64,
    /// When bytes of a publish have last moved, or an answer came.
    progress: Instant,
    sent: bool,
    sent_live: bool,
    acknowledged: bool,
    look: Instant,
    renew: bool,
}

pub(super) struct Link {
    settings: Settings,
    commands: mpsc::Receiver<Command>,
    board: Board,
    clock: Arc<dyn Clock>,
    certificates: Certificates,
    pace: Pace,
    job: Option<Job>,
    /// Connections in a row on which something was published and nothing acknowledged.
    unanswered: u32,
    attempted: Option<Instant>,
    live: Option<live::Lane>,
    live_strikes: u32,
    live_rests: Option<Instant>,
    shadow: Option<Shadow>,
    /// Of connections that are made without a delivery to make.
    backoff: Backoff,
    /// When the next of these is tried.
    standing: Instant,
}

impl Link {
    pub(super) fn new(
        settings: Settings,
        commands: mpsc::Receiver<Command>,
        board: Board,
        live: Option<live::Lane>,
        shadow: Option<Shadow>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let pace = Pace::new(settings.rates, Instant::now());
        Self {
            settings,
            commands,
            board,
            clock,
            certificates: Certificates::default(),
            pace,
            job: None,
            unanswered: 0,
            attempted: None,
            live,
            live_strikes: 0,
            live_rests: None,
            shadow,
            backoff: Backoff::new(retry::Limits::default()),
            standing: Instant::now(),
        }
    }

    /// A connection is wanted without anything to deliver.
    fn stands(&self) -> bool {
        self.live.is_some() || self.shadow.is_some()
    }

    /// Until the uplink is closed or gone.
    pub(super) async fn run(mut self) {
        let mut renew = false;
        loop {
            if self.job.is_none() && !renew {
                let stands = self.stands();
                tokio::select! {
                    command = self.commands.recv() => match command {
                        Some(Command::Deliver { members, answer }) => self.take(members, answer),
                        Some(Command::Connect) => {}
                        Some(Command::Close(done)) => return closed(Some(done)),
                        None => return,
                    },
                    () = tokio::time::sleep_until(self.standing), if stands => {}
                }
            }
            let left = match self.connect().await {
                Ok(session) => {
                    self.backoff.succeeded();
                    self.board.connected(true);
                    let left = self.serve(session).await;
                    self.board.connected(false);
                    left
                }
                Err(verdict) => Left::Lost(verdict),
            };
            self.board.count_wire();
            renew = matches!(left, Left::Renew);
            match left {
                Left::Lost(verdict) => {
                    self.standing = Instant::now() + self.backoff.failed(jitter::share());
                    tracing::debug!(uplink = %self.settings.name, "{}", verdict.failure.message);
                    self.board.lost(&verdict);
                    self.fail(&verdict);
                }
                Left::Renew => {}
                Left::Closing(done) => return closed(done),
            }
        }
    }

    fn take(&mut self, members: Vec<Member>, answer: oneshot::Sender<Vec<Delivery>>) {
        let waiting = (0..members.len()).collect();
        let answers = vec![None; members.len()];
        self.job = Some(Job { members, answers, waiting, answer });
        self.finish();
    }

    /// What was not answered is told why.
    fn fail(&mut self, verdict: &Verdict) {
        if let Some(job) = &mut self.job {
            job.waiting.clear();
            job.answers.iter_mut().for_each(|answer| {
                answer.get_or_insert_with(|| verdict.delivery());
            });
        }
        self.finish();
    }

    /// Answers a delivery that is complete.
    fn finish(&mut self) {
        let complete = |job: &mut Job| job.answers.iter().all(Option::is_some);
        if let Some(job) = self.job.take_if(complete) {
            // The driver stops when it does not wait any more.
            let _ = job.answer.send(job.answers.into_iter().flatten().collect());
        }
    }

    /// A connection, with the new certificate if there is one, else with the one that is proven.
    async fn connect(&mut self) -> Result<Session, Verdict> {
        let trial = self.trial().await?;
        match self.attempt(trial.as_ref()).await {
            Ok(session) => {
                self.accepted(trial);
                Ok(session)
            }
            Err(NoSession { verdict, refused }) => match trial.filter(|trial| trial.candidate && refused) {
                None => Err(verdict),
                Some(trial) => {
                    let why = verdict.failure.message;
                    self.certificates.refuse(trial.identity.fingerprint, why, &self.settings);
                    let trial = self.trial().await?;
                    let session = self.attempt(trial.as_ref()).await.map_err(|none| none.verdict)?;
                    self.accepted(trial);
                    Ok(session)
                }
            },
        }
    }

    /// What to connect with; `None`: no TLS.
    async fn trial(&mut self) -> Result<Option<Trial>, Verdict> {
        match self.settings.secure {
            true => self.certificates.trial(&self.settings).await.map(Some),
            false => Ok(None),
        }
    }

    async fn attempt(&mut self, trial: Option<&Trial>) -> Result<Session, NoSession> {
        if let Some(attempted) = self.attempted {
            tokio::time::sleep_until(attempted + CONNECT_INTERVAL).await;
        }
        self.attempted = Some(Instant::now());
        self.certificates.watch(trial, self.clock.now(), &self.board, &self.settings);
        Session::open(&self.settings, trial.map(|trial| &trial.identity), self.board.wire.clone()).await
    }

    fn accepted(&mut self, trial: Option<Trial>) {
        if let Some(trial) = trial {
            self.certificates.proven(trial, &self.settings);
        }
        self.certificates.watch(None, self.clock.now(), &self.board, &self.settings);
        tracing::debug!(uplink = %self.settings.name, "connected");
    }

    fn context(&self) -> verdict::Context<'_> {
        verdict::Context { expires: self.certificates.expires(), ..context(&self.settings, None) }
    }

    /// Uses a connection until it ends, or is left.
    async fn serve(&mut self, session: Session) -> Left {
        let now = Instant::now();
        if let Some(shadow) = &mut self.shadow {
            for filter in shadow.connected() {
                // A queue that is full belongs to a connection that has ended.
                let _ = session.client.subscribe(&filter);
            }
        }
        let mut in_use = Use {
            flight: Flight::new(session.window),
            session,
            given: 0,
            behind: 0,
            progress: now,
            sent: false,
            sent_live: false,
            acknowledged: false,
            look: now + CERTIFICATE_LOOK,
            renew: false,
        };
        loop {
            let now = Instant::now();
            if in_use.renew && in_use.flight.is_empty() {
                in_use.session.close().await;
                break Left::Renew;
            }
            self.publish_live(&mut in_use, now);
            self.publish_shadow(&mut in_use);
            self.publish(&mut in_use, now);
            if let Some(verdict) = self.stalled(&in_use, now) {
                break Left::Lost(verdict);
            }
            let wake = self.wake(&mut in_use, now);
            tokio::select! {
                event = in_use.session.events.recv() => match event {
                    Some(Event::Message { topic, payload }) => self.heard_shadow(topic, payload).await,
                    Some(event) => self.heard(event, &mut in_use),
                    None => break self.lost(in_use).await,
                },
                command = self.commands.recv() => match command {
                    Some(Command::Deliver { members, answer }) => self.take(members, answer),
                    Some(Command::Connect) => {}
                    Some(Command::Close(done)) => {
                        in_use.session.close().await;
                        return Left::Closing(Some(done));
                    }
                    None => return Left::Closing(None),
                },
                moved = in_use.session.passed.changed() => {
                    in_use.moved();
                    if moved.is_err() {
                        // The relay has ended, and the library will in a moment.
                        break self.lost(in_use).await;
                    }
                }
                () = tokio::time::sleep_until(wake) => self.look(&mut in_use).await,
            }
        }
    }

    /// Live values go first, as far as the number of publishes allows it.
    fn publish_live(&mut self, in_use: &mut Use, now: Instant) {
        let Some(lane) = &mut self.live else { return };
        lane.look(now);
        if in_use.renew
            || !lane.is_due()
            || !in_use.flight.is_open()
            || self.live_rests.is_some_and(|until| until > now)
            || in_use.unwritten() > UNWRITTEN
            || !self.pace.may_urgent(now)
        {
            return;
        }
        let Some((topic, payload)) = lane.next(now) else { return };
        let size = publish_bytes(self.settings.version, &topic, payload.len());
        if in_use.session.client.publish(&topic, payload).is_err() {
            return;
        }
        if in_use.flight.is_empty() {
            in_use.progress = now;
        }
        in_use.sent_live = true;
        in_use.flight.give(Load::Live);
        in_use.given += size as u64;
        in_use.behind = in_use.unwritten();
        self.pace.take(size, now);
        self.board.sent_live();
    }

    /// The shadow's few messages go between members.
    fn publish_shadow(&mut self, in_use: &mut Use) {
        let Some(shadow) = self.shadow.as_mut().filter(|_| in_use.flight.is_open() && !in_use.renew) else {
            return;
        };
        let Some((topic, payload)) = shadow.next() else { return };
        let size = publish_bytes(self.settings.version, &topic, payload.len());
        if in_use.session.client.publish(&topic, payload).is_ok() {
            let now = Instant::now();
            if in_use.flight.is_empty() {
                in_use.progress = now;
            }
            in_use.flight.give(Load::Shadow);
            in_use.given += size as u64;
            in_use.behind = in_use.unwritten();
            self.pace.take(size, now);
        }
    }

    /// A document of the shadow: what is good in it is written to disk.
    async fn heard_shadow(&mut self, topic: String, payload: bytes::Bytes) {
        let Some(mut shadow) = self.shadow.take() else { return };
        let heard = tokio::task::spawn_blocking(move || {
            shadow.heard(&topic, &payload);
            shadow
        });
        match heard.await {
            Ok(shadow) => self.shadow = Some(shadow),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Gives the connection what may go now.
    fn publish(&mut self, in_use: &mut Use, now: Instant) {
        while let Some(member) = self.next(in_use, now) {
            let Some(job) = &mut self.job else { return };
            let Some(bytes) = job.members.get(member).map(|member| member.bytes.clone()) else { return };
            let size = publish_bytes(self.settings.version, &self.settings.topic, bytes.len());
            if let Some(largest) = in_use.session.largest.filter(|largest| size > *largest) {
                job.waiting.pop_front();
                let verdict = verdict::larger_than(largest, &self.context());
                self.answer(member, &verdict.delivery());
                continue;
            }
            if in_use.session.client.publish(&self.settings.topic, bytes).is_err() {
                // Its end is told by its events.
                return;
            }
            job.waiting.pop_front();
            if in_use.flight.is_empty() {
                in_use.progress = now;
            }
            in_use.flight.give(Load::Member(member));
            in_use.given += size as u64;
            in_use.behind = in_use.unwritten();
            in_use.sent = true;
            self.pace.take(size, now);
        }
    }

    /// The member that may be given now.
    fn next(&mut self, in_use: &Use, now: Instant) -> Option<usize> {
        if in_use.renew || !in_use.flight.is_open() || in_use.unwritten() > UNWRITTEN {
            return None;
        }
        let member = *self.job.as_ref()?.waiting.front()?;
        self.pace.wait(now).is_none().then_some(member)
    }

    /// When to look again although nothing happened.
    fn wake(&mut self, in_use: &mut Use, now: Instant) -> Instant {
        let mut wake = in_use.look;
        if let Some(lane) = &self.live {
            // What is due and may not go yet waits for an event or for the number of publishes.
            wake = wake.min(lane.wake());
        }
        let waits = self.job.as_ref().is_some_and(|job| !job.waiting.is_empty());
        if waits && in_use.flight.is_open() && !in_use.renew && in_use.unwritten() <= UNWRITTEN {
            wake = self.pace.wait(now).map_or(wake, |at| at.min(wake));
        }
        if !in_use.flight.is_empty() {
            wake = wake.min(in_use.progress + self.settings.timeout);
        }
        wake
    }

    fn stalled(&self, in_use: &Use, now: Instant) -> Option<Verdict> {
        let late = now.saturating_duration_since(in_use.progress) >= self.settings.timeout;
        (late && !in_use.flight.is_empty()).then(|| verdict::stalled(&self.context()))
    }

    fn heard(&mut self, event: Event, in_use: &mut Use) {
        match event {
            Event::Sent(id) => {
                in_use.flight.sent(id);
            }
            Event::Used(id) => in_use.flight.used(id),
            Event::Acknowledged { id, answer } => {
                in_use.progress = Instant::now();
                in_use.acknowledged = true;
                match (in_use.flight.acknowledged(id), answer) {
                    (Some(Load::Member(member)), answer) => self.answered(member, answer),
                    (Some(Load::Live), PublishAnswer::Refused { reason, .. }) => {
                        self.rest_live(&format!("{reason:?}"));
                    }
                    _ => {}
                }
            }
            Event::Subscribed { taken } => {
                if let Some(shadow) = &mut self.shadow {
                    shadow.subscribed(taken);
                }
            }
            // Documents come again with the next connection.
            Event::Connected { .. } | Event::Message { .. } => {}
        }
    }

    fn answered(&mut self, member: usize, answer: PublishAnswer) {
        let verdict = match answer {
            PublishAnswer::Taken => None,
            // Nobody can subscribe to what a rule of AWS IoT takes.
            PublishAnswer::Unheard => match self.settings.place {
                Place::IotCore { .. } => None,
                Place::Broker => Some(verdict::unheard(&self.context())),
            },
            PublishAnswer::Refused { reason, text } => {
                Some(verdict::publish(reason, text.as_deref(), &self.context()))
            }
        };
        let Some(verdict) = verdict else { return self.answer(member, &Delivery::Confirmed) };
        if verdict.failure.cause == "quota" {
            self.pace.slow(Instant::now());
            self.board.complained();
            self.board.slowed(true);
        }
        if verdict.stuck {
            // The others would be told the same.
            let waiting = self.job.as_mut().map(|job| std::mem::take(&mut job.waiting));
            waiting.into_iter().flatten().for_each(|other| self.answer(other, &verdict.delivery()));
        }
        self.answer(member, &verdict.delivery());
    }

    fn answer(&mut self, member: usize, delivery: &Delivery) {
        if let Some(slot) = self.job.as_mut().and_then(|job| job.answers.get_mut(member)) {
            *slot = Some(delivery.clone());
        }
        self.finish();
    }

    /// The connection has ended.
    async fn lost(&mut self, mut in_use: Use) -> Left {
        // What was acknowledged before the end counts.
        while let Some(event) = in_use.session.events.recv().await {
            self.heard(event, &mut in_use);
        }
        self.unanswered = match (in_use.sent, in_use.acknowledged) {
            (true, false) => self.unanswered + 1,
            (_, true) => 0,
            (false, false) => self.unanswered,
        };
        self.live_strikes = match in_use.sent_live && !in_use.acknowledged {
            true => self.live_strikes + 1,
            false => 0,
        };
        if self.live_strikes >= LIVE_STRIKES {
            self.rest_live("the connection is closed after each");
        }
        let (ended, relay) = in_use.session.ended().await;
        tracing::debug!(uplink = %self.settings.name, ?ended, ?relay, "the connection has ended");
        let verdict = verdict::ended(&ended, &relay, self.unanswered, &self.context());
        if verdict.failure.cause == "quota" {
            self.pace.slow(Instant::now());
            self.board.complained();
        }
        Left::Lost(verdict)
    }

    /// Live values are not wanted: batches go on without them for a while.
    fn rest_live(&mut self, why: &str) {
        let now = Instant::now();
        if let Some(lane) = self.live.as_ref().filter(|_| self.live_rests.is_none_or(|until| until <= now)) {
            tracing::warn!(uplink = %self.settings.name, topic = lane.topic(),
                "live values are not taken ({why}): allow publishing to their topic, or leave out [uplink.live]");
            self.live_rests = Some(now + LIVE_REST);
            self.live_strikes = 0;
        }
    }

    /// Every now and then, and when a time has come.
    async fn look(&mut self, in_use: &mut Use) {
        let now = Instant::now();
        if now < in_use.look {
            return;
        }
        in_use.look = now + CERTIFICATE_LOOK;
        self.board.count_wire();
        self.board.slowed(self.pace.is_slowed());
        if self.settings.secure {
            in_use.renew = self.certificates.changed(&self.settings).await;
            self.certificates.watch(None, self.clock.now(), &self.board, &self.settings);
        }
    }
}

impl Use {
    /// Plain bytes that were given and are not in the kernel's hands yet.
    fn unwritten(&self) -> u64 {
        let passed = self.session.passed.borrow().saturating_sub(self.session.passed_before);
        self.given.saturating_sub(passed)
    }

    /// Bytes have passed: those of a ping are no progress.
    fn moved(&mut self) {
        let unwritten = self.unwritten();
        if std::mem::replace(&mut self.behind, unwritten) > 0 {
            self.progress = Instant::now();
        }
    }
}

fn closed(done: Option<oneshot::Sender<()>>) {
    if let Some(done) = done {
        // Who asked may have stopped waiting.
        let _ = done.send(());
    }
}
