//! The published line: one JSON object per reading (or event), ending in a newline.
//!
//! Fields stand in a fixed order, and what is absent or at its default is left out:
//! `id`, `type`, `gateway`, `site`, `device`, `source`, `time`, `time_quality` (left out when `synced`), `boot` and
//! `uptime_ms` (with `unsynced`), `uncertainty_s` (with `repaired`; with a synchronised clock only above
//! [`CERTAIN_MS`]), `device_time` (a stamp of the wearable that was not believed), `bpm`, `rr_ms`, `contact`,
//! `energy_kj`, `battery_percent`, `rssi_dbm`, `reason`, `gap_ms`.
//!
//! `id` is `<spool>-<seq>`. An event's id can equal no reading's: an `end` line takes the first number its generation
//! did not use, a `gap` line has both its ends, a `summary` line has its place among the summaries of its generation as
//! the number, and its window behind it (`<spool>-<seq>-s10`), a `clock` line its boot. The same reading, told by the same
//! revision of the clock's anchors, always gives the same bytes. Nothing is allocated per line beyond the growth of the
//! buffer.

use std::sync::Arc;

use super::rfc3339;
use super::validity::DeviceTimeWindow;
use super::{Contact, DeviceTime, Reading, RrIntervals, RrUnit};
use crate::clock::{BootId, BootTimes, Correction, Stamp, TimeQuality, WallQuality};

/// A time without an `uncertainty_s` is at most this far off: what NTP, three hours of a crystal and a leap second
/// that nobody announced come to.
pub const CERTAIN_MS: u64 = 2_500;

/// What all lines of one gateway have in common, escaped and joined beforehand.
#[derive(Debug, Clone)]
pub struct LineContext {
    /// `{"id":"<spool>-`
    head: Vec<u8>,
    /// `,"gateway":"…","site":"…"`
    place: Vec<u8>,
    window: DeviceTimeWindow,
}

impl LineContext {
    /// `spool` is the journal's random name, `site` may be empty or missing.
    pub fn new(spool: &str, gateway: &str, site: Option<&str>) -> Self {
        let mut head = b"{\"id\":\"".to_vec();
        escape(&mut head, spool);
        head.push(b'-');
        let mut place = b",\"gateway\":\"".to_vec();
        escape(&mut place, gateway);
        place.push(b'"');
        if let Some(site) = site.filter(|site| !site.is_empty()) {
            place.extend_from_slice(b",\"site\":\"");
            escape(&mut place, site);
            place.push(b'"');
        }
        Self { head, place, window: DeviceTimeWindow::default() }
    }

    /// Judges stamps of wearables by `window` where that had to wait for the gateway's own clock.
    #[must_use]
    pub const fn judging_by(mut self, window: DeviceTimeWindow) -> Self {
        self.window = window;
        self
    }

    /// Appends the line of a reading: `seq` is its number, `times` tells of the boot it arrived in, `device` is its
    /// wearable's name.
    pub fn write_reading(
        &self,
        out: &mut Vec<u8>,
        seq: u64,
        times: &BootTimes,
        device: &str,
        reading: &Reading,
    ) {
        out.extend_from_slice(&self.head);
        integer(out, seq);
        out.push(b'"');
        out.extend_from_slice(&self.place);
        out.extend_from_slice(b",\"device\":\"");
        escape(out, device);
        out.extend_from_slice(b"\",\"source\":\"");
        out.extend_from_slice(reading.source.as_str().as_bytes());
        out.extend_from_slice(b"\",\"time\":\"");
        self.write_time(out, times, reading);
        write_values(out, reading);
        out.extend_from_slice(b"}\n");
    }

    /// `…"` and the fields that say what the time is worth.
    fn write_time(&self, out: &mut Vec<u8>, times: &BootTimes, reading: &Reading) {
        let device_ms = match self.device_time(times, reading) {
            Some(DeviceTime::Accepted(ms)) => {
                rfc3339::write(out, ms);
                out.extend_from_slice(b"\",\"time_quality\":\"device\"");
                return;
            }
            Some(DeviceTime::Rejected(ms)) => Some(ms),
            None => None,
        };
        write_stamp(out, times, reading.arrival);
        if let Some(ms) = device_ms {
            out.extend_from_slice(b",\"device_time\":\"");
            rfc3339::write(out, ms);
            out.push(b'"');
        }
    }

