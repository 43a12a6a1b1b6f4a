//! A day of straps made of recorded hearts: deterministic, endless, and with the irregularities that real series have.
//!
//! Each strap replays one recording from its own offset, over and over: MIT-BIH record 100 (ectopic beats included),
//! five minutes of MIT-BIH NSRDB, or ten minutes of a Polar H10. A strap notifies at the cadence of that H10, jitter
//! included; a notification carries the intervals that ended since the one before, and the rounded average of the
//! last beats as its rate. Sources and licences: `tests/data`.
#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "support for tests and benches: a spoilt recording must stop them"
)]

const RECORD_100: &str = include_str!("../data/mitdb/100_rr.csv");
const NSRDB: &str = include_str!("../data/pyhrv-nsrdb/nsrdb_short.txt");
const POLAR: &str = include_str!("../data/polar-h10-ibi/sample_data_ibi.csv");
/// A strap's shown rate is the average of about this many beats.
const AVERAGED: usize = 8;

/// What a strap sends about once a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Since the strap was put on.
    pub at_ms: u64,
    pub bpm: u64,
    pub rr_ms: Vec<u64>,
}

/// One strap's endless series.
#[derive(Debug, Clone)]
pub struct Strap {
    intervals: Vec<f64>,
    cadence: Vec<f64>,
    next_interval: usize,
    next_step: usize,
    now_ms: f64,
    beat_ms: f64,
    recent: Vec<f64>,
}

impl Strap {
    pub fn new(n: usize) -> Self {
        let intervals: Vec<f64> = match n % 3 {
            0 => RECORD_100.lines().skip(1).map(|l| column(l, 2)).collect(),
            1 => NSRDB.lines().filter(|l| !l.is_empty()).map(|l| column(l, 0)).collect(),
            _ => POLAR.lines().map(|l| column(l, 1)).collect(),
        };
        let cadence = cadence();
        Self {
            next_interval: n * 97 % intervals.len(),
            next_step: n * 61 % cadence.len(),
            intervals,
            cadence,
            now_ms: 0.0,
            beat_ms: 0.0,
            recent: Vec::new(),
        }
    }
}

impl Iterator for Strap {
    type Item = Notification;

    fn next(&mut self) -> Option<Notification> {
        self.now_ms += self.cadence[self.next_step % self.cadence.len()];
        self.next_step += 1;
        let mut rr_ms = Vec::new();
        loop {
            let interval = self.intervals[self.next_interval % self.intervals.len()];
            if self.beat_ms + interval > self.now_ms {
                break;
            }
            self.beat_ms += interval;
            self.next_interval += 1;
            rr_ms.push(interval.round() as u64);
            self.recent.push(interval);
            if self.recent.len() > AVERAGED {
                self.recent.remove(0);
            }
        }
        let mean = self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64;
        let bpm = if self.recent.is_empty() { 60 } else { (60_000.0 / mean).round() as u64 };
        Some(Notification { at_ms: self.now_ms as u64, bpm, rr_ms })
    }
}

impl Notification {
    /// The JSON payload, stamped `base_ms` plus the time since the strap was put on.
    pub fn json(&self, base_ms: u64) -> String {
        let rr: Vec<String> = self.rr_ms.iter().map(u64::to_string).collect();
        let rr = if rr.is_empty() { String::new() } else { format!(r#","rr_ms":[{}]"#, rr.join(",")) };
        format!(r#"{{"bpm":{},"time":{}{rr}}}"#, self.bpm, base_ms + self.at_ms)
    }
}

fn column(line: &str, n: usize) -> f64 {
    line.split(',')
        .nth(n)
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_else(|| panic!("bad row: {line}"))
}

/// Milliseconds between the notifications of the recorded H10. It sends about once a second but shows no row when no
/// beat ended: a long step is several notifications.
fn cadence() -> Vec<f64> {
    let mut arrivals: Vec<f64> = POLAR.lines().map(|l| column(l, 0) * 1000.0).collect();
    // Two intervals of one notification are shown microseconds apart.
    arrivals.dedup_by(|later, earlier| *later - *earlier < 50.0);
    let mut steps = Vec::new();
    for pair in arrivals.windows(2) {
        let step = pair[1] - pair[0];
        let parts = (step / 990.0).round().max(1.0);
        steps.extend(std::iter::repeat_n(step / parts, parts as usize));
    }
    steps
}
