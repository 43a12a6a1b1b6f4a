//! Who the gateway is towards a server, and whom it believes: certificate, key and CAs from PEM files.
//!
//! Files are read again whenever somebody asks; [`IdentityFiles::fingerprint`] tells whether they have changed. Dates
//! in certificates are read for warnings only: whether a certificate is good is judged by TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// Where Debian keeps the certificates of public CAs.
pub const PUBLIC_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path}: {cause}")]
    File { path: PathBuf, cause: String },
    #[error("certificate and key do not fit together: {0}")]
    Pair(rustls::Error),
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// The files an identity is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// `None`: [`PUBLIC_CAS`].
    pub ca: Option<PathBuf>,
    /// Certificate (with its chain) and key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// What was read from [`IdentityFiles`].
#[derive(Clone)]
pub struct Identity {
    pub tls: Arc<ClientConfig>,
    /// When the gateway's own certificate ends.
    pub expires: Option<OffsetDateTime>,
    pub fingerprint: Fingerprint,
}

/// Changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl IdentityFiles {
    fn ca(&self) -> &Path {
        self.ca.as_deref().unwrap_or(Path::new(PUBLIC_CAS))
    }

    /// What the files are at present; a file that cannot be read counts as empty. Blocking.
    pub fn fingerprint(&self) -> Fingerprint {
        let pair = self.pair.iter().flat_map(|(certificate, key)| [certificate.as_path(), key.as_path()]);
        let mut sum = Sha256::new();
        for path in std::iter::once(self.ca()).chain(pair) {
            let bytes = zeroize::Zeroizing::new(std::fs::read(path).unwrap_or_default());
            sum.update((bytes.len() as u64).to_le_bytes());
            sum.update(bytes.as_slice());
        }
        Fingerprint(sum.finalize().into())
    }

    /// Reads the files. Blocking.
    ///
    /// # Errors
    /// [`IdentityError`], with the file at fault.
    pub fn read(&self, alpn: Option<&[u8]>) -> Result<Identity, IdentityError> {
        let fingerprint = self.fingerprint();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(self.ca())? {
            // A bundle of public CAs may hold one that is too odd for us; the others do.
            let added = roots.add(certificate);
            if let (Err(error), true) = (added, self.ca.is_some()) {
                return Err(file(self.ca(), &error));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(IdentityError::Tls)?
            .with_root_certificates(roots);
        let (mut tls, expires) = match &self.pair {
            None => (builder.with_no_client_auth(), None),
            Some((certificate, key_path)) => {
                let chain = certificates(certificate)?;
                let expires = chain.first().and_then(not_after);
                let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| file(key_path, &error))?;
                (builder.with_client_auth_cert(chain, key).map_err(IdentityError::Pair)?, expires)
            }
        };
        tls.alpn_protocols = alpn.into_iter().map(<[u8]>::to_vec).collect();
        Ok(Identity { tls: Arc::new(tls), expires, fingerprint })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| file(path, &error))?.collect();
    let all = all.map_err(|error| file(path, &error))?;
    if all.is_empty() { Err(file(path, &"there is no certificate in it")) } else { Ok(all) }
}

fn file(path: &Path, cause: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::File { path: path.to_owned(), cause: cause.to_string() }
}

/// When a certificate ends; `None`: it cannot be read.
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<OffsetDateTime> {
    validity(certificate).map(|validity| validity.ends)
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub begins: OffsetDateTime,
    pub ends: OffsetDateTime,
}

/// When a certificate is valid (RFC 5280 section 4.1.2.5); `None`: it cannot be read.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let time = |reader: yasna::BERReader<'_, '_>| match reader.lookahead_tag()? {
        yasna::tags::TAG_UTCTIME => Ok(*reader.read_utctime()?.datetime()),
        _ => Ok(*reader.read_generalized_time()?.datetime()),
    };
    let parsed = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|certificate| {
            let valid = certificate.next().read_sequence(|tbs| {
                // The version has a tag of its own, and is left out in version 1.
                tbs.read_optional(|version| {
                    version.read_tagged(yasna::Tag::context(0), |version| version.read_u8())
                })?;
                for _serial_algorithm_issuer in 0..3 {
                    tbs.next().read_der()?;
                }
                let valid = tbs.next().read_sequence(|validity| {
                    let (begins, ends) = (time(validity.next())?, time(validity.next())?);
                    Ok(Validity { begins, ends })
                })?;
                while tbs.read_optional(|rest| rest.read_der())?.is_some() {}
                Ok(valid)
            })?;
            certificate.next().read_der()?;
            certificate.next().read_der()?;
            Ok(valid)
        })
    });
    parsed.ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn made(year: i32) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["gateway".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 3, 4);
        (params.self_signed(&key).unwrap(), key)
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms_of_time() {
        for year in [2049, 2050, 9999] {
            let (certificate, _) = made(year);
            let valid = Validity { begins: date_time_ymd(2020, 1, 1), ends: date_time_ymd(year, 3, 4) };
            assert_eq!(validity(certificate.der()), Some(valid), "{year}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let (certificate, _) = made(2030);
        let whole = certificate.der().to_vec();
        for length in 0..whole.len() {
            assert_eq!(not_after(&CertificateDer::from(whole[..length].to_vec())), None);
        }
    }

    #[test]
    fn a_changed_file_changes_the_fingerprint_and_a_wrong_pair_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (certificate, key) = made(2040);
        let (other, other_key) = made(2041);
        std::fs::write(path("ca.pem"), other.pem()).unwrap();
        std::fs::write(path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        let files =
            IdentityFiles { ca: Some(path("ca.pem")), pair: Some((path("cert.pem"), path("key.pem"))) };
        let identity = files.read(Some(b"x-amzn-mqtt-ca")).unwrap();
        assert_eq!(identity.fingerprint, files.fingerprint());
        assert_eq!(identity.expires, Some(date_time_ymd(2040, 3, 4)));
        assert_eq!(identity.tls.alpn_protocols, [b"x-amzn-mqtt-ca"]);
        std::fs::write(path("key.pem"), other_key.serialize_pem()).unwrap();
        assert_ne!(identity.fingerprint, files.fingerprint());
        assert!(matches!(files.read(None), Err(IdentityError::Pair(_))));
        std::fs::remove_file(path("cert.pem")).unwrap();
        let told = files.read(None).err().unwrap().to_string();
        assert!(told.contains("cert.pem"), "{told}");
    }
}
