//! TLS for the listener: rustls with ring, certificates from PEM files, optionally client certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config;
use crate::site::AuthorityError;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("the TLS settings do not fit together: {0}")]
    Settings(String),
    #[error(transparent)]
    Own(#[from] AuthorityError),
}

/// Reads the files that `settings` names. Blocking.
pub(crate) fn acceptor(settings: &config::Tls, state_dir: &Path) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Settings(e.to_string()))?;
    let builder = match &settings.client_ca {
        None if settings.require_client_certificate => {
            return Err(TlsError::Settings("require_client_certificate needs client_ca".to_owned()));
        }
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider);
            let verifier =
                if settings.require_client_certificate { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|e| TlsError::Settings(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (certificate, key_path) = settings.pair(state_dir);
    let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|e| file(&key_path, &e))?;
    let config = builder
        .with_single_cert(certificates(&certificate)?, key)
        .map_err(|e| TlsError::Settings(e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// TLS towards a server whose certificate one of the CAs in `ca` has signed.
pub(crate) fn client(ca: &Path) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Settings(e.to_string()))?;
    Ok(builder.with_root_certificates(roots(ca)?).with_no_client_auth())
}

/// The CA certificates of a PEM file.
fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| file(path, &e))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| file(path, &e))?.collect();
    let all = all.map_err(|e| file(path, &e))?;
    if all.is_empty() { Err(file(path, &"there is no certificate in it")) } else { Ok(all) }
}

fn file(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { path: path.to_owned(), reason: reason.to_string() }
}

/// The name in a verified client certificate: the first DNS name (subject alternative name), else the common name.
pub(crate) fn certificate_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let dns = certificate.valid_dns_names().next().map(str::to_owned);
    dns.or_else(|| common_name(certificate.subject()))
}

/// The common name in a DER-encoded subject (X.501 `RDNSequence`, without its own tag and length).
fn common_name(mut subject: &[u8]) -> Option<String> {
    const OID: &[u8] = &[0x55, 0x04, 0x03];
    while !subject.is_empty() {
        let (set, rest) = element(subject, 0x31)?;
        subject = rest;
        let (attribute, _) = element(set, 0x30)?;
        let (oid, value) = element(attribute, 0x06)?;
        if oid == OID {
            // UTF8String, PrintableString or IA5String.
            let (text, _) = [0x0C, 0x13, 0x16].iter().find_map(|tag| element(value, *tag))?;
            return std::str::from_utf8(text).ok().map(str::to_owned);
        }
    }
    None
}

/// Contents of the DER element at the start, and what follows it. Lengths below 256 only: names are short.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match head {
        [t, length @ 0..=0x7F] if *t == tag => (*length, rest),
        [t, 0x81] if *t == tag => rest.split_first().map(|(length, rest)| (*length, rest))?,
        _ => return None,
    };
    rest.split_at_checked(usize::from(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn named(dns: &[&str], common: &str) -> CertificateDer<'static> {
        let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "a gym");
        params.distinguished_name.push(DnType::CommonName, common);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_its_device() {
        assert_eq!(certificate_name(&named(&["strap-1"], "other")).as_deref(), Some("strap-1"));
        assert_eq!(certificate_name(&named(&[], "strap-2")).as_deref(), Some("strap-2"));
        let long = "x".repeat(140);
        assert_eq!(certificate_name(&named(&[], &long)).as_deref(), Some(long.as_str()));
    }

    #[test]
    fn subjects_that_are_none() {
        for bad in [&b"\x31"[..], b"\x31\x05", b"\x31\x02\x30\x00", b"\x00\x00", b"\x31\x81"] {
            assert_eq!(common_name(bad), None);
        }
    }
}
