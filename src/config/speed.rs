//! How fast a recording is played.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Playing speed: `1x` (the default), `60x`, `0.5x`, or `max` (no waiting at all).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// This many seconds of the recording in one second; finite and above 0.
    Times(f64),
    Max,
}

impl Speed {
    /// When the reading at `offset_ms` of the recording is due, counted from the start of the replay.
    #[must_use]
    pub fn due(self, offset_ms: u64) -> Duration {
        match self {
            Self::Times(factor) => {
                let seconds = offset_ms as f64 / 1000.0 / factor;
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
            Self::Max => Duration::ZERO,
        }
    }
}

impl Default for Speed {
    fn default() -> Self {
        Self::Times(1.0)
    }
}

/// A speed that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no speed; write \"1x\", \"60x\" or \"max\"")]
pub struct SpeedError(String);

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("max") {
            return Ok(Self::Max);
        }
        trimmed
            .strip_suffix(['x', 'X'])
            .and_then(|number| number.trim().parse::<f64>().ok())
            .filter(|factor| factor.is_finite() && *factor > 0.0)
            .map(Self::Times)
            .ok_or_else(|| SpeedError(text.to_owned()))
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(factor) => write!(f, "{factor}x"),
            Self::Max => f.write_str("max"),
        }
    }
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Speed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["1x", "60x", "0.5x", "max"] {
            assert_eq!(text.parse::<Speed>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_speed() {
        for text in ["", "x", "60", "0x", "-1x", "infx", "nanx", "fast"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    #[test]
    fn sixty_times_shortens_a_minute_to_a_second() {
        assert_eq!(Speed::Times(60.0).due(60_000), Duration::from_secs(1));
        assert_eq!(Speed::Max.due(60_000), Duration::ZERO);
    }
}
