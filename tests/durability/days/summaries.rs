//! Summaries in place of readings: as many as were told, and with the figures of the very readings they stand for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::judge::{NAMELESS, Verdict};
use crate::support::lake::{Lake, Sent, epoch_ms};

/// One window of one device, over all the lines that speak of it: two generations may have a part each.
#[derive(Debug, Default)]
struct Window {
    n: u64,
    bpm_n: u64,
    bpm_min: u64,
    bpm_max: u64,
    bpm_sum: f64,
    rr_n: u64,
}

/// `missing` are stamped readings that were acknowledged and not delivered as readings.
pub fn judge(lake: &Lake, missing: &[&Sent], verdict: &mut Verdict) {
    let mut windows: BTreeMap<(&str, i64, i64), Window> = BTreeMap::new();
    let mut held: BTreeMap<&str, u64> = BTreeMap::new();
    for line in &lake.summaries {
        let Some((device, start, length)) = place(line) else {
            verdict.faults.push(format!("a summary without a place: {line}"));
            continue;
        };
        let window = windows.entry((device, start, length)).or_default();
        window.add(line);
        *held.entry(device).or_default() += figure(line, "n");
    }
    verdict.faults.extend(not_told(lake, &held));
    verdict.summaries = lake.summaries.len() as u64;
    let mut by_device: BTreeMap<&str, Vec<&Sent>> = BTreeMap::new();
    missing.iter().for_each(|sent| by_device.entry(&sent.device).or_default().push(sent));
    // Readings that were in flight when the gateway was killed may stand in two generations, of which the one gave way to
    // summaries and the other was dropped: as many are missing then as are in the summary, but not the same.
    let dropped = || lake.told.iter().filter(|gap| gap.cause != "thinned");
    let mixed =
        |device: &str| dropped().any(|gap| gap.devices.is_empty() || gap.devices.contains_key(device));
    for ((device, start, length), window) in &windows {
        let Some(all) = by_device.get(device) else { continue };
        let inside: Vec<&&Sent> =
            all.iter().filter(|sent| (*start..start + length).contains(&sent.stamp)).collect();
        // More may be missing for another cause, fewer when some came again: then the figures cannot be held together.
        if inside.len() as u64 == window.n {
            let wrong = window.wrong(&inside);
            if wrong.is_some() && mixed(device) {
                continue;
            }
            verdict.compared += 1;
            verdict.faults.extend(wrong.map(|why| format!("summary of {device} at {start}: {why}")));
        }
    }
}

/// What summaries hold is what was told as thinned. What damage took after it had been delivered, but not confirmed, may
/// be told as lost besides.
fn not_told(lake: &Lake, held: &BTreeMap<&str, u64>) -> Option<String> {
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    let mut apart = !held.keys().any(|device| device.starts_with(NAMELESS));
    let (mut numbers, mut lost) = (0, 0);
    for gap in &lake.told {
        let count = gap.last - gap.first + 1;
        match gap.cause.as_str() {
            "thinned" => {
                numbers += count;
                apart &= gap.devices.values().sum::<u64>() == count;
                gap.devices.iter().for_each(|(device, count)| *told.entry(device).or_default() += count);
            }
            "lost" => lost += count,
            _ => {}
        }
    }
    let all: u64 = held.values().sum();
    let mut right = (numbers..=numbers + lost).contains(&all);
    // Where names were lost the devices cannot be held together, only their sum.
    if apart {
        right &= told.iter().all(|(device, count)| held.get(device).is_some_and(|held| held >= count));
    }
    (!right).then(|| format!("summaries hold {held:?}, and {told:?} were told as thinned, {lost} as lost"))
}

impl Window {
    fn add(&mut self, line: &Value) {
        let bpm_n = figure(line, "bpm_n");
        if bpm_n > 0 {
            let least = figure(line, "bpm_min");
            self.bpm_min = if self.bpm_n == 0 { least } else { self.bpm_min.min(least) };
            self.bpm_max = self.bpm_max.max(figure(line, "bpm_max"));
            self.bpm_sum += line["bpm_mean"].as_f64().unwrap_or(f64::NAN) * bpm_n as f64;
        }
        self.n += figure(line, "n");
        self.bpm_n += bpm_n;
        self.rr_n += figure(line, "rr_n");
    }

    fn wrong(&self, readings: &[&&Sent]) -> Option<String> {
        let bpm = || readings.iter().map(|sent| sent.bpm);
        let rr: u64 = readings.iter().map(|sent| sent.rr_ms.len() as u64).sum();
        let mean = bpm().sum::<u64>() as f64 / readings.len() as f64;
        let right = self.bpm_n == readings.len() as u64
            && Some(self.bpm_min) == bpm().min()
            && Some(self.bpm_max) == bpm().max()
            && (self.bpm_sum / self.bpm_n as f64 - mean).abs() < 0.002
            && self.rr_n == rr;
        (!right).then(|| {
            format!(
                "{self:?} for {} readings of {:?} to {:?} bpm, {mean} in the mean, {rr} intervals",
                readings.len(),
                bpm().min(),
                bpm().max()
            )
        })
    }
}

/// Device, start and length of the window, ms.
fn place(line: &Value) -> Option<(&str, i64, i64)> {
    let start = epoch_ms(line["time"].as_str()?)?;
    Some((line["device"].as_str()?, start, line["window_s"].as_i64()? * 1000))
}

fn figure(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or(0)
}
