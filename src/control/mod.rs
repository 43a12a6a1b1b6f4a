//! How a running daemon is asked: a Unix socket, one JSON object per line each way.
//!
//! Request `{"v":1,"cmd":"status"}`, answer `{"v":1,"ok":{..}}` or `{"v":1,"error":{"kind":"..","message":".."}}`; a
//! connection may carry several, one after the other. Who may open the socket (mode 0660) may ask. Lines, connections
//! and waiting times are bounded; a client that misbehaves loses its connection and nothing else.

mod client;
mod server;

pub use client::{AskError, ask, ask_within, find};
pub use server::{Call, Peer, Server, bind, socket_path};

use serde::{Deserialize, Serialize};

use crate::config::BleDevice;
use crate::privacy::erase::Wish;

/// The protocol's version; one side refuses another's.
pub const VERSION: u32 = 1;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Request {
    /// The whole status document.
    Status,
    /// The metrics, as `{"text": ..}` in OpenMetrics.
    Metrics,
    /// The uplinks known here, those that are gone from the configuration included.
    UplinkList,
    /// Gives up the place of an uplink that is gone from the configuration.
    UplinkForget { name: String },
    /// Generations and cursors.
    JournalInspect,
    /// Reads every value of one generation.
    JournalVerify { generation: u32 },
    /// Salvages one damaged generation now.
    JournalSalvage { generation: u32 },
    /// Some of what is kept as JSON lines, from this number on.
    JournalPage { from: u64 },
    /// Removes a device from everything that is kept.
    Erase(Wish),
    /// Bluetooth wearables on the air.
    BleScan,
    /// Hears a Bluetooth wearable from now on.
    BleAllow { device: BleDevice },
    /// Takes that back.
    BleForget { id: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    v: u32,
    #[serde(flatten)]
    request: Request,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// Not understood: another version, or not a request.
    Malformed,
    /// Understood, and not possible as asked.
    Impossible,
    /// Something failed while it was done.
    Failed,
}

impl Refusal {
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// What comes back.
pub type Answer = Result<serde_json::Value, Refusal>;

#[derive(Debug, Serialize, Deserialize)]
struct AnswerEnvelope {
    v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
}

/// Reads a request line.
fn parse(line: &[u8]) -> Result<Request, Refusal> {
    /// The version is looked at first: the rest may not be readable for us.
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let malformed = |error: serde_json::Error| Refusal::new(RefusalKind::Malformed, error.to_string());
    let Version { v } = serde_json::from_slice(line).map_err(malformed)?;
    if v != VERSION {
        let message =
            format!("this daemon speaks version {VERSION}, not {v}: use the fogbeat command of its version");
        return Err(Refusal::new(RefusalKind::Malformed, message));
    }
    Ok(serde_json::from_slice::<Envelope>(line).map_err(malformed)?.request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_other_versions_refused() {
        let forget = Request::UplinkForget { name: "cloud".into() };
        assert_eq!(parse(br#"{"v":1,"cmd":"uplink_forget","name":"cloud"}"#), Ok(forget));
        let told = parse(br#"{"v":2,"cmd":"dance"}"#).unwrap_err();
        assert!(told.message.contains("version 1, not 2"), "{told}");
        for bad in [&b""[..], b"{}", br#"{"v":1}"#, br#"{"v":1,"cmd":"dance"}"#, b"\xff"] {
            assert_eq!(parse(bad).unwrap_err().kind, RefusalKind::Malformed);
        }
    }
}
