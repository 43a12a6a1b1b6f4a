//! MQTT in.
pub mod mapping;
pub mod payload;
