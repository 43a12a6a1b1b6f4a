//! Who asked.

use serde::Serialize;

/// `/proc/<pid>/loginuid` of a process that nobody logged in for.
const NOBODY: u32 = u32::MAX;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Who {
    pub uid: u32,
    /// From `/etc/passwd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who logged in, where that is somebody else: it stays the same under sudo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
}

impl Who {
    /// The user this process runs as. Blocking.
    pub fn me() -> Self {
        Self::new(rustix::process::geteuid().as_raw(), "self")
    }

    /// The user at the other end of a Unix socket. Blocking.
    pub fn peer(uid: u32, pid: Option<i32>) -> Self {
        Self::new(uid, &pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string()))
    }

    fn new(uid: u32, process: &str) -> Self {
        let login = std::fs::read_to_string(format!("/proc/{process}/loginuid"));
        let login = login.ok().and_then(|text| text.trim().parse().ok());
        Self { uid, name: name(uid), login_uid: login.filter(|login| *login != NOBODY && *login != uid) }
    }
}

fn name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_a_stranger_has_none() {
        assert_eq!(name(0).as_deref(), Some("root"));
        assert_eq!(name(4_000_000_000), None);
        assert_eq!(Who::me().uid, rustix::process::geteuid().as_raw());
        assert_eq!(Who::peer(0, None).login_uid, None);
    }
}
