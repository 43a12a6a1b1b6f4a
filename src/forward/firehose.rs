//! The `firehose` uplink: one member = one record of `PutRecordBatch`.
//!
//! Limits (Amazon Data Firehose Developer Guide, "Quota"): 500 records and 4 MiB a request, 1,000 KiB a record. A
//! request can succeed in part; each record has its own answer, and what failed is left to the driver to send again.
//! The SDK's own retry is off: the driver's has no end and is shown. Every call has a time limit, also against a
//! server that accepts and never answers. Nothing is asked of the network before the first delivery.

mod classify;
pub mod iot_credentials;
mod through;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_firehose::Client;
use aws_sdk_firehose::error::SdkError;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::{PutRecordBatchResponseEntry, Record};

use super::{Delivery, Failure, Limits, Member, Uplink};
use crate::config;

/// The 4 MiB of a request are taken with its base64 in mind: 3 MiB of members.
pub(super) const LIMITS: Limits =
    Limits { member_bytes: 1_000 * 1024, members: 500, delivery_bytes: 3 << 20, window: 8 };
/// Longest search for a region and for credentials (files, environment, instance metadata).
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub struct Firehose {
    config: config::Firehose,
    /// In place of the ordinary chain.
    credentials: Option<SharedCredentialsProvider>,
    client: Option<Client>,
}

impl Firehose {
    /// With credentials by the ordinary chain: environment, profile, web identity, container, instance. Touches
    /// nothing: region and credentials are looked up at the first delivery.
    pub fn new(config: &config::Firehose) -> Self {
        Self { config: config.clone(), credentials: None, client: None }
    }

    /// As configured: with credentials for the certificate of `gateway`, if that is asked for.
    pub fn configured(config: &config::Firehose, gateway: &str) -> Self {
        match &config.credentials {
            Some(settings) => {
                let provider = iot_credentials::Provider::new(settings, gateway);
                Self::with_credentials(config, SharedCredentialsProvider::new(provider))
            }
            None => Self::new(config),
        }
    }

    /// With credentials from elsewhere.
    pub fn with_credentials(config: &config::Firehose, credentials: SharedCredentialsProvider) -> Self {
        Self { config: config.clone(), credentials: Some(credentials), client: None }
    }

    async fn client(&mut self) -> Result<Client, Failure> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = tokio::time::timeout(SETUP_TIMEOUT, connect(&self.config, self.credentials.clone()))
            .await
            .map_err(|_| {
                Failure::new("setup", "the search for the AWS region and credentials took too long")
                    .remedy("set [[uplink]].region")
            })??;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Whether the stream is there and takes us, by a call that writes nothing; what it is like.
    ///
    /// # Errors
    /// Why not, as for a delivery.
    pub async fn ask(&mut self) -> Result<String, Failure> {
        let client = self.client().await?;
        let stream = &self.config.stream;
        match client.describe_delivery_stream().delivery_stream_name(stream).send().await {
            Ok(answer) => {
                let found = answer.delivery_stream_description();
                match found.map(|found| found.delivery_stream_status().as_str()) {
                    None | Some("ACTIVE") => Ok(format!("the stream {stream} is there and takes us")),
                    Some(state) => {
                        let message = format!("the stream {stream} is there, and is {state}");
                        Err(Failure::new("unavailable", message).remedy("wait until it is ACTIVE"))
                    }
                }
            }
            // The gateway's role may write and nothing else: who it is was believed.
            Err(error) if classify::is_denied(&error) => Ok(format!(
                "the credentials are good; whether {stream} may be written shows with the first batch"
            )),
            Err(error) => match classify::error(&error, &self.config) {
                Delivery::Stuck(failure) | Delivery::Retry(failure) => Err(failure),
                Delivery::Confirmed => Ok(String::new()),
            },
        }
    }

    /// One request.
    async fn put(&mut self, client: &Client, members: &[Member]) -> Result<Vec<Delivery>, Delivery> {
        let records: Result<Vec<Record>, _> = members
            .iter()
            .map(|member| Record::builder().data(Blob::new(member.bytes.as_ref())).build())
            .collect();
        let records = records.map_err(|error| {
            Delivery::Stuck(Failure::new("refused", format!("the SDK does not take a record: {error}")))
        })?;
        let answer = client
            .put_record_batch()
            .delivery_stream_name(&self.config.stream)
            .set_records(Some(records))
            .send()
            .await
            .inspect_err(|error| {
                // Nothing got through: what the client was made of (CAs, the proxy's credentials) may be mended by now.
                if matches!(error, SdkError::DispatchFailure(_)) {
                    self.client = None;
                }
            })
            .map_err(|error| classify::error(&error, &self.config))?;
        let answers: Vec<Delivery> = answer.request_responses().iter().map(record_answer).collect();
        if answers.len() == members.len() {
            Ok(answers)
        } else {
            let (asked, got) = (members.len(), answers.len());
            let message = format!("Firehose answered for {got} of {asked} records");
            Err(Delivery::Retry(Failure::new("malformed_answer", message)))
        }
    }
}

impl Uplink for Firehose {
    fn kind(&self) -> &'static str {
        "firehose"
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    /// One request for all; and when one record spoils it one for each, which a service that refuses does not let wait.
    fn longest(&self) -> Duration {
        let requests = u32::try_from(LIMITS.window).unwrap_or(u32::MAX).saturating_add(1);
        SETUP_TIMEOUT + self.config.timeout.saturating_mul(requests)
    }

    async fn deliver(&mut self, members: &[Member]) -> Vec<Delivery> {
        let client = match self.client().await {
            Ok(client) => client,
            Err(failure) => return vec![Delivery::Stuck(failure); members.len()],
        };
        match self.put(&client, members).await {
            Ok(answers) => answers,
            // One record spoils the request for all: find it, so that only it stays behind.
            Err(Delivery::Stuck(failure)) if failure.cause == classify::REFUSED && members.len() > 1 => {
                let mut answers = Vec::with_capacity(members.len());
                for member in members {
                    let one = self.put(&client, std::slice::from_ref(member)).await;
                    answers.extend(one.unwrap_or_else(|answer| vec![answer]));
                }
                answers
            }
            Err(answer) => vec![answer; members.len()],
        }
    }
}

async fn connect(
    config: &config::Firehose,
    credentials: Option<SharedCredentialsProvider>,
) -> Result<Client, Failure> {
    let http = through::client(config)?;
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(config.timeout)
        .operation_timeout(config.timeout)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .retry_config(RetryConfig::standard().with_max_attempts(1))
        .timeout_config(timeouts);
    if let Some(region) = &config.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &config.endpoint_url {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(credentials) = credentials {
        loader = loader.credentials_provider(credentials);
    }
    if config.credentials.is_some() {
        // They are kept by their provider, which knows better what an outage is.
        loader = loader.identity_cache(aws_config::identity::IdentityCache::no_cache());
    }
    let shared = loader.load().await;
    if shared.region().is_none() {
        return Err(Failure::new("setup", "no AWS region is configured")
            .remedy("set [[uplink]].region, for example \"eu-west-1\""));
    }
    Ok(Client::new(&shared))
}

/// What Firehose said about one record of a request that succeeded as a whole.
fn record_answer(entry: &PutRecordBatchResponseEntry) -> Delivery {
    match (entry.error_code(), entry.record_id()) {
        (None, Some(_)) => Delivery::Confirmed,
        (code, _) => {
            let code = code.unwrap_or("no record id");
            let message =
                format!("Firehose did not take a record ({code}): {}", entry.error_message().unwrap_or("-"));
            Delivery::Retry(Failure::new("record_failed", message))
        }
    }
}
