//! Beats from a CSV recording. Pure.
//!
//! Understood, told apart by the first line: one RR interval a line (ms); `seconds,RR in ms` without a header; a header
//! that names an RR column and perhaps a time column, others being passed over. Time is when the interval ended, as
//! the recorder saw it. Without a time column each interval begins where the one before it ended. Fields are separated
//! by commas, semicolons or tabs; empty lines and lines that begin with `#` are passed over. Quoted fields are not
//! understood: no recorder of numbers writes them.

use super::beats::Beat;
use super::error::LineProblem;

/// Header names of an RR column, with the factor to microseconds.
const RR_COLUMNS: [(&str, f64); 9] = [
    ("rr_ms", 1e3),
    ("rr", 1e3),
    ("rri", 1e3),
    ("ibi", 1e3),
    ("ibi_ms", 1e3),
    ("nn", 1e3),
    ("nn_ms", 1e3),
    ("rr_s", 1e6),
    ("ibi_s", 1e6),
];

/// Header names of a time column, with the factor to microseconds.
const TIME_COLUMNS: [(&str, f64); 6] =
    [("arrival_s", 1e6), ("time_s", 1e6), ("time", 1e6), ("t", 1e6), ("arrival_ms", 1e3), ("time_ms", 1e3)];

/// The longest interval that is taken for one: beyond a minute the recorder was off.
const MAX_RR_US: f64 = 60e6;

#[derive(Debug, Clone, Copy)]
struct Column {
    index: usize,
    factor: f64,
    name: &'static str,
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    rr: Column,
    time: Option<Column>,
}

/// Beats of one recording, oldest first; the time of the first row becomes the start of the recording.
///
/// # Errors
/// The number of the first line that cannot be read (from 1), and what is wrong with it.
pub fn beats(text: &str) -> Result<Vec<Beat>, (usize, LineProblem)> {
    let mut layout = None;
    let mut beats: Vec<Beat> = Vec::new();
    let mut start_us = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim().trim_start_matches('\u{feff}');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split([',', ';', '\t']).map(str::trim).collect();
        let layout = match layout {
            Some(layout) => layout,
            None => {
                let (found, is_header) = detect(&fields).map_err(|problem| (number, problem))?;
                layout = Some(found);
                if is_header {
                    continue;
                }
                found
            }
        };
        let beat = beat(&fields, layout, beats.last(), &mut start_us).map_err(|problem| (number, problem))?;
        beats.push(beat);
    }
    Ok(beats)
}

