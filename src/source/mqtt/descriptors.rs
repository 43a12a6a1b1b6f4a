//! The limit of open files, and how many connections fit below it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything that is not a connection: the journal's databases, uplinks, pages, the control socket.
const RESERVED: u64 = 128;

/// Raises the soft limit as far as needed and allowed. `Ok`: `connections` fit beside `handshakes`; `Err`: the number
/// that does.
pub(super) fn room(connections: usize, handshakes: usize) -> Result<(), Tight> {
    let wanted = (connections + handshakes) as u64 + RESERVED;
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(u64::MAX);
    let soft = now.current.unwrap_or(u64::MAX);
    if soft < wanted {
        let raised = Rlimit { current: Some(wanted.min(most)), maximum: now.maximum };
        // Not allowed: what there is has to do.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit >= wanted {
        return Ok(());
    }
    let left = usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    let handshakes = handshakes.min(left / 4).max(1);
    Err(Tight { limit, handshakes, connections: left.saturating_sub(handshakes).max(1) })
}

/// What fits below a limit that is too low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tight {
    pub limit: u64,
    pub connections: usize,
    pub handshakes: usize,
}
