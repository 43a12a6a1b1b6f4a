//! The driver: makes the core's calls, carries readings to the journal, keeps the time.
//!
//! Promised: no task and no stream outlives the wearable it is for; a stack that is not there is told once, and taken
//! when it appears; a reading that the journal has no room for is counted, and holds nothing else up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::core::{Call, Core, Input, Output};
use super::handle::{Handle, Request, Shown};
use super::metrics::Metrics;
use super::pace::Pace;
use super::radio::{Event, Peer, Radio, RadioError};
use super::tell::tell;
use crate::clock::Clock;
use crate::health::Mark;
use crate::journal::{Appended, Journal};
use crate::reading::Reading;

/// Time is looked at as often as this when nothing else happens.
const TICK: Duration = Duration::from_millis(250);
/// How often the view is made anew, and streams of forgotten wearables end.
const VIEW_EVERY: Duration = Duration::from_secs(1);
/// Notifications of all wearables on their way to the core: a second of two full gyms.
const DATA_DEPTH: usize = 256;
/// Batches of readings on their way to the journal. It stands still for seconds on a worn card; readings come a few
/// hundred a second at most.
const WRITER_DEPTH: usize = 1024;
/// A stack that is not there is looked for this often; in the end seldom, for each look may be a line in the system's
/// log.
const STACK_RETRY: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(60)];
/// A stack that was reached and says nothing within this time is not there.
const STACK_LIMIT: Duration = Duration::from_secs(40);
/// An adapter that the stack has not named within this time of its start is not there.
const ADAPTER_PATIENCE: Duration = Duration::from_secs(3);
/// Connections get this long to end when the gateway stops; the stack takes some two seconds for one.
const FAREWELL: Duration = Duration::from_secs(4);
/// Requests of commands: rare, and each is answered at once.
const REQUESTS: usize = 8;

pub struct Driver<R: Radio> {
    radio: R,
    core: Core,
    journal: Journal,
    clock: Arc<dyn Clock>,
    pace: Pace,
    metrics: Metrics,
    shown: Arc<Mutex<Shown>>,
    requests: mpsc::Receiver<Request>,
    calls: JoinSet<Answer>,
    /// Attempts to connect that are under way.
    attempts: HashMap<Peer, AbortHandle>,
    /// The one task that carries a wearable's notifications.
    streams: HashMap<Peer, AbortHandle>,
    /// When this was last at work.
    mark: Mark,
    /// Whether somebody counts on the radio: its absence is then worth a warning.
    counted_on: bool,
    /// What was last said about its absence.
    lack: Option<String>,
    pumps: JoinSet<()>,
    /// Where the streams' tasks send to, and what comes out.
    pumped: mpsc::Sender<(Peer, Bytes)>,
    data: mpsc::Receiver<(Peer, Bytes)>,
    out: Vec<Output>,
    readings: Vec<Reading>,
}

/// How a call ended.
struct Answer {
    call: Call,
    result: Result<Bytes, RadioError>,
    stream: Option<mpsc::Receiver<Bytes>>,
}

/// What the core has asked for.
#[derive(PartialEq, Eq)]
enum Asked {
    Calls,
    Rebuild,
}

/// Why the inner loop ended.
enum Turn {
    Stop,
    /// The connection to the stack is to be made anew.
    Rebuild,
}

impl<R: Radio> Driver<R> {
    pub fn new(
        radio: R,
        core: Core,
        journal: Journal,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        counted_on: bool,
    ) -> (Self, Handle) {
        let pace = Pace::real();
        let mark = Mark::new(Instant::now());
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (asking, requests) = mpsc::channel(REQUESTS);
        let (pumped, data) = mpsc::channel(DATA_DEPTH);
        let handle = Handle { view: Arc::clone(&shown), requests: asking, mark: mark.clone() };
        let driver = Self {
            radio,
            core,
            journal,
            clock,
            metrics,
            shown,
            requests,
            calls: JoinSet::new(),
            attempts: HashMap::new(),
            streams: HashMap::new(),
            mark,
            pace,
            counted_on,
            lack: None,
            pumps: JoinSet::new(),
            pumped,
            data,
            out: Vec::new(),
            readings: Vec::new(),
        };
        (driver, handle)
    }

