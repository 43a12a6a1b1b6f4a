//! `fogbeat cloud`: the cloud side as text. Talks to nobody.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use super::{Common, Failure, Kind, output};
use crate::cloud::bill::{Bill, Usage, Way, one_by_one};
use crate::cloud::deploy::Deploy;
use crate::cloud::outputs::{Outputs, Path};
use crate::cloud::prices::Prices;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the CloudFormation template of a site's cloud side
    #[command(after_help = "Example: fogbeat cloud template > fogbeat-gym.yaml")]
    Template(TemplateOptions),
    /// Print the line that makes the stack
    #[command(after_help = "The line needs the AWS CLI and the right to make roles.\n\
            Example: fogbeat cloud deploy-command --site gym --region eu-west-1")]
    DeployCommand(DeployOptions),
    /// Print the part of fogbeat.toml that follows from the stack's outputs
    #[command(
        after_help = "Ask for the outputs with: aws cloudformation describe-stacks --stack-name fogbeat-gym > stack.json\n\
            Example: fogbeat cloud config --stack-output stack.json >> fogbeat.toml"
    )]
    Config(ConfigOptions),
    /// Print a month's AWS bill, line by line, for each way to the bucket
    #[command(
        after_help = "Reckons with the batch settings in force (--config) and the list prices of config/aws/prices.toml.\n\
            Example: fogbeat cloud cost --devices 40 --rate 1 --gateways 2"
    )]
    Cost(CostOptions),
}

#[derive(Debug, clap::Args)]
pub struct TemplateOptions {
    /// For queries by local day and hour; default: site.timezone of the configuration, else UTC
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    timezone: Option<&'static str>,
}

#[derive(Debug, clap::Args)]
pub struct DeployOptions {
    /// Part of every name: a letter, then letters and digits, in lower case
    #[arg(long, value_name = "NAME")]
    site: String,
    /// How gateways deliver
    #[arg(long, value_parser = ["firehose", "iot", "both"])]
    path: Option<String>,
    /// Delete readings after so many days; 0 keeps them
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// Who gets alerts
    #[arg(long, value_name = "ADDRESS")]
    alert_email: Option<String>,
    /// ARN of the user who gets the dashboard
    #[arg(long, value_name = "ARN")]
    quicksight_user: Option<String>,
    /// Where; default: that of the AWS CLI
    #[arg(long)]
    region: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct ConfigOptions {
    /// What `aws cloudformation describe-stacks --stack-name ..` printed; - for standard input
    #[arg(long, value_name = "FILE")]
    stack_output: PathBuf,
    /// How to deliver, where the stack has both ways
    #[arg(long, value_enum)]
    path: Option<Path>,
}

#[derive(Debug, clap::Args)]
pub struct CostOptions {
    /// Devices at the site
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Readings of a device per second
    #[arg(long, value_name = "HZ", default_value_t = 1.0, value_parser = positive)]
    rate: f64,
    /// Gateways that share them
    #[arg(long, value_name = "G", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    gateways: u32,
    /// Hours a day that a device is worn
    #[arg(long, value_name = "HOURS", default_value_t = 24.0, value_parser = hours)]
    hours: f64,
    /// Days that the bucket keeps readings; default: the template's
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// With a live lane that sends each device's newest reading every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    live: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Template(options) => {
            let zone = match options.timezone {
                Some(zone) => Some(zone.to_owned()),
                None => common.load()?.site.timezone,
            };
            output::print(&crate::cloud::template(zone.as_deref()))
        }
        Command::DeployCommand(options) => {
            let deploy = Deploy {
                site: options.site.clone(),
                path: options.path.clone(),
                retention_days: options.retention_days,
                alert_email: options.alert_email.clone(),
                quicksight_user: options.quicksight_user.clone(),
                region: options.region.clone(),
            };
            let line = deploy.command().map_err(|error| Failure::new(Kind::Usage, error))?;
            output::print(&format!("{line}\n"))
        }
        Command::Config(options) => config(options),
        Command::Cost(options) => cost(common, options),
    }
}

fn config(options: &ConfigOptions) -> Result<(), Failure> {
    let path = &options.stack_output;
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::unavailable(anyhow::anyhow!("{}: {error}", path.display())))?;
    let outputs = Outputs::parse(&text).map_err(Failure::unavailable)?;
    output::print(&outputs.config(options.path).map_err(Failure::unavailable)?)
}

/// Ages of batches that are shown beside the one in force.
const AGES: [Duration; 4] =
    [Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(600), Duration::from_secs(900)];

