//! A recording: what was measured, and when, counted from its start.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use smallvec::SmallVec;

use super::beats::notifications;
use super::error::{LineProblem, RecordingError};
use super::{csv, lines};
use crate::reading::{Contact, RrIntervals, RrUnit};

/// The most readings in one recording: a day of 40 wearables, in about 300 MB of memory.
pub const MAX_READINGS: usize = 40 * 86_400;
/// The most bytes of text that are read, so that a mistaken path to a huge file is refused and not tried.
const MAX_BYTES: u64 = 1 << 30;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// One reading of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// ms since the start of the recording.
    pub offset_ms: u64,
    /// The wearable that the recording names, if it does.
    pub device: Option<Arc<str>>,
    /// As the wearable said it; 0: no clean signal.
    pub bpm: Option<u16>,
    pub rr: RrIntervals,
    pub contact: Contact,
    pub energy_kj: Option<u16>,
    pub battery_percent: Option<u8>,
}

/// A recording in memory, oldest reading first.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    moments: Vec<Moment>,
}

impl Recording {
    /// Reads a file: CSV of RR intervals or JSON lines, plain or gzip (as fogbeat delivers them). Blocking.
    ///
    /// # Errors
    /// [`RecordingError`] names the file, the line and what would be understood.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let unreadable = |source| RecordingError::Read { path: path.to_owned(), source };
        let too_long =
            || RecordingError::TooLong { path: path.to_owned(), readings: MAX_READINGS, bytes: MAX_BYTES };
        let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
        let packed = file.fill_buf().map_err(unreadable)?.starts_with(&GZIP_MAGIC);
        let mut text = String::new();
        let length = if packed {
            MultiGzDecoder::new(file).take(MAX_BYTES).read_to_string(&mut text)
        } else {
            file.take(MAX_BYTES).read_to_string(&mut text)
        };
        if length.map_err(unreadable)? as u64 == MAX_BYTES {
            return Err(too_long());
        }
        Self::parse(&text).map_err(|problem| match problem {
            Problem::Line(line, problem) => RecordingError::Line { path: path.to_owned(), line, problem },
            Problem::Empty => RecordingError::Empty { path: path.to_owned() },
            Problem::TooLong => too_long(),
        })
    }

    /// Reads a recording from its text: JSON lines if the first character is `{`, else CSV. Pure.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let line = |(number, problem)| Problem::Line(number, problem);
        let moments = if text.trim_start().starts_with('{') {
            lines::moments(text).map_err(line)?
        } else {
            let beats = csv::beats(text).map_err(line)?;
            notifications(beats).take(MAX_READINGS + 1).map(Moment::from).collect()
        };
        match moments.len() {
            0 => Err(Problem::Empty),
            count if count > MAX_READINGS => Err(Problem::TooLong),
            _ => Ok(Self { moments }),
        }
    }

    /// The readings, oldest first.
    #[must_use]
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// Where a repetition begins: a second after the last reading.
    #[must_use]
    pub fn length_ms(&self) -> u64 {
        self.moments.last().map_or(0, |moment| moment.offset_ms.saturating_add(super::beats::PERIOD_MS))
    }
}

/// What is wrong with the text of a recording.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    Line(usize, LineProblem),
    Empty,
    TooLong,
}

impl From<super::beats::Frame> for Moment {
    fn from(frame: super::beats::Frame) -> Self {
        Self {
            offset_ms: frame.offset_ms,
            device: None,
            bpm: frame.bpm.map(NonZeroU16::get),
            rr: exact_rr(frame.rr_us),
            contact: Contact::Unsupported,
            energy_kj: None,
            battery_percent: None,
        }
    }
}

/// Intervals in the coarsest unit that keeps them exactly.
pub(super) fn exact_rr(rr_us: SmallVec<[u32; 4]>) -> RrIntervals {
    if rr_us.iter().all(|us| us % 1000 == 0) {
        RrIntervals { unit: RrUnit::Millis, values: rr_us.into_iter().map(|us| us / 1000).collect() }
    } else {
        RrIntervals { unit: RrUnit::Micros, values: rr_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_apart() {
        assert_eq!(Recording::parse("800\n800\n").unwrap().moments().len(), 2);
        assert_eq!(Recording::parse("\n {\"bpm\":60}\n").unwrap().moments().len(), 1);
    }

    #[test]
    fn nothing_to_replay_is_an_error() {
        assert_eq!(Recording::parse("").unwrap_err(), Problem::Empty);
        assert_eq!(Recording::parse("rr_ms\n").unwrap_err(), Problem::Empty);
        assert_eq!(Recording::parse("{\"type\":\"gap\"}\n").unwrap_err(), Problem::Empty);
    }

    #[test]
    fn one_fraction_keeps_the_whole_reading_in_microseconds() {
        assert_eq!(exact_rr(SmallVec::from_slice(&[800_000, 813_889])).unit, RrUnit::Micros);
        assert_eq!(exact_rr(SmallVec::from_slice(&[800_000])).values.as_slice(), [800]);
    }
}
