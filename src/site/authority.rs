//! The site's CA and the certificate of the listener.
//!
//! On disk, below `<state_dir>/tls` (mode 0700), every file 0600, replaced whole:
//! - `ca.key`: the CA's private key (PKCS #8, P-256). Its certificate's subject follows from it, so that the key alone is
//!   enough to sign;
//! - `ca.pem`: the CA's certificate, for the devices;
//! - `server.pem`: the listener's private key and certificate in one file, so that no power cut leaves a pair that does
//!   not fit.
//!
//! A gateway may be set up while its clock stands at 1970, and so may a device be: certificates are good from 1970 on, and
//! end by a clock that is never before fogbeat's own build ([`crate::clock`]). One that was made under a wrong clock is
//! replaced when the clock is right, if it ends too soon.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use super::Names;
use crate::config::own_certificate;
use crate::files;
use crate::net::not_after;

/// How long a server certificate is good. Some clients take none that is good for longer than 825 days.
const GOOD: Duration = Duration::days(825);
/// It is renewed when only a third of that is left: a gateway may lie in a drawer for months.
const RENEWED: Duration = Duration::days(275);

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub ca_key: PathBuf,
    pub ca: PathBuf,
    /// Key and certificate.
    pub server: PathBuf,
    state_dir: PathBuf,
}

impl Files {
    pub fn below(state_dir: &Path) -> Self {
        let tls = state_dir.join("tls");
        Self {
            ca_key: tls.join("ca.key"),
            ca: tls.join("ca.pem"),
            server: own_certificate(state_dir),
            state_dir: state_dir.to_owned(),
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is damaged ({cause}); restore it from a backup, or remove it: {then}")]
    Damaged { path: PathBuf, cause: String, then: &'static str },
    #[error(
        "the site's CA has no key here ({0} is missing): a certificate cannot be signed; restore it from a backup, or \
         remove ca.pem as well: then there is a new CA, which every device has to be told of"
    )]
    NoKey(PathBuf),
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Why the server certificate has to be made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// There is none, or it cannot be used.
    Missing,
    /// It ends too soon.
    Ends(OffsetDateTime),
    /// The gateway has a name or an address that is not in it.
    Name(String),
}

impl std::fmt::Display for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("there was none"),
            Self::Ends(end) => write!(f, "the one before ends on {}", end.date()),
            Self::Name(name) => write!(f, "the one before is not for {name}"),
        }
    }
}

/// What people are shown of CA and certificate.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// SHA-256 of the CA's certificate, as `openssl x509 -fingerprint -sha256` prints it.
    pub ca_sha256: String,
    pub ca_file: PathBuf,
    /// The same of the listener's.
    pub server_sha256: String,
    pub server_file: PathBuf,
    /// When that one ends, RFC 3339.
    pub server_ends: String,
    pub names: Vec<String>,
}

impl Summary {
    /// Reads the files; `names` are those to be looked for in the certificate. Blocking.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn read(files: &Files, names: &Names) -> Result<Self, AuthorityError> {
        let ca = certificate(&files.ca)?;
        let server = certificate(&files.server)?;
        let ends = not_after(&server)
            .and_then(|end| end.format(&time::format_description::well_known::Rfc3339).ok());
        Ok(Self {
            ca_sha256: fingerprint(&ca),
            ca_file: files.ca.clone(),
            server_sha256: fingerprint(&server),
            server_file: files.server.clone(),
            server_ends: ends.unwrap_or_default(),
            names: names.iter().filter(|name| is_for(&server, name)).collect(),
        })
    }
}

/// Why the server certificate has to be made anew now, if it has to. Blocking.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn due(files: &Files, names: &Names, now: OffsetDateTime) -> Result<Option<Due>, AuthorityError> {
    let text = match std::fs::read(&files.server) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Due::Missing)),
        Err(source) => return Err(AuthorityError::File { path: files.server.clone(), source }),
    };
    if !files.ca.exists() {
        return Ok(Some(Due::Missing));
    }
    let Some((certificate, end)) = usable(&text) else { return Ok(Some(Due::Missing)) };
    if end - now < RENEWED {
        return Ok(Some(Due::Ends(end)));
    }
    Ok(names.iter().find(|name| !is_for(&certificate, name)).map(Due::Name))
}

