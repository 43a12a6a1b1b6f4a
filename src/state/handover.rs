//! Gives files that root made in a state directory to the directory's owner.
//!
//! The owner may be hostile to root, or taken over: nothing is followed that is a link, every file is changed through
//! the descriptor that was looked at, and one that has a second name is left alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, openat};

/// Deeper than anything fogbeat makes there.
const DEEPEST: usize = 16;

/// Does nothing unless root runs this and the directory is somebody else's.
///
/// # Errors
/// When a file cannot be looked at or given away; those before it are done.
pub(super) fn to_owner(dir: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let dir = File::open(dir)?;
    let owner = dir.metadata()?;
    if owner.uid() == 0 { Ok(()) } else { below(&dir, owner.uid(), owner.gid(), DEEPEST) }
}

fn below(dir: &File, uid: u32, gid: u32, depth: usize) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." || matches!(entry.file_type(), FileType::Symlink | FileType::Socket)
        {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // Gone meanwhile, or a link by now.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => continue,
            Err(error) => return Err(error.into()),
        };
        let meta = file.metadata()?;
        if meta.uid() == 0 && (meta.is_dir() || (meta.is_file() && meta.nlink() == 1)) {
            fchown(&file, Some(uid), Some(gid))?;
        }
        if meta.is_dir() && depth > 0 {
            below(&file, uid, gid, depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only root can make files for others.
    #[test]
    fn what_root_made_goes_to_the_owner_and_links_are_left_alone() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        let foreign = outside.path().join("foreign");
        std::fs::write(&foreign, "root's").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("spool")).unwrap();
        std::fs::write(dir.path().join("spool/manifest"), "x").unwrap();
        std::os::unix::fs::symlink(&foreign, dir.path().join("link")).unwrap();
        std::fs::hard_link(&foreign, dir.path().join("second-name")).unwrap();
        to_owner(dir.path()).unwrap();
        let uid = |path: &Path| std::fs::metadata(path).unwrap().uid();
        assert_eq!(uid(&dir.path().join("spool/manifest")), 0, "the directory is root's own");
        std::os::unix::fs::chown(dir.path(), Some(4711), Some(4711)).unwrap();
        to_owner(dir.path()).unwrap();
        assert_eq!(uid(&dir.path().join("spool")), 4711);
        assert_eq!(uid(&dir.path().join("spool/manifest")), 4711);
        assert_eq!(uid(&foreign), 0);
    }
}
