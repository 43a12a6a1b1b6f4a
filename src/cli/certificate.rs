//! `fogbeat certificate`: the listener's own certificate, and the CA that devices need for it.

use clap::Subcommand;

use super::{Common, Failure, Kind, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Tls};
use crate::site::{AuthorityError, Files, Names, Summary, host_label, renew};
use crate::state::StateDir;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the fingerprints of CA and certificate, for whom it is, and when it ends
    #[command(after_help = "Compare the CA's fingerprint on a device with the one shown here: \
        openssl x509 -in site-ca.pem -noout -fingerprint -sha256\nExample: fogbeat certificate show")]
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the CA's certificate, which every device needs that connects to the encrypted port
    #[command(after_help = "It holds no secret.\nExample: fogbeat certificate ca > site-ca.pem")]
    Ca,
    /// Make a new certificate for the listener now, with the same CA; a running gateway takes it within seconds
    #[command(
        after_help = "Seldom needed: the gateway renews it long before it ends, and when its names or addresses \
        change. Devices have nothing to do.\nExample: fogbeat certificate renew"
    )]
    Renew,
}

pub fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let config = common.load()?;
    let tls = own(&config)?;
    let files = Files::below(&config.gateway.state_dir);
    let names = names(&config, tls)?;
    match command {
        Command::Show { json } => {
            let summary = Summary::read(&files, &names)?;
            if *json { output::print_json(&summary) } else { output::print(&told(&summary)) }
        }
        Command::Ca => {
            let text = std::fs::read_to_string(&files.ca)
                .map_err(|source| AuthorityError::File { path: files.ca.clone(), source })?;
            output::print(&text)
        }
        Command::Renew => {
            let now = SystemClock::new(&config.clock, &config.gateway.state_dir).now().wall_ms;
            let now = time::OffsetDateTime::from_unix_timestamp(now / 1000).map_err(Failure::defect)?;
            renew(&files, &names, now)?;
            output::print(&told(&Summary::read(&files, &names)?))
        }
    }
}

/// The encrypted port, if its certificate is one of fogbeat's own.
fn own(config: &Config) -> Result<&Tls, Failure> {
    let usage = |text: &str| Failure::new(Kind::Usage, anyhow::anyhow!("{text}"));
    let Some(tls) = &config.mqtt.listener.tls else {
        return Err(usage(
            "there is no encrypted port: set [mqtt.listener.tls] bind = \"0.0.0.0:8883\", or run `fogbeat init --lan`",
        ));
    };
    if !tls.is_own(&config.gateway.state_dir) {
        return Err(usage(
            "mqtt.listener.tls.certificate is your own: renew it where you made it; the gateway takes what you put in its \
             place by itself",
        ));
    }
    Ok(tls)
}

/// What the certificate is made for.
pub(super) fn names(config: &Config, tls: &Tls) -> Result<Names, Failure> {
    let id = match (config.mqtt.listener.mdns, &config.gateway.id) {
        (false, _) => None,
        (true, Some(id)) => Some(id.clone()),
        (true, None) => StateDir::known_id(&config.gateway.state_dir).map_err(Failure::unavailable)?,
    };
    Ok(Names::of_machine(tls.bind, id.as_deref().map(host_label).as_deref()))
}

/// The summary for people.
pub(super) fn told(summary: &Summary) -> String {
    format!(
        "site CA      {}\n             SHA-256 {}\ncertificate  {}\n             SHA-256 {}\n             until {}, for {}\n",
        summary.ca_file.display(),
        summary.ca_sha256,
        summary.server_file.display(),
        summary.server_sha256,
        summary.server_ends,
        summary.names.join(", "),
    )
}

impl From<AuthorityError> for Failure {
    fn from(error: AuthorityError) -> Self {
        match &error {
            AuthorityError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::unavailable(anyhow::Error::new(error).context(
                    "there is no certificate yet: start the gateway once, or run `fogbeat certificate renew`",
                ))
            }
            AuthorityError::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::unavailable(anyhow::Error::new(error).context("run it as root (sudo)"))
            }
            _ => Self::unavailable(error),
        }
    }
}
