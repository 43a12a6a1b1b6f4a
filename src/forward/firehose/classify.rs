//! What an error of a request means: try again, or somebody must act.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_firehose::error::{ProvideErrorMetadata, SdkError};
use time::OffsetDateTime;

use super::iot_credentials;
use crate::config;
use crate::forward::verdict::{self, Peer, Verdict};
use crate::forward::{Delivery, Failure};
use crate::net::{DialError, chain, tls_error};

/// Cause of a record (or the whole request) that Firehose will not take as it is.
pub(super) const REFUSED: &str = "refused";

pub(super) fn error<E>(error: &SdkError<E>, config: &config::Firehose) -> Delivery
where
    E: Error + ProvideErrorMetadata + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            service(status, answer.err().code(), answer.err().message(), config)
        }
        SdkError::TimeoutError(_) => {
            let message = format!("Firehose did not answer within {:?}", config.timeout);
            Delivery::Retry(Failure::new("timeout", message))
        }
        other if let Some(error) = of_certificate(other) => certificate(error, config),
        other if is_credentials(other) => Delivery::Stuck(
            Failure::new("credentials", format!("no AWS credentials: {}", chain(other))).remedy(
                "give the daemon AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or an instance role",
            ),
        ),
        other if let Some(verdict) = network(other, &endpoint(config)) => verdict.delivery(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            Delivery::Retry(Failure::new("timeout", format!("no connection: {}", chain(error))))
        }
        SdkError::DispatchFailure(_) => {
            Delivery::Retry(Failure::new("connection", format!("no connection: {}", chain(error))))
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            let message = format!("the answer (HTTP {status}) cannot be read: {}", chain(error));
            Delivery::Retry(Failure::new("malformed_answer", message))
        }
        _ => Delivery::Stuck(
            Failure::new("setup", format!("the request cannot be made: {}", chain(error)))
                .remedy("check region, endpoint_url and stream of the [[uplink]]"),
        ),
    }
}

/// The gateway's certificate gave no credentials.
fn certificate(error: &iot_credentials::Error, config: &config::Firehose) -> Delivery {
    let (alias, thing) = config.credentials.as_ref().map_or(("", "the thing"), |credentials| {
        (credentials.role_alias.as_str(), credentials.thing.as_deref().unwrap_or("the gateway's id"))
    });
    let failure = |remedy: String| Failure::new("credentials", error.to_string()).remedy(remedy);
    let expires = match error {
        iot_credentials::Error::Unreachable { expires, .. } => *expires,
        _ => None,
    };
    if let Some(verdict) = network(error, &provider(config, expires)) {
        return verdict.delivery();
    }
    match error {
        iot_credentials::Error::Refused { .. } => Delivery::Stuck(failure(format!(
            "allow iot:AssumeRoleWithCertificate on the role alias {alias} in the certificate's IoT policy, and attach \
             the certificate to {thing}"
        ))),
        iot_credentials::Error::Identity(_) | iot_credentials::Error::Answer(_) => {
            Delivery::Stuck(failure("check [aws.iot_credentials]".to_owned()))
        }
        iot_credentials::Error::Unreachable { .. } => Delivery::Retry(failure(
            "check [aws.iot_credentials].endpoint, and this gateway's network and clock".to_owned(),
        )),
    }
}

/// The service knows who asks, and does not allow it.
pub(super) fn is_denied<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let code = match error {
        SdkError::ServiceError(answer) => answer.err().code(),
        _ => None,
    };
    matches!(code, Some("AccessDeniedException" | "AccessDenied" | "NotAuthorized"))
}

/// What stands in the way to a server, where that is in `error`.
fn network(error: &(dyn Error + 'static), peer: &Peer<'_>) -> Option<Verdict> {
    if let Some(tls) = tls_error(error) {
        return Some(verdict::tls(tls, peer));
    }
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<DialError>() {
            return Some(verdict::dial(found, peer));
        }
        cause = error.source();
    }
    None
}

/// Firehose, as the one to be reached.
fn endpoint(config: &config::Firehose) -> Peer<'_> {
    let url = config.endpoint_url.as_deref();
    Peer {
        host: url.map_or("Firehose", host),
        section: "[[uplink]]",
        address_key: if url.is_some() { "endpoint_url" } else { "region" },
        tell: None,
        has_certificate: false,
        expires: None,
        now: OffsetDateTime::now_utc(),
    }
}

/// The AWS IoT credential provider, as the one to be reached.
fn provider(config: &config::Firehose, expires: Option<OffsetDateTime>) -> Peer<'_> {
    Peer {
        host: config.credentials.as_ref().map_or("", |credentials| host(&credentials.endpoint)),
        section: "[aws.iot_credentials]",
        address_key: "endpoint",
        tell: Some("aws iot describe-endpoint --endpoint-type iot:CredentialProvider"),
        has_certificate: true,
        expires,
        now: OffsetDateTime::now_utc(),
    }
}

/// The host of an address, without scheme and path.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn of_certificate<E: Error + 'static>(error: &SdkError<E>) -> Option<&iot_credentials::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<iot_credentials::Error>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// By the error code; what is not known is judged by its HTTP status, and tried again in doubt.
fn service(status: u16, code: Option<&str>, message: Option<&str>, config: &config::Firehose) -> Delivery {
    let code = code.unwrap_or("unknown error");
    let text = format!("Firehose answered {code} (HTTP {status}): {}", message.unwrap_or("-"));
    let stream = &config.stream;
    let region = config.region.as_deref().unwrap_or("the default region");
    let stuck = |cause, remedy: String| Delivery::Stuck(Failure::new(cause, text.clone()).remedy(remedy));
    match code {
        "ResourceNotFoundException" => stuck(
            "unknown_stream",
            format!("create the stream {stream} in {region}, or correct [[uplink]].stream"),
        ),
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" => {
            let region = config.region.as_deref().unwrap_or("*");
            stuck(
                "access_denied",
                format!(
                    "allow the action firehose:PutRecordBatch on arn:aws:firehose:{region}:*:deliverystream/{stream}"
                ),
            )
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "OptInRequired" => {
            stuck("credentials", "check the AWS keys, and that the clock of this machine is right".to_owned())
        }
        "InvalidKMSResourceException" | "KMSAccessDeniedException" | "KMSDisabledException" => {
            stuck("kms", format!("check the KMS key of the stream {stream} and the right to use it"))
        }
        "InvalidSourceException" => {
            stuck("wrong_source", format!("the stream {stream} must have Direct PUT as its source"))
        }
        "InvalidArgumentException" | "ValidationException" | "ValidationError" | "SerializationException" => {
            stuck(
                REFUSED,
                "Firehose will not take this batch as it is: please report this with the message".to_owned(),
            )
        }
        "ThrottlingException"
        | "Throttling"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException" => Delivery::Retry(Failure::new("throttled", text)),
        "ServiceUnavailableException" | "ServiceUnavailable" => {
            // Firehose says so when a stream's throughput is used up, too.
            Delivery::Retry(Failure::new("unavailable", text))
        }
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => {
            Delivery::Retry(Failure::new("expired_token", text))
        }
        _ if status == 413 => stuck(REFUSED, "lower [batch].max_bytes".to_owned()),
        _ if status == 403 => stuck("access_denied", format!("check the rights on the stream {stream}")),
        _ if status == 429 => Delivery::Retry(Failure::new("throttled", text)),
        _ => Delivery::Retry(Failure::new("server_error", text)),
    }
}

/// The credentials chain has nothing to give; the SDK hides that below a failed dispatch.
fn is_credentials<E: Error + 'static>(error: &SdkError<E>) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<CredentialsError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