    /// Lets time run by `pace`; the clock has to go with it.
    #[must_use]
    pub fn at(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Works until `stop` is true.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (writer, batches) = mpsc::channel(WRITER_DEPTH);
        let writing = tokio::spawn(write(self.journal.clone(), batches));
        let mut tries = 0;
        loop {
            self.beat();
            let events = tokio::select! {
                events = tokio::time::timeout(STACK_LIMIT, self.radio.events()) => {
                    events.unwrap_or(Err(RadioError::Timeout))
                }
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match events {
                Ok(events) => {
                    tries = 0;
                    self.close_streams();
                    self.calls.abort_all();
                    self.attempts.clear();
                    if matches!(self.session(events, &writer, &mut stop).await, Turn::Stop) {
                        break;
                    }
                    self.metrics.rebuilds.inc();
                }
                Err(error) => {
                    self.lacks(Some(error.to_string()));
                    let wait = STACK_RETRY.get(tries).or(STACK_RETRY.last()).copied().unwrap_or_default();
                    tries += 1;
                    if self.rest(wait, &mut stop).await {
                        break;
                    }
                }
            }
        }
        self.farewell().await;
        self.flush(&writer);
        drop(writer);
        // A panic there is a defect that shows as missing readings; the journal itself is whole.
        if writing.await.is_err() {
            tracing::error!("the task that hands readings to the journal ended by a panic");
        }
    }

    /// Waits until the stack is looked for again; requests are answered meanwhile. `true`: told to stop.
    async fn rest(&mut self, wait: Duration, stop: &mut watch::Receiver<bool>) -> bool {
        let until = tokio::time::Instant::now() + self.pace.real_time(wait);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return false,
                Some(request) = self.requests.recv() => self.serve(request),
                _ = stop.wait_for(|stop| *stop) => return true,
            }
        }
    }

    /// One connection to the stack.
    async fn session(
        &mut self,
        mut events: mpsc::Receiver<Event>,
        writer: &mpsc::Sender<Vec<Reading>>,
        stop: &mut watch::Receiver<bool>,
    ) -> Turn {
        let mut tick = tokio::time::interval(self.pace.real_time(TICK));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut view = tokio::time::interval(self.pace.real_time(VIEW_EVERY));
        view.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let begun = self.pace.now();
        self.take(Input::Renewed);
        loop {
            if self.carry_out() == Asked::Rebuild {
                return Turn::Rebuild;
            }
            self.flush(writer);
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(Input::Event(event)),
                    None => {
                        self.take(Input::Event(Event::StackLost));
                        return Turn::Rebuild;
                    }
                },
                Some((peer, payload)) = self.data.recv() => self.take(Input::Data(peer, payload)),
                Some(answer) = self.calls.join_next() => self.answered(answer),
                Some(_) = self.pumps.join_next() => {}
                Some(request) = self.requests.recv() => self.serve(request),
                _ = tick.tick() => self.take(Input::Tick),
                _ = view.tick() => {
                    self.renew_view();
                    self.look_for_adapters(begun);
                }
                _ = stop.wait_for(|stop| *stop) => return Turn::Stop,
            }
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Allow(listed) => self.take(Input::Allow(listed)),
            Request::Forget(key) => self.take(Input::Forget(key)),
            // Who asked may have gone away.
            Request::Survey(answer) => drop(answer.send(self.core.survey(self.pace.now(), self.clock.now()))),
        }
    }

    fn take(&mut self, input: Input) {
        let jitter = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
        self.core.take(input, self.pace.now(), self.clock.now(), jitter, &mut self.out);
    }

    /// Does what the core has asked for.
    fn carry_out(&mut self) -> Asked {
        let mut asked = Asked::Calls;
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Call(Call::Rebuild) => asked = Asked::Rebuild,
                Output::Call(call) => self.call(call),
                Output::Reading(identity, reading) => match self.journal.devices().intern(&identity) {
                    Some(device) => self.readings.push(Reading { device, ..reading }),
                    None => {
                        self.metrics.refused.inc();
                    }
                },
                Output::Note(note) => tell(&note, &self.metrics),
            }
        }
        asked
    }

    fn call(&mut self, call: Call) {
        if !matches!(call, Call::Read(..)) {
            tracing::debug!(?call, "Bluetooth call");
        }
        // A wearable has one attempt at a time, and the end of a connection is the end of an attempt, too.
        if let Call::Connect(peer, _) | Call::Disconnect(peer) = &call
            && let Some(attempt) = self.attempts.remove(peer)
        {
            attempt.abort();
        }
        let connecting = if let Call::Connect(peer, _) = &call { Some(peer.clone()) } else { None };
        let radio = self.radio.clone();
        let open = connecting.as_ref().is_some_and(|peer| !self.streams.contains_key(peer));
        let task = self.calls.spawn(async move {
            let mut stream = None;
            let result = make(&radio, &call, open, &mut stream).await;
            Answer { call, result, stream }
        });
        if let Some(peer) = connecting {
            self.attempts.insert(peer, task);
        }
    }

    fn answered(&mut self, answer: Result<Answer, tokio::task::JoinError>) {
        // A call that was aborted has no answer that anybody waits for.
        let Ok(Answer { call, result, stream }) = answer else { return };
        if let Call::Connect(peer, _) = &call {
            self.attempts.remove(peer);
        }
        if let (Some(mut stream), Call::Connect(peer, _)) = (stream, &call) {
            let (peer, data) = (peer.clone(), self.pumped.clone());
            let pump = self.pumps.spawn({
                let peer = peer.clone();
                async move {
                    while let Some(payload) = stream.recv().await {
                        if data.send((peer.clone(), payload)).await.is_err() {
                            return;
                        }
                    }
                }
            });
            if let Some(before) = self.streams.insert(peer, pump) {
                before.abort();
            }
        }
        if let (Err(error), Call::RestartStack) = (&result, &call) {
            tracing::warn!(%error, "bluetooth.service cannot be restarted; allow it by a polkit rule, or set ble.restart_bluetooth = false");
        } else if let Err(error) = &result {
            tracing::debug!(?call, %error, "a Bluetooth call failed");
            self.metrics.failed_calls.inc();
        }
        if result.is_ok() && !matches!(call, Call::Read(..)) {
            tracing::debug!(?call, "Bluetooth call done");
        }
        self.take(Input::Done(call, result));
    }

    /// Hands readings on; never waits.
    fn flush(&mut self, writer: &mpsc::Sender<Vec<Reading>>) {
        if self.readings.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.readings);
        let count = batch.len() as u64;
        match writer.try_send(batch) {
            Ok(()) => {
                self.metrics.readings.inc_by(count);
            }
            Err(_) => {
                self.take(Input::Dropped);
                if self.metrics.dropped.inc_by(count) == 0 {
                    tracing::warn!(
                        "the journal takes no readings: Bluetooth readings are lost until it does; see `fogbeat status`"
                    );
                }
            }
        }
    }

    fn renew_view(&mut self) {
        let (core, streams) = (&self.core, &mut self.streams);
        streams.retain(|peer, pump| {
            let known = core.knows(peer);
            if !known {
                pump.abort();
            }
            known
        });
        let view = self.core.view(self.pace.now(), self.clock.now());
        self.metrics.connections.set(view.adapters.iter().map(|adapter| adapter.connections as i64).sum());
        self.metrics.streams.set(self.streams.len() as i64);
        self.show(|shown| shown.view = view);
    }

    fn look_for_adapters(&mut self, begun: Instant) {
        self.beat();
        if self.core.has_adapter() {
            self.lacks(None);
        } else if self.pace.now().saturating_duration_since(begun) >= ADAPTER_PATIENCE {
            let lack = "there is no Bluetooth adapter that may be used; plug one in, or see [ble] adapters";
            self.lacks(Some(lack.to_owned()));
        }
    }

    /// Says once what is missing, and once that it is there.
    fn lacks(&mut self, lack: Option<String>) {
        if self.lack == lack {
            return;
        }
        match &lack {
            None => tracing::info!("Bluetooth is there"),
            Some(lack) if self.counted_on => {
                tracing::warn!("no Bluetooth: {lack}; it is taken when it appears");
            }
            Some(lack) => tracing::info!("no Bluetooth: {lack}; it is taken when it appears"),
        }
        self.show(|shown| shown.unavailable.clone_from(&lack));
        self.lack = lack;
    }

    fn beat(&self) {
        self.mark.set(Instant::now());
    }

    fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn close_streams(&mut self) {
        for (_, pump) in self.streams.drain() {
            pump.abort();
        }
    }

    /// Ends connections, so that straps are free for others.
    async fn farewell(&mut self) {
        self.calls.abort_all();
        let mut endings = JoinSet::new();
        for peer in self.core.connected() {
            let radio = self.radio.clone();
            endings.spawn(async move {
                // The strap gives up by itself if this fails.
                let _ = radio.disconnect(&peer).await;
            });
        }
        let _ = tokio::time::timeout(FAREWELL, async { while endings.join_next().await.is_some() {} }).await;
        self.close_streams();
    }
}

