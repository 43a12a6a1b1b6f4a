//! What it costs: measured bytes per reading against the figures that the bill is reckoned with.

use std::num::NonZeroU16;

use fogbeat::clock::{BootId, BootTimes, Stamp, WallQuality};
use fogbeat::config::Encoding;
use fogbeat::forward::batch::{Context, Lines, Until};
use fogbeat::forward::member::Encoder;
use fogbeat::journal::{Bounds, Entry, Seq};
use fogbeat::reading::line::LineContext;
use fogbeat::reading::{Contact, DeviceId, Reading, RrIntervals, RrUnit, Source};

use super::recorded;
use super::site::MIDNIGHT_MS;

/// `count` readings of `straps` recorded hearts with all their intervals, as a gateway numbers them.
fn entries(straps: usize, count: usize) -> Vec<Entry> {
    let mut hearts: Vec<recorded::Strap> = (0..straps).map(recorded::Strap::new).collect();
    let entry = |n: usize| {
        let strap = n % straps;
        let said = hearts[strap].next().unwrap();
        let reading = Reading {
            device: DeviceId(strap as u32),
            source: Source::Gatt,
            arrival: Stamp {
                uptime_ms: said.at_ms,
                wall_ms: MIDNIGHT_MS + said.at_ms as i64,
                quality: WallQuality::Synced,
            },
            device_time: None,
            bpm: NonZeroU16::new(said.bpm as u16),
            rr: RrIntervals {
                unit: RrUnit::Ticks,
                values: said.rr_ms.iter().map(|ms| (ms * 1024 / 1000) as u32).collect(),
            },
            contact: Contact::Detected,
            energy_kj: None,
            battery_percent: None,
            rssi_dbm: None,
            reason: None,
        };
        Entry::Reading { seq: Seq::new(1, n as u32), device: format!("strap-{strap:02}").into(), reading }
    };
    (0..count).map(entry).collect()
}

/// Bytes of JSON lines, and of the gzip member that they make.
fn member(straps: usize, count: usize) -> (u64, u64) {
    let context = Context {
        spool: "k3v9x2ab".into(),
        times: BootTimes::unknown(BootId([7; 16])),
        line: LineContext::new("k3v9x2ab", "gym-12", Some("gym")),
    };
    let mut lines = Lines::default();
    let mut position = Seq(0);
    for entry in entries(straps, count) {
        lines.offer(&entry, &mut position, Until::Bytes(usize::MAX), &context);
    }
    let bounds = Bounds { from: Seq(0), to: Seq::new(2, 0), fixed_ms: 0, clock: 0, guessed: false };
    let mut encoder = Encoder::with_level(Encoding::Gzip, None).unwrap();
    let members = lines.encode(bounds, &mut encoder, usize::MAX).unwrap();
    (lines.text_bytes() as u64, members[0].bytes.len() as u64)
}

#[test]
fn sizes() {
    for straps in [1, 5, 20, 40] {
        for count in [1, 60, 300, 600, 1200, 2400, 5000, 12000] {
            let (text, packed) = member(straps, count);
            println!(
                "{straps} {count}: text {:.1} packed {packed} {:.2}",
                text as f64 / count as f64,
                packed as f64 / count as f64
            );
        }
    }
}
