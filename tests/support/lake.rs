//! An independent reader of what the directory uplink delivered, and the account that has to add up.
//!
//! It shares nothing with fogbeat but the documented format: gzip members of JSON lines in
//! `readings/dt=*/hour=*/*.json.gz`, `id` = `<spool>-<seq>`, seq = generation x 2^32 + n.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

/// A reading that was delivered once more, and is said to be of another time.
pub const RETIMED: &str = "an id with two times";

/// One delivered reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivered {
    pub device: String,
    /// The device's own stamp, ms since the epoch.
    pub stamp: i64,
    pub bpm: Option<u64>,
    pub rr_ms: Vec<f64>,
    /// When it was taken, as the line says, ms since the epoch.
    pub time: i64,
    pub quality: Option<String>,
    pub uncertainty_s: Option<f64>,
    /// With a time that was a guess: where it stands in its boot.
    pub boot: Option<String>,
    pub uptime_ms: Option<i64>,
}

/// A `gap` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub first: u64,
    pub last: u64,
    pub cause: String,
    /// How many of them each device gave, where the line says so.
    pub devices: BTreeMap<String, u64>,
}

/// Everything found in the lake.
#[derive(Debug, Default)]
pub struct Lake {
    pub spools: BTreeSet<String>,
    pub readings: BTreeMap<u64, Delivered>,
    /// Generation to its stated count.
    pub ends: BTreeMap<u32, u64>,
    /// First and last missing number, and why.
    pub gaps: Vec<(u64, u64, String)>,
    /// Readings that each device gave to summaries, by generation.
    pub summarised: BTreeMap<u32, BTreeMap<String, u64>>,
    /// The same, as `gap` lines count them.
    pub thinned: BTreeMap<u32, BTreeMap<String, u64>>,
    /// `clock` lines by their boot.
    pub clocks: BTreeMap<String, String>,
    /// The same, whole.
    pub told: Vec<Told>,
    /// `summary` lines, as they stand.
    pub summaries: Vec<Value>,
    /// Lines in all, those seen before (an id delivered twice) included.
    pub lines: u64,
    pub defects: Vec<String>,
    contents: HashMap<String, u64>,
}

impl Lake {
    /// Reads every delivered file. Unfinished temporary files are not delivered and not read.
    pub fn read(root: &Path) -> Self {
        let mut lake = Self::default();
        for path in files(root) {
            let file = File::open(&path).expect("open a delivered file");
            for line in BufReader::new(MultiGzDecoder::new(file)).lines() {
                match line {
                    Ok(line) => lake.take(&line),
                    Err(e) => {
                        lake.defects.push(format!("{}: {e}", path.display()));
                        break;
                    }
                }
            }
        }
        lake
    }

    /// Takes in one delivered line.
    pub fn take(&mut self, line: &str) {
        self.lines += 1;
        if let Err(why) = self.try_take(line) {
            self.defects.push(format!("{why}: {line}"));
        }
    }

    fn try_take(&mut self, line: &str) -> Result<(), String> {
        let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        let id = value["id"].as_str().ok_or("no id")?;
        let kind = value["type"].as_str().unwrap_or("");
        if kind == "clock" {
            // It has no number: it speaks of a boot. Where the spool's name was lost it comes again, under the new name.
            let boot = value["boot"].as_str().ok_or("no boot")?;
            let said = |line: &str| {
                let mut said: Value = serde_json::from_str(line).unwrap_or_default();
                let id = said.as_object_mut().and_then(|fields| fields.remove("id"));
                (id.is_some(), said)
            };
            return match self.clocks.insert(boot.to_owned(), line.to_owned()) {
                Some(before) if said(&before) != said(line) => Err("a boot with two clock lines".into()),
                _ => Ok(()),
            };
        }
        // `<spool>-<seq>`, behind which a gap has its last number and a summary its window.
        let mut parts = id.split('-');
        let spool = parts.next().ok_or("id without a spool")?;
        let seq = parts.next().and_then(|seq| seq.parse::<u64>().ok()).ok_or("id without a number")?;
        self.spools.insert(spool.to_owned());
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        let content = hasher.finish();
        // An end or gap line may stand at the number it speaks of: its type is part of its identity.
        match self.contents.insert(format!("{kind} {id}"), content) {
            Some(before) if before != content => return Err(self.two_contents(seq, kind, &value).into()),
            Some(_) => return Ok(()),
            None => {}
        }
        match kind {
            "" => {
                let reading = reading(&value)?;
                self.readings.insert(seq, reading);
            }
            "end" => {
                let generation = value["generation"].as_u64().ok_or("no generation")?;
                let generation = u32::try_from(generation).map_err(|_| "generation above 32 bits")?;
                let count = value["count"].as_u64().ok_or("no count")?;
                if self.ends.insert(generation, count).is_some_and(|before| before != count) {
                    return Err("a generation with two counts".into());
                }
            }
            "gap" => {
                let first = value["first_seq"].as_u64().ok_or("no first_seq")?;
                let last = value["last_seq"].as_u64().ok_or("no last_seq")?;
                let cause = value["cause"].as_str().ok_or("no cause")?;
                if first > last {
                    return Err("a gap that ends before it begins".into());
                }
                self.gaps.push((first, last, cause.to_owned()));
                if let Some(devices) = value["devices"].as_object().filter(|_| cause == "thinned") {
                    for (device, count) in devices {
                        let count = count.as_u64().ok_or("a count that is not a number")?;
                        add(&mut self.thinned, generation(first), device, count);
                    }
                }
                let devices = value["devices"].as_object().into_iter().flatten();
                let devices =
                    devices.map(|(name, n)| (name.clone(), n.as_u64().unwrap_or(u64::MAX))).collect();
                self.told.push(Told { first, last, cause: cause.to_owned(), devices });
            }
            "summary" => {
                let device = value["device"].as_str().ok_or("no device")?;
                epoch_ms(value["time"].as_str().ok_or("no time")?)
                    .ok_or("a time that is not RFC 3339 UTC")?;
                let window = value["window_s"].as_u64().ok_or("no window_s")?;
                if !id.ends_with(&format!("-s{window}")) {
                    return Err("a summary whose id does not tell its window".into());
                }
                add(&mut self.summarised, generation(seq), device, value["n"].as_u64().ok_or("no n")?);
                self.summaries.push(value);
            }
            "alert" => {}
            other => return Err(format!("unknown type {other}")),
        }
        Ok(())
    }

