//! Where readings come from.
pub mod mqtt;
pub mod replay;
