//! The life of one wearable's connection: pure. The driver beside it makes the calls and brings their ends back.
//!
//! ```text
//!  Resting ──grant──► Connecting ──ok──► Live ──lost, silent, yield──► Closing ──► Backoff ──► Resting
//!                         └──failed────────────────────────────────────►┘
//! ```
//! - After every failed or timed-out connect comes a disconnect: the stack may go on trying, and refuses the next
//!   attempt meanwhile.
//! - What counts is data, not events: a link without a heart rate for [`SILENCE`] is given up, an event that says
//!   "connected" is not needed, and the back-off starts over only when data has come.
//! - An attempt is given up after [`ATTEMPT`], whatever the stack goes on doing: others wait for their turn.
//! - After any loss the next connect waits at least [`SETTLE`]: one on the heels of an adapter's power-off has crashed
//!   the kernel.

use std::time::{Duration, Instant};

/// Longest silence of a connected wearable; they send once a second.
pub const SILENCE: Duration = Duration::from_secs(10);
/// Least time between a loss and the next connect.
pub const SETTLE: Duration = Duration::from_millis(1500);
/// How often the battery is read.
pub const BATTERY_EVERY: Duration = Duration::from_secs(600);
const BACKOFF_FIRST: Duration = Duration::from_secs(2);
const BACKOFF_MOST: Duration = Duration::from_secs(60);
/// Silent links in a row before the operator is told that another app may hold the strap.
const SILENT_OFTEN: u32 = 2;
/// An attempt to connect, services and subscription included; slow controllers take 7 s, absent wearables for ever.
pub const ATTEMPT: Duration = Duration::from_secs(15);
/// ... and if it has to be paired first.
pub const PAIRING: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Has no slot.
    Resting,
    /// Given up at that time.
    Connecting {
        until: Instant,
    },
    Live {
        heard: Instant,
        battery_at: Instant,
    },
    /// A disconnect is under way.
    Closing,
    Backoff {
        until: Instant,
    },
}

/// What the driver tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has a slot and it is its turn; `pair`: it is to be paired on the way.
    Granted { pair: bool },
    /// The connect call came back well.
    Connected,
    /// The connect call came back otherwise, or not in time.
    Failed,
    /// A heart rate notification.
    Data,
    /// The stack says that the link is gone.
    Lost,
    /// The slot is needed by another.
    Yield,
    /// The disconnect call came back, however.
    Closed,
    /// The adapter is off or gone: its calls have ended or will.
    AdapterLost,
}

/// What the driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Connect,
    Disconnect,
    /// Read what is read once per connection.
    ReadAbout,
    ReadBattery,
    /// Give the slot back; ask for one again when [`Session::wants_slot`] says so.
    ReleaseSlot,
    /// Connected, and no heart rate: tell the operator, once per spell.
    TellSilent,
}

/// How it stands, for `fogbeat status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Resting,
    Connecting,
    /// Connected, nothing heard yet.
    Silent,
    Live,
    Closing,
    Backoff,
    /// Listed, and not heard for half an hour or ever: it has no session.
    Absent,
}

#[derive(Debug)]
pub struct Session {
    state: State,
    /// Connects since data last came.
    attempts: u32,
    /// Links in a row that brought no data at all.
    silent: u32,
    had_data: bool,
    told_silent: bool,
}

/// At most two things are to be done at a time.
pub type Actions = smallvec::SmallVec<[Action; 2]>;

impl Default for Session {
    fn default() -> Self {
        Self { state: State::Resting, attempts: 0, silent: 0, had_data: false, told_silent: false }
    }
}

impl Session {
    pub fn standing(&self) -> Standing {
        match self.state {
            State::Resting => Standing::Resting,
            State::Connecting { .. } => Standing::Connecting,
            State::Live { .. } if self.had_data => Standing::Live,
            State::Live { .. } => Standing::Silent,
            State::Closing => Standing::Closing,
            State::Backoff { .. } => Standing::Backoff,
        }
    }

    /// Whether it queues for a slot.
    pub fn wants_slot(&self, now: Instant) -> bool {
        match self.state {
            State::Resting => true,
            State::Backoff { until } => now >= until,
            State::Connecting { .. } | State::Live { .. } | State::Closing => false,
        }
    }