    /// The wearable's stamp, judged again where the gateway did not know the time when it came and knows it now.
    fn device_time(&self, times: &BootTimes, reading: &Reading) -> Option<DeviceTime> {
        let judged = reading.device_time?;
        if reading.arrival.quality == WallQuality::Synced {
            return Some(judged);
        }
        let arrival = times.resolve(reading.arrival);
        Some(match arrival.quality {
            TimeQuality::Unsynced => judged,
            _ => self.window.judge_within(judged.ms(), arrival.wall_ms, arrival.error_ms),
        })
    }

    /// Appends the line that tells the true time of readings that left with a guess: to be applied to all lines of its
    /// boot that are `unsynced`.
    pub fn write_clock(&self, out: &mut Vec<u8>, correction: &Correction) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"clock-");
        write_uuid(out, correction.boot);
        out.extend_from_slice(b"\",\"type\":\"clock\"");
        out.extend_from_slice(&self.place);
        out.extend_from_slice(b",\"time\":\"");
        rfc3339::write(out, correction.wall_ms);
        out.push(b'"');
        write_moment(out, correction.boot, correction.uptime_ms);
        write_uncertainty(out, correction.error_ms);
        out.extend_from_slice(b"}\n");
    }

    /// Appends the line that ends a generation of `count` readings.
    pub fn write_end(&self, out: &mut Vec<u8>, generation: u32, count: u32) {
        out.extend_from_slice(&self.head);
        integer(out, (u64::from(generation) << 32) + u64::from(count));
        out.extend_from_slice(b"\",\"type\":\"end\"");
        out.extend_from_slice(&self.place);
        out.extend_from_slice(b",\"generation\":");
        integer(out, generation);
        out.extend_from_slice(b",\"count\":");
        integer(out, count);
        out.extend_from_slice(b"}\n");
    }

    /// Appends the line that explains why the numbers `first` to `last` never come. `cause` is one of the journal's
    /// labels (`lost`, `evicted`, `thinned`, `withheld`); `devices` says how many each device gave, where that is known.
    pub fn write_gap(
        &self,
        out: &mut Vec<u8>,
        first: u64,
        last: u64,
        cause: &str,
        devices: &[(Arc<str>, u64)],
    ) {
        out.extend_from_slice(&self.head);
        integer(out, first);
        out.push(b'-');
        integer(out, last);
        out.extend_from_slice(b"\",\"type\":\"gap\"");
        out.extend_from_slice(&self.place);
        out.extend_from_slice(b",\"first_seq\":");
        integer(out, first);
        out.extend_from_slice(b",\"last_seq\":");
        integer(out, last);
        out.extend_from_slice(b",\"cause\":\"");
        escape(out, cause);
        out.push(b'"');
        let mut separator: &[u8] = b",\"devices\":{\"";
        for (device, count) in devices {
            out.extend_from_slice(separator);
            separator = b",\"";
            escape(out, device);
            out.extend_from_slice(b"\":");
            integer(out, *count);
        }
        out.extend_from_slice(if devices.is_empty() { b"}\n" } else { b"}}\n" });
    }
}

/// Appends `…"` of a `time` and the fields that say what it is worth: for whatever has a stamp of the gateway.
pub fn write_stamp(out: &mut Vec<u8>, times: &BootTimes, stamp: Stamp) {
    let resolved = times.resolve(stamp);
    rfc3339::write(out, resolved.wall_ms);
    out.push(b'"');
    match resolved.quality {
        TimeQuality::Synced if resolved.error_ms <= CERTAIN_MS => {}
        TimeQuality::Synced => write_uncertainty(out, resolved.error_ms),
        TimeQuality::Repaired => {
            out.extend_from_slice(b",\"time_quality\":\"repaired\"");
            write_uncertainty(out, resolved.error_ms);
        }
        TimeQuality::Unsynced => {
            out.extend_from_slice(b",\"time_quality\":\"unsynced\"");
            write_moment(out, times.boot(), stamp.uptime_ms);
        }
    }
}

