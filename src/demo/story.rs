//! What happens in the demo, and when. Pure.
//!
//! Times are fractions of the show's length, so that a short show tells the same story.

use std::ops::Range;
use std::time::Duration;

/// Something that happens to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The place to which readings are delivered is gone.
    UplinkDown,
    /// SIGKILL: no chance to tidy up. In the middle of the outage, when the backlog is largest.
    Kill,
    /// The gateway is started again on the same state directory.
    Restart,
    UplinkBack,
    /// Some straps lose their radio link with readings unacknowledged (see [`Story::radio_gap`]).
    RadioLost,
    RadioBack,
    /// The straps have measured for long enough and hand over what they still hold.
    LastBeat,
}

/// One act and its time since the first strap was switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cue {
    pub at: Duration,
    pub act: Act,
}

/// A show of a given length.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    length: Duration,
}

const UPLINK_DOWN: f64 = 0.22;
const KILL: f64 = 0.42;
const UPLINK_BACK: f64 = 0.58;
const RADIO_LOST: f64 = 0.76;
/// The gateway lies dead for this long, and the radio is away for this long, but no longer than a tenth of the show.
const AWAY: Duration = Duration::from_millis(1500);
/// One strap in so many walks out of range.
const WALKERS: usize = 3;

impl Story {
    #[must_use]
    pub const fn new(length: Duration) -> Self {
        Self { length }
    }

    /// How long the straps measure.
    #[must_use]
    pub const fn length(&self) -> Duration {
        self.length
    }

    fn at(&self, share: f64) -> Duration {
        self.length.mul_f64(share)
    }

    fn away(&self) -> Duration {
        AWAY.min(self.length / 10)
    }

    /// All acts in order of time.
    #[must_use]
    pub fn cues(&self) -> [Cue; 7] {
        let kill = self.at(KILL);
        let radio = self.radio();
        [
            (self.at(UPLINK_DOWN), Act::UplinkDown),
            (kill, Act::Kill),
            (kill + self.away(), Act::Restart),
            (self.at(UPLINK_BACK), Act::UplinkBack),
            (radio.start, Act::RadioLost),
            (radio.end, Act::RadioBack),
            (self.length, Act::LastBeat),
        ]
        .map(|(at, act)| Cue { at, act })
    }

    /// How long nothing can be delivered.
    #[must_use]
    pub fn outage(&self) -> Duration {
        self.at(UPLINK_BACK).saturating_sub(self.at(UPLINK_DOWN))
    }

    fn radio(&self) -> Range<Duration> {
        let start = self.at(RADIO_LOST);
        start..start + self.away()
    }

    /// When strap number `strap` has no radio link.
    #[must_use]
    pub fn radio_gap(&self, strap: usize) -> Option<Range<Duration>> {
        strap.is_multiple_of(WALKERS).then(|| self.radio())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acts_are_in_order_at_every_length() {
        for seconds in [12, 15, 45, 300] {
            let cues = Story::new(Duration::from_secs(seconds)).cues();
            assert!(cues.windows(2).all(|pair| pair[0].at < pair[1].at), "{seconds} s: {cues:?}");
            assert_eq!(cues[6].at, Duration::from_secs(seconds));
        }
    }

    #[test]
    fn the_gateway_is_killed_and_restarted_within_the_outage() {
        let acts = Story::new(Duration::from_secs(45)).cues().map(|cue| cue.act);
        assert_eq!(acts[..4], [Act::UplinkDown, Act::Kill, Act::Restart, Act::UplinkBack]);
    }

    #[test]
    fn a_third_of_the_straps_walk_out_of_range() {
        let story = Story::new(Duration::from_secs(45));
        assert_eq!((0..12).filter(|strap| story.radio_gap(*strap).is_some()).count(), 4);
    }
}
