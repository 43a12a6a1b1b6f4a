//! The accounts, for `fogbeat status` and `/metrics`: what became of every reading of this run, and of every number an
//! uplink was to get.
//!
//! All figures of one answer belong to one moment: they are counted up when somebody asks, from the same places each
//! time. Devices stand in the status document; in the metrics only when `http.device_metrics` asks for them, the first
//! so many by name, because every device is a time series of its own for as long as the metrics are kept.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::journal::{Account, Accounts, Journal, UplinkAccount};

/// The part of the status document.
#[derive(Debug, Serialize)]
pub struct Accounted {
    /// Every sum below holds.
    pub adds_up: bool,
    /// Readings of this run: received = refused + duplicate + durable + unacknowledged.
    pub run: Accounts,
    /// Numbers since each uplink began: durable = delivered + queued + missing.
    pub uplinks: Vec<UplinkAccount>,
}

impl Accounted {
    /// Takes stock. Looks at every uplink that holds a place.
    pub fn of(journal: &Journal) -> Self {
        let run = journal.accounts();
        let uplinks: Vec<_> = journal.uplinks().iter().map(|uplink| journal.account(uplink)).collect();
        let adds_up = run.add_up() && uplinks.iter().all(|uplink| uplink.adds_up);
        Self { adds_up, run, uplinks }
    }

    /// Without the names of devices.
    pub fn forget_devices(&mut self) {
        self.run.devices.clear();
        self.uplinks.iter_mut().for_each(|uplink| uplink.devices.clear());
    }
}

/// Registers the accounts; `devices` is how many devices get time series of their own.
pub fn register(registry: &mut Registry, journal: &Journal, devices: usize) {
    registry.register_collector(Box::new(AccountCollector { journal: journal.clone(), devices }));
}

struct AccountCollector {
    journal: Journal,
    devices: usize,
}

impl fmt::Debug for AccountCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountCollector").field("devices", &self.devices).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabel {
    device: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NumbersLabel {
    uplink: String,
    state: String,
}

/// Name, help and figure of each term.
type Term = (&'static str, &'static str, fn(&Account) -> u64);

const TERMS: [Term; 5] = [
    ("received", "Readings handed over by sources, refused payloads included", |a| a.received),
    ("refused", "Payloads that sources did not take", |a| a.refused),
    ("duplicate", "Readings that were stored already and not stored again", |a| a.duplicate),
    ("durable", "Readings made durable", |a| a.durable),
    ("unacknowledged", "Readings that wait for the disk", |a| a.unacknowledged),
];

impl Collector for AccountCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let accounted = Accounted::of(&self.journal);
        for (name, help, figure) in TERMS {
            let value = figure(&accounted.run.total);
            single(&mut encoder, &format!("account_{name}"), help, name == "unacknowledged", value)?;
            if self.devices == 0 {
                continue;
            }
            let kind = if name == "unacknowledged" { MetricType::Gauge } else { MetricType::Counter };
            let name = format!("device_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, kind)?;
            for (device, account) in accounted.run.devices.iter().take(self.devices) {
                let label = DeviceLabel { device: device.clone() };
                let of_device = family.encode_family(&label)?;
                match kind {
                    MetricType::Gauge => ConstGauge::new(figure(account) as f64).encode(of_device)?,
                    _ => ConstCounter::new(figure(account)).encode(of_device)?,
                }
            }
        }
        let help = "Numbers since the uplink began, by what became of them: durable is the sum of the others";
        let mut family =
            encoder.encode_descriptor("account_uplink_numbers", help, None, MetricType::Gauge)?;
        for uplink in &accounted.uplinks {
            let mut state = |state: &str, value: u64| {
                let label = NumbersLabel { uplink: uplink.uplink.clone(), state: state.to_owned() };
                ConstGauge::new(value as f64).encode(family.encode_family(&label)?)
            };
            state("durable", uplink.durable)?;
            state("delivered", uplink.delivered)?;
            state("queued", uplink.queued)?;
            for (cause, numbers) in &uplink.missing {
                state(crate::forward::batch::cause_label(*cause), *numbers)?;
            }
        }
        let help = "1 while every account adds up; 0 is a defect, please report it";
        single(&mut encoder, "account_adds_up", help, true, u64::from(accounted.adds_up))
    }
}

fn single(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    gauge: bool,
    value: u64,
) -> Result<(), fmt::Error> {
    if gauge {
        let metric = ConstGauge::new(value as f64);
        metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
    } else {
        let metric = ConstCounter::new(value);
        metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
    }
}