/// `,"boot":"…","uptime_ms":…`
fn write_moment(out: &mut Vec<u8>, boot: BootId, uptime_ms: u64) {
    out.extend_from_slice(b",\"boot\":\"");
    write_uuid(out, boot);
    out.extend_from_slice(b"\",\"uptime_ms\":");
    integer(out, uptime_ms);
}

/// Rounded up: to a tenth of a second below 100 s, so that neighbours say the same and compress.
fn write_uncertainty(out: &mut Vec<u8>, error_ms: u64) {
    out.extend_from_slice(b",\"uncertainty_s\":");
    let tenths = error_ms.div_ceil(100);
    if tenths >= 1_000 {
        integer(out, tenths.div_ceil(10));
        return;
    }
    integer(out, tenths / 10);
    if !tenths.is_multiple_of(10) {
        out.extend_from_slice(&[b'.', b'0' + (tenths % 10) as u8]);
    }
}

fn write_values(out: &mut Vec<u8>, reading: &Reading) {
    if let Some(bpm) = reading.bpm {
        out.extend_from_slice(b",\"bpm\":");
        integer(out, bpm.get());
    }
    if !reading.rr.values.is_empty() {
        out.extend_from_slice(b",\"rr_ms\":");
        write_rr(out, &reading.rr);
    }
    match reading.contact {
        Contact::Unsupported => {}
        Contact::NotDetected => out.extend_from_slice(b",\"contact\":false"),
        Contact::Detected => out.extend_from_slice(b",\"contact\":true"),
    }
    if let Some(energy) = reading.energy_kj {
        out.extend_from_slice(b",\"energy_kj\":");
        integer(out, energy);
    }
    if let Some(battery) = reading.battery_percent {
        out.extend_from_slice(b",\"battery_percent\":");
        integer(out, battery);
    }
    if let Some(rssi) = reading.rssi_dbm {
        out.extend_from_slice(b",\"rssi_dbm\":");
        integer(out, rssi);
    }
    if let Some(reason) = reading.reason {
        out.extend_from_slice(b",\"reason\":\"");
        out.extend_from_slice(reason.as_str().as_bytes());
        out.push(b'"');
    }
    if let Some(gap_ms) = reading.gap_ms {
        out.extend_from_slice(b",\"gap_ms\":");
        integer(out, gap_ms);
    }
}

fn write_rr(out: &mut Vec<u8>, rr: &RrIntervals) {
    let mut separator = b'[';
    for value in &rr.values {
        out.push(separator);
        separator = b',';
        match rr.unit {
            RrUnit::Millis => integer(out, *value),
            RrUnit::Ticks | RrUnit::Micros => millis(out, rr.unit.to_micros(*value)),
        }
    }
    out.push(b']');
}

/// Microseconds as milliseconds with up to three decimals and no trailing zeros.
fn millis(out: &mut Vec<u8>, micros: u64) {
    integer(out, micros / 1000);
    let rest = (micros % 1000) as u16;
    if rest == 0 {
        return;
    }
    let digits = [b'.', b'0' + (rest / 100) as u8, b'0' + (rest / 10 % 10) as u8, b'0' + (rest % 10) as u8];
    let [point, tenths, hundredths, thousandths] = digits;
    match (hundredths, thousandths) {
        (b'0', b'0') => out.extend_from_slice(&[point, tenths]),
        (_, b'0') => out.extend_from_slice(&[point, tenths, hundredths]),
        _ => out.extend_from_slice(&digits),
    }
}

fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `8-4-4-4-12` hexadecimal digits, as the kernel prints a boot id.
fn write_uuid(out: &mut Vec<u8>, boot: BootId) {
    let mut digits = [0u8; 32];
    // Fails only for a buffer of another length.
    let _ = hex::encode_to_slice(boot.0, &mut digits);
    let mut rest = &digits[..];
    for length in [8, 4, 4, 4, 12] {
        let (group, tail) = rest.split_at(length);
        out.extend_from_slice(group);
        if !tail.is_empty() {
            out.push(b'-');
        }
        rest = tail;
    }
}

/// Appends the inside of a JSON string.
fn escape(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c < ' ' => {
                let low = c as u8 & 0x0f;
                let digit = if low < 10 { b'0' + low } else { b'a' + low - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (c as u8 >> 4), digit]);
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[path = "line_summary.rs"]
mod summary;

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
