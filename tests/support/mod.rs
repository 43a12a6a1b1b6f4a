//! What several tests need.
#![allow(dead_code)]

pub mod firehose;
pub mod venv;
