//! The disk of the state directory: what kind it is, how much room is really there, how long an fsync takes.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use rustix::fs::{StatVfsMountFlags, statvfs};
use serde_json::Value;

use super::permit::{Obstacle, Want};
use super::scene::Scene;
use super::{Finding, probe};
use crate::journal::{default_quota, disk_usage, least_free};

const PLACE: &str = "state directory";
const SPACE: &str = "disk space";
const SPEED: &str = "disk speed";

/// A publisher waits for each: above this it is felt.
const SLOW: Duration = Duration::from_millis(100);
/// Clients give a PUBACK a few seconds.
const STALL: Duration = Duration::from_secs(2);
/// How often it is measured, and for how long at most.
const ROUNDS: usize = 40;
const MEASURE: Duration = Duration::from_secs(3);
const LEAST_INODES: u64 = 1000;

pub fn findings(scene: &Scene) -> Vec<Finding> {
    let dir = scene.state_dir();
    let there = match scene.who.reach(dir, Want::Write) {
        Ok(()) => dir,
        Err(Obstacle::Missing) => return vec![missing(scene)],
        Err(Obstacle::Hidden) => {
            let reason = format!("{} cannot be looked at by this user", dir.display());
            return vec![Finding::skipped(PLACE, reason).next("try it with sudo")];
        }
        Err(Obstacle::Denied(at)) => {
            let reason =
                format!("{} may not write {}, because of {}", scene.who.name, dir.display(), at.display());
            let next = format!("`chown -R {0}: {1} && chmod 700 {1}`", scene.who.name, dir.display());
            return vec![Finding::error(PLACE, reason, next)];
        }
    };
    let mount = probe::text("/proc/self/mountinfo").and_then(|text| mount_of(&text, there));
    let mut found = vec![judge_place(there, mount.as_ref())];
    match room(scene) {
        Ok(room) => found.push(judge_room(&room)),
        Err(error) => {
            found.push(Finding::error(SPACE, format!("is not told: {error}"), "check the disk (`dmesg`)"))
        }
    }
    found.push(if scene.hands_off {
        Finding::skipped(SPEED, "nothing is written here")
    } else {
        speed(there)
    });
    found
}

/// The first start makes it, if it may.
fn missing(scene: &Scene) -> Finding {
    let dir = scene.state_dir();
    let above = dir.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
    let reason = format!("{} is not there yet", dir.display());
    match scene.who.reach(above, Want::Write) {
        Ok(()) => Finding::skipped(PLACE, format!("{reason}: the first start makes it")),
        Err(_) => {
            let reason = format!("{reason}, and {} may not make it in {}", scene.who.name, above.display());
            let next = format!(
                "`install -d -m 700 -o {} {}`, or set gateway.state_dir",
                scene.who.name,
                dir.display()
            );
            Finding::error(PLACE, reason, next)
        }
    }
}

/// A mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: String,
    pub source: String,
}

/// The filesystem of `path` by `/proc/self/mountinfo`.
pub fn mount_of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(unescaped(before.split(' ').nth(4)?));
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?.to_owned(), after.next()?.to_owned());
        path.starts_with(&point).then_some((point.components().count(), Mount { kind, source }))
    });
    // Of two at the same place the later one hides the other.
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, mount)| mount)
}

/// Blanks are written as `\040`.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn judge_place(dir: &Path, mount: Option<&Mount>) -> Finding {
    let dir = dir.display();
    let Some(Mount { kind, .. }) = mount else {
        return Finding::ok(PLACE, format!("{dir}, on a filesystem of an unknown kind"));
    };
    let bad = "put it on an ext4 of a disk or card of this machine (gateway.state_dir)";
    match kind.as_str() {
        "tmpfs" | "ramfs" => {
            let reason = format!("{dir} is kept in memory ({kind}): every power cut takes all readings");
            Finding::error(PLACE, reason, bad)
        }
        "overlay" | "overlayfs" => {
            let reason =
                format!("{dir} is on an overlay: where its upper layer is in memory, a power cut takes all");
            Finding::warning(PLACE, reason, bad)
        }
        "vfat" | "exfat" | "msdos" | "ntfs" | "ntfs3" | "fuseblk" => {
            let reason = format!(
                "{dir} is on {kind}: without a journal of its own it does not survive power cuts well"
            );
            Finding::warning(PLACE, reason, bad)
        }
        kind if kind.starts_with("nfs")
            || matches!(kind, "cifs" | "smb3" | "9p" | "virtiofs" | "fuse.sshfs") =>
        {
            let reason = format!("{dir} is on another machine ({kind}): it is gone when the network is");
            Finding::warning(PLACE, reason, bad)
        }
        kind => Finding::ok(PLACE, format!("{dir}, on {kind}")),
    }
}

/// What the disk has, bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    total: u64,
    free: u64,
    inodes: u64,
    read_only: bool,
    /// What the journal may take, and what it takes.
    quota: u64,
    used: u64,
}

fn room(scene: &Scene) -> std::io::Result<Room> {
    let found = statvfs(scene.state_dir())?;
    let told = |key| scene.told(&format!("/journal/quota/{key}")).and_then(Value::as_u64);
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let used = told("used_bytes").unwrap_or_else(|| disk_usage(&scene.state_dir().join("spool")));
    let quota = told("quota_bytes").or(scene.config.journal.quota.map(|quota| quota.as_u64()));
    Ok(Room {
        total: found.f_blocks.saturating_mul(found.f_frsize),
        free,
        // Some filesystems have no fixed number.
        inodes: if found.f_files == 0 { u64::MAX } else { found.f_favail },
        read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
        quota: quota.unwrap_or_else(|| default_quota(free + used).min(used + free)),
        used,
    })
}

