//! What an answer or an end means: try again, or somebody must act, and what they can do. Pure.

use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason};
use rustls::{AlertDescription, CertificateError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::relay::RelayEnd;
use super::wire::Ended;
use super::{Place, Settings};
use crate::forward::{Delivery, Failure};
use crate::net::{DialError, IdentityError};

/// What stands behind a connection, for what people are told.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    /// When the gateway's own certificate ends.
    pub(crate) expires: Option<OffsetDateTime>,
    /// What the system's clock says.
    pub(crate) now: OffsetDateTime,
}

/// A failure, and whether somebody must act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) failure: Failure,
    pub(crate) stuck: bool,
}

impl Verdict {
    fn retry(cause: &'static str, message: impl Into<String>) -> Self {
        Self { failure: Failure::new(cause, message), stuck: false }
    }

    fn stuck(cause: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { failure: Failure::new(cause, message).remedy(remedy), stuck: true }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        match self.stuck {
            true => Delivery::Stuck(self.failure.clone()),
            false => Delivery::Retry(self.failure.clone()),
        }
    }
}

/// The files of the identity cannot be used.
pub(crate) fn identity(error: &IdentityError) -> Verdict {
    let remedy = match error {
        IdentityError::File { .. } => {
            "put the file there, readable by the daemon (`fogbeat enroll` makes certificate and key)"
        }
        IdentityError::Pair(_) => "give the key that the certificate was made for",
        IdentityError::Tls(_) => "please report this",
    };
    Verdict::stuck("certificate", error.to_string(), remedy)
}

/// This machine gives no socket.
pub(crate) fn local(error: &std::io::Error) -> Verdict {
    Verdict::retry("local", format!("this machine gives no socket: {error}"))
}

/// The password cannot be read.
pub(crate) fn password(path: &std::path::Path, error: &std::io::Error) -> Verdict {
    Verdict::stuck(
        "credentials",
        format!("{}: {error}", path.display()),
        "put the password there, readable by the daemon, or correct [[uplink]].password_file",
    )
}

/// No TCP connection came about.
pub(crate) fn dial(error: &DialError, context: &Context<'_>) -> Verdict {
    let message = error.to_string();
    let Settings { address_key, .. } = context.settings;
    match error {
        DialError::Credentials { .. } | DialError::CredentialsForm { .. } => Verdict::stuck(
            "proxy",
            message,
            "write one line `user:password` into proxy_credentials_file, readable by the daemon",
        ),
        DialError::Address(_) => {
            Verdict::stuck("endpoint", message, format!("correct [[uplink]].{address_key}"))
        }
        DialError::Name { .. } => Verdict {
            failure: Failure::new("name", message)
                .remedy(format!("check [[uplink]].{address_key}, and this gateway's network and DNS")),
            stuck: false,
        },
        DialError::Connect { .. } => Verdict {
            failure: Failure::new("connection", message)
                .remedy(format!("check [[uplink]].{address_key}, the port, and what the firewall lets out")),
            stuck: false,
        },
        DialError::Proxy { .. } => Verdict {
            failure: Failure::new("proxy", message)
                .remedy("check [[uplink]].proxy, its credentials, and what it lets through"),
            stuck: false,
        },
    }
}

pub(crate) fn no_answer(context: &Context<'_>) -> Verdict {
    let Settings { host, port, timeout, .. } = context.settings;
    Verdict::retry("timeout", format!("{host}:{port} did not answer within {timeout:?}"))
}

/// The TLS handshake failed.
pub(crate) fn handshake(error: &std::io::Error, context: &Context<'_>) -> Verdict {
    match crate::net::tls_error(error) {
        Some(tls) => self::tls(tls, context),
        None => {
            let Settings { host, port, .. } = context.settings;
            Verdict::retry(
                "connection",
                format!("{host}:{port} ends the connection in the TLS handshake: {error}"),
            )
        }
    }
}

