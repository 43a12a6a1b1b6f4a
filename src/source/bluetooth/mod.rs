//! Heart-rate wearables on the gateway's own radio.

pub mod beats;
mod bluez;
pub mod core;
mod driver;
pub mod heart;
pub mod ladder;
mod metrics;
pub mod quality;
pub mod radio;
pub mod roster;
pub mod session;
pub mod signal;
pub mod slots;
pub use bluez::BlueZ;
pub use driver::{Driver, Handle, Shown};
pub use metrics::Metrics;
