//! TLS for the listener: rustls with ring, certificates from PEM files, optionally client certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("the TLS settings do not fit together: {0}")]
    Settings(String),
}

/// Reads the files that `settings` names.
pub(crate) fn acceptor(settings: &config::Tls) -> Result<TlsAcceptor, TlsError> {
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
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|e| file(&settings.key, &e))?;
    let config = builder
        .with_single_cert(certificates(&settings.certificate)?, key)
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

/// The first DNS name of a verified client certificate (subject alternative name).
pub(crate) fn certificate_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().next().map(str::to_owned)
}