/// Certificate and its end, if key and certificate are there and fit.
fn usable(text: &[u8]) -> Option<(CertificateDer<'static>, OffsetDateTime)> {
    let certificate = CertificateDer::from_pem_slice(text).ok()?;
    let key = PrivateKeyDer::from_pem_slice(text).ok()?;
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(vec![certificate.clone()], key, &provider).ok()?;
    let end = not_after(&certificate)?;
    Some((certificate, end))
}

/// Makes what is missing or due, the CA too; tells why, if something was made. Blocking.
///
/// # Errors
/// [`AuthorityError`]; what was there before is still there.
pub fn ensure(files: &Files, names: &Names, now: OffsetDateTime) -> Result<Option<Due>, AuthorityError> {
    let due = due(files, names, now)?;
    if due.is_some() {
        renew(files, names, now)?;
    }
    Ok(due)
}

/// Makes a new server certificate whether it is due or not, and the CA if there is none. Blocking.
///
/// # Errors
/// [`AuthorityError`]; what was there before is still there.
pub fn renew(files: &Files, names: &Names, now: OffsetDateTime) -> Result<(), AuthorityError> {
    let issuer = authority(files)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.dns.clone())?;
    params.subject_alt_names.extend(names.addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.distinguished_name.push(DnType::CommonName, "fogbeat");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = epoch();
    params.not_after = now.checked_add(GOOD).map_or(ca_end(), |end| end.min(ca_end()));
    let made = params.signed_by(&key, &issuer)?;
    let text = zeroize::Zeroizing::new(format!("{}{}", key.serialize_pem(), made.pem()));
    write(&files.server, text.as_bytes())
}

/// The CA, made if there is none.
fn authority(files: &Files) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
    let path = &files.ca_key;
    let (key, text) = match std::fs::read_to_string(path).map(zeroize::Zeroizing::new) {
        Ok(text) => {
            let damaged = |error: rcgen::Error| AuthorityError::Damaged {
                path: path.clone(),
                cause: error.to_string(),
                then: "with ca.pem removed too there is a new CA, which every device has to be told of",
            };
            (KeyPair::from_pem(&text).map_err(damaged)?, None)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && files.ca.exists() => {
            return Err(AuthorityError::NoKey(path.clone()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            let text = zeroize::Zeroizing::new(key.serialize_pem());
            (key, Some(text))
        }
        Err(source) => return Err(AuthorityError::File { path: path.clone(), source }),
    };
    let mut params = CertificateParams::default();
    let name = hex::encode(Sha256::digest(key.public_key_raw()).get(..4).unwrap_or_default());
    params.distinguished_name.push(DnType::CommonName, format!("fogbeat site CA {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = epoch();
    params.not_after = ca_end();
    directory(files)?;
    if let Some(text) = text {
        write(path, text.as_bytes())?;
    }
    if !files.ca.exists() {
        write(&files.ca, params.self_signed(&key)?.pem().as_bytes())?;
    }
    Ok(Issuer::new(params, key))
}

/// Only the gateway's user may look into the directory; it belongs to whom the state directory belongs.
fn directory(files: &Files) -> Result<(), AuthorityError> {
    let Some(path) = files.ca_key.parent().filter(|path| !path.is_dir()) else { return Ok(()) };
    let failed = |source| AuthorityError::File { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let owner = std::fs::metadata(&files.state_dir).map_err(failed)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
    }
    Ok(())
}

/// Good for clocks that were never set.
fn epoch() -> OffsetDateTime {
    date_time_ymd(1970, 1, 1)
}

/// As far as dates go that every device reads (RFC 5280 section 4.1.2.5: beyond, they are written in another form); the
/// end of AWS IoT's certificates as well.
fn ca_end() -> OffsetDateTime {
    date_time_ymd(2049, 12, 31)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), AuthorityError> {
    files::replace(path, bytes).map_err(|source| AuthorityError::File { path: path.to_owned(), source })
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>, AuthorityError> {
    let text =
        std::fs::read(path).map_err(|source| AuthorityError::File { path: path.to_owned(), source })?;
    CertificateDer::from_pem_slice(&text).map_err(|error| AuthorityError::Damaged {
        path: path.to_owned(),
        cause: error.to_string(),
        then: "`fogbeat certificate renew` makes it anew",
    })
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let bytes: Vec<String> = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// Whether a client that asks for `name` takes the certificate.
fn is_for(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let (Ok(name), Ok(certificate)) =
        (ServerName::try_from(name), webpki::EndEntityCert::try_from(certificate))
    else {
        return false;
    };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
