//! Readings from JSON lines. Pure.
//!
//! Understood: the lines that fogbeat itself delivers, and the default JSON payload of a wearable (`bpm` or `hr`,
//! `heart_rate`, `heartRate`, `hbr`; `time` as RFC 3339 or s or ms since 1970; `rr_ms` as a number or a list; `contact`,
//! `energy_kj`, `battery`). Lines with a `type` (gap, end, summary, ...) are no readings and are passed over, as are
//! keys that are not named here. The verdict (`reason`) of a delivered line is found anew; `zero` says that the rate was 0. Lines may come
//! in any order and are sorted by time. A line without a time is one second after its device's line before it.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use smallvec::SmallVec;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::LineProblem;
use super::moment::{Moment, exact_rr};
use crate::reading::{Contact, Reason, RrIntervals};

/// Below this a number is seconds since 1970, from it on milliseconds (as seconds it would be the year 5138).
const MILLISECONDS_FROM: f64 = 1e11;
/// Between lines that carry no time.
const STEP_MS: i64 = 1000;

#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    time: Option<Time>,
    #[serde(default, alias = "hr", alias = "heart_rate", alias = "heartRate", alias = "hbr")]
    bpm: Option<f64>,
    #[serde(default)]
    rr_ms: Option<Rr>,
    #[serde(default)]
    contact: Option<bool>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    energy_kj: Option<u16>,
    #[serde(default, alias = "battery")]
    battery_percent: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Time {
    Number(f64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Rr {
    One(f64),
    List(Vec<f64>),
}

/// Readings of one recording, sorted by time; the earliest is the start.
///
/// # Errors
/// The number of the first line that cannot be read (from 1), and what is wrong with it.
pub fn moments(text: &str) -> Result<Vec<Moment>, (usize, LineProblem)> {
    let mut timed: Vec<(Option<i64>, Moment)> = Vec::new();
    let mut names: HashMap<String, Arc<str>> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let line: Line =
            serde_json::from_str(line).map_err(|error| (number, LineProblem::Json(error.to_string())))?;
        if line.kind.is_some() {
            continue;
        }
        let device = line
            .device
            .as_ref()
            .map(|name| Arc::clone(names.entry(name.clone()).or_insert_with(|| Arc::from(name.as_str()))));
        timed.push(moment(line, device).map_err(|problem| (number, problem))?);
    }
    Ok(in_order(timed))
}

fn moment(line: Line, device: Option<Arc<str>>) -> Result<(Option<i64>, Moment), LineProblem> {
    let time_ms = line.time.map(epoch_ms).transpose()?;
    // A delivered line leaves out the rate of a wearable that said 0.
    let said_zero = line.reason.as_deref() == Some(Reason::Zero.as_str());
    let bpm = match line.bpm.or(said_zero.then_some(0.0)) {
        Some(bpm) if !(0.0..=f64::from(u16::MAX)).contains(&bpm) => {
            return Err(LineProblem::OutOfRange { field: "bpm", value: bpm });
        }
        // In range by the test above.
        Some(bpm) => Some(bpm.round() as u16),
        None => None,
    };
    let rr_ms = match line.rr_ms {
        None => Vec::new(),
        Some(Rr::One(rr)) => vec![rr],
        Some(Rr::List(list)) => list,
    };
    if rr_ms.len() > RrIntervals::MOST {
        return Err(LineProblem::TooManyRr { count: rr_ms.len() });
    }
    let mut rr_us = SmallVec::new();
    for ms in rr_ms {
        if !(0.0..=60_000.0).contains(&ms) {
            return Err(LineProblem::RrOutOfRange { ms });
        }
        rr_us.push((ms * 1000.0).round() as u32);
    }
    let contact = match line.contact {
        None => Contact::Unsupported,
        Some(true) => Contact::Detected,
        Some(false) => Contact::NotDetected,
    };
    let moment = Moment {
        offset_ms: 0,
        device,
        bpm,
        rr: exact_rr(rr_us),
        contact,
        energy_kj: line.energy_kj,
        battery_percent: line.battery_percent,
    };
    Ok((time_ms, moment))
}

fn epoch_ms(time: Time) -> Result<i64, LineProblem> {
    match time {
        Time::Number(number) if number.is_finite() && number.abs() < 1e15 => {
            let ms = if number.abs() < MILLISECONDS_FROM { number * 1000.0 } else { number };
            Ok(ms.round() as i64)
        }
        Time::Number(number) => Err(LineProblem::Time(number.to_string())),
        Time::Text(text) => OffsetDateTime::parse(&text, &Rfc3339)
            .map(|time| (time.unix_timestamp_nanos() / 1_000_000) as i64)
            .map_err(|_| LineProblem::Time(text)),
    }
}

/// Fills in missing times, sorts (readings of one moment keep their order), and counts from the earliest.
fn in_order(timed: Vec<(Option<i64>, Moment)>) -> Vec<Moment> {
    let earliest = timed.iter().filter_map(|(time, _)| *time).min().unwrap_or(0);
    let mut last: HashMap<Option<Arc<str>>, i64> = HashMap::new();
    let mut timed: Vec<(i64, Moment)> = timed
        .into_iter()
        .map(|(time, moment)| {
            let following =
                last.get(&moment.device).map_or(earliest, |before| before.saturating_add(STEP_MS));
            let time = time.unwrap_or(following);
            last.insert(moment.device.clone(), time);
            (time, moment)
        })
        .collect();
    timed.sort_by_key(|(time, _)| *time);
    timed
        .into_iter()
        .map(|(time, moment)| Moment {
            offset_ms: time.saturating_sub(earliest).max(0).unsigned_abs(),
            ..moment
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::RrUnit;

    #[test]
    fn delivered_lines_are_sorted_by_time_and_keep_their_devices() {
        let text = concat!(
            r#"{"id":"a-1","gateway":"g","device":"b","source":"mqtt","time":"2026-11-20T10:00:02.500Z","bpm":62}"#,
            "\n",
            r#"{"id":"a-0","gateway":"g","device":"a","source":"mqtt","time":"2026-11-20T10:00:00Z","bpm":61,"#,
            r#""rr_ms":[983.398],"contact":true,"battery_percent":80}"#,
            "\n",
            r#"{"id":"a-2","type":"end","gateway":"g"}"#,
            "\n"
        );
        let moments = moments(text).unwrap();
        let seen: Vec<_> = moments.iter().map(|m| (m.device.as_deref().unwrap(), m.offset_ms)).collect();
        assert_eq!(seen, [("a", 0), ("b", 2500)]);
        assert_eq!(moments[0].rr.unit, RrUnit::Micros);
        assert_eq!(moments[0].rr.values.as_slice(), [983_398]);
        assert_eq!(moments[0].contact, Contact::Detected);
        assert_eq!(moments[0].battery_percent, Some(80));
    }

    #[test]
    fn payload_lines_without_a_time_are_one_second_apart() {
        let moments =
            moments("{\"hr\":60}\n{\"heartRate\":61,\"rr_ms\":980}\n{\"bpm\":0}\n{\"reason\":\"zero\"}\n")
                .unwrap();
        assert_eq!(moments.iter().map(|m| m.offset_ms).collect::<Vec<_>>(), [0, 1000, 2000, 3000]);
        assert_eq!(moments[1].rr.unit, RrUnit::Millis);
        assert_eq!(moments[1..].iter().map(|m| m.bpm).collect::<Vec<_>>(), [Some(61), Some(0), Some(0)]);
    }

    #[test]
    fn epoch_seconds_and_milliseconds_are_told_apart() {
        let moments =
            moments("{\"bpm\":60,\"time\":1700000000}\n{\"bpm\":60,\"time\":1700000001000}\n").unwrap();
        assert_eq!(moments[1].offset_ms, 1000);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        assert!(matches!(moments("{\"bpm\":60}\n{bpm\n").unwrap_err(), (2, LineProblem::Json(_))));
        assert!(matches!(moments("{\"bpm\":70000}").unwrap_err(), (1, LineProblem::OutOfRange { .. })));
        assert!(matches!(moments("{\"bpm\":1,\"time\":\"noon\"}").unwrap_err(), (1, LineProblem::Time(_))));
        assert!(matches!(
            moments("{\"bpm\":1,\"rr_ms\":[-5]}").unwrap_err(),
            (1, LineProblem::RrOutOfRange { .. })
        ));
        let many = vec!["800"; RrIntervals::MOST + 1].join(",");
        let told = moments(&format!("{{\"bpm\":75,\"rr_ms\":[{many}]}}")).unwrap_err();
        assert_eq!(told, (1, LineProblem::TooManyRr { count: RrIntervals::MOST + 1 }));
        assert!(moments(&format!("{{\"bpm\":75,\"rr_ms\":[{}]}}", &many[4..])).is_ok());
    }
}