fn judge_room(room: &Room) -> Finding {
    let iec = |bytes: u64| ByteSize(bytes).display().iec();
    let free = format!("{} of {} are free", iec(room.free), iec(room.total));
    let more = room.quota.saturating_sub(room.used);
    if room.read_only {
        let next =
            "check the disk (`dmesg`), then mount it read-write; a card that does this again is worn out";
        return Finding::error(SPACE, "the filesystem is read-only", next);
    }
    if room.free < least_free(room.total) {
        let reason = format!("{free}: the journal takes nothing any more");
        return Finding::error(
            SPACE,
            reason,
            "free space: `journalctl --vacuum-size=50M`, `apt clean`, `du -xh / | sort -h`",
        );
    }
    if room.inodes < LEAST_INODES {
        let reason = format!("{} more files fit on it", room.inodes);
        return Finding::error(
            SPACE,
            reason,
            "remove files: a filesystem has a fixed number of them (`df -i`)",
        );
    }
    if room.free < more {
        let reason = format!("{free}, and the journal may still take {} (journal.quota)", iec(more));
        return Finding::warning(
            SPACE,
            reason,
            "free space, or lower journal.quota: an outage would fill the disk first",
        );
    }
    Finding::ok(
        SPACE,
        format!("{free}; the journal takes {} and may take {}", iec(room.used), iec(room.quota)),
    )
}

fn speed(dir: &Path) -> Finding {
    match measure(dir) {
        Ok(mut times) => {
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or_default();
            judge_speed(median, times.last().copied().unwrap_or_default(), times.len())
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Finding::skipped(SPEED, "this user may not write there, so an fsync cannot be measured")
                .next("try it with sudo")
        }
        Err(error) => Finding::error(
            SPEED,
            format!("a file cannot be written: {error}"),
            "check the disk (`dmesg`, `df -h`)",
        ),
    }
}

/// Times of appending 4 KiB and fsync, as the journal does.
fn measure(dir: &Path) -> std::io::Result<Vec<Duration>> {
    let path = Scratch(dir.join(format!(".doctor-{}", std::process::id())));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path.0)?;
    let (started, mut times) = (Instant::now(), Vec::new());
    while times.len() < ROUNDS && started.elapsed() < MEASURE {
        let before = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(before.elapsed());
    }
    Ok(times)
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // One that was never made is not there.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn judge_speed(median: Duration, worst: Duration, rounds: usize) -> Finding {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let reason = format!("an fsync takes {} (median of {rounds}), at worst {}", ms(median), ms(worst));
    let next =
        "a card that is slow at this is old, full or a bad one: replace it by an A1/A2 or \"endurance\" card";
    match () {
        () if median > SLOW => {
            Finding::warning(SPEED, format!("{reason}: acknowledgements wait for it"), next)
        }
        () if worst > STALL => Finding::warning(SPEED, format!("{reason}: clients may give up"), next),
        () => Finding::ok(SPEED, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    const MOUNTINFO: &str = "22 1 179:2 / / rw,noatime - ext4 /dev/mmcblk0p2 rw\n\
        30 22 0:26 / /run rw shared:11 - tmpfs tmpfs rw\n\
        31 22 8:1 / /mnt/big\\040disk rw - xfs /dev/sda1 rw\n";

    #[test]
    fn the_filesystem_of_a_path_is_the_nearest_mount() {
        let kind = |path: &str| mount_of(MOUNTINFO, Path::new(path)).unwrap().kind;
        assert_eq!(kind("/nonexistent/fogbeat"), "ext4");
        assert_eq!(kind("/run/nonexistent"), "tmpfs");
        assert_eq!(kind("/mnt/big disk/x"), "xfs");
        assert_eq!(kind("/runner"), "ext4");
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn kinds_of_filesystems() {
        for (kind, verdict) in [
            ("ext4", Verdict::Ok),
            ("btrfs", Verdict::Ok),
            ("tmpfs", Verdict::Error),
            ("overlay", Verdict::Warning),
            ("vfat", Verdict::Warning),
            ("nfs4", Verdict::Warning),
        ] {
            let mount = Mount { kind: kind.into(), source: String::new() };
            assert_eq!(judge_place(Path::new("/x"), Some(&mount)).verdict, verdict, "{kind}");
        }
        assert_eq!(judge_place(Path::new("/x"), None).verdict, Verdict::Ok);
    }

    #[test]
    fn room_is_judged_by_what_the_journal_may_still_take() {
        let gib = 1 << 30;
        let fine = Room {
            total: 29 * gib,
            free: 9 * gib,
            inodes: 1 << 20,
            read_only: false,
            quota: 2 * gib,
            used: gib,
        };
        let verdict = |room: Room| judge_room(&room).verdict;
        assert_eq!(verdict(fine), Verdict::Ok);
        assert_eq!(verdict(Room { free: gib / 2, ..fine }), Verdict::Warning);
        assert_eq!(verdict(Room { free: 1 << 20, ..fine }), Verdict::Error);
        assert_eq!(verdict(Room { inodes: 3, ..fine }), Verdict::Error);
        assert_eq!(verdict(Room { read_only: true, ..fine }), Verdict::Error);
    }

    #[test]
    fn slow_disks() {
        let ms = Duration::from_millis;
        assert_eq!(judge_speed(ms(4), ms(40), 40).verdict, Verdict::Ok);
        assert_eq!(judge_speed(ms(150), ms(200), 20).verdict, Verdict::Warning);
        assert_eq!(judge_speed(ms(4), ms(2500), 2).verdict, Verdict::Warning);
    }

    #[test]
    fn measuring_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!measure(dir.path()).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
