//! Whether a reading may leave, or is held back because its time may still become known.
//!
//! Pure. A reading that was stamped with a guess waits while [`crate::clock::Clock::patient_until`] says that the clock
//! may still be set; what stands behind it waits too, because a batch is a stretch of the journal's order. Patience is
//! counted from the boot: a machine whose clock was not set by then has no network, and what comes later leaves at
//! once, marked `unsynced`. So no reading waits longer than the patience, and a machine whose clock is never set waits
//! once per boot.

use std::time::Duration;

use crate::clock::{BootTimes, Stamp, TimeQuality, WallQuality};
use crate::journal::{Entry, Seq};

/// What is to be done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// It says when it was, or needs no time.
    Told,
    /// It leaves with a guess.
    Guessed,
    /// It waits, at most so long.
    Held(Duration),
}

/// Decides on an entry at or after `position`. `until` is the uptime up to which patience lasts, if anything is waited
/// for.
pub(super) fn leave(
    entry: &Entry,
    position: Seq,
    times: &BootTimes,
    uptime_ms: u64,
    until: Option<u64>,
) -> Leave {
    let Some(stamp) = guess(entry, position) else { return Leave::Told };
    if times.resolve(stamp).quality != TimeQuality::Unsynced {
        return Leave::Told;
    }
    match until.and_then(|until| until.checked_sub(uptime_ms)) {
        Some(left) if left > 0 => Leave::Held(Duration::from_millis(left)),
        _ => Leave::Guessed,
    }
}

/// The stamp of an entry whose time is a guess.
fn guess(entry: &Entry, position: Seq) -> Option<Stamp> {
    match entry {
        Entry::Reading { seq, reading, .. }
            if reading.arrival.quality == WallQuality::Unsynced && *seq >= position =>
        {
            Some(reading.arrival)
        }
        Entry::Summary { at, summary, .. }
            if summary.arrival.quality == WallQuality::Unsynced && *at >= position =>
        {
            Some(summary.arrival)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::clock::{Anchor, Anchors, BootId};
    use crate::reading::{Contact, DeviceId, Reading, RrIntervals, Source};

    const BOOT: BootId = BootId([3; 16]);

    fn entry(quality: WallQuality) -> Entry {
        let reading = Reading {
            device: DeviceId(0),
            source: Source::Mqtt,
            arrival: Stamp { uptime_ms: 5_000, wall_ms: 0, quality },
            device_time: None,
            bpm: NonZeroU16::new(60),
            rr: RrIntervals::default(),
            contact: Contact::Unsupported,
            energy_kj: None,
            battery_percent: None,
            rssi_dbm: None,
            reason: None,
            gap_ms: None,
        };
        Entry::Reading { seq: Seq(7), device: "a".into(), reading }
    }

    #[test]
    fn a_guess_waits_from_the_boot_on_and_no_longer_than_the_patience() {
        let unknown = BootTimes::unknown(BOOT);
        let guessed = entry(WallQuality::Unsynced);
        let decide = |uptime, until| leave(&guessed, Seq(0), &unknown, uptime, until);
        assert_eq!(decide(10_000, Some(600_000)), Leave::Held(Duration::from_secs(590)));
        assert_eq!(decide(600_000, Some(600_000)), Leave::Guessed);
        assert_eq!(decide(86_400_000, Some(600_000)), Leave::Guessed, "a clock that is never set");
        assert_eq!(decide(10_000, None), Leave::Guessed, "nobody will set it");
    }

    #[test]
    fn a_known_time_waits_for_nobody() {
        let unknown = BootTimes::unknown(BOOT);
        let synced = entry(WallQuality::Synced);
        assert_eq!(leave(&synced, Seq(0), &unknown, 10_000, Some(600_000)), Leave::Told);
        let mut table = Anchors::default();
        table.anchor(BOOT, Anchor { uptime_ms: 9_000, wall_ms: 1 << 40, error_ms: 5, ahead_ms: 0 });
        let times = table.times(BOOT, table.revision());
        assert_eq!(leave(&entry(WallQuality::Unsynced), Seq(0), &times, 10_000, Some(600_000)), Leave::Told);
        let behind = leave(&entry(WallQuality::Unsynced), Seq(8), &unknown, 10_000, Some(600_000));
        assert_eq!(behind, Leave::Told, "it belongs to an earlier batch");
    }
}
