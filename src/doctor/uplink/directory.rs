//! A lake: whether the gateway's user may write it, and how much room it is left.

use std::path::Path;

use bytesize::ByteSize;
use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::config::Directory;
use crate::doctor::Finding;
use crate::doctor::permit::{Obstacle, Want};
use crate::doctor::scene::Scene;
use crate::forward::directory::reserve;

pub fn finding(scene: &Scene, check: &str, lake: &Directory) -> Finding {
    let Some(path) = lake.path.as_deref() else {
        return Finding::skipped(check, "has no path");
    };
    // What is not there yet is made in the first directory above that is.
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let who = &scene.who;
    match who.reach(there, Want::Write) {
        Ok(()) => {}
        Err(Obstacle::Hidden | Obstacle::Missing) => {
            let reason = format!("{} cannot be looked at by this user", path.display());
            return Finding::skipped(check, reason).next("try it with sudo");
        }
        // The state directory is made with everything in it at the first start.
        Err(Obstacle::Denied(_))
            if there != path && path.starts_with(scene.state_dir()) && !scene.state_dir().exists() =>
        {
            return Finding::skipped(
                check,
                format!("{} is not there yet: the first start makes it", path.display()),
            );
        }
        Err(Obstacle::Denied(at)) => {
            let reason =
                format!("{} may not write {}, because of {}", who.name, path.display(), at.display());
            let next = format!("`install -d -o {} -m 750 {}`", who.name, path.display());
            return Finding::error(check, reason, next);
        }
    }
    if there.is_file() {
        let next = "remove it, or correct [[uplink]].path";
        return Finding::error(
            check,
            format!("{} is a file, where a directory is wanted", there.display()),
            next,
        );
    }
    match statvfs(there) {
        Ok(found) => judge(
            check,
            path,
            found.f_bavail.saturating_mul(found.f_frsize),
            found.f_blocks.saturating_mul(found.f_frsize),
            found.f_flag.contains(StatVfsMountFlags::RDONLY),
        ),
        Err(error) => {
            Finding::error(check, format!("{}: {error}", path.display()), "check the disk (`dmesg`)")
        }
    }
}

fn judge(check: &str, path: &Path, free: u64, total: u64, read_only: bool) -> Finding {
    let path = path.display();
    let iec = |bytes: u64| ByteSize(bytes).display().iec();
    if read_only {
        return Finding::error(
            check,
            format!("{path} is on a read-only filesystem"),
            "check the disk (`dmesg`), mount it read-write",
        );
    }
    let reserve = reserve(total);
    if free <= reserve {
        let reason =
            format!("{path}: {} are free, of which {} are kept for the journal", iec(free), iec(reserve));
        return Finding::error(check, reason, "free space, or lower [[uplink]].max_bytes or keep");
    }
    Finding::ok(check, format!("{path} can be written; {} are free", iec(free)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_lake_needs_room_beyond_the_journals() {
        let gib = 1 << 30;
        let verdict = |free, read_only| judge("x", Path::new("/lake"), free, 30 * gib, read_only).verdict;
        assert_eq!(verdict(gib, false), Verdict::Ok);
        assert_eq!(verdict(gib / 8, false), Verdict::Error);
        assert_eq!(verdict(gib, true), Verdict::Error);
    }
}
