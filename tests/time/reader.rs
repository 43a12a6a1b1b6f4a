//! Reads what was delivered knowing nothing but README: lines, and the `clock` lines applied to them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What a time rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    Synced,
    Repaired,
    /// It left as a guess, and a `clock` line has come.
    Corrected,
    Guessed,
}

/// A reading after `clock` lines are applied.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub id: String,
    /// Which reading of the test it is.
    pub number: u16,
    pub time_ms: i64,
    pub quality: Quality,
    pub uncertainty_s: f64,
}

/// Where a boot's line stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockLine {
    uptime_ms: i64,
    time_ms: i64,
    uncertainty_s: f64,
}

#[derive(Debug, Default)]
pub struct Lake {
    pub lines: usize,
    pub readings: Vec<Delivered>,
    pub clocks: BTreeMap<String, ClockLine>,
    pub clock_lines: usize,
}

impl Lake {
    pub fn read(root: &Path) -> Self {
        let mut lake = Self::default();
        let mut values = Vec::new();
        for path in files(root) {
            for line in BufReader::new(MultiGzDecoder::new(File::open(path).unwrap())).lines() {
                values.push(serde_json::from_str::<Value>(&line.unwrap()).unwrap());
            }
        }
        lake.lines = values.len();
        for value in values.iter().filter(|value| value["type"] == "clock") {
            let line = ClockLine {
                uptime_ms: value["uptime_ms"].as_i64().unwrap(),
                time_ms: ms(&value["time"]),
                uncertainty_s: value["uncertainty_s"].as_f64().unwrap(),
            };
            let boot = value["boot"].as_str().unwrap().to_owned();
            assert!(value["id"].as_str().unwrap().ends_with(&format!("-clock-{boot}")), "{value}");
            assert!(lake.clocks.insert(boot, line).is_none_or(|before| before == line));
            lake.clock_lines += 1;
        }
        for value in values.iter().filter(|value| value.get("type").is_none()) {
            let reading = lake.reading(value);
            lake.readings.push(reading);
        }
        lake.readings.sort_by_key(|reading| reading.number);
        lake
    }

    fn reading(&self, value: &Value) -> Delivered {
        let mut reading = Delivered {
            id: value["id"].as_str().unwrap().to_owned(),
            number: u16::try_from(value["energy_kj"].as_u64().unwrap()).unwrap(),
            time_ms: ms(&value["time"]),
            quality: Quality::Synced,
            uncertainty_s: value["uncertainty_s"].as_f64().unwrap_or(2.5),
        };
        match value["time_quality"].as_str() {
            None => {}
            Some("repaired") => {
                assert!(value.get("uncertainty_s").is_some(), "{value}");
                reading.quality = Quality::Repaired;
            }
            Some("unsynced") => match self.clocks.get(value["boot"].as_str().unwrap()) {
                None => reading.quality = Quality::Guessed,
                Some(clock) => {
                    let apart = value["uptime_ms"].as_i64().unwrap() - clock.uptime_ms;
                    reading.quality = Quality::Corrected;
                    reading.time_ms = clock.time_ms + apart;
                    reading.uncertainty_s = clock.uncertainty_s + apart.unsigned_abs() as f64 / 1e7;
                }
            },
            Some(other) => panic!("time_quality {other}"),
        }
        reading
    }

    pub fn count(&self, quality: Quality) -> usize {
        self.readings.iter().filter(|reading| reading.quality == quality).count()
    }

    /// Every reading is there once, its time is within its uncertainty of the truth, and times rise in the order in
    /// which the readings were taken.
    pub fn require(&self, truths: &HashMap<u16, i64>) {
        assert_eq!(self.readings.len(), truths.len(), "each once");
        for reading in &self.readings {
            let truth = truths[&reading.number];
            let off_s = reading.time_ms.abs_diff(truth) as f64 / 1000.0;
            assert!(off_s <= reading.uncertainty_s, "{off_s} s off: {reading:?}, truth {truth}");
        }
        for pair in self.readings.windows(2) {
            assert!(pair[0].time_ms <= pair[1].time_ms, "a step back: {pair:?}");
        }
    }
}

fn ms(time: &Value) -> i64 {
    let moment = OffsetDateTime::parse(time.as_str().unwrap(), &Rfc3339).unwrap();
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap()
}

/// Delivered files, in a stable order.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.join("readings")];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(".json.gz") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
