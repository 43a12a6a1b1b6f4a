//! Where readings come from.
pub mod mqtt;