    /// Between having a slot and being told whether it works.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting { .. } | State::Closing)
    }

    /// `jitter` is a fresh random number from 0 to 1.
    pub fn on(&mut self, event: Event, now: Instant, jitter: f64) -> Actions {
        let mut actions = Actions::new();
        match (self.state, event) {
            (State::Resting | State::Backoff { .. }, Event::Granted { pair }) if self.wants_slot(now) => {
                let limit = if pair { PAIRING } else { ATTEMPT };
                self.state = State::Connecting { until: now + limit };
                self.had_data = false;
                actions.push(Action::Connect);
            }
            (State::Backoff { .. }, Event::Granted { .. }) => actions.push(Action::ReleaseSlot),
            (State::Connecting { .. }, Event::Connected) => {
                self.state = State::Live { heard: now, battery_at: now + BATTERY_EVERY };
                actions.push(Action::ReadAbout);
            }
            // The stack restores notifications by itself: data may come before the call is back.
            (State::Connecting { .. }, Event::Data) => self.data(),
            (State::Live { battery_at, .. }, Event::Data) => {
                self.state = State::Live { heard: now, battery_at };
                self.data();
            }
            (State::Connecting { .. }, Event::Failed | Event::Lost | Event::Yield)
            | (State::Live { .. }, Event::Lost | Event::Yield) => {
                self.state = State::Closing;
                actions.push(Action::Disconnect);
            }
            (State::Closing, Event::Closed) => {
                self.rest(now, jitter);
                actions.push(Action::ReleaseSlot);
            }
            (State::Connecting { .. } | State::Live { .. } | State::Closing, Event::AdapterLost) => {
                self.rest(now, jitter);
                actions.push(Action::ReleaseSlot);
            }
            // Late, doubled or meaningless here: a link that was never up, an answer to a call of a former adapter.
            _ => {}
        }
        actions
    }

    /// What time alone brings.
    pub fn tick(&mut self, now: Instant) -> Actions {
        let mut actions = Actions::new();
        if let State::Connecting { until } = self.state
            && now >= until
        {
            self.state = State::Closing;
            actions.push(Action::Disconnect);
        }
        let State::Live { heard, battery_at } = self.state else { return actions };
        if now.saturating_duration_since(heard) >= SILENCE {
            if !self.had_data {
                self.silent = self.silent.saturating_add(1);
            }
            if self.silent >= SILENT_OFTEN && !self.told_silent {
                self.told_silent = true;
                actions.push(Action::TellSilent);
            }
            self.state = State::Closing;
            actions.push(Action::Disconnect);
        } else if now >= battery_at {
            self.state = State::Live { heard, battery_at: now + BATTERY_EVERY };
            actions.push(Action::ReadBattery);
        }
        actions
    }

    /// When [`Session::tick`] or [`Session::wants_slot`] has something new to say.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Live { heard, battery_at } => Some((heard + SILENCE).min(battery_at)),
            State::Connecting { until } | State::Backoff { until } => Some(until),
            State::Resting | State::Closing => None,
        }
    }

    fn data(&mut self) {
        self.attempts = 0;
        self.silent = 0;
        self.had_data = true;
        self.told_silent = false;
    }

    /// Full jitter above [`SETTLE`], doubling with every connect that brought no data.
    fn rest(&mut self, now: Instant, jitter: f64) {
        let most = BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(5)).min(BACKOFF_MOST);
        self.attempts = self.attempts.saturating_add(1);
        let until = now + SETTLE.max(most.mul_f64(jitter.clamp(0.0, 1.0)));
        self.state = State::Backoff { until };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn later(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn live(start: Instant) -> Session {
        let mut session = Session::default();
        assert_eq!(session.on(Event::Granted { pair: false }, start, 0.0)[..], [Action::Connect]);
        assert_eq!(session.on(Event::Connected, start, 0.0)[..], [Action::ReadAbout]);
        session
    }

    #[test]
    fn a_failed_connect_is_always_followed_by_a_disconnect() {
        let start = Instant::now();
        let mut session = Session::default();
        session.on(Event::Granted { pair: false }, start, 0.0);
        assert_eq!(session.on(Event::Failed, start, 0.0)[..], [Action::Disconnect]);
        assert!(!session.wants_slot(start));
        assert_eq!(session.on(Event::Closed, start, 0.0)[..], [Action::ReleaseSlot]);
        assert!(!session.wants_slot(later(start, 1499)), "not on the heels of a loss");
        assert!(session.wants_slot(later(start, 1500)));
    }

    #[test]
    fn a_silent_link_is_given_up_and_told_once() {
        let start = Instant::now();
        let mut session = live(start);
        assert!(session.tick(later(start, 9_999)).is_empty());
        assert_eq!(session.tick(later(start, 10_000))[..], [Action::Disconnect]);
        session.on(Event::Closed, later(start, 12_000), 0.0);
        let again = later(start, 20_000);
        session.on(Event::Granted { pair: false }, again, 0.0);
        session.on(Event::Connected, again, 0.0);
        assert_eq!(session.tick(later(again, 10_000))[..], [Action::TellSilent, Action::Disconnect]);
        session.on(Event::Closed, later(again, 10_000), 0.0);
        let third = later(again, 60_000);
        session.on(Event::Granted { pair: false }, third, 0.0);
        session.on(Event::Connected, third, 0.0);
        assert_eq!(session.tick(later(third, 10_000))[..], [Action::Disconnect], "told already");
    }

    #[test]
    fn data_keeps_a_link_and_resets_the_back_off() {
        let start = Instant::now();
        let mut session = Session::default();
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..7 {
            session.on(Event::Granted { pair: false }, now, 1.0);
            session.on(Event::Failed, now, 1.0);
            session.on(Event::Closed, now, 1.0);
            let until = session.wake_at().unwrap();
            waits.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        session.on(Event::Granted { pair: false }, now, 1.0);
        session.on(Event::Connected, now, 1.0);
        session.on(Event::Data, now, 1.0);
        session.on(Event::Lost, now, 1.0);
        session.on(Event::Closed, now, 1.0);
        assert_eq!(session.wake_at(), Some(now + Duration::from_secs(2)));
    }

    #[test]
    fn the_battery_is_read_every_ten_minutes() {
        let start = Instant::now();
        let mut session = live(start);
        let mut reads = 0;
        for second in 1..=3600 {
            session.on(Event::Data, later(start, second * 1000), 0.0);
            reads += session
                .tick(later(start, second * 1000))
                .iter()
                .filter(|a| **a == Action::ReadBattery)
                .count();
        }
        assert_eq!(reads, 6);
    }

    #[test]
    fn a_lost_adapter_ends_everything_without_a_call() {
        let start = Instant::now();
        let mut session = live(start);
        assert_eq!(session.on(Event::AdapterLost, start, 0.0)[..], [Action::ReleaseSlot]);
        assert_eq!(session.standing(), Standing::Backoff);
        assert!(session.on(Event::Connected, start, 0.0).is_empty(), "an answer of the former adapter");
        assert!(!session.wants_slot(later(start, 1400)));
    }

    fn any_event() -> impl Strategy<Value = Option<Event>> {
        use Event::{AdapterLost, Closed, Connected, Data, Failed, Granted, Lost, Yield};
        proptest::sample::select(vec![
            None,
            Some(Granted { pair: false }),
            Some(Connected),
            Some(Failed),
            Some(Data),
            Some(Lost),
            Some(Yield),
            Some(Closed),
            Some(AdapterLost),
        ])
    }

    proptest! {
        /// Whatever comes in whatever order: connects and disconnects alternate, and a slot is given back once.
        #[test]
        fn calls_alternate(events in proptest::collection::vec((any_event(), 0u64..20_000), 0..200)) {
            let mut session = Session::default();
            let mut now = Instant::now();
            let mut has_slot = false;
            let mut up = false;
            for (event, wait) in events {
                now += Duration::from_millis(wait);
                let actions = match event {
                    // The driver grants only what is asked for, and tells the end of calls it has made.
                    Some(Event::Granted { .. }) if has_slot || !session.wants_slot(now) => continue,
                    Some(event) => {
                        has_slot |= event == (Event::Granted { pair: false });
                        session.on(event, now, 0.5)
                    }
                    None => session.tick(now),
                };
                for action in actions {
                    match action {
                        Action::Connect => {
                            prop_assert!(!up);
                            up = true;
                        }
                        Action::Disconnect => {
                            prop_assert!(up);
                        }
                        Action::ReleaseSlot => {
                            prop_assert!(has_slot);
                            has_slot = false;
                            up = false;
                        }
                        Action::ReadAbout | Action::ReadBattery | Action::TellSilent => prop_assert!(up),
                    }
                }
            }
        }
    }
}
