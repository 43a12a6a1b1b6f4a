//! Certificates for one test: a CA, a server, gateways good and bad.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub ca: PathBuf,
}

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    pub fn new(dir: &Path, name: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let ca = dir.join(format!("{name}.pem"));
        std::fs::write(&ca, certificate.pem()).unwrap();
        Self { dir: dir.to_owned(), issuer: Issuer::new(params, key), ca }
    }

    /// Valid from 2020 to the end of `year`; `names` for a server, none for a client.
    pub fn issue(&self, file: &str, common: &str, names: &[&str], year: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let purpose = match names.is_empty() {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        };
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages = vec![purpose];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            certificate: self.dir.join(format!("{file}.pem")),
            key: self.dir.join(format!("{file}.key")),
        };
        std::fs::write(&pair.certificate, certificate.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// Signs what a gateway asks for.
    pub fn sign(&self, request: &str) -> String {
        let request = rcgen::CertificateSigningRequestParams::from_pem(request).unwrap();
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

impl Pair {
    /// Puts this pair in the place of another one, key first, as an operator would.
    pub fn replace(&self, other: &Self) {
        std::fs::copy(&self.key, &other.key).unwrap();
        std::fs::copy(&self.certificate, &other.certificate).unwrap();
    }
}
