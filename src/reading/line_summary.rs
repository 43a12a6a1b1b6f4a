//! The line of a summary: what stands for readings that gave way to it when the disk was full.
//!
//! Fields in this order: `id`, `type`, `gateway`, `site`, `device`, `source` (left out when the readings came in more
//! than one way), `time` (the window's start) with its `time_quality` as for a reading, `window_s`, `n` (readings), `bpm_n`
//! (those that have a heart rate and no `reason`), `bpm_min`, `bpm_mean`, `bpm_max` (of these; left out without any),
//! `rr_n` (RR intervals of all `n`; left out when 0).

use super::super::summary::Summary;
use super::super::{Contact, Reading, RrIntervals, Source};
use super::{LineContext, escape, integer, millis};
use crate::clock::BootTimes;

impl LineContext {
    /// Appends the line of a summary. `seq` is its place: generation x 2^32 + its number among the generation's
    /// summaries of the same window. The numbers of its readings lie in the generation's `gap` lines.
    pub fn write_summary(
        &self,
        out: &mut Vec<u8>,
        seq: u64,
        times: &BootTimes,
        device: &str,
        summary: &Summary,
    ) {
        out.extend_from_slice(&self.head);
        integer(out, seq);
        out.extend_from_slice(b"-s");
        integer(out, summary.window_s);
        out.extend_from_slice(b"\",\"type\":\"summary\"");
        out.extend_from_slice(&self.place);
        out.extend_from_slice(b",\"device\":\"");
        escape(out, device);
        if let Some(source) = summary.sources.only() {
            out.extend_from_slice(b"\",\"source\":\"");
            out.extend_from_slice(source.as_str().as_bytes());
        }
        out.extend_from_slice(b"\",\"time\":\"");
        self.write_time(out, times, &timed(summary));
        let mut field = |name: &[u8], value: u64| {
            out.extend_from_slice(name);
            integer(out, value);
        };
        field(b",\"window_s\":", summary.window_s.into());
        field(b",\"n\":", summary.n.into());
        field(b",\"bpm_n\":", summary.bpm_n.into());
        if let Some(mean) = summary.bpm_mean_milli() {
            field(b",\"bpm_min\":", summary.bpm_min.into());
            out.extend_from_slice(b",\"bpm_mean\":");
            millis(out, mean);
            out.extend_from_slice(b",\"bpm_max\":");
            integer(out, summary.bpm_max);
        }
        if summary.rr_n > 0 {
            out.extend_from_slice(b",\"rr_n\":");
            integer(out, summary.rr_n);
        }
        out.extend_from_slice(b"}\n");
    }
}

/// A reading at the window's start: a window's time is told in the very way a reading's is.
fn timed(summary: &Summary) -> Reading {
    Reading {
        device: summary.device,
        source: Source::Mqtt,
        arrival: summary.arrival,
        device_time: summary.device_time,
        bpm: None,
        rr: RrIntervals::default(),
        contact: Contact::Unsupported,
        energy_kj: None,
        battery_percent: None,
        rssi_dbm: None,
        reason: None,
        gap_ms: None,
    }
}
