//! The cloud side: the template that makes it, what a gateway has to know of it afterwards, and what it costs. Pure.
//!
//! Promise: the template is `config/aws/stack.yaml`, byte by byte but for the site's time zone; the prices are those of `config/aws/prices.toml`, which
//! names their date and sources; nothing here talks to AWS. Not promised: that the prices still hold.

pub mod bill;
pub mod deploy;
pub mod outputs;
pub mod prices;

use std::borrow::Cow;

/// The CloudFormation template of a site's cloud side.
pub const TEMPLATE: &str = include_str!("../../config/aws/stack.yaml");

/// The template with the site's time zone at the head of the queries that ask by local day and hour.
pub fn template(zone: Option<&str>) -> Cow<'static, str> {
    match zone {
        // A name of the IANA database has no quote in it.
        Some(zone) => TEMPLATE.replace(UTC, &UTC.replace("UTC", zone)).into(),
        None => TEMPLATE.into(),
    }
}

/// How those queries begin.
const UTC: &str = "VALUES ('UTC') -- the site's time zone";

#[cfg(test)]
mod tests;
