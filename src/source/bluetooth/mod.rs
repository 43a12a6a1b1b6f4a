//! Heart-rate wearables on the gateway's own radio.

pub mod beats;
pub mod heart;
pub mod ladder;
pub mod quality;
pub mod radio;
pub mod roster;
pub mod session;
pub mod signal;
pub mod slots;