async fn make<R: Radio>(
    radio: &R,
    call: &Call,
    open: bool,
    stream: &mut Option<mpsc::Receiver<Bytes>>,
) -> Result<Bytes, RadioError> {
    let done = |()| Bytes::new();
    match call {
        Call::Scan(adapter, on) => radio.scan(adapter, *on).await.map(done),
        Call::Power(adapter, on) => radio.power(adapter, *on).await.map(done),
        Call::Connect(peer, pair) => {
            // The stream comes first: the stack restores notifications before the call is back.
            if open {
                *stream = Some(radio.notifications(peer).await?);
            }
            if *pair {
                radio.pair(peer).await?;
            }
            radio.connect(peer).await.map(done)
        }
        Call::Disconnect(peer) => radio.disconnect(peer).await.map(done),
        Call::Read(peer, what) => radio.read(peer, *what).await,
        Call::RestartStack => radio.restart_stack().await.map(done),
        Call::Rebuild => Ok(Bytes::new()),
    }
}

/// Hands readings to the journal; waits there while it is full.
async fn write(journal: Journal, mut batches: mpsc::Receiver<Vec<Reading>>) {
    let mut appended: Vec<Appended> = Vec::new();
    let mut last = None;
    while let Some(mut batch) = batches.recv().await {
        journal.append(&mut batch, &mut appended).await;
        last = appended.last().map(|appended| appended.ticket).or(last);
        appended.clear();
    }
    if let Some(ticket) = last {
        journal.wait(ticket).await;
    }
}
