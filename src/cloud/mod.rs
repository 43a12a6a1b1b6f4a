//! The cloud side: the template that makes it, what a gateway has to know of it afterwards, and what it costs. Pure.
//!
//! Promise: the template is `config/aws/stack.yaml`, byte by byte; the prices are those of `config/aws/prices.toml`, which
//! names their date and sources; nothing here talks to AWS. Not promised: that the prices still hold.

pub mod bill;
pub mod deploy;
pub mod outputs;
pub mod prices;

/// The CloudFormation template of a site's cloud side.
pub const TEMPLATE: &str = include_str!("../../config/aws/stack.yaml");

#[cfg(test)]
mod tests;
