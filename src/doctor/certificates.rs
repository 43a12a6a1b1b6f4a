//! Certificates of this gateway and of those it believes: whether they can be read, fit their keys and each other, and
//! are valid now, by a clock that may itself be wrong.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::scene::{Daemon, Scene};
use super::{Finding, configuration};
use crate::clock::{Heard, heard_now, is_before_build};
use crate::config::{Config, Trust, UplinkKind};
use crate::net::identity::{Validity, validity};

const NAME: &str = "certificate";
/// Days before the end.
const WARNING: i64 = 30;
const ERROR: i64 = 3;
const DAY: i64 = 86_400;

/// A certificate with its chain, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    /// What it is for, with the key that names it.
    what: String,
    certificate: PathBuf,
    key: PathBuf,
    server: bool,
}

pub fn findings(scene: &Scene) -> Vec<Finding> {
    if !scene.problems.is_empty() {
        return vec![configuration::needed(NAME)];
    }
    let now = Now {
        at: OffsetDateTime::now_utc(),
        right: scene.config.clock.trust == Trust::Always
            || (!is_before_build() && heard_now() == Heard::Synchronised)
            || scene.told("/clock/synced").and_then(serde_json::Value::as_bool) == Some(true),
    };
    let mut found: Vec<Finding> =
        pairs(&scene.config).iter().flat_map(|pair| look_at_pair(pair, now)).collect();
    found.extend(
        authorities(&scene.config).iter().flat_map(|(what, path)| look_at_authority(what, path, now)),
    );
    if let Some(reason) = refused_replacement(&scene.daemon) {
        found.push(Finding::warning(NAME, reason, "put a good certificate and its key there"));
    }
    found
}

/// What the running gateway says of a new certificate that it does not use.
fn refused_replacement(daemon: &Daemon) -> Option<String> {
    let uplinks = daemon.status()?.get("uplinks")?.as_array()?;
    uplinks.iter().find_map(|uplink| {
        let why = uplink.pointer("/link/certificate/new_one_refused")?.as_str()?;
        Some(format!("the new one is of no use, the gateway still uses the old one: {why}"))
    })
}

fn pairs(config: &Config) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut add = |what: &str, certificate: &Option<PathBuf>, key: &Option<PathBuf>, server| {
        if let Some((certificate, key)) = certificate.clone().zip(key.clone())
            && !pairs.iter().any(|known| known.certificate == certificate)
        {
            pairs.push(Pair { what: what.to_owned(), certificate, key, server });
        }
    };
    if let Some(tls) = config.mqtt.listener.tls.as_ref().filter(|tls| tls.is_given(&config.gateway.state_dir))
    {
        add("mqtt.listener.tls", &tls.certificate, &tls.key, true);
    }
    for uplink in &config.uplinks {
        let what = format!("uplink {}", uplink.name());
        match &uplink.kind {
            UplinkKind::IotCore(iot) => add(&what, &iot.certificate, &iot.key, false),
            UplinkKind::Mqtt(broker) => add(&what, &broker.certificate, &broker.key, false),
            UplinkKind::Firehose(_) | UplinkKind::Directory(_) => {}
        }
    }
    if let Some(credentials) = &config.aws.iot_credentials {
        add("aws.iot_credentials", &credentials.certificate, &credentials.key, false);
    }
    pairs
}

/// Files of CAs that the operator has chosen.
fn authorities(config: &Config) -> Vec<(String, PathBuf)> {
    let tls = config.mqtt.listener.tls.as_ref().and_then(|tls| tls.client_ca.clone());
    let mut files: Vec<_> =
        tls.map(|path| ("mqtt.listener.tls.client_ca".to_owned(), path)).into_iter().collect();
    for uplink in &config.uplinks {
        let ca = match &uplink.kind {
            UplinkKind::IotCore(iot) => &iot.ca,
            UplinkKind::Mqtt(broker) => &broker.ca,
            UplinkKind::Firehose(_) | UplinkKind::Directory(_) => &None,
        };
        files.extend(ca.clone().map(|path| (format!("CA of uplink {}", uplink.name()), path)));
    }
    for broker in &config.mqtt.externals {
        files.extend(broker.ca.clone().map(|path| (format!("CA of broker {}", broker.name), path)));
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
    files.dedup_by(|a, b| a.1 == b.1);
    files
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unreadable> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(|all| all.collect());
    match all {
        Ok(all) if all.is_empty() => Err(Unreadable::Other("there is no certificate in it".to_owned())),
        Ok(all) => Ok(all),
        Err(error) => Err(Unreadable::of(&error)),
    }
}

enum Unreadable {
    Denied,
    Other(String),
}

impl Unreadable {
    fn of(error: &rustls::pki_types::pem::Error) -> Self {
        match error {
            rustls::pki_types::pem::Error::Io(error)
                if error.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Self::Denied
            }
            error => Self::Other(error.to_string()),
        }
    }

    fn finding(self, what: &str, path: &Path) -> Finding {
        let path = path.display();
        match self {
            Self::Denied => Finding::skipped(NAME, format!("{what}: {path} is not for this user"))
                .next("try it with sudo"),
            Self::Other(why) => {
                let next = "put a PEM file there; `fogbeat enroll` makes certificates for AWS";
                Finding::error(NAME, format!("{what}: {path} cannot be used: {why}"), next)
            }
        }
    }
}

