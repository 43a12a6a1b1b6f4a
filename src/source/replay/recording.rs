//! A recording: what was measured, and when, counted from its start.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::beats::notifications;
use super::error::{LineProblem, RecordingError};
use super::moment::Moment;
use super::{csv, lines};

/// The most readings in one recording: a day of 40 wearables, in about 300 MB of memory.
pub const MAX_READINGS: usize = 40 * 86_400;
/// The most bytes of text that are read, so that a mistaken path to a huge file is refused and not tried.
const MAX_BYTES: u64 = 1 << 30;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

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
}
