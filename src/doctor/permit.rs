//! Who may read and write what: the file modes, judged for the gateway's user rather than for the one who asks. Access
//! lists and security modules are not looked at.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::probe;

/// A user of this machine, with all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    pub uid: u32,
    pub name: String,
    pub gids: Vec<u32>,
}

/// Bits of a file's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Read = 4,
    Write = 2,
    Enter = 1,
}

/// Whose a file is, and its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    pub uid: u32,
    pub gid: u32,
    pub bits: u32,
}

/// What is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    Missing,
    /// This file or directory, which does not let one.
    Denied(std::path::PathBuf),
    /// We may not look ourselves.
    Hidden,
}

/// The service's user in the package.
pub const SERVICE_USER: &str = "fogbeat";

impl Who {
    /// Whom the gateway runs as: the running one's user, else whom the state directory belongs to, else the package's, else
    /// whoever asks. Blocking.
    pub fn of_gateway(state_dir: &Path, pid: Option<&str>) -> Self {
        let owner = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.uid());
        let running = pid.and_then(|pid| owner(&Path::new("/proc").join(pid)));
        let service = || users().into_iter().find(|(name, ..)| name == SERVICE_USER).map(|(_, uid, _)| uid);
        let uid = running.or_else(|| owner(state_dir)).or_else(service);
        Self::of(uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()))
    }

    /// Blocking.
    pub fn of(uid: u32) -> Self {
        let passwd = users().into_iter().find(|(_, known, _)| *known == uid);
        let (name, _, gid) = passwd.unwrap_or_else(|| (format!("uid {uid}"), uid, uid));
        let groups = probe::text("/etc/group").unwrap_or_default();
        let mut gids = groups_of(&groups, &name);
        gids.push(gid);
        Self { uid, name, gids }
    }

    pub fn may(&self, mode: Mode, want: Want) -> bool {
        let want = want as u32;
        match self.uid {
            0 => true,
            uid if uid == mode.uid => mode.bits >> 6 & want == want,
            _ if self.gids.contains(&mode.gid) => mode.bits >> 3 & want == want,
            _ => mode.bits & want == want,
        }
    }

    /// Whether it gets to `path` and may do what it wants there. Blocking.
    ///
    /// # Errors
    /// What is in the way.
    pub fn reach(&self, path: &Path, want: Want) -> Result<(), Obstacle> {
        for directory in path.ancestors().skip(1).filter(|directory| !directory.as_os_str().is_empty()) {
            if let Ok(mode) = Mode::of(directory)
                && !self.may(mode, Want::Enter)
            {
                return Err(Obstacle::Denied(directory.to_owned()));
            }
        }
        match Mode::of(path) {
            Ok(mode) if self.may(mode, want) => Ok(()),
            Ok(_) => Err(Obstacle::Denied(path.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Obstacle::Missing),
            Err(_) => Err(Obstacle::Hidden),
        }
    }
}

impl Mode {
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        Ok(Self { uid: meta.uid(), gid: meta.gid(), bits: meta.mode() & 0o7777 })
    }
}

/// Name, uid, gid.
fn users() -> Vec<(String, u32, u32)> {
    let text = probe::text("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((name, fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    text.lines().filter_map(user).collect()
}

/// Groups in which `name` is listed.
fn groups_of(groups: &str, name: &str) -> Vec<u32> {
    let group = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let gid = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    };
    groups.lines().filter_map(group).collect()
}

/// The number of a group by its name.
pub fn group(name: &str) -> Option<u32> {
    let text = probe::text("/etc/group")?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_judged_for_another_user() {
        let who = Who { uid: 990, name: "fogbeat".into(), gids: vec![990, 112] };
        let mode = |uid, gid, bits| Mode { uid, gid, bits };
        assert!(who.may(mode(990, 0, 0o400), Want::Read));
        assert!(!who.may(mode(990, 990, 0o040), Want::Read), "the owner's bits count for the owner");
        assert!(who.may(mode(0, 112, 0o640), Want::Read));
        assert!(!who.may(mode(0, 112, 0o640), Want::Write));
        assert!(!who.may(mode(0, 0, 0o640), Want::Read));
        assert!(who.may(mode(0, 0, 0o644), Want::Read));
        let root = Who { uid: 0, ..who };
        assert!(root.may(mode(990, 990, 0), Want::Write));
    }

    #[test]
    fn groups_are_read_from_their_file() {
        let text = "root:x:0:\nbluetooth:x:112:anna,fogbeat\nfogbeat:x:990:\n";
        assert_eq!(groups_of(text, "fogbeat"), [112]);
        assert_eq!(groups_of(text, "fog"), [] as [u32; 0]);
        assert_eq!(group("root"), Some(0));
    }

    #[test]
    fn the_whole_way_to_a_file_counts() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("key"), "").unwrap();
        let set = |path: &Path, bits| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
        };
        let stranger = Who { uid: 4_000_000, name: "x".into(), gids: vec![] };
        set(dir.path(), 0o755);
        set(&inner, 0o755);
        set(&inner.join("key"), 0o644);
        assert_eq!(stranger.reach(&inner.join("key"), Want::Read), Ok(()));
        assert_eq!(stranger.reach(&inner.join("none"), Want::Read), Err(Obstacle::Missing));
        set(&inner, 0o700);
        assert_eq!(stranger.reach(&inner.join("key"), Want::Read), Err(Obstacle::Denied(inner.clone())));
        set(&inner, 0o755);
        set(&inner.join("key"), 0o600);
        assert_eq!(stranger.reach(&inner.join("key"), Want::Read), Err(Obstacle::Denied(inner.join("key"))));
    }
}