fn look_at_pair(pair: &Pair, now: Now) -> Vec<Finding> {
    let what = &pair.what;
    let chain = match read(&pair.certificate) {
        Ok(chain) => chain,
        Err(error) => return vec![error.finding(what, &pair.certificate)],
    };
    let mut found = Vec::new();
    match PrivateKeyDer::from_pem_file(&pair.key) {
        Err(error) => found.push(Unreadable::of(&error).finding(what, &pair.key)),
        Ok(key) => found.extend(judge_key(what, &chain, key)),
    }
    found.extend(judge_chain(pair, &chain));
    found.extend(chain.iter().enumerate().filter_map(|(place, certificate)| {
        let of = if place == 0 { what.clone() } else { format!("{what}, number {} of its chain", place + 1) };
        let finding = judge_dates(&of, validity(certificate)?, now);
        // Of those that sign, only what is wrong is worth a line.
        (place == 0 || finding.verdict > super::Verdict::Ok).then_some(finding)
    }));
    // Something is wrong with it: that it is valid for long is then no news.
    if found.iter().any(|finding| finding.verdict > super::Verdict::Ok) {
        found.retain(|finding| finding.verdict > super::Verdict::Ok);
    }
    found
}

fn look_at_authority(what: &str, path: &Path, now: Now) -> Vec<Finding> {
    match read(path) {
        Err(error) => vec![error.finding(what, path)],
        Ok(all) => {
            let judged =
                all.iter().filter_map(|certificate| Some(judge_dates(what, validity(certificate)?, now)));
            judged.filter(|finding| finding.verdict > super::Verdict::Ok).take(1).collect()
        }
    }
}

fn judge_key(what: &str, chain: &[CertificateDer<'static>], key: PrivateKeyDer<'static>) -> Option<Finding> {
    let provider = rustls::crypto::ring::default_provider();
    let error = CertifiedKey::from_der(chain.to_vec(), key, &provider).err()?;
    let next = "put the key there that the certificate was made for";
    let reason = match error {
        rustls::Error::InconsistentKeys(_) => format!("{what}: the key is another certificate's"),
        error => format!("{what}: certificate and key do not go together: {error}"),
    };
    Some(Finding::error(NAME, reason, next))
}

/// Whether each is signed by the next, and the first is made for its purpose. Dates are judged apart.
fn judge_chain(pair: &Pair, chain: &[CertificateDer<'static>]) -> Option<Finding> {
    let what = &pair.what;
    let (leaf, rest) = chain.split_first()?;
    let odd = |why: String| {
        let next =
            "the file must have the gateway's own certificate first, then those that signed it, in order";
        Some(Finding::error(NAME, format!("{what}: the chain is not whole: {why}"), next))
    };
    let anchor = match webpki::anchor_from_trusted_cert(rest.last()?) {
        Ok(anchor) => anchor,
        Err(error) => return odd(error.to_string()),
    };
    let entity = match webpki::EndEntityCert::try_from(leaf) {
        Ok(entity) => entity,
        Err(error) => return odd(error.to_string()),
    };
    // In the middle of its own time, whatever that is.
    let Validity { begins, ends } = validity(leaf)?;
    let middle = begins.unix_timestamp() / 2 + ends.unix_timestamp() / 2;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(middle).unwrap_or(0)));
    let usage = if pair.server { webpki::KeyUsage::server_auth() } else { webpki::KeyUsage::client_auth() };
    let all = webpki::ALL_VERIFICATION_ALGS;
    match entity.verify_for_usage(all, &[anchor], rest, at, usage, None, None) {
        Ok(_) | Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => None,
        Err(webpki::Error::RequiredEkuNotFoundContext(_)) => {
            let role = if pair.server { "server" } else { "client" };
            let next = format!("have it made with the extended key usage {role}Auth");
            Some(Finding::error(NAME, format!("{what}: it is not made for a {role}"), next))
        }
        Err(error) => odd(error.to_string()),
    }
}

