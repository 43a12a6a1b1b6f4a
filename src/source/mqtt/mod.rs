//! MQTT in.
pub mod mapping;
