//! Who did what to this gateway: an append-only log of configuration, devices, exports, erasures and access.
//!
//! `audit.jsonl` in the state directory, one JSON object per line: `n` (counted from 1, without a hole), `prev` (SHA-256
//! of the line before), `time` (with `time_quality`, and `boot` and `uptime_ms` where the clock was not synchronised, as
//! in published lines), `who`, `act` with its facts, `outcome`. A line is on disk before its act is answered. Beside it
//! `audit.head` holds number and hash of the last line, so that also a cut at the end is noticed.
//!
//! No line holds health data, and none a device's name: a device is `d-` and a keyed hash under `audit.key`, which is
//! made here and serves nothing else. `fogbeat audit show` puts names beside those it knows; after an erasure nothing
//! does, and the record that it was done stays.
//!
//! A file is closed at [`MOST_BYTES`] and at most [`MOST_FILES`] are kept; the chain goes on from one to the next.
//!
//! Not promised: that somebody who may write the state directory cannot write the whole chain anew. What tells then is a
//! head that was seen elsewhere: the gateway logs it at start and stop, and `status` shows it.
//!
//! What is not an access: `/metrics` (which names devices only where `http.device_metrics` asks for it), `/status` over
//! HTTP, `journal inspect`, `uplink list`; they show no readings. Who may subscribe to readings is on record where the device was added.

mod event;
mod log;
mod verify;
mod who;

pub use event::{Act, Device, Outcome};
pub use log::{Audit, AuditError, Head, Scribe, key_file};
pub use verify::{Audited, Line, Verdict};
pub use who::Who;

/// A file is closed at this size: some 4,000 entries.
const MOST_BYTES: u64 = 1 << 20;
/// Closed files that are kept besides the one that is written.
const MOST_FILES: usize = 31;