    /// A line with an id that was there before, and is not the same.
    fn two_contents(&self, seq: u64, kind: &str, value: &Value) -> &'static str {
        let before = self.readings.get(&seq).filter(|_| kind.is_empty());
        let same = before.zip(reading(value).ok()).is_some_and(|(before, now)| {
            // What the device itself said of the time counts as well.
            let stamped =
                before.quality.as_deref() == Some("device") || now.quality.as_deref() == Some("device");
            let same = (&before.device, before.bpm, &before.rr_ms) == (&now.device, now.bpm, &now.rr_ms);
            same && !stamped
        });
        if same { RETIMED } else { "an id with two contents" }
    }

    /// Numbers that nothing explains. The newest generation is still open and may lack its `end`.
    pub fn unexplained(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let newest = [
            self.readings.keys().next_back().map(|seq| generation(*seq)),
            self.ends.keys().next_back().copied(),
            self.gaps.iter().map(|gap| generation(gap.1)).max(),
        ];
        let Some(newest) = newest.into_iter().flatten().max() else { return faults };
        let oldest = [
            self.readings.keys().next().map(|seq| generation(*seq)),
            self.ends.keys().next().copied(),
            self.gaps.iter().map(|gap| generation(gap.0)).min(),
        ];
        let oldest = oldest.into_iter().flatten().min().unwrap_or(newest).min(1);
        for g in oldest..=newest {
            let base = u64::from(g) << 32;
            let found: BTreeSet<u64> =
                self.readings.range(base..=base | 0xFFFF_FFFF).map(|(seq, _)| seq & 0xFFFF_FFFF).collect();
            let count = match self.ends.get(&g) {
                Some(count) => *count,
                None if self.gap_over(base, base | 0xFFFF_FFFF) => continue,
                None if g == newest => found.last().map_or(0, |n| n + 1),
                None => {
                    faults.push(format!("generation {g} has no end line ({} readings found)", found.len()));
                    continue;
                }
            };
            if let Some(n) = found.last().filter(|n| **n >= count) {
                faults.push(format!(
                    "generation {g} ended with {count} readings, but number {n} was delivered"
                ));
            }
            let missing: Vec<u64> =
                (0..count).filter(|n| !found.contains(n) && !self.gap_over(base | n, base | n)).collect();
            if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                faults.push(format!(
                    "generation {g}, count {count}: {} numbers without explanation, {first} to {last}",
                    missing.len()
                ));
            }
        }
        if self.summarised != self.thinned {
            faults.push(format!(
                "summaries speak of {:?} readings, gaps of {:?} that were thinned",
                self.summarised, self.thinned
            ));
        }
        for (first, last, cause) in &self.gaps {
            let there = self.readings.range(first..=last).count();
            if there > 0 {
                faults.push(format!(
                    "a gap ({cause}) over {first} to {last}, but {there} of them were delivered"
                ));
            }
        }
        faults
    }

    fn gap_over(&self, first: u64, last: u64) -> bool {
        self.gaps.iter().any(|gap| gap.0 <= first && last <= gap.1)
    }
}

fn add(sums: &mut BTreeMap<u32, BTreeMap<String, u64>>, generation: u32, device: &str, count: u64) {
    *sums.entry(generation).or_default().entry(device.to_owned()).or_default() += count;
}

fn generation(seq: u64) -> u32 {
    (seq >> 32) as u32
}

