//! One adapter: whether it is on, whether it listens, who connects through it.

use std::time::{Duration, Instant};

use super::super::ladder::{Ladder, Step};
use super::super::radio::{AdapterInfo, Peer, RadioError};
use super::super::session::SETTLE;
use super::super::slots::Slots;

/// A scan that could not be started is tried again after this.
const SCAN_RETRY: Duration = Duration::from_secs(2);
/// A scan is stopped for a connect at most for so long: straps advertise once a second or more often, and broadcasts go
/// unheard meanwhile.
const CONNECT_PAUSE: Duration = Duration::from_secs(4);

/// A scan can die alone, while connections go on: it is started anew when no advertisement has come for so long.
const NO_ADVERT: Duration = Duration::from_secs(5 * 60);

/// Whether the adapter is on, and by whose will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    On,
    /// Somebody else switched it off: it stays off until somebody else switches it on.
    Off,
    /// We are switching it off and on again.
    Cycling(Cycle),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cycle {
    GoingOff,
    /// Off; on again at that time.
    Pausing(Instant),
    GoingOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    Off,
    /// Not before then.
    Due(Instant),
    Starting,
    On,
    /// To be started again at once.
    Restarting,
    /// To be stopped for a connect, until that has ended or until then. While a scan is on, the controller reports a
    /// wearable that was heard once no more, and the kernel connects on a report only: up to 10 s later.
    Yielding(Instant),
    /// ... being stopped. Nothing is started before that is done: BlueZ would say that it listens already.
    Stopping(Instant),
    Yielded(Instant),
}

#[derive(Debug)]
pub struct Adapter {
    pub info: AdapterInfo,
    pub power: Power,
    pub scan: Scan,
    pub ladder: Ladder,
    pub slots: Slots<Peer>,
    /// One connect at a time.
    pub connecting: Option<Peer>,
    /// No connect before then: links have just been lost, and that may be the beginning of a power-off.
    pub settles: Option<Instant>,
    pub heard_at: Option<Instant>,
    pub advert_at: Option<Instant>,
    /// When its scan was last started.
    listens_since: Option<Instant>,
    pub adverts: u64,
    pub strangers: u64,
    /// Steps taken, in the order of [`Step::ALL`].
    pub steps: [u64; Step::ALL.len()],
    pub last_error: Option<RadioError>,
}

/// What an adapter wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Listen,
    /// The scan stops for a moment: no step of the ladder.
    Pause,
    /// It was switched off by us.
    SwitchOn,
    /// A step of the ladder; `first`: of this silence.
    Climb {
        step: Step,
        first: bool,
    },
}

impl Adapter {
    pub fn new(info: AdapterInfo, slots: usize, now: Instant) -> Self {
        let power = if info.powered { Power::On } else { Power::Off };
        let scan = if info.powered { Scan::Due(now) } else { Scan::Off };
        Self {
            info,
            power,
            scan,
            ladder: Ladder::default(),
            slots: Slots::new(slots),
            connecting: None,
            settles: None,
            heard_at: None,
            advert_at: None,
            listens_since: None,
            adverts: 0,
            strangers: 0,
            steps: [0; Step::ALL.len()],
            last_error: None,
        }
    }

    pub fn is_on(&self) -> bool {
        self.power == Power::On
    }

    /// Whether another connect may begin.
    pub fn may_connect(&self, now: Instant) -> bool {
        self.is_on() && self.connecting.is_none() && self.settles.is_none_or(|until| now >= until)
    }

    /// A connect begins; [`Adapter::connecting`] is cleared at its end.
    pub fn begin_connect(&mut self, peer: Peer, now: Instant) {
        self.connecting = Some(peer);
        if self.scan == Scan::On {
            self.scan = Scan::Yielding(now + CONNECT_PAUSE);
        }
    }

    /// A link is gone, or the adapter itself.
    pub fn link_lost(&mut self, now: Instant) {
        self.settles = Some(now + SETTLE);
    }

    /// The system says that it is on or off now. `true`: what was connected is lost.
    pub fn powered(&mut self, on: bool, now: Instant) -> bool {
        self.info.powered = on;
        self.link_lost(now);
        if on {
            if self.power != Power::On {
                self.power = Power::On;
                // Scanning does not come back by itself; and nothing is done on the heels of a change of power.
                self.scan = Scan::Due(now + SETTLE);
            }
            return false;
        }
        self.scan = Scan::Off;
        // Our own step of the ladder is not over before it is on again.
        if !matches!(self.power, Power::Cycling(_)) {
            self.power = Power::Off;
            self.ladder.rest();
        }
        true
    }

    /// The connection to the stack is new: nothing that was asked of the one before holds.
    pub fn renewed(&mut self, now: Instant) {
        self.connecting = None;
        if self.is_on() {
            self.scan = Scan::Due(now);
        }
    }