/// What the clock says, and whether it is to be believed.
#[derive(Debug, Clone, Copy)]
struct Now {
    at: OffsetDateTime,
    right: bool,
}

fn judge_dates(what: &str, Validity { begins, ends }: Validity, now: Now) -> Finding {
    let day = |time: OffsetDateTime| time.date().to_string();
    let today = day(now.at);
    if now.at < begins {
        let from = day(begins);
        return match now.right {
            true => {
                let next = "wait, or have it made anew by a machine whose clock is right";
                Finding::error(
                    NAME,
                    format!("{what}: it is not yet valid, only from {from} on (today: {today})"),
                    next,
                )
            }
            false => {
                let reason = format!(
                    "{what}: it seems not yet valid (from {from} on), because the clock is wrong: {today}"
                );
                Finding::error(
                    NAME,
                    reason,
                    "let the clock be set: see the line about it; the certificate is well",
                )
            }
        };
    }
    let left = (ends.unix_timestamp() - now.at.unix_timestamp()).div_euclid(DAY);
    let doubt = if now.right { "" } else { "; and whether the clock is right nobody says" };
    let next = "put a new certificate and key in the place of the old ones: they are taken without a restart";
    let lasts = format!("{what}: valid until {}, {left} days left", day(ends));
    if left < 0 {
        Finding::error(NAME, format!("{what}: it expired on {} (today: {today}{doubt})", day(ends)), next)
    } else if left <= ERROR {
        Finding::error(NAME, lasts, next)
    } else if left <= WARNING {
        Finding::warning(NAME, lasts, next)
    } else {
        Finding::ok(NAME, lasts)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use time::Duration;

    use super::*;
    use crate::doctor::Verdict;

    fn dates(begins: i64, ends: i64, right: bool) -> Finding {
        let at = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let validity = Validity { begins: at + Duration::days(begins), ends: at + Duration::days(ends) };
        judge_dates("x", validity, Now { at, right })
    }

    #[test]
    fn days_left_and_clocks_that_are_wrong() {
        assert_eq!(dates(-1, 300, true).verdict, Verdict::Ok);
        assert_eq!(dates(-1, 30, true).verdict, Verdict::Warning);
        assert_eq!(dates(-1, 3, true).verdict, Verdict::Error);
        assert!(dates(-9, -1, true).reason.contains("expired"));
        let early = dates(1, 300, true);
        assert!(early.verdict == Verdict::Error && early.reason.contains("not yet valid"), "{early:?}");
        let wrong = dates(1, 300, false);
        assert!(wrong.next.unwrap().contains("clock"));
        assert!(dates(-9, -1, false).reason.contains("nobody says"));
    }

    fn ca(name: &str) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (certificate, Issuer::new(params, key))
    }

    #[test]
    fn a_chain_is_whole_and_for_its_purpose() {
        let ((first, issuer), (second, _)) = (ca("one"), ca("two"));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["gateway".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        let pair = |server| Pair { what: "x".into(), certificate: "c".into(), key: "k".into(), server };
        assert_eq!(judge_chain(&pair(true), &[leaf.clone(), first.clone()]), None);
        assert_eq!(judge_chain(&pair(true), std::slice::from_ref(&leaf)), None);
        let found = judge_chain(&pair(true), &[leaf.clone(), second]).unwrap();
        assert!(found.reason.contains("not whole"), "{found:?}");
        let found = judge_chain(&pair(false), &[leaf.clone(), first]).unwrap();
        assert!(found.reason.contains("not made for a client"), "{found:?}");

        let der = |key: &KeyPair| PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        assert_eq!(judge_key("x", std::slice::from_ref(&leaf), der(&key)), None);
        let other = KeyPair::generate().unwrap();
        let found = judge_key("x", &[leaf], der(&other)).unwrap();
        assert!(found.reason.contains("another certificate's"), "{found:?}");
    }
}
