//! MQTT in: the broker that fogbeat carries itself, and brokers that others run.
//!
//! Promises: a PUBACK or PUBREC means that the readings are on disk, or that there were none to store (with the
//! reason, in MQTT 5); no client can keep another from being served; local subscribers get messages only after they
//! are durable, and can slow nothing. Does not promise durable delivery *to local subscribers*: that is best effort
//! within bounded memory.
//!
//! The listener speaks MQTT 3.1.1 and 5 on each port. Simplified against the standard: a will is sent at once (no
//! delay); QoS 2 subscriptions are granted as QoS 1; there are no shared subscriptions and no subscription
//! identifiers (MQTT 5 clients are told); sessions and retained messages do not survive a restart.

mod ack;
mod buffers;
mod codec;
mod connection;
mod delivery;
mod descriptors;
mod door;
mod external;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod handshake;
mod intake;
mod keeper;
mod listener;
pub mod mapping;
mod message;
mod metrics;
pub mod payload;
mod permission;
mod publish;
mod refused;
mod router;
mod session;
mod shared;
mod sources;
mod tls;
mod topic;
pub mod users;

pub use ack::{Ack, Reason};
pub use external::{External, ExternalError, ExternalHandle, ExternalStatus};
#[cfg(any(test, fuzzing))]
pub use fuzz::session;
pub use listener::{BindError, Deps, Handle, Listener, Status};
pub use metrics::Metrics;
pub use refused::Refused;
pub use tls::TlsError;
