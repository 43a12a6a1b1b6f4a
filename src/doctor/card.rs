//! How long the memory card will last at the rate at which the gateway writes.
//!
//! What a card can take is not told by the card. Stated by its maker, or assumed: [`CYCLES`] times its size, which cheap
//! three-bit cells do under small synced writes (a 32 GB card: 9.6 TB). A card inside the machine (eMMC) tells its own wear
//! (JESD84-B51, `DEVICE_LIFE_TIME_EST` and `PRE_EOL_INFO`).

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde_json::Value;

use super::scene::Scene;
use super::{Finding, probe};
use crate::telemetry::process;

const NAME: &str = "card";
/// Times that a card can be written whole, where nobody says better.
pub const CYCLES: u64 = 300;
/// A shorter look says little: the first minutes are not like the others.
const LEAST_S: u64 = 600;
/// Years that a card should last.
const YEARS: f64 = 5.0;
const YEARS_LEAST: f64 = 1.0;

pub fn findings(scene: &Scene) -> Vec<Finding> {
    let disk = Disk::of(scene.state_dir());
    let mut found: Vec<Finding> = disk.as_ref().and_then(Disk::own_word).into_iter().collect();
    let (Some(written), Some(since)) = rate(scene) else {
        let reason = match scene.daemon.status() {
            None => scene.daemon.absence(),
            Some(_) => "what the gateway writes may not be read by this user".to_owned(),
        };
        found.push(Finding::skipped(NAME, format!("how much is written a day is not known: {reason}")));
        return found;
    };
    let endurance = scene.card_endurance.map(|endurance| endurance.as_u64());
    let size = disk.as_ref().and_then(|disk| disk.bytes);
    found.push(judge(written, since, endurance, size));
    found
}

/// Bytes that the gateway has written, and in how many seconds.
fn rate(scene: &Scene) -> (Option<u64>, Option<u64>) {
    let number = |pointer: &str| scene.told(pointer).and_then(Value::as_u64);
    let seen = scene.daemon.pid().and_then(process::written).and_then(|bytes| u64::try_from(bytes).ok());
    (number("/process/written_bytes").or(seen), number("/uptime_s"))
}

fn judge(written: u64, since_s: u64, stated: Option<u64>, size: Option<u64>) -> Finding {
    let decimal = |bytes: u64| ByteSize(bytes).display().si().to_string();
    if since_s < LEAST_S {
        let reason =
            format!("the gateway runs since {since_s} s: too short to tell how much it writes a day");
        return Finding::skipped(NAME, reason);
    }
    let a_day = written.saturating_mul(86_400) / since_s;
    let (endurance, by) = match (stated, size) {
        (Some(stated), _) => (stated, "as stated".to_owned()),
        (None, Some(size)) => {
            (size.saturating_mul(CYCLES), format!("assumed: {CYCLES} times {}", decimal(size)))
        }
        (None, None) => {
            let reason = format!("{} are written a day; the size of the disk is not known", decimal(a_day));
            return Finding::skipped(NAME, reason).next("say what it can take: --card-endurance 10TB");
        }
    };
    let years = endurance as f64 / (a_day.max(1) as f64 * 365.25);
    let lasts = if years > 20.0 { "more than 20".to_owned() } else { format!("{years:.1}") };
    let reason = format!(
        "{} are written a day: the {} that the card can take ({by}) last {lasts} years",
        decimal(a_day),
        decimal(endurance)
    );
    let next = "raise journal.commit_interval (10s writes an eighth), or use a card made for endurance";
    match years {
        years if years < YEARS_LEAST => Finding::error(NAME, reason, next),
        years if years < YEARS => Finding::warning(NAME, reason, next),
        _ => Finding::ok(NAME, reason),
    }
}

/// The disk below a filesystem.
struct Disk {
    bytes: Option<u64>,
    /// `/sys/block/mmcblk0`
    sys: PathBuf,
}

impl Disk {
    fn of(path: &Path) -> Option<Self> {
        let device = std::fs::metadata(path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let part = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        // A partition lies below its disk.
        let whole = match part.join("partition").exists() {
            true => part.parent()?.to_owned(),
            false => part,
        };
        // In sectors of 512 bytes, whatever the disk's own are.
        let sectors: Option<u64> = probe::text(whole.join("size")).and_then(|text| text.parse().ok());
        Some(Self { bytes: sectors.map(|sectors| sectors * 512), sys: whole })
    }

    /// What the card says of itself.
    fn own_word(&self) -> Option<Finding> {
        let device = self.sys.join("device");
        judge_own_word(&probe::text(device.join("life_time"))?, &probe::text(device.join("pre_eol_info"))?)
    }
}

/// `life_time`: two numbers, each the tenths of its life that one kind of cells has used (0x01: up to 10 %); 0: not told.
fn judge_own_word(life_time: &str, pre_eol: &str) -> Option<Finding> {
    let number = |text: &str| u8::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let used = life_time.split_whitespace().filter_map(number).max().filter(|tenths| *tenths > 0)?;
    let percent = u32::from(used) * 10;
    let next = "make a backup and replace the card";
    Some(match (number(pre_eol), used) {
        (Some(3), _) | (_, 11..) => Finding::error(NAME, "it says that its life is over", next),
        (Some(2), _) | (_, 9..) => {
            Finding::warning(NAME, format!("it says that up to {percent} % of its life is used"), next)
        }
        _ => Finding::ok(NAME, format!("it says that at most {percent} % of its life is used")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn a_rate_is_held_against_what_the_card_can_take() {
        // 32 GB: 9.6 TB. At 1.6 GB a day: 16 years.
        let found = judge(GB * 16 / 10, 86_400, None, Some(32 * GB));
        assert_eq!(found.verdict, Verdict::Ok);
        assert!(found.reason.contains("1.6 GB") && found.reason.contains("16.4 years"), "{found:?}");
        assert_eq!(judge(GB, 3_600, None, Some(32 * GB)).verdict, Verdict::Warning);
        assert_eq!(judge(10 * GB, 3_600, None, Some(32 * GB)).verdict, Verdict::Error);
        assert_eq!(judge(10 * GB, 3_600, Some(1_000_000 * GB), Some(32 * GB)).verdict, Verdict::Ok);
        assert_eq!(judge(GB, 60, None, Some(32 * GB)).verdict, Verdict::Skipped);
        assert_eq!(judge(GB, 3_600, None, None).verdict, Verdict::Skipped);
        assert_eq!(judge(0, 3_600, None, Some(32 * GB)).verdict, Verdict::Ok);
    }

    #[test]
    fn a_card_tells_its_own_wear() {
        let verdict = |life, eol| judge_own_word(life, eol).map(|finding| finding.verdict);
        assert_eq!(verdict("0x01 0x02", "0x01"), Some(Verdict::Ok));
        assert_eq!(verdict("0x01 0x09", "0x01"), Some(Verdict::Warning));
        assert_eq!(verdict("0x01 0x01", "0x02"), Some(Verdict::Warning));
        assert_eq!(verdict("0x0b 0x01", "0x01"), Some(Verdict::Error));
        assert_eq!(verdict("0x01 0x01", "0x03"), Some(Verdict::Error));
        assert_eq!(verdict("0x00 0x00", "0x00"), None);
    }
}
