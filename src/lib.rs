//! fogbeat: an edge gateway for heart-rate wearables.
//!
//! The way of a reading is one direction: a [`source`] makes a [`reading::Reading`] and hands it to the
//! [`journal`]; the journal answers [`journal::Durable`] once it is on disk; only a `Durable` can be turned into an
//! acknowledgement. [`forward`] reads the journal in order, and only an uplink's confirmation moves its cursor.
#![forbid(unsafe_code)]

pub mod allocator;
pub mod audit;
pub mod backup;
pub mod bundle;
pub mod cli;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod enroll;
mod files;
pub mod flight;
pub mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gateway;
pub mod health;
pub mod init;
pub mod journal;
pub mod net;
mod panics;
pub mod privacy;
pub mod reading;
pub mod redact;
pub mod relayed;
pub mod remote;
pub mod site;
pub mod source;
pub mod state;
pub mod telemetry;
pub mod web;