/// The layout that the first line shows, and whether that line is a header.
fn detect(fields: &[&str]) -> Result<(Layout, bool), LineProblem> {
    if fields.iter().all(|field| field.parse::<f64>().is_ok()) {
        let rr = |index| Column { index, factor: 1e3, name: "rr_ms" };
        let layout = if fields.len() == 1 {
            Layout { rr: rr(0), time: None }
        } else {
            Layout { rr: rr(1), time: Some(Column { index: 0, factor: 1e6, name: "time" }) }
        };
        return Ok((layout, false));
    }
    let find = |names: &[(&'static str, f64)]| {
        names.iter().find_map(|(name, factor)| {
            let index = fields.iter().position(|field| field.eq_ignore_ascii_case(name))?;
            Some(Column { index, factor: *factor, name })
        })
    };
    let rr = find(&RR_COLUMNS).ok_or(LineProblem::NoRrColumn)?;
    Ok((Layout { rr, time: find(&TIME_COLUMNS) }, true))
}

fn beat(
    fields: &[&str],
    layout: Layout,
    before: Option<&Beat>,
    start_us: &mut Option<f64>,
) -> Result<Beat, LineProblem> {
    let rr = number(fields, layout.rr)? * layout.rr.factor;
    if !(1000.0..=MAX_RR_US).contains(&rr) {
        return Err(LineProblem::RrOutOfRange { ms: rr / 1e3 });
    }
    // In range by the test above.
    let rr_us = rr.round() as u32;
    let before_us = before.map_or(0, |beat| beat.end_us);
    let end_us = match layout.time {
        None => before_us + u64::from(rr_us),
        Some(column) => {
            let time_us = number(fields, column)? * column.factor;
            // The first interval ended where the recording begins, plus its own length.
            let start = *start_us.get_or_insert(time_us - rr);
            let end_us = (time_us - start).round();
            if end_us < before_us as f64 {
                let second = |us: f64| (us + start) / 1e6;
                return Err(LineProblem::TimeGoesBack {
                    before: second(before_us as f64),
                    after: second(end_us),
                });
            }
            end_us as u64
        }
    };
    Ok(Beat { end_us, rr_us })
}

fn number(fields: &[&str], column: Column) -> Result<f64, LineProblem> {
    let text = fields.get(column.index).ok_or(LineProblem::MissingColumn { column: column.name })?;
    text.parse::<f64>()
        .ok()
        .filter(|value| value.is_finite())
        .ok_or_else(|| LineProblem::NotANumber { column: column.name, text: (*text).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rr(text: &str) -> Vec<u32> {
        beats(text).unwrap().iter().map(|beat| beat.rr_us).collect()
    }

    #[test]
    fn a_bare_list_is_chained() {
        let list = beats("859\n867\n\n# a remark\n883\n").unwrap();
        assert_eq!(list.last().unwrap().end_us, 2_609_000);
    }

    #[test]
    fn two_columns_without_a_header_are_seconds_and_milliseconds() {
        let list = beats("2.211511135101318359e-01,9.36e+02\n1.256629943847656250e+00,1.02e+03\n").unwrap();
        assert_eq!(list[0], Beat { end_us: 936_000, rr_us: 936_000 });
        assert_eq!(list[1], Beat { end_us: 1_971_479, rr_us: 1_020_000 });
    }

    #[test]
    fn a_header_names_the_columns_in_any_order() {
        assert_eq!(rr("beat_sample,symbol,rr_ms,prev_symbol\n370,N,813.889,N\n"), [813_889]);
        let list = beats("IBI_s;note;Time\n0.8;a;10.0\n0.9;b;10.9\n").unwrap();
        assert_eq!(list[1], Beat { end_us: 1_700_000, rr_us: 900_000 });
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        assert_eq!(
            beats("800\nabc\n").unwrap_err(),
            (2, LineProblem::NotANumber { column: "rr_ms", text: "abc".into() })
        );
        assert_eq!(beats("time,bpm\n1,60\n").unwrap_err(), (1, LineProblem::NoRrColumn));
        assert_eq!(beats("0,800\n1\n").unwrap_err(), (2, LineProblem::MissingColumn { column: "rr_ms" }));
        assert_eq!(beats("0\n").unwrap_err(), (1, LineProblem::RrOutOfRange { ms: 0.0 }));
        assert!(matches!(beats("5,800\n4,800\n").unwrap_err(), (2, LineProblem::TimeGoesBack { .. })));
        assert!(matches!(beats("1e999\n").unwrap_err(), (1, _)));
    }

    #[test]
    fn the_recordings_of_the_demo_are_read_whole() {
        let polar = beats(include_str!("../../../tests/data/polar-h10-ibi/sample_data_ibi.csv")).unwrap();
        assert_eq!(polar.len(), 620);
        let nsrdb = beats(include_str!("../../../tests/data/pyhrv-nsrdb/nsrdb_short.txt")).unwrap();
        assert_eq!(nsrdb.len(), 337);
        let mean = nsrdb.iter().map(|beat| f64::from(beat.rr_us)).sum::<f64>() / 337_000.0;
        assert!((mean - 888.955).abs() < 0.001, "the published mean NN, not {mean}");
        let mitdb = beats(include_str!("../../../tests/data/mitdb/100_rr.csv")).unwrap();
        assert_eq!(mitdb.len(), 2272);
    }
}