    pub fn heard(&mut self, now: Instant) -> Option<Step> {
        self.heard_at = Some(now);
        self.ladder.heard(now)
    }

    /// What is due now; at most one thing at a time. `others_hear`: other adapters have heard something lately.
    pub fn next(&mut self, now: Instant, others_hear: bool) -> Option<Wish> {
        match self.power {
            Power::Off => return None,
            Power::Cycling(Cycle::Pausing(until)) => {
                if now < until {
                    return None;
                }
                self.power = Power::Cycling(Cycle::GoingOn);
                return Some(Wish::SwitchOn);
            }
            Power::Cycling(_) => return None,
            Power::On => {}
        }
        match self.scan {
            Scan::Yielding(until) => {
                self.scan = Scan::Stopping(until);
                return Some(Wish::Pause);
            }
            Scan::Yielded(until) if self.connecting.is_none() || now >= until => self.scan = Scan::Due(now),
            _ => {}
        }
        if let Scan::Due(at) = self.scan
            && now >= at
        {
            self.scan = Scan::Starting;
            return Some(Wish::Listen);
        }
        let before = self.ladder.step();
        let (step, first) = match self.ladder.climb(now, others_hear) {
            Some(step) => (step, before != Some(step)),
            None if self.no_advert_due().is_some_and(|due| now >= due) => {
                let lately =
                    self.advert_at.is_some_and(|at| now.saturating_duration_since(at) < 2 * NO_ADVERT);
                (Step::RestartScan, lately)
            }
            None => return None,
        };
        if let Some(count) = self.steps.get_mut(step as usize) {
            *count += 1;
        }
        match step {
            Step::RestartScan => self.scan = Scan::Restarting,
            Step::PowerCycle => self.power = Power::Cycling(Cycle::GoingOff),
            Step::RebuildSession | Step::ReportStuck => {}
        }
        Some(Wish::Climb { step, first })
    }

    /// When the scan is started anew although connections bring data.
    fn no_advert_due(&self) -> Option<Instant> {
        if self.scan != Scan::On || self.ladder.step().is_some() {
            return None;
        }
        self.listens_since.max(self.advert_at).map(|at| at + NO_ADVERT)
    }

    /// A scan call has ended.
    pub fn scan_done(&mut self, on: bool, result: Result<(), RadioError>, now: Instant) {
        match (self.scan, on) {
            (Scan::Starting, true) => match result {
                Ok(()) => {
                    self.scan = Scan::On;
                    self.listens_since = Some(now);
                    self.last_error = None;
                    self.ladder.expect(now);
                }
                Err(error) => {
                    self.scan = Scan::Due(now + SCAN_RETRY);
                    // What else there is says that something is switched off or gone.
                    if matches!(error, RadioError::Busy | RadioError::Timeout | RadioError::Other(_)) {
                        self.ladder.fault(now);
                    }
                    self.last_error = Some(error);
                }
            },
            // Whether it could be stopped or was not running: it is started.
            (Scan::Restarting, false) => self.scan = Scan::Due(now),
            (Scan::Stopping(until), false) => self.scan = Scan::Yielded(until),
            _ => {}
        }
    }

    /// A power call of ours has ended.
    pub fn power_done(&mut self, on: bool, result: Result<(), RadioError>, now: Instant) {
        match (self.power, on, result) {
            (Power::Cycling(Cycle::GoingOff), false, Ok(())) => {
                self.power = Power::Cycling(Cycle::Pausing(now + SETTLE));
            }
            // It could not be switched off, so nothing is to be switched on.
            (Power::Cycling(Cycle::GoingOff), false, Err(error)) => {
                self.power = Power::On;
                self.scan = Scan::Due(now);
                self.last_error = Some(error);
            }
            (Power::Cycling(Cycle::GoingOn), true, Ok(())) => {
                self.power = Power::On;
                self.scan = Scan::Due(now + SETTLE);
            }
            // We switched it off, so it is ours to switch on.
            (Power::Cycling(Cycle::GoingOn), true, Err(error)) => {
                self.power = Power::Cycling(Cycle::Pausing(now + SCAN_RETRY));
                self.last_error = Some(error);
            }
            _ => {}
        }
    }

    /// When [`Adapter::next`] has something new to say.
    pub fn wake_at(&self) -> Option<Instant> {
        let power = match self.power {
            Power::Cycling(Cycle::Pausing(until)) => Some(until),
            _ => None,
        };
        let scan = match (self.power, self.scan) {
            (Power::On, Scan::Due(at) | Scan::Yielded(at)) => Some(at),
            _ => None,
        };
        let ladder = if self.is_on() { self.ladder.due() } else { None };
        let no_advert = if self.is_on() { self.no_advert_due() } else { None };
        let slots = if self.is_on() && self.connecting.is_none() { self.slots.wake_at() } else { None };
        [power, scan, ladder, no_advert, slots].into_iter().flatten().min()
    }
}
