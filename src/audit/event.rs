//! What is worth an entry.

use serde::Serialize;

/// A device without its name; see [`super::Audit::device`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Device(pub(super) String);

/// What was done. Nothing in it is a name of a person or a device, nor a reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// The gateway started, with this configuration (SHA-256 of `fogbeat check`'s output).
    Start {
        version: &'static str,
        configuration: String,
        /// Which key pseudonyms are made with; left out when uplinks are told names.
        #[serde(skip_serializing_if = "Option::is_none")]
        pseudonym_key: Option<String>,
    },
    Stop,
    /// The configuration was read again.
    Reload {
        configuration: String,
        taken: Vec<String>,
        needs_restart: Vec<String>,
    },
    /// A device may connect from now on, with so many topics granted beside its own.
    DeviceAdd {
        device: Device,
        publish: usize,
        subscribe: usize,
    },
    DeviceRemove {
        device: Device,
    },
    /// A Bluetooth wearable is heard from now on.
    BleAllow {
        device: Device,
    },
    BleForget {
        device: Device,
    },
    /// An uplink was given a place: from now on it is sent what is kept.
    UplinkAdd {
        uplink: String,
        kind: &'static str,
        pseudonyms: bool,
    },
    UplinkForget {
        uplink: String,
    },
    /// Readings were written out by `fogbeat journal export`.
    Export,
    /// What makes this gateway was written out, its secrets too, in so many files.
    Backup {
        files: usize,
    },
    /// This became the gateway that a backup was taken from.
    Restore {
        files: usize,
    },
    /// Everything of a device was asked to be removed.
    Erase {
        device: Device,
        #[serde(skip_serializing_if = "Option::is_none")]
        readings: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        lake_lines: Option<u64>,
    },
    /// Names or readings were shown.
    Access {
        what: &'static str,
        /// Times the same was done since it was last written down (at most once an hour).
        #[serde(skip_serializing_if = "is_zero")]
        repeated: u64,
    },
}

/// How it ended. Details are left to the log: a message may hold a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is being done; another entry tells how it ended, or the gateway was cut off meanwhile.
    Begun,
    Done,
    Failed,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
