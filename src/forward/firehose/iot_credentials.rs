//! AWS credentials for the gateway's X.509 certificate (AWS IoT Core Developer Guide, "Authorizing direct calls to AWS
//! services using the AWS IoT Core credential provider").
//!
//! One GET with mutual TLS gives keys for an hour or so. They are fetched anew when two thirds of that have passed; if
//! that fails they are used on until they end, and it is tried again every [`RETRY`]. Certificate and key are read for
//! each fetch, so new ones are taken by themselves. Nothing is written to disk.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config;
use crate::net::{Identity, IdentityError, IdentityFiles, Way, chain};

/// How often a fetch that failed is tried again while the last credentials are good.
const RETRY: Duration = Duration::from_secs(30);
/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Credentials that end sooner are not used any more: a request takes its time.
const LAST_MOMENT: Duration = Duration::from_secs(10);
/// An answer is about 1.5 KB.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the gateway's certificate cannot be used: {0}")]
    Identity(#[from] IdentityError),
    #[error("the AWS IoT credential provider cannot be reached: {}", chain(&**source))]
    Unreachable {
        source: BoxError,
        /// When the gateway's certificate ends.
        expires: Option<OffsetDateTime>,
    },
    #[error("the AWS IoT credential provider refuses credentials (HTTP {status}): {message}")]
    Refused { status: u16, message: String },
    #[error("the AWS IoT credential provider gave no credentials: {0}")]
    Answer(String),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn unreachable(source: impl Into<BoxError>) -> Error {
    Error::Unreachable { source: source.into(), expires: None }
}

#[derive(Deserialize)]
struct Answer {
    credentials: Keys,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

struct Held {
    credentials: Credentials,
    expires: SystemTime,
    /// When new ones are to be had.
    renew: Instant,
}

/// See the module's documentation.
pub struct Provider {
    url: String,
    thing: String,
    files: IdentityFiles,
    proxy: Option<String>,
    proxy_credentials: Option<std::path::PathBuf>,
    held: Arc<Mutex<Option<Held>>>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("url", &self.url).field("thing", &self.thing).finish_non_exhaustive()
    }
}

impl Provider {
    /// Touches nothing.
    pub fn new(settings: &config::IotCredentials, gateway: &str) -> Self {
        Self {
            url: format!("https://{}/role-aliases/{}/credentials", settings.endpoint, settings.role_alias),
            thing: settings.thing.clone().unwrap_or_else(|| gateway.to_owned()),
            files: IdentityFiles {
                ca: settings.ca.clone(),
                pair: settings.certificate.clone().zip(settings.key.clone()),
            },
            proxy: settings.proxy.clone(),
            proxy_credentials: settings.proxy_credentials_file.clone(),
            held: Arc::default(),
        }
    }

    async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let mut held = self.held.lock().await;
        if let Some(good) = held.as_ref().filter(|held| held.renew > Instant::now() && held.is_good()) {
            return Ok(good.credentials.clone());
        }
        let fetched = match tokio::time::timeout(TIMEOUT, self.fetch()).await {
            Ok(fetched) => fetched,
            Err(_) => Err(unreachable(format!("no answer within {TIMEOUT:?}"))),
        };
        match fetched {
            Ok(fresh) => {
                let credentials = fresh.credentials.clone();
                *held = Some(fresh);
                Ok(credentials)
            }
            Err(error) => match held.as_mut().filter(|held| held.is_good()) {
                Some(good) => {
                    tracing::debug!(%error, "the last AWS credentials are used on");
                    good.renew = Instant::now() + RETRY;
                    Ok(good.credentials.clone())
                }
                None => Err(CredentialsError::provider_error(error)),
            },
        }
    }

    async fn fetch(&self) -> Result<Held, Error> {
        let files = self.files.clone();
        let identity = match tokio::task::spawn_blocking(move || files.read(None)).await {
            Ok(identity) => identity?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let end = identity.expires;
        self.ask(identity).await.map_err(|error| match error {
            Error::Unreachable { source, .. } => Error::Unreachable { source, expires: end },
            other => other,
        })
    }

    async fn ask(&self, identity: Identity) -> Result<Held, Error> {
        let way = Way::new(self.proxy.as_deref(), self.proxy_credentials.as_deref()).map_err(unreachable)?;
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(identity.tls.as_ref().clone())
            .https_only()
            .enable_http1()
            .wrap_connector(way);
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(https);
        let request = http::Request::get(&self.url)
            .header("x-amzn-iot-thingname", &self.thing)
            .body(Empty::new())
            .map_err(|error| Error::Answer(error.to_string()))?;
        let answer = client.request(request).await.map_err(unreachable)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(unreachable)?.to_bytes();
        if status.is_client_error() {
            let message = String::from_utf8_lossy(body.get(..body.len().min(300)).unwrap_or_default()).into();
            return Err(Error::Refused { status: status.as_u16(), message });
        }
        if !status.is_success() {
            return Err(unreachable(format!("HTTP {}", status.as_u16())));
        }
        Held::read(&body, Instant::now(), OffsetDateTime::now_utc())
    }
}

impl Held {
    fn read(body: &[u8], now: Instant, wall: OffsetDateTime) -> Result<Self, Error> {
        // The body holds secrets: what is wrong with it is told without it.
        let Answer { credentials: keys } = serde_json::from_slice(body)
            .map_err(|_| Error::Answer("the answer is not understood".to_owned()))?;
        let end = OffsetDateTime::parse(&keys.expiration, &Rfc3339)
            .map_err(|_| Error::Answer(format!("\"{}\" is no time", keys.expiration)))?;
        let left = Duration::try_from(end - wall).unwrap_or_default();
        if left < LAST_MOMENT {
            let message = format!("they ended at {}; this gateway believes it is {wall}", keys.expiration);
            return Err(Error::Answer(message));
        }
        let expires = SystemTime::from(end);
        let Keys { access_key_id, secret_access_key, session_token, .. } = keys;
        let credentials = Credentials::new(
            access_key_id,
            secret_access_key,
            Some(session_token),
            Some(expires),
            "AWS IoT credential provider",
        );
        Ok(Self { credentials, expires, renew: now + left * 2 / 3 })
    }

    fn is_good(&self) -> bool {
        let left = OffsetDateTime::from(self.expires) - OffsetDateTime::now_utc();
        Duration::try_from(left).is_ok_and(|left| left >= LAST_MOMENT)
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_renewed_at_two_thirds() {
        let wall = OffsetDateTime::from_unix_timestamp(1_516_269_600).unwrap();
        let body = br#"{"credentials":{"accessKeyId":"AK","secretAccessKey":"s","sessionToken":"t","expiration":"2018-01-18T11:00:00Z"}}"#;
        let now = Instant::now();
        let held = Held::read(body, now, wall).unwrap();
        assert_eq!(held.renew - now, Duration::from_secs(40 * 60));
        assert_eq!(held.credentials.session_token(), Some("t"));
        assert!(matches!(Held::read(body, now, wall + Duration::from_secs(3595)), Err(Error::Answer(_))));
        let told =
            Held::read(b"{\"credentials\":{\"secretAccessKey\":\"s3cret\"}}", now, wall).err().unwrap();
        assert!(!told.to_string().contains("s3cret"));
    }
}
