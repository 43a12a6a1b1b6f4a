//! `fogbeat enroll`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Common, Failure, Kind, output};
use crate::config::{Config, UplinkKind, iot_certificate, iot_key};
use crate::enroll::{EnrollError, Enrolled, Wish, enroll};
use crate::state::StateDir;

pub const AFTER_HELP: &str = "The key is made here and never leaves. The certificate is proven by a connection before it \
    takes its place; then the claim is removed. A running gateway takes the new certificate by itself.\n\
    Example: fogbeat enroll --endpoint abc-ats.iot.eu-west-1.amazonaws.com --template fogbeat --claim-cert claim.pem \
    --claim-key claim.key";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The account's data endpoint; default: that of the configured iot_core uplink
    #[arg(long, value_name = "HOST")]
    endpoint: Option<String>,
    /// 8883, or 443 where only web traffic is let out
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Name of the fleet provisioning template
    #[arg(long, value_name = "NAME")]
    template: String,
    /// The claim certificate, PEM
    #[arg(long, value_name = "FILE")]
    claim_cert: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    claim_key: PathBuf,
    /// CAs of the endpoint; default: the public CAs of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A parameter of the template; SerialNumber is the gateway's id unless given here
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// http://host:port or socks5://host:port
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// A file with one line user:password for the proxy
    #[arg(long, value_name = "FILE")]
    proxy_credentials: Option<PathBuf>,
    /// Longest wait for each answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    /// Leave the claim's files where they are
    #[arg(long)]
    keep_claim: bool,
    /// Replace a certificate that is there
    #[arg(long)]
    force: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    let wish = wish(&config, options)?;
    if wish.certificate.exists() && !options.force {
        return Err(Failure::new(
            Kind::Usage,
            anyhow::anyhow!("{} is there already; --force replaces it", wish.certificate.display()),
        ));
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::unavailable)?;
    let enrolled = runtime.block_on(enroll(&wish))?;
    if !enrolled.claim_removed && !options.keep_claim {
        eprintln!("fogbeat: the claim could not be removed: delete its files by hand");
    }
    if options.json {
        return output::print_json(&enrolled);
    }
    eprintln!("Enrolled as {}, proven by a connection. For the configuration:", enrolled.thing);
    output::print(&snippet(&wish, &enrolled))
}

fn wish(config: &Config, options: &Options) -> Result<Wish, Failure> {
    let configured = config.uplinks.iter().find_map(|uplink| match &uplink.kind {
        UplinkKind::IotCore(iot) => Some(iot),
        _ => None,
    });
    let endpoint = options.endpoint.clone().or_else(|| configured.map(|iot| iot.endpoint.clone()));
    let endpoint = endpoint.ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            anyhow::anyhow!("which endpoint? Give --endpoint, or configure an iot_core uplink"),
        )
    })?;
    let state_dir = config.gateway.state_dir.clone();
    let gateway = match &config.gateway.id {
        Some(id) => id.clone(),
        None => StateDir::open(&state_dir)?.gateway_id(None)?,
    };
    let mut parameters = BTreeMap::from([("SerialNumber".to_owned(), gateway.clone())]);
    parameters.extend(options.parameters.iter().cloned());
    let place = |own: Option<&PathBuf>, default: PathBuf| own.cloned().unwrap_or(default);
    Ok(Wish {
        endpoint,
        port: options.port.or_else(|| configured.map(|iot| iot.port)).unwrap_or(8883),
        template: options.template.clone(),
        claim_certificate: options.claim_cert.clone(),
        claim_key: options.claim_key.clone(),
        ca: options.ca.clone().or_else(|| configured.and_then(|iot| iot.ca.clone())),
        proxy: options.proxy.clone().or_else(|| configured.and_then(|iot| iot.proxy.clone())),
        proxy_credentials: options
            .proxy_credentials
            .clone()
            .or_else(|| configured.and_then(|iot| iot.proxy_credentials_file.clone())),
        parameters,
        gateway,
        certificate: place(configured.and_then(|iot| iot.certificate.as_ref()), iot_certificate(&state_dir)),
        key: place(configured.and_then(|iot| iot.key.as_ref()), iot_key(&state_dir)),
        state_dir,
        keep_claim: options.keep_claim,
        timeout: Duration::from_secs(options.timeout.clamp(1, 600)),
    })
}

/// The uplink's section as it follows from what was done.
fn snippet(wish: &Wish, enrolled: &Enrolled) -> String {
    let Wish { endpoint, port, .. } = wish;
    let rule = enrolled.configuration.get("rule").and_then(|rule| rule.as_str()).unwrap_or("fogbeat");
    format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"{endpoint}\"\nport = {port}\nthing = \"{}\"\nrule = \"{rule}\"\n\
         certificate = {:?}\nkey = {:?}\n",
        enrolled.thing, enrolled.certificate, enrolled.key
    )
}

impl From<EnrollError> for Failure {
    fn from(error: EnrollError) -> Self {
        Self::unavailable(error)
    }
}
