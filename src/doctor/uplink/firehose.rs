//! A Firehose stream: name, TLS, credentials and the stream itself by one call that writes nothing.

use std::path::PathBuf;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

use super::{ANSWER, origin, outcome, unreachable, within};
use crate::config::{self, host_and_port};
use crate::doctor::Finding;
use crate::doctor::scene::Scene;
use crate::forward::firehose::Firehose;

/// Where the service's credentials are: its own environment is not ours.
const SERVICE: [&str; 2] = ["/run/credentials/fogbeat.service/aws", "/etc/credstore/fogbeat.aws"];
/// By one of these somebody has said whose credentials are meant.
const ENVIRONMENT: [&str; 4] =
    ["AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"];

pub fn finding(scene: &Scene, check: &str, settings: &config::Firehose) -> Finding {
    let host = settings
        .endpoint_url
        .as_deref()
        .map_or("amazonaws.com", |url| url.split_once("://").map_or(url, |(_, rest)| rest));
    let host = host_and_port(host, 443).map_or_else(|| host.to_owned(), |(host, _)| host);
    if let Some(finding) = unreachable(check, &host, settings.proxy.as_deref()) {
        return finding;
    }
    let settings = config::Firehose { timeout: settings.timeout.min(ANSWER), ..settings.clone() };
    let mut uplink = match service_credentials() {
        Some(path) if settings.credentials.is_none() => {
            let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, path).build();
            let provider = ProfileFileCredentialsProvider::builder().profile_files(files).build();
            Firehose::with_credentials(&settings, SharedCredentialsProvider::new(provider))
        }
        _ => Firehose::configured(&settings, &origin(scene).gateway),
    };
    outcome(check, within(scene, async { uplink.ask().await }))
}

/// The service's file, where this user may read it and has none of their own.
fn service_credentials() -> Option<PathBuf> {
    if ENVIRONMENT.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    SERVICE.iter().map(PathBuf::from).find(|path| std::fs::File::open(path).is_ok())
}
