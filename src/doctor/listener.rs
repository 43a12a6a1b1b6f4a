//! The ports that the gateway listens on: free, ours, or somebody else's.

use std::net::{IpAddr, SocketAddr, TcpListener};

use super::scene::{Daemon, Scene};
use super::{Finding, configuration, probe};

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// A process that this user may not see.
    Hidden,
    Process {
        pid: String,
        name: String,
    },
}

/// Whose port it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ours {
    /// That of the running gateway, as far as it is known.
    Running(Option<String>),
    NotRunning,
    Unknown,
}

pub fn findings(scene: &Scene) -> Vec<Finding> {
    if !scene.problems.is_empty() {
        return vec![configuration::needed("listener")];
    }
    let (listener, http) = (&scene.config.mqtt.listener, &scene.config.http);
    let mut ports = Vec::new();
    if listener.enabled {
        ports.push(("listener", "mqtt.listener.bind", listener.bind));
        ports.extend(listener.tls.as_ref().map(|tls| ("listener", "mqtt.listener.tls.bind", tls.bind)));
    }
    if http.enabled {
        ports.push(("pages", "http.bind", http.bind));
    }
    let ours = match &scene.daemon {
        Daemon::Answers { pid, .. } | Daemon::Silent { pid, .. } => Ours::Running(pid.clone()),
        Daemon::Dead(_) | Daemon::Fresh => Ours::NotRunning,
        Daemon::Unknown(_) => Ours::Unknown,
    };
    let look = |(check, key, address)| judge(check, key, address, &holder(address), &ours, || bind(address));
    ports.into_iter().map(look).collect()
}

/// Whether we could listen there; nobody is accepted.
fn bind(address: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(address).map(drop)
}

fn judge(
    check: &str,
    key: &str,
    address: SocketAddr,
    holder: &Holder,
    ours: &Ours,
    bind: impl FnOnce() -> std::io::Result<()>,
) -> Finding {
    let taken = |by: String| {
        let next = format!("stop it, or choose another port with {key}");
        Finding::error(check, format!("{address} is taken by {by}"), next)
    };
    match (ours, holder) {
        (Ours::Running(Some(ours)), Holder::Process { pid, .. }) if pid == ours => {
            Finding::ok(check, format!("{address} is the gateway's"))
        }
        // A child of the gateway's that is just being started has its descriptors as well.
        (_, Holder::Process { pid, name }) => taken(format!("{name} (process {pid})")),
        (Ours::Running(_), Holder::Hidden) => {
            Finding::ok(check, format!("{address} is listened on; by whom only root can see"))
        }
        (Ours::Unknown, Holder::Hidden) => {
            let reason = format!("{address} is listened on; by whom only root can see");
            Finding::skipped(check, reason).next("try it with sudo")
        }
        (Ours::NotRunning, Holder::Hidden) => taken("somebody (only root can see who)".to_owned()),
        (Ours::Running(_), Holder::Nobody) => {
            let reason =
                format!("the gateway does not listen on {address}: was the configuration changed since?");
            Finding::error(check, reason, "`systemctl restart fogbeat`")
        }
        (Ours::NotRunning | Ours::Unknown, Holder::Nobody) => match bind() {
            Ok(()) => Finding::ok(check, format!("{address} is free")),
            Err(error) => {
                let next = match error.kind() {
                    std::io::ErrorKind::AddrNotAvailable => {
                        format!("this machine has no such address (`ip addr`): correct {key}")
                    }
                    std::io::ErrorKind::PermissionDenied => {
                        format!("ports below 1024 are root's: choose another one with {key}")
                    }
                    _ => format!("correct {key}"),
                };
                Finding::error(check, format!("{address} cannot be listened on ({error})"), next)
            }
        },
    }
}

/// Who listens on `address`, or on all addresses with its port.
fn holder(address: SocketAddr) -> Holder {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let Some(inode) = tables.iter().find_map(|table| listening(table, address)) else {
        return Holder::Nobody;
    };
    let socket = format!("socket:[{inode}]");
    let has = |pid: &String| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|link| link.as_os_str() == socket.as_str())
    };
    let mut pids =
        probe::names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    match pids.find(has) {
        Some(pid) => {
            let name = probe::text(format!("/proc/{pid}/comm")).unwrap_or_else(|| "a process".to_owned());
            Holder::Process { pid, name }
        }
        None => Holder::Hidden,
    }
}

/// The socket that listens there, by `/proc/net/tcp` or `tcp6` (state 0A).
fn listening(table: &str, address: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = local(fields.get(1)?)?;
        let fits = local.port() == address.port()
            && (local.ip() == address.ip() || local.ip().is_unspecified() || address.ip().is_unspecified());
        (fits && *fields.get(3)? == "0A").then(|| fields.get(9)?.parse().ok())?
    })
}

/// `0100007F:075B`: words of 32 bits as this machine stores them, then the port.
fn local(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_listening_socket_is_found_with_its_process() {
        for bind in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let Ok(listener) = TcpListener::bind(bind) else { continue };
            let address = listener.local_addr().unwrap();
            let me = std::process::id().to_string();
            assert!(matches!(holder(address), Holder::Process { pid, .. } if pid == me), "{bind}");
            drop(listener);
            assert_eq!(holder(address), Holder::Nobody, "{bind}");
        }
    }

    #[test]
    fn ports_are_free_ours_or_somebody_elses() {
        let address: SocketAddr = "127.0.0.1:1883".parse().unwrap();
        let process = |pid: &str| Holder::Process { pid: pid.into(), name: "mosquitto".into() };
        let error = |kind: std::io::ErrorKind| move || Err::<(), std::io::Error>(kind.into());
        let verdict = |holder, ours| judge("listener", "k", address, &holder, &ours, || Ok(())).verdict;
        let running = || Ours::Running(Some("7".into()));
        assert_eq!(verdict(process("7"), running()), Verdict::Ok);
        assert_eq!(verdict(process("8"), running()), Verdict::Error);
        assert_eq!(verdict(Holder::Hidden, running()), Verdict::Ok);
        assert_eq!(verdict(Holder::Nobody, running()), Verdict::Error);
        assert_eq!(verdict(process("8"), Ours::NotRunning), Verdict::Error);
        assert_eq!(verdict(Holder::Hidden, Ours::Unknown), Verdict::Skipped);
        assert_eq!(verdict(Holder::Nobody, Ours::NotRunning), Verdict::Ok);
        for kind in [std::io::ErrorKind::AddrNotAvailable, std::io::ErrorKind::PermissionDenied] {
            let found = judge("listener", "k", address, &Holder::Nobody, &Ours::NotRunning, error(kind));
            assert_eq!(found.verdict, Verdict::Error);
        }
    }
}
