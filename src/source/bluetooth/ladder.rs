//! What is done about an adapter that has fallen silent, step by step: pure.
//!
//! A gym is never silent for a minute while scanning works, but a clinic's night can be: silence alone is no fault. So
//! the first step is cheap, each further one waits longer than the one before, and after the last there is a report
//! instead of more force. Any advertisement or notification puts the ladder away.
//!
//! An adapter that cannot even start to listen is at fault for certain, whatever its connections bring: the steps then
//! come sooner, and only an advertisement or a scan that starts puts the ladder away.
//!
//! An adapter that the operator switched off is left alone: [`Ladder`] is told of it and waits. While other adapters
//! hear, the session they share with this one is sound, and is not made anew: that would cost them their connections.

use std::time::{Duration, Instant};

/// Silence before the first step.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Silence after a step before the next one; the last one is repeated.
const WAITS: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(15 * 60),
];

/// The same for an adapter that cannot listen, up to the power cycle. BlueZ itself says so for up to ten seconds after
/// it was restarted.
const FAULT: Duration = Duration::from_secs(20);

/// One rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Stop and start listening.
    RestartScan,
    /// New connection to the stack, new streams.
    RebuildSession,
    /// Off and on again.
    PowerCycle,
    /// Tell the operator; restart the system's Bluetooth service if that is allowed.
    ReportStuck,
}

impl Step {
    pub const ALL: [Self; 4] = [Self::RestartScan, Self::RebuildSession, Self::PowerCycle, Self::ReportStuck];

    pub const fn label(self) -> &'static str {
        match self {
            Self::RestartScan => "restart_scan",
            Self::RebuildSession => "rebuild_session",
            Self::PowerCycle => "power_cycle",
            Self::ReportStuck => "adapter_stuck",
        }
    }
}

/// Where an adapter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing is expected of it: it is off, gone, or not to be listened to.
    Resting,
    /// Heard something at that time.
    Ground(Instant),
    /// Did the step of this index at that time, and nothing was heard since.
    On(usize, Instant),
}

#[derive(Debug)]
pub struct Ladder {
    place: Place,
    /// Whether anything was ever heard on this adapter. One that never heard anything may stand in an empty house: it
    /// climbs no higher than the first rung.
    proven: bool,
    /// It cannot listen.
    faulty: bool,
}

impl Default for Ladder {
    fn default() -> Self {
        Self { place: Place::Resting, proven: false, faulty: false }
    }
}

impl Ladder {
    /// Listening has begun.
    pub fn expect(&mut self, now: Instant) {
        self.faulty = false;
        if self.place == Place::Resting {
            self.place = Place::Ground(now);
        }
    }

    /// Listening could not begin.
    pub fn fault(&mut self, now: Instant) {
        if !self.faulty && self.step().is_none() {
            self.place = Place::Ground(now);
        }
        self.faulty = true;
    }

    /// The adapter is off or gone.
    pub fn rest(&mut self) {
        self.place = Place::Resting;
        self.faulty = false;
    }

    /// Something was heard, by a connection or on the air. Tells the step that brought it back, if there was one.
    pub fn heard(&mut self, now: Instant) -> Option<Step> {
        self.proven = true;
        if self.faulty {
            return None;
        }
        let recovered = self.step();
        self.place = Place::Ground(now);
        recovered
    }

    /// The step it stands on.
    pub fn step(&self) -> Option<Step> {
        match self.place {
            Place::On(index, _) => Step::ALL.get(index).copied(),
            _ => None,
        }
    }

    /// The step to take now, if it is time for one. `others_hear`: other adapters do.
    pub fn climb(&mut self, now: Instant, others_hear: bool) -> Option<Step> {
        if now < self.due()? {
            return None;
        }
        let next = match self.place {
            Place::On(index, _) if self.proven || self.faulty => {
                let next = Step::ALL.get(index + 1);
                let spared = others_hear && next == Some(&Step::RebuildSession);
                (index + 1 + usize::from(spared)).min(Step::ALL.len() - 1)
            }
            _ => 0,
        };
        self.place = Place::On(next, now);
        Step::ALL.get(next).copied()
    }

