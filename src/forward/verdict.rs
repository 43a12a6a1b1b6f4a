//! What it means that a server cannot be reached, or does not want us: try again, or somebody must act, and what they
//! can do. Pure; for every uplink with a network under it.

use rustls::{AlertDescription, CertificateError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Delivery, Failure};
use crate::net::{DialError, IdentityError};

/// Who was to be reached, and with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer<'a> {
    pub(crate) host: &'a str,
    /// Where in the configuration it stands: `[[uplink]]`, and under which key its address.
    pub(crate) section: &'static str,
    pub(crate) address_key: &'static str,
    /// The command that tells the right address; where there is one.
    pub(crate) tell: Option<&'static str>,
    /// The gateway shows a certificate of its own.
    pub(crate) has_certificate: bool,
    /// When that ends.
    pub(crate) expires: Option<OffsetDateTime>,
    /// What the system's clock says: by it TLS judges certificates.
    pub(crate) now: OffsetDateTime,
}

/// A failure, and whether somebody must act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) failure: Failure,
    pub(crate) stuck: bool,
}

impl Verdict {
    pub(crate) fn retry(cause: &'static str, message: impl Into<String>) -> Self {
        Self { failure: Failure::new(cause, message), stuck: false }
    }

    pub(crate) fn stuck(cause: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
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

/// No TCP connection came about.
pub(crate) fn dial(error: &DialError, peer: &Peer<'_>) -> Verdict {
    let message = error.to_string();
    let Peer { section, address_key, .. } = peer;
    match error {
        DialError::Credentials { .. } | DialError::CredentialsForm { .. } => Verdict::stuck(
            "proxy",
            message,
            "write one line `user:password` into proxy_credentials_file, readable by the daemon",
        ),
        DialError::Address(_) => {
            Verdict::stuck("endpoint", message, format!("correct {section}.{address_key}"))
        }
        DialError::Name { .. } => Verdict {
            failure: Failure::new("name", message)
                .remedy(format!("check {section}.{address_key}, and this gateway's network and DNS")),
            stuck: false,
        },
        DialError::Connect { .. } => Verdict {
            failure: Failure::new("connection", message)
                .remedy(format!("check {section}.{address_key}, the port, and what the firewall lets out")),
            stuck: false,
        },
        DialError::Proxy { .. } => Verdict {
            failure: Failure::new("proxy", message)
                .remedy(format!("check {section}.proxy, its credentials, and what it lets through")),
            stuck: false,
        },
    }
}

/// TLS failed, or was ended by the other side.
pub(crate) fn tls(error: &rustls::Error, peer: &Peer<'_>) -> Verdict {
    let Peer { host, section, address_key, .. } = peer;
    // To the second.
    let now = peer.now.truncate_to_second().format(&Rfc3339).unwrap_or_default();
    let year = peer.now.year();
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
            match peer.tell {
                Some(command) => format!("correct {section}.{address_key}; for AWS: `{command}`"),
                None => format!("correct {section}.{address_key}"),
            },
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => Verdict::stuck(
            "server_certificate",
            format!("the certificate of {host} is signed by a CA that is not known here"),
            format!("set {section}.ca to the CA's certificate; for AWS: Amazon Root CA 1"),
        ),
        rustls::Error::InvalidCertificate(other) => Verdict::stuck(
            "server_certificate",
            format!("the certificate of {host} is not good: {other}"),
            "whoever runs the server must give it a good certificate",
        ),
        rustls::Error::AlertReceived(alert) => self::alert(*alert, peer),
        other => Verdict::stuck(
            "tls",
            format!("no TLS with {host}: {other}"),
            format!(
                "check that {section}.{address_key} and the port lead to where they should: TLS is not spoken there"
            ),
        ),
    }
}

/// The other side ended TLS with a word; nearly always it is about our certificate.
fn alert(alert: AlertDescription, peer: &Peer<'_>) -> Verdict {
    let Peer { host, section, .. } = peer;
    if peer.has_certificate
        && let Some(expires) = peer.expires.filter(|expires| *expires <= peer.now)
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
            format!("set {section}.certificate and key; `fogbeat enroll` makes them"),
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
