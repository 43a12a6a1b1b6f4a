//! Uplinks over MQTT through the real binary, against Mosquitto with mutual TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test stops at the first surprise"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod aws;
mod backlog;
mod broker;
mod credentials;
#[path = "../support/firehose.rs"]
mod firehose;
mod front;
mod kills;
mod levels;
mod live;
mod pki;
mod player;
mod provisioning;
mod proxies;
#[path = "../support/proxy.rs"]
mod proxy;
mod refusals;
mod shadow;
mod site;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/venv.rs"]
mod venv;
