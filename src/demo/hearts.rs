//! The straps' hearts: stretches of real recordings, built into the binary. Pure.
//!
//! The recordings, their origin and their licences lie in `tests/data`. Each strap takes one recording from a place of
//! its own and goes round, so that no two straps beat alike.

use crate::source::replay::{Beat, Frame, LineProblem, chained, csv_beats, notifications};

/// The recordings: name, text.
const RECORDINGS: [(&str, &str); 3] = [
    ("MIT-BIH record 100", include_str!("../../tests/data/mitdb/100_rr.csv")),
    ("Polar H10", include_str!("../../tests/data/polar-h10-ibi/sample_data_ibi.csv")),
    ("MIT-BIH NSRDB", include_str!("../../tests/data/pyhrv-nsrdb/nsrdb_short.txt")),
];

/// The golden ratio's fraction spreads any number of starting points evenly.
const SPREAD: f64 = 0.618_033_988_749_895;

/// The recordings, read once.
#[derive(Debug, Clone)]
pub struct Hearts {
    /// RR intervals in microseconds.
    recordings: Vec<Vec<u32>>,
}

impl Hearts {
    /// Reads the built-in recordings.
    ///
    /// # Errors
    /// A recording that cannot be read is a defect of the build: its name, the line and what is wrong.
    pub fn load() -> Result<Self, (&'static str, usize, LineProblem)> {
        let recordings = RECORDINGS
            .iter()
            .map(|(name, text)| {
                let beats = csv_beats(text).map_err(|(line, problem)| (*name, line, problem))?;
                Ok(beats.into_iter().map(|Beat { rr_us, .. }| rr_us).collect())
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { recordings })
    }

    /// What strap number `strap` notifies, once a second, without end (empty without recordings).
    pub fn of_strap(&self, strap: usize) -> impl Iterator<Item = Frame> + Send + use<> {
        let recording = self.recordings.iter().cycle().nth(strap % self.recordings.len().max(1)).cloned();
        let recording = recording.unwrap_or_default();
        let start = ((strap as f64 * SPREAD).fract() * recording.len() as f64) as usize;
        let rotated = Rotated { next: start, recording };
        notifications(chained(rotated))
    }
}

/// Goes round in a recording for ever.
struct Rotated {
    recording: Vec<u32>,
    next: usize,
}

impl Iterator for Rotated {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let index = self.next.checked_rem(self.recording.len())?;
        self.next = index + 1;
        self.recording.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strap_has_a_living_heart_of_its_own() {
        let hearts = Hearts::load().unwrap();
        let minutes: Vec<Vec<Frame>> =
            (0..12).map(|strap| hearts.of_strap(strap).take(60).collect()).collect();
        for (strap, minute) in minutes.iter().enumerate() {
            let beats: usize = minute.iter().map(|frame| frame.rr_us.len()).sum();
            assert!((45..120).contains(&beats), "strap {strap}: {beats} beats in a minute");
            assert!(minute.iter().all(|frame| frame.bpm.is_some_and(|bpm| (40..130).contains(&bpm.get()))));
            assert!(!minutes[..strap].contains(minute), "strap {strap} beats like another");
        }
    }

    #[test]
    fn a_heart_outlives_its_recording() {
        let day = Hearts::load().unwrap().of_strap(2).take(86_400);
        assert_eq!(day.last().unwrap().offset_ms / 1000, 86_400);
    }
}
