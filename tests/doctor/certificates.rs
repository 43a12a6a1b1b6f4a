//! Certificates and keys, good and bad.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fogbeat::doctor::Verdict;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use crate::pki::{Pair, Pki};
use crate::support::daemon::free_port;
use crate::{Examined, Patient};

fn private(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn examined(patient: &mut Patient, pair: &Pair) -> Examined {
    private(&pair.key);
    patient.setup.extra = format!(
        "[mqtt.listener.tls]\nbind = \"{}\"\ncertificate = {:?}\nkey = {:?}\n",
        free_port(),
        pair.certificate,
        pair.key
    );
    patient.examine()
}

#[test]
fn keys_chains_and_dates() {
    let mut patient = Patient::new("certificates");
    let pki = Pki::new(&patient.dir.path().join("pki"), "ca");
    let good = pki.issue("good", "hub", &["hub"], 2099);
    let seen = examined(&mut patient, &good);
    seen.exit(0).expect("certificate", Verdict::Ok, "valid until 2099-12-31");

    let other = pki.issue("other", "hub", &["hub"], 2099);
    let mismatched = Pair { certificate: good.certificate.clone(), key: other.key.clone() };
    examined(&mut patient, &mismatched).exit(69).expect(
        "certificate",
        Verdict::Error,
        "another certificate's",
    );

    let expired = pki.issue("expired", "hub", &["hub"], 2021);
    examined(&mut patient, &expired).exit(69).expect("certificate", Verdict::Error, "expired on 2021-12-31");

    // Signed by another one than the chain says.
    let stranger = Pki::new(&patient.dir.path().join("pki"), "stranger");
    let broken = pki.issue("broken", "hub", &["hub"], 2099);
    let chain =
        [&broken.certificate, &stranger.ca].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    std::fs::write(&broken.certificate, chain).unwrap();
    examined(&mut patient, &broken).exit(69).expect("certificate", Verdict::Error, "chain is not whole");

    let gone = Pair { certificate: patient.dir.path().join("none.pem"), key: good.key.clone() };
    examined(&mut patient, &gone).exit(69).expect("certificate", Verdict::Error, "none.pem");

    std::fs::set_permissions(&good.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    patient.setup.extra = patient.setup.extra.replace("none.pem", "pki/good.pem");
    patient.examine().exit(1).expect("user", Verdict::Warning, "everybody on this machine may read");
}

#[test]
fn a_certificate_that_begins_later_and_a_clock_that_is_wrong() {
    let mut patient = Patient::new("early");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["hub".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2090, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let path = |name: &str| patient.dir.path().join(name);
    let pair = Pair { certificate: path("early.pem"), key: path("early.key") };
    std::fs::write(&pair.certificate, certificate.pem()).unwrap();
    std::fs::write(&pair.key, key.serialize_pem()).unwrap();
    let seen = examined(&mut patient, &pair);
    seen.exit(69).expect("certificate", Verdict::Error, "not yet valid, only from 2090-01-01");
    patient.program("timedatectl", "echo no");
    let seen = patient.examine();
    seen.expect("certificate", Verdict::Error, "because the clock is wrong").expect(
        "clock",
        Verdict::Warning,
        "",
    );
}