fn reading(value: &Value) -> Result<Delivered, String> {
    let stamp = value.get("device_time").unwrap_or(&value["time"]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(Delivered {
        time: value["time"].as_str().and_then(epoch_ms).ok_or("a time that is not RFC 3339 UTC")?,
        quality: text(&value["time_quality"]),
        uncertainty_s: value["uncertainty_s"].as_f64(),
        boot: text(&value["boot"]),
        uptime_ms: value["uptime_ms"].as_i64(),
        device: value["device"].as_str().ok_or("no device")?.to_owned(),
        stamp: epoch_ms(stamp.as_str().ok_or("no time")?).ok_or("a time that is not RFC 3339 UTC")?,
        bpm: value.get("bpm").map(|v| v.as_u64().ok_or("bpm is not a number")).transpose()?,
        rr_ms: match value.get("rr_ms") {
            None => Vec::new(),
            Some(list) => list
                .as_array()
                .ok_or("rr_ms is not an array")?
                .iter()
                .map(|v| v.as_f64().ok_or("an RR that is not a number"))
                .collect::<Result<_, _>>()?,
        },
    })
}

/// `2026-11-23T19:02:07.123Z` to ms since the epoch.
pub fn epoch_ms(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = (number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?;
    let fraction = text.get(19..)?.strip_suffix('Z')?;
    let ms = match fraction.strip_prefix('.') {
        None if fraction.is_empty() => 0,
        Some(digits) if !digits.is_empty() => format!("{digits:0<3}").get(..3)?.parse().ok()?,
        _ => return None,
    };
    // Days since the epoch in the proleptic Gregorian calendar, the year taken to begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((days * 86_400 + seconds) * 1000 + ms)
}

/// Delivered files, in a stable order.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.join("readings")];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
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

/// Numbers covered by the delivered files, from their names alone (`..-<first seq>-<last seq>.json.gz`): a cheap
/// measure of progress.
pub fn progress(root: &Path) -> u64 {
    files(root)
        .iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(".json.gz")?;
            let mut parts = name.rsplitn(3, '-');
            let last: u64 = parts.next()?.parse().ok()?;
            let first: u64 = parts.next()?.parse().ok()?;
            (generation(first) == generation(last)).then(|| last - first + 1)
        })
        .sum()
}

/// What a publisher knows of one of its readings.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub device: String,
    pub stamp: i64,
    pub bpm: u64,
    pub rr_ms: Vec<f64>,
    pub acked: bool,
}

/// The verdict on a whole run.
#[derive(Debug, Default)]
pub struct Verdict {
    pub sent: usize,
    pub acked: usize,
    pub delivered: usize,
    pub generations: usize,
    pub gaps: usize,
    /// Acknowledged and nowhere: must be 0.
    pub lost: usize,
    /// What contradicts the promise, in words; empty when it was kept.
    pub faults: Vec<String>,
}

/// Holds what was delivered against what was sent.
pub fn judge(sent: &[Sent], lake: &Lake) -> Verdict {
    let mut faults = lake.defects.clone();
    if lake.spools.len() > 1 {
        faults.push(format!("several spools: {:?}", lake.spools));
    }
    let mut copies: HashMap<(&str, i64), Vec<u64>> = HashMap::new();
    for (seq, reading) in &lake.readings {
        copies.entry((&reading.device, reading.stamp)).or_default().push(*seq);
    }
    let mut lost = Vec::new();
    for reading in sent {
        let stored = copies.remove(&(reading.device.as_str(), reading.stamp)).unwrap_or_default();
        if stored.is_empty() && reading.acked {
            lost.push(format!("{} {}", reading.device, reading.stamp));
        }
        if stored.len() > 1 {
            faults.push(format!(
                "{} {} stored {} times: {stored:?}",
                reading.device,
                reading.stamp,
                stored.len()
            ));
        }
        for seq in stored {
            let got = &lake.readings[&seq];
            if got.bpm != Some(reading.bpm) || got.rr_ms != reading.rr_ms {
                faults.push(format!("altered: sent {reading:?}, delivered {got:?}"));
            }
        }
    }
    for ((device, stamp), stored) in copies {
        faults.push(format!("nobody sent {device} {stamp}, delivered as {stored:?}"));
    }
    if !lost.is_empty() {
        faults.push(format!("{} acknowledged readings lost, the first of them {}", lost.len(), lost[0]));
    }
    faults.extend(lake.unexplained());
    Verdict {
        sent: sent.len(),
        acked: sent.iter().filter(|s| s.acked).count(),
        delivered: lake.readings.len(),
        generations: lake.ends.len(),
        gaps: lake.gaps.len(),
        lost: lost.len(),
        faults,
    }
}

impl Verdict {
    /// Prints the account; panics with the first faults when the promise was broken.
    pub fn require(&self, what: &str) {
        println!(
            "{what}: sent {}, acknowledged {}, delivered {}, generations ended {}, gaps {}, lost {}",
            self.sent, self.acked, self.delivered, self.generations, self.gaps, self.lost
        );
        let first: Vec<&String> = self.faults.iter().take(20).collect();
        assert!(
            self.faults.is_empty(),
            "{} faults in {what}, the first of them: {first:#?}",
            self.faults.len()
        );
    }
}
