//! Heart rate variability: by hand, and on a recorded heart whose beats an expert has labelled.

use fogbeat::reading::Reason;
use serde_json::{Value, json};

use super::site::{Said, Site};

const RECORD_100: &str = include_str!("../data/mitdb/100_rr.csv");

fn answer(said: &[Said]) -> Value {
    let site = Site::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(site.gateway("gw-a", said));
    site.ask(&["hrv"])["hrv"].clone()
}

/// One beat a second from `minute` on: 990 and 1010 ms in turn.
fn even(device: &'static str, minute: i64, beats: usize) -> Vec<Said> {
    let beat = |n: usize| Said {
        rr_ms: vec![if n.is_multiple_of(2) { 990 } else { 1010 }],
        ..Said::new(device, minute * 60_000 + 500 + n as i64 * 1000, 60)
    };
    (0..beats).map(beat).collect()
}

#[test]
fn sdnn_and_rmssd_by_hand() {
    let mut said = even("strap-1", 0, 300);
    // A premature beat and the pause after it.
    let mut ectopic = even("strap-1", 5, 300);
    (ectopic[100].rr_ms, ectopic[101].rr_ms) = (vec![600], vec![1400]);
    said.extend(ectopic);
    // Ten readings that must not count, whatever their intervals.
    let mut loose = even("strap-1", 10, 300);
    for reading in &mut loose[150..160] {
        (reading.reason, reading.rr_ms) = (Some(Reason::NoContact), vec![400]);
    }
    said.extend(loose);
    // Five seconds out of reach.
    said.extend(
        even("strap-1", 15, 300)
            .into_iter()
            .enumerate()
            .filter(|(n, _)| !(100..105).contains(n))
            .map(|(_, s)| s),
    );
    // Somebody who noticed that two notifications were lost says so.
    let mut noticed = even("strap-1", 20, 300);
    noticed[200].gap_ms = Some(1000);
    said.extend(noticed);
    said.extend(even("strap-1", 30, 200));
    let mut noisy = even("strap-1", 35, 300);
    noisy.iter_mut().step_by(8).for_each(|reading| reading.rr_ms = vec![500]);
    said.extend(noisy);
    let answer = answer(&said);

    let figures = |row: &Value| -> Value {
        let columns =
            ["beats", "normal_beats", "pairs", "coverage_percent", "sdnn_ms", "rmssd_ms", "withheld"];
        columns.iter().map(|column| row[*column].clone()).collect()
    };
    let found: Vec<Value> = answer.as_array().unwrap().iter().map(figures).collect();
    // Deviations of 10 ms: SDNN = sqrt(n x 100 / (n - 1)). Neighbours differ by 20 ms.
    let expected = [
        json!([300, 300, 299, 100.0, 10.02, 20.0, null]),
        // Three pairs have one of the two beats in them.
        json!([300, 298, 296, 100.0, 10.02, 20.0, null]),
        // Two runs: 149 and 139 pairs.
        json!([290, 290, 288, 96.7, 10.02, 20.0, null]),
        // Two runs: 99 and 194 pairs.
        json!([295, 295, 293, 98.3, 10.02, 20.0, null]),
        json!([300, 300, 298, 100.0, 10.02, 20.0, null]),
        json!([200, 200, 199, 66.7, null, null, "too little heard"]),
        json!([300, 262, 224, 93.8, null, null, "too many artefacts"]),
    ];
    assert_eq!(found, expected);
    assert_eq!(answer[1]["five_minutes"], "2026-11-23T00:05:00");
    assert_eq!(answer[0]["mean_bpm"], 60.0);
}

#[test]
fn a_slow_heart_and_a_strap_that_sends_bundles_have_no_breaks() {
    // 45 beats a minute: every fourth notification has none.
    let mut said = Vec::new();
    let mut beat_ms = 0;
    for second in 1..=300 {
        let mut reading = Said::new("slow", second * 1000 - 500, 45);
        if beat_ms + 1333 <= reading.at_ms {
            reading.rr_ms.push(1333);
            beat_ms += 1333;
        }
        said.push(reading);
    }
    let beats = said.iter().filter(|reading| !reading.rr_ms.is_empty()).count();
    // Five beats every five seconds.
    said.extend((1..=60).map(|n| Said {
        rr_ms: vec![1000, 1010, 990, 1000, 1000],
        ..Said::new("bundled", n * 5000 - 500, 60)
    }));
    let answer = answer(&said);
    let row =
        |device: &str| answer.as_array().unwrap().iter().find(|row| row["device"] == device).unwrap().clone();
    let slow = row("slow");
    assert_eq!(
        (slow["beats"].as_u64(), slow["pairs"].as_u64()),
        (Some(beats as u64), Some(beats as u64 - 1))
    );
    assert_eq!((slow["rmssd_ms"].as_f64(), slow["mean_bpm"].as_f64()), (Some(0.0), Some(45.0)));
    // Of each bundle the deviations squared make 200, the steps squared 600; the step to the next bundle is 0.
    let bundled = row("bundled");
    assert_eq!(bundled["pairs"], 299);
    assert_eq!((bundled["sdnn_ms"].as_f64(), bundled["rmssd_ms"].as_f64()), (Some(6.34), Some(10.97)));
}

/// Record 100 of the MIT-BIH database has 34 beats that are not normal. Over all its pairs of neighbours RMSSD is 63 ms,
/// over those that the labels call normal 27 ms: that is what has to come out, without the labels.
#[test]
fn ectopic_beats_of_a_recorded_heart_do_not_count() {
    let beats: Vec<(f64, bool)> = RECORD_100
        .lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            (fields[2].parse().unwrap(), fields[1] == "N" && fields[3] == "N")
        })
        .collect();
    let rmssd = |keep: &dyn Fn(&(f64, bool)) -> bool| {
        let pairs = beats.windows(2).filter(|pair| keep(&pair[0]) && keep(&pair[1]));
        let squares: Vec<f64> = pairs.map(|pair| (pair[1].0 - pair[0].0).powi(2)).collect();
        (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
    };
    let (raw, labelled) = (rmssd(&|_| true), rmssd(&|beat| beat.1));
    assert!((raw - 63.23).abs() < 0.01 && (labelled - 27.48).abs() < 0.01, "{raw} {labelled}");

    let mut at_ms = 0.0;
    let said: Vec<Said> = beats
        .iter()
        .map(|(rr, _)| {
            at_ms += rr;
            Said {
                rr_ms: vec![rr.round() as u32],
                ..Said::new("record-100", at_ms as i64, (60_000.0 / rr) as u16)
            }
        })
        .collect();
    let answer = answer(&said);
    let rows = answer.as_array().unwrap();
    let told: Vec<(f64, f64)> = rows
        .iter()
        .filter(|row| row["withheld"].is_null())
        .map(|row| (row["rmssd_ms"].as_f64().unwrap(), row["pairs"].as_f64().unwrap()))
        .collect();
    assert_eq!(told.len(), 6, "half an hour: {answer}");
    let pairs: f64 = told.iter().map(|(_, pairs)| pairs).sum();
    let found = (told.iter().map(|(rmssd, pairs)| rmssd * rmssd * pairs).sum::<f64>() / pairs).sqrt();
    assert!((found - labelled).abs() < 1.0, "{found} ms, by the labels {labelled} ms");
}