fn cost(common: &Common, options: &CostOptions) -> Result<(), Failure> {
    let prices = Prices::list().map_err(Failure::defect)?;
    let batch = common.load()?.batch;
    let usage = Usage {
        devices: options.devices,
        rate_hz: options.rate,
        gateways: options.gateways,
        hours_a_day: options.hours,
        max_age_s: batch.max_age.as_secs_f64(),
        max_bytes: batch.max_bytes.as_u64(),
        retention_days: options.retention_days.map_or(prices.stack.retention_days, f64::from),
        live_s: options.live,
    };
    let bills = Way::ALL.map(|way| usage.bill(way, &prices));
    if options.json {
        let told = serde_json::json!({
            "usage": usage, "prices": { "date": prices.date, "region": prices.region }, "bills": bills,
            "usd_per_million_one_by_one": Way::ALL.map(|way| one_by_one(way, &prices)),
        });
        return output::print_json(&told);
    }
    output::print(&page(&usage, &bills, &prices))
}

/// The bill for people.
fn page(usage: &Usage, bills: &[Bill; 3], prices: &Prices) -> String {
    let mut text = format!(
        "{} at {} Hz through {}, {} hours a day: {:.1} million readings in 30 days.\n\n",
        counted(usage.devices, "device"),
        usage.rate_hz,
        counted(usage.gateways, "gateway"),
        usage.hours_a_day,
        usage.readings() / 1e6
    );
    let mut row = |label: &str, cells: [String; 3]| {
        let [a, b, c] = cells;
        text.push_str(&format!("{label:<44}{a:>14}{b:>14}{c:>14}\n"));
    };
    row("USD a month", bills.each_ref().map(|bill| bill.way.label().to_owned()));
    let [first, ..] = bills;
    for (n, line) in first.lines.iter().enumerate() {
        row(&line.what, bills.each_ref().map(|bill| money(bill.lines.get(n).map_or(0.0, |line| line.usd))));
    }
    row("total", bills.each_ref().map(|bill| money(bill.total_usd)));
    row("to deliver a million readings", bills.each_ref().map(|bill| small(bill.usd_per_million)));
    row(
        "... were each a record of its own",
        bills.each_ref().map(|bill| small(one_by_one(bill.way, prices))),
    );

    text.push_str(&format!(
        "\nWhat [batch] max_age means (max_bytes = \"{}\"): a gateway's records, and USD to deliver a million readings\n",
        bytesize::ByteSize(usage.max_bytes).display().iec()
    ));
    let mut ages: Vec<f64> = AGES.iter().map(Duration::as_secs_f64).chain([usage.max_age_s]).collect();
    ages.sort_by(f64::total_cmp);
    ages.dedup();
    text.push_str(&format!(
        "{:<10}{:>12}{:>12}{:>14}{:>14}{:>14}{:>14}\n",
        "", "readings", "bytes", "counted as", "Firehose", "Basic Ingest", "broker"
    ));
    for age in ages {
        let age = Duration::from_secs_f64(age);
        let at = usage.with_max_age(age);
        let records = at.records(Way::Firehose, prices);
        let [firehose, basic, broker] = Way::ALL.map(|way| small(at.bill(way, prices).usd_per_million));
        let mark = if age.as_secs_f64() == usage.max_age_s { " <- in force" } else { "" };
        text.push_str(&format!(
            "{:<10}{:>12.0}{:>12}{:>14}{firehose:>14}{basic:>14}{broker:>14}{mark}\n",
            humantime::format_duration(age).to_string(),
            records.readings,
            records.bytes,
            records.billed_bytes,
        ));
    }
    text.push_str(&format!(
        "\nList prices of {}, {}, without tax, free tiers and QuickSight; sources: config/aws/prices.toml.\n",
        prices.date, prices.region
    ));
    text
}

fn counted(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn money(usd: f64) -> String {
    if usd == 0.0 { "-".to_owned() } else { format!("{usd:.4}") }
}

fn small(usd: f64) -> String {
    format!("{usd:.5}")
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("give a number above 0".to_owned()),
    }
}

fn zone(text: &str) -> Result<&'static str, String> {
    crate::config::timezone::canonical(text)
        .ok_or_else(|| "no time zone: write a name as `timedatectl list-timezones` has them".to_owned())
}

fn hours(text: &str) -> Result<f64, String> {
    positive(text).ok().filter(|hours| *hours <= 24.0).ok_or_else(|| "give at most 24 hours".to_owned())
}