    /// When [`Ladder::climb`] has something to say, if nothing is heard until then.
    pub fn due(&self) -> Option<Instant> {
        match self.place {
            Place::Resting => None,
            Place::Ground(heard) => Some(heard + if self.faulty { FAULT } else { SILENCE }),
            Place::On(index, done) if self.faulty && Step::ALL.get(index) < Some(&Step::PowerCycle) => {
                Some(done + FAULT)
            }
            Place::On(index, done) => WAITS.get(index).map(|wait| done + *wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_steps_come_in_order_and_the_last_is_repeated() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        ladder.expect(start);
        ladder.heard(start);
        let mut steps = Vec::new();
        for second_ in 0..3000 {
            if let Some(step) = ladder.climb(second(start, second_), false) {
                steps.push((second_, step));
            }
        }
        assert_eq!(
            steps,
            [
                (60, Step::RestartScan),
                (120, Step::RebuildSession),
                (180, Step::PowerCycle),
                (300, Step::ReportStuck),
                (1200, Step::ReportStuck),
                (2100, Step::ReportStuck),
                (3000 - 1, Step::ReportStuck)
            ][..6]
        );
    }

    #[test]
    fn the_session_of_adapters_that_hear_is_left_alone() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        ladder.expect(start);
        ladder.heard(start);
        let steps: Vec<_> = (0..400).filter_map(|s| ladder.climb(second(start, s), true)).collect();
        assert_eq!(steps, [Step::RestartScan, Step::PowerCycle, Step::ReportStuck]);
    }

    #[test]
    fn an_adapter_that_cannot_listen_is_cured_whatever_its_connections_bring() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        let mut steps = Vec::new();
        for s in 0..400 {
            ladder.fault(second(start, s));
            assert_eq!(ladder.heard(second(start, s)), None);
            steps.extend(ladder.climb(second(start, s), false).map(|step| (s, step)));
        }
        let expected = [
            (20, Step::RestartScan),
            (40, Step::RebuildSession),
            (60, Step::PowerCycle),
            (180, Step::ReportStuck),
        ];
        assert_eq!(steps, expected);
        ladder.expect(second(start, 400));
        assert_eq!(ladder.heard(second(start, 401)), Some(Step::ReportStuck));
    }

    #[test]
    fn a_sound_puts_it_away_and_tells_what_helped() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        ladder.expect(start);
        assert_eq!(ladder.heard(second(start, 1)), None);
        assert_eq!(ladder.climb(second(start, 60), false), None);
        assert_eq!(ladder.climb(second(start, 61), false), Some(Step::RestartScan));
        assert_eq!(ladder.heard(second(start, 62)), Some(Step::RestartScan));
        assert_eq!(ladder.step(), None);
        assert_eq!(ladder.climb(second(start, 121), false), None);
        assert_eq!(ladder.climb(second(start, 122), false), Some(Step::RestartScan));
    }

    #[test]
    fn an_adapter_that_never_heard_anything_is_not_power_cycled() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        ladder.expect(start);
        let steps: Vec<_> = (0..100_000).filter_map(|s| ladder.climb(second(start, s), false)).collect();
        assert!(steps.len() > 10 && steps.iter().all(|step| *step == Step::RestartScan));
    }

    #[test]
    fn what_is_switched_off_is_left_alone() {
        let start = Instant::now();
        let mut ladder = Ladder::default();
        ladder.expect(start);
        ladder.rest();
        assert_eq!(ladder.climb(second(start, 100_000), false), None);
        ladder.expect(second(start, 100_000));
        assert_eq!(ladder.climb(second(start, 100_059), false), None);
        assert_eq!(ladder.climb(second(start, 100_060), false), Some(Step::RestartScan));
    }
}