fn tls(error: &rustls::Error, context: &Context<'_>) -> Verdict {
    let Settings { host, address_key, .. } = context.settings;
    let now = context.now.format(&Rfc3339).unwrap_or_default();
    let year = context.now.year();
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => Verdict::stuck(
            "clock",
            format!("the certificate of {host} is not yet valid: this gateway believes it is {year} ({now})"),
            "let the clock be set: check that NTP (systemd-timesyncd, chrony) reaches its servers",
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Verdict::stuck(
            "server_certificate",
            format!("the certificate of {host} has expired: this gateway believes it is {year} ({now})"),
            "if that is right, whoever runs the server must renew its certificate; else set the clock",
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Verdict::stuck(
            "endpoint",
            format!("the server at {host} is somebody else: its certificate is for another name"),
            format!(
                "correct [[uplink]].{address_key}; for AWS: `aws iot describe-endpoint --endpoint-type iot:Data-ATS`"
            ),
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => Verdict::stuck(
            "server_certificate",
            format!("the certificate of {host} is signed by a CA that is not known here"),
            "set [[uplink]].ca to the CA's certificate; for AWS: Amazon Root CA 1",
        ),
        rustls::Error::InvalidCertificate(other) => Verdict::stuck(
            "server_certificate",
            format!("the certificate of {host} is not good: {other}"),
            "whoever runs the server must give it a good certificate",
        ),
        rustls::Error::AlertReceived(alert) => self::alert(*alert, context),
        other => Verdict::stuck(
            "tls",
            format!("no TLS with {host}: {other}"),
            format!("check that [[uplink]].{address_key} and the port lead to an MQTT broker with TLS"),
        ),
    }
}

/// The other side ended TLS with a word; nearly always it is about our certificate.
fn alert(alert: AlertDescription, context: &Context<'_>) -> Verdict {
    let host = &context.settings.host;
    if context.settings.has_certificate()
        && let Some(expires) = context.expires.filter(|expires| *expires <= context.now)
    {
        let expired = expires.format(&Rfc3339).unwrap_or_default();
        return Verdict::stuck(
            "certificate",
            format!("{host} refuses the gateway's certificate: it expired at {expired} ({alert:?})"),
            "put a new certificate and key in the place of the old ones; they are taken without a restart",
        );
    }
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => Verdict::stuck(
            "certificate",
            format!("{host} asks for a certificate of this gateway"),
            "set [[uplink]].certificate and key; `fogbeat enroll` makes them",
        ),
        AlertDescription::CertificateExpired => Verdict::stuck(
            "certificate",
            format!("{host} says that the gateway's certificate has expired"),
            "put a new certificate and key in the place of the old ones; they are taken without a restart",
        ),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError
        | AlertDescription::HandshakeFailure => Verdict::stuck(
            "certificate",
            format!("{host} refuses the gateway's certificate ({alert:?})"),
            "check that the certificate is registered and active there, and signed by a CA that is known there",
        ),
        other => Verdict::retry("tls", format!("{host} ended TLS: {other:?}")),
    }
}

/// A connection that was there has ended. `unanswered`: something had been published on it and nothing was ever
/// acknowledged, for so many connections in a row.
pub(crate) fn ended(ended: &Ended, relay: &RelayEnd, unanswered: u32, context: &Context<'_>) -> Verdict {
    let host = &context.settings.host;
    match ended {
        Ended::Refused(code) => return refused(*code, context),
        Ended::ByServer { reason, text } => return by_server(*reason, text.as_deref(), context),
        Ended::Silent => return Verdict::retry("timeout", format!("{host} no longer answers")),
        Ended::TooLarge { largest } => return too_large(*largest, context),
        Ended::Broken(_) => {}
    }
    match relay {
        RelayEnd::Failed(error) => match crate::net::tls_error(error) {
            Some(tls) => self::tls(tls, context),
            None => Verdict::retry("connection", format!("the connection to {host} is lost: {error}")),
        },
        RelayEnd::Closed | RelayEnd::Ours if unanswered >= PATIENCE => silent_refusal(context),
        RelayEnd::Closed => Verdict::retry("connection", format!("{host} closed the connection")),
        RelayEnd::Ours => {
            let why = match ended {
                Ended::Broken(why) => why.as_str(),
                _ => "no reason known",
            };
            Verdict::retry("connection", format!("the connection to {host} ended: {why}"))
        }
    }
}

/// So many connections in a row that end after a publish, with no acknowledgement on any, are no accident.
const PATIENCE: u32 = 3;

fn silent_refusal(context: &Context<'_>) -> Verdict {
    let Settings { host, .. } = context.settings;
    Verdict::stuck(
        "not_authorized",
        format!("{host} closes the connection, without a word, each time a batch is published"),
        policy(context, "connecting and publishing"),
    )
}

fn refused(code: ConnectReturnCode, context: &Context<'_>) -> Verdict {
    use ConnectReturnCode as Code;
    let Settings { host, client_id, .. } = context.settings;
    let message = format!("{host} refuses the connection of \"{client_id}\" ({code:?})");
    match code {
        Code::BadUserNamePassword | Code::BadAuthenticationMethod => {
            Verdict::stuck("credentials", message, "check [[uplink]].username and password_file")
        }
        Code::NotAuthorized | Code::Banned => {
            Verdict::stuck("not_authorized", message, policy(context, "connecting"))
        }
        Code::ClientIdentifierNotValid | Code::BadClientId => Verdict::stuck(
            "client_id",
            message,
            format!("choose another [[uplink]].{}", context.settings.id_key),
        ),
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => {
            Verdict::stuck("version", message, "set [[uplink]].version = \"3.1.1\"")
        }
        Code::UseAnotherServer | Code::ServerMoved => Verdict::stuck(
            "endpoint",
            message,
            format!("correct [[uplink]].{}", context.settings.address_key),
        ),
        Code::QuotaExceeded | Code::ConnectionRateExceeded | Code::ServerBusy => {
            Verdict::retry("quota", message)
        }
        _ => Verdict::retry("refused_connection", message),
    }
}

fn by_server(reason: DisconnectReasonCode, text: Option<&str>, context: &Context<'_>) -> Verdict {
    use DisconnectReasonCode as Reason;
    let Settings { host, client_id, topic, .. } = context.settings;
    let told = text.map(|text| format!(": {text}")).unwrap_or_default();
    let message = format!("{host} ended the connection ({reason:?}{told})");
    match reason {
        Reason::SessionTakenOver => Verdict::stuck(
            "taken_over",
            format!("somebody else has connected to {host} as \"{client_id}\""),
            format!(
                "give each gateway (and each uplink to one broker) its own [[uplink]].{}",
                context.settings.id_key
            ),
        ),
        Reason::NotAuthorized => Verdict::stuck("not_authorized", message, policy(context, "publishing")),
        Reason::PacketTooLarge => too_large(0, context),
        Reason::TopicNameInvalid | Reason::TopicFilterInvalid => {
            Verdict::stuck("topic", message, format!("correct the topic \"{topic}\""))
        }
        Reason::MessageRateTooHigh
        | Reason::QuotaExceeded
        | Reason::ConnectionRateExceeded
        | Reason::ReceiveMaximumExceeded
        | Reason::ServerBusy => Verdict::retry("quota", message),
        _ => Verdict::retry("connection", message),
    }
}

fn too_large(largest: u32, context: &Context<'_>) -> Verdict {
    let host = &context.settings.host;
    let message = match largest {
        0 => format!("a batch is too large for {host}"),
        largest => format!("a batch is too large for {host}, which takes packets of {largest} bytes"),
    };
    let remedy = match context.settings.place {
        Place::IotCore { .. } => "lower [batch].max_bytes",
        Place::Broker => "lower [[uplink]].max_member",
    };
    Verdict::stuck("too_large", message, remedy)
}

pub(crate) fn larger_than(largest: usize, context: &Context<'_>) -> Verdict {
    too_large(u32::try_from(largest).unwrap_or(u32::MAX), context)
}

/// PUBACK said no.
pub(crate) fn publish(reason: PubAckReason, text: Option<&str>, context: &Context<'_>) -> Verdict {
    let Settings { host, topic, .. } = context.settings;
    let told = text.map(|text| format!(": {text}")).unwrap_or_default();
    let message = format!("{host} does not take a batch on \"{topic}\" ({reason:?}{told})");
    match reason {
        PubAckReason::NotAuthorized => {
            Verdict::stuck("not_authorized", message, policy(context, "publishing"))
        }
        PubAckReason::TopicNameInvalid => {
            Verdict::stuck("topic", message, "correct the topic, or the rule that stands in it")
        }
        PubAckReason::PayloadFormatInvalid => {
            Verdict::stuck("refused", message, "please report this with the message")
        }
        PubAckReason::QuotaExceeded => Verdict::retry("quota", message),
        _ => Verdict::retry("refused", message),
    }
}

pub(crate) fn unheard(context: &Context<'_>) -> Verdict {
    let Settings { host, topic, .. } = context.settings;
    Verdict::stuck(
        "unheard",
        format!("{host} took a batch, but nobody is subscribed to \"{topic}\": it would be lost"),
        format!(
            "let somebody subscribe to it with QoS 1 and a session that is kept, or correct the topic \"{topic}\""
        ),
    )
}

pub(crate) fn stalled(context: &Context<'_>) -> Verdict {
    let Settings { host, timeout, .. } = context.settings;
    Verdict::retry("timeout", format!("{host} has acknowledged nothing for {timeout:?}"))
}

/// The line that is missing over there.
fn policy(context: &Context<'_>, doing: &str) -> String {
    let Settings { client_id, topic, place, .. } = context.settings;
    match place {
        Place::IotCore { region } => {
            let region = region.as_deref().unwrap_or("*");
            let connect = format!("iot:Connect on arn:aws:iot:{region}:*:client/{client_id}");
            let publish = format!("iot:Publish on arn:aws:iot:{region}:*:topic/{topic}");
            match doing {
                "connecting" => {
                    format!("allow in the certificate's IoT policy: {connect}; and see that it is attached")
                }
                "publishing" => format!("allow in the certificate's IoT policy: {publish}"),
                _ => format!(
                    "allow in the certificate's IoT policy: {connect}, and {publish}; version = \"5\" tells which"
                ),
            }
        }
        Place::Broker => match doing {
            "connecting" => format!("let \"{client_id}\" connect in the broker's access rules"),
            _ => format!("let \"{client_id}\" publish to \"{topic}\" in the broker's access rules"),
        },
    }
}
