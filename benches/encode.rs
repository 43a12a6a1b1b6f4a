//! What each compression level costs and brings, on a stretch of a day of 40 straps: `cargo bench --bench encode`.
//!
//! Bytes per reading and nanoseconds per reading (grouping and packing; rendering is told apart), best of five.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench reports and fails loudly"
)]

#[allow(dead_code)]
#[path = "../tests/support/hearts.rs"]
mod hearts;

use std::num::NonZeroU16;
use std::time::Instant;

use fogbeat::clock::{BootId, BootTimes, Stamp, WallQuality};
use fogbeat::config::Encoding;
use fogbeat::forward::batch::{Context, Lines, Until};
use fogbeat::forward::member::Encoder;
use fogbeat::journal::{Bounds, Entry, Seq};
use fogbeat::reading::line::LineContext;
use fogbeat::reading::{Contact, DeviceId, Reading, RrIntervals, RrUnit, Source};

const STRAPS: usize = 40;
const ROUNDS: u32 = 5;
/// 2026-11-23 00:00:00 UTC
const MIDNIGHT_MS: i64 = 1_795_392_000_000;

/// `count` readings as a gateway would number them: the straps in turn, each at its own moments.
fn entries(count: usize) -> Vec<Entry> {
    let mut straps: Vec<hearts::Strap> = (0..STRAPS).map(hearts::Strap::new).collect();
    (0..count)
        .map(|n| {
            let strap = n % STRAPS;
            let notification = straps[strap].next().unwrap();
            let at_ms = notification.at_ms;
            let ticks = |ms: &u64| u32::try_from(*ms * 1024 / 1000).unwrap();
            let reading = Reading {
                device: DeviceId(u32::try_from(strap).unwrap()),
                source: Source::Gatt,
                arrival: Stamp {
                    uptime_ms: at_ms,
                    wall_ms: MIDNIGHT_MS + i64::try_from(at_ms).unwrap(),
                    quality: WallQuality::Synced,
                },
                device_time: None,
                bpm: NonZeroU16::new(u16::try_from(notification.bpm).unwrap()),
                rr: RrIntervals {
                    unit: RrUnit::Ticks,
                    values: notification.rr_ms.iter().map(ticks).collect(),
                },
                contact: Contact::Detected,
                energy_kj: None,
                battery_percent: None,
                rssi_dbm: None,
                reason: None,
                gap_ms: None,
            };
            Entry::Reading {
                seq: Seq::new(1, u32::try_from(n).unwrap()),
                device: format!("strap-{strap:02}").into(),
                reading,
            }
        })
        .collect()
}

/// Nanoseconds per reading, best of the rounds.
fn best(readings: usize, mut work: impl FnMut()) -> f64 {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_nanos() as f64 / readings as f64
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn main() {
    let context = Context {
        spool: "k3v9x2ab".into(),
        times: BootTimes::unknown(BootId([7; 16])),
        line: LineContext::new("k3v9x2ab", "gym-12", Some("gym")),
    };
    for readings in [2_400, 5_000, 24_000] {
        let entries = entries(readings);
        let mut lines = Lines::default();
        let mut render = || {
            lines.clear(usize::MAX);
            let mut position = Seq(0);
            for entry in &entries {
                lines.offer(entry, &mut position, Until::Bytes(usize::MAX), &context);
            }
        };
        let rendering = best(readings, &mut render);
        let text = lines.text_bytes() as f64 / readings as f64;
        println!("{readings} readings a member: {text:.1} B of text each, rendered in {rendering:.0} ns");
        let bounds = Bounds { from: Seq(0), to: Seq::new(2, 0), fixed_ms: 0, clock: 0, guessed: false };
        for (encoding, levels) in [(Encoding::Gzip, 1..=9), (Encoding::Zstd, 1..=12)] {
            for level in levels {
                let mut encoder = Encoder::with_level(encoding, Some(level)).unwrap();
                let mut size = 0;
                let packing = best(readings, || {
                    let members = lines.encode(bounds, &mut encoder, usize::MAX).unwrap();
                    size = members[0].bytes.len();
                });
                let size = size as f64 / readings as f64;
                println!("  {encoding:?} {level:2}: {size:6.2} B, {packing:5.0} ns a reading");
            }
        }
    }
}
