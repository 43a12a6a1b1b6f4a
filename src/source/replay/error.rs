//! What can be wrong with a recording, said so that the operator can mend it.

use std::path::PathBuf;

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("cannot read the recording {path}: {source}; check the path and that the daemon may read it")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}, line {line}: {problem}; a recording is CSV of RR intervals (one a line in ms, or `seconds,RR in ms`, \
         or with a header that names a column rr_ms) or JSON lines with `bpm`"
    )]
    Line { path: PathBuf, line: usize, problem: LineProblem },
    #[error(
        "{path} holds no reading; give a recording with at least one RR interval or JSON line with `bpm`"
    )]
    Empty { path: PathBuf },
    #[error(
        "{path} is too long: more than {readings} readings or {bytes} bytes of text; split the recording"
    )]
    TooLong { path: PathBuf, readings: usize, bytes: u64 },
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LineProblem {
    #[error("column `{column}` is missing")]
    MissingColumn { column: &'static str },
    #[error("the header names no RR column (rr_ms, rr, rri, ibi, ibi_ms, nn, nn_ms, rr_s or ibi_s)")]
    NoRrColumn,
    #[error("`{text}` in column `{column}` is no number")]
    NotANumber { column: &'static str, text: String },
    #[error("RR interval of {ms} ms is outside 1 to 60000 ms")]
    RrOutOfRange { ms: f64 },
    #[error("{count} RR intervals in one reading are more than {}", crate::reading::RrIntervals::MOST)]
    TooManyRr { count: usize },
    #[error("time goes back from {before} s to {after} s")]
    TimeGoesBack { before: f64, after: f64 },
    #[error("not valid JSON: {0}")]
    Json(String),
    #[error("`time` is `{0}`, neither RFC 3339 nor a number of s or ms since 1970")]
    Time(String),
    #[error("`{field}` is {value}, outside what it can hold")]
    OutOfRange { field: &'static str, value: f64 },
}

/// Why a replay ended before its recording did.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error("no number is left for the device `{0}`: raise `journal.max_devices`")]
    TooManyDevices(String),
    #[error("the reader of the recording ended: {0}; this is a defect, please report it")]
    Task(String),
}
