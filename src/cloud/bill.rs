//! A month's bill (30 days) for a site, line by line, on each of the ways to the bucket. Pure.
//!
//! Reckoned with list prices and measured sizes; without tax, free tiers, discounts, transfer out and QuickSight, which
//! is paid per user.

use std::time::Duration;

use serde::Serialize;

use super::prices::{GB, Prices};

const DAYS: f64 = 30.0;
const SECONDS_A_DAY: f64 = 86_400.0;
/// Queries a month that the bill has in it: one a day.
const QUERIES: f64 = DAYS;

/// What a site does.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    pub devices: u32,
    /// Readings of a device, per second.
    pub rate_hz: f64,
    pub gateways: u32,
    /// How long devices are worn.
    pub hours_a_day: f64,
    /// `[batch] max_age`, s.
    pub max_age_s: f64,
    /// `[batch] max_bytes`.
    pub max_bytes: u64,
    /// How long the bucket keeps readings.
    pub retention_days: f64,
    /// The newest reading of each device as a message, every so many seconds.
    pub live_s: Option<f64>,
}

/// A way from the gateway to Firehose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `PutRecordBatch`.
    Firehose,
    /// MQTT on `$aws/rules/...`: no message is charged.
    BasicIngest,
    /// MQTT on an ordinary topic.
    Broker,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Firehose, Self::BasicIngest, Self::Broker];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Firehose => "Firehose",
            Self::BasicIngest => "Basic Ingest",
            Self::Broker => "broker",
        }
    }
}

/// The records that a gateway sends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Records {
    pub readings: f64,
    pub bytes: u64,
    /// As Firehose counts it.
    pub billed_bytes: u64,
    /// Of all gateways, in a month.
    pub a_month: f64,
}

/// A line of the bill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub what: String,
    pub usd: f64,
}

/// A month on one way.
#[derive(Debug, Clone, Serialize)]
pub struct Bill {
    pub way: Way,
    pub readings: f64,
    pub records: Records,
    pub lines: Vec<Line>,
    pub total_usd: f64,
    /// What the way itself costs for a million readings: Firehose, messages, rules.
    pub usd_per_million: f64,
}

impl Usage {
    /// Readings of the site in a month.
    #[must_use]
    pub fn readings(&self) -> f64 {
        f64::from(self.devices) * self.rate_hz * self.worn_seconds()
    }

    /// The same with another age of batches.
    #[must_use]
    pub fn with_max_age(&self, age: Duration) -> Self {
        Self { max_age_s: age.as_secs_f64(), ..self.clone() }
    }

    /// Seconds of a month in which devices are worn.
    fn worn_seconds(&self) -> f64 {
        DAYS * SECONDS_A_DAY * self.hours_a_day / 24.0
    }

    /// What one gateway packs into one record.
    #[must_use]
    pub fn records(&self, way: Way, prices: &Prices) -> Records {
        let gateways = f64::from(self.gateways.max(1));
        let per_gateway = f64::from(self.devices) * self.rate_hz / gateways;
        let by_size = self.max_bytes as f64 / prices.measured.text_bytes;
        let mut readings = (per_gateway * self.max_age_s).min(by_size).max(1.0);
        if way != Way::Firehose {
            let most = prices.iot.most_bytes as f64 - prices.measured.member_bytes;
            readings = readings.min((most / prices.measured.reading_bytes).floor());
        }
        let bytes = prices.measured.member(readings).ceil() as u64;
        let unit = prices.firehose.rounded_up_to.max(1);
        Records {
            readings,
            bytes,
            billed_bytes: bytes.div_ceil(unit) * unit,
            a_month: self.readings() / readings,
        }
    }

    /// The bill of a month.
    #[must_use]
    pub fn bill(&self, way: Way, prices: &Prices) -> Bill {
        let records = self.records(way, prices);
        let stored = records.a_month * records.bytes as f64;
        let mut lines = Vec::new();
        let mut line = |what: &str, usd: f64| lines.push(Line { what: what.to_owned(), usd });

        let mut carried = records.a_month * prices.firehose.record(records.bytes);
        line("Firehose, records rounded up to 5 KB", carried);
        let units = records.a_month * prices.iot.units(records.bytes) as f64 / 1e6;
        let messages = if way == Way::Broker { units * prices.iot.per_million_messages } else { 0.0 };
        line("AWS IoT messages", messages);
        let rules = units * (prices.iot.per_million_rules + prices.iot.per_million_actions);
        let rules = if way == Way::Firehose { 0.0 } else { rules };
        line("AWS IoT rules and their actions", rules);
        carried += messages + rules;

        let live = self.live_s.map_or(0.0, |every| self.live(every) / 1e6 * prices.iot.per_million_messages);
        // A gateway stays connected, and wherever its live lane goes it is by MQTT.
        let connected = way != Way::Firehose || self.live_s.is_some();
        let minutes = f64::from(self.gateways) * DAYS * SECONDS_A_DAY / 60.0;
        let minutes = if connected { minutes } else { 0.0 };
        line("AWS IoT connections", minutes / 1e6 * prices.iot.per_million_connection_minutes);
        if self.live_s.is_some() {
            line("AWS IoT messages of the live lane", live);
        }
        let objects =
            (self.worn_seconds() / prices.stack.buffer_seconds).max(stored / prices.stack.buffer_bytes);
        line("S3 objects written", objects / 1e3 * prices.s3.per_thousand_puts);
        let kept = stored / DAYS * self.retention_days;
        line(
            &format!("S3 storage, once {} days are kept", self.retention_days),
            kept / GB * prices.s3.per_gb_month,
        );
        let view = stored / DAYS * prices.stack.view_days;
        line(
            &format!("Athena, a query a day over {} days", prices.stack.view_days),
            QUERIES * prices.athena.query(view),
        );
        line("Athena, each day to Parquet", DAYS * prices.athena.query(stored / DAYS));

        let total_usd = lines.iter().map(|line| line.usd).sum();
        let readings = self.readings();
        Bill { way, readings, records, lines, total_usd, usd_per_million: carried / readings * 1e6 }
    }

    /// Messages of the live lane in a month.
    fn live(&self, every_s: f64) -> f64 {
        let due = self.rate_hz.min(1.0 / every_s.max(0.001));
        f64::from(self.devices) * due * self.worn_seconds()
    }
}

/// What a million readings cost when each is a record of its own.
#[must_use]
pub fn one_by_one(way: Way, prices: &Prices) -> f64 {
    let bytes = prices.measured.text_bytes as u64;
    let units = prices.iot.units(bytes) as f64;
    let iot = match way {
        Way::Firehose => 0.0,
        Way::BasicIngest => prices.iot.per_million_rules + prices.iot.per_million_actions,
        Way::Broker => {
            prices.iot.per_million_messages + prices.iot.per_million_rules + prices.iot.per_million_actions
        }
    };
    prices.firehose.record(bytes) * 1e6 + units * iot
}
