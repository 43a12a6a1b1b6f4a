//! The listener's certificate: of the site's own, renewed and replaced while the gateway runs.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::{Machine, within};

/// The certificate that a client gets who trusts `ca` and asks for `localhost`; with the connection.
fn greeted(address: SocketAddr, ca: &Path) -> Option<(CertificateDer<'static>, ClientConnection, TcpStream)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let mut tls =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut tcp = TcpStream::connect(address).ok()?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).ok()?;
    }
    let certificate = tls.peer_certificates()?.first()?.clone().into_owned();
    Some((certificate, tls, tcp))
}

#[test]
fn a_renewed_certificate_is_taken_without_a_restart_and_connections_go_on() {
    let machine = Machine::new();
    machine.init(&[]);
    let ca = machine.path("site-ca.pem");
    let running = machine.start();
    let (first, ..) = greeted(machine.tls, &ca).unwrap();
    let secret = machine.add_device("strap-1");
    within(|| machine.publish(&ca, "strap-1", &secret, 60).then_some(()), &machine.log());
    // Connected before, and still there after: it takes 12 s, and the renewal is in the middle.
    let port = machine.tls.port().to_string();
    let steady = std::process::Command::new("sh")
        .args(["-c", "for n in 1 2 3 4 5 6; do echo '{\"bpm\":'$((60 + n))'}'; sleep 2; done | mosquitto_pub -h localhost \
               -p \"$1\" --cafile \"$2\" -q 1 -u strap-1 -P \"$3\" -t hr/strap-1 -l", "sh", &port])
        .arg(&ca)
        .arg(&secret)
        .spawn()
        .unwrap();
    machine.await_delivered(61);
    let (code, out, err) = machine.run(&["certificate", "renew"]);
    assert_eq!(code, 0, "{err}");
    let second = within(
        || greeted(machine.tls, &ca).map(|(certificate, ..)| certificate).filter(|it| *it != first),
        &machine.log(),
    );
    let (_, shown, _) = machine.run(&["certificate", "show"]);
    assert_eq!(shown, out);
    let mut steady = steady;
    assert!(steady.wait().unwrap().success(), "the connection did not outlive the renewal");
    for bpm in 61..=66 {
        machine.await_delivered(bpm);
    }
    // What is damaged on the card is noticed and made anew.
    std::fs::write(machine.path("state/tls/server.pem"), "half a certifi").unwrap();
    let third = within(
        || greeted(machine.tls, &ca).map(|(certificate, ..)| certificate).filter(|it| *it != second),
        &machine.log(),
    );
    assert_ne!(third, first);
    running.stop();
    assert!(!machine.log().contains("WARN"), "{}", machine.log());
}

#[test]
fn what_ends_soon_is_renewed_by_the_running_gateway_with_the_same_ca() {
    let machine = Machine::new();
    machine.init(&[]);
    let ca = machine.path("site-ca.pem");
    let running = machine.start();
    let (first, ..) = greeted(machine.tls, &ca).unwrap();
    let before = machine.status().unwrap()["listener"]["certificate"]["ends"].as_str().unwrap().to_owned();
    // As it is two years later: a good certificate of the site's own CA that has 200 days left.
    let key = KeyPair::from_pem(&std::fs::read_to_string(machine.path("state/tls/ca.key")).unwrap()).unwrap();
    let issuer =
        Issuer::from_ca_cert_pem(&std::fs::read_to_string(machine.path("state/tls/ca.pem")).unwrap(), key)
            .unwrap();
    let server = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let now = i64::try_from(crate::support::wall_ms() / 1000).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(now + 200 * 86_400).unwrap();
    let old = params.signed_by(&server, &issuer).unwrap();
    std::fs::write(machine.path("state/tls/server.pem"), format!("{}{}", server.serialize_pem(), old.pem()))
        .unwrap();
    let renewed = within(
        || {
            greeted(machine.tls, &ca)
                .map(|(certificate, ..)| certificate)
                .filter(|it| *it != first && it != old.der())
        },
        &machine.log(),
    );
    assert_ne!(&renewed, old.der());
    let after = machine.status().unwrap()["listener"]["certificate"]["ends"].as_str().unwrap().to_owned();
    assert!(after >= before, "{after}");
    running.stop();
}

#[test]
fn without_init_the_encrypted_port_has_a_certificate_from_the_first_start_on() {
    let machine = Machine::new();
    std::fs::write(machine.config(), format!("[mqtt.listener.tls]\nbind = \"{}\"\n", machine.tls)).unwrap();
    let running = machine.start();
    let (code, ca, err) = machine.run(&["certificate", "ca"]);
    assert_eq!(code, 0, "{err}");
    std::fs::write(machine.path("ca.pem"), ca).unwrap();
    assert!(greeted(machine.tls, &machine.path("ca.pem")).is_some());
    running.stop();
}

#[test]
fn a_pair_of_ones_own_is_read_again_and_one_of_no_use_is_not() {
    let machine = Machine::new();
    let make = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(machine.path(name), made.pem()).unwrap();
        (made, key)
    };
    let (first, key) = make("server.pem");
    std::fs::write(machine.path("server.key"), key.serialize_pem()).unwrap();
    let root = machine.root.path().display();
    let config = format!(
        "[mqtt.listener.tls]\nbind = \"{}\"\ncertificate = \"{root}/server.pem\"\nkey = \"{root}/server.key\"\n",
        machine.tls
    );
    std::fs::write(machine.config(), config).unwrap();
    std::fs::copy(machine.path("server.pem"), machine.path("first.pem")).unwrap();
    let running = machine.start();
    assert_eq!(&greeted(machine.tls, &machine.path("first.pem")).unwrap().0, first.der());
    // A certificate that does not fit its key: the one before goes on serving, and it is told why.
    let (_, second_key) = make("server.pem");
    within(|| machine.log().contains("is of no use").then_some(()), "nobody was told");
    let failure = machine.status().unwrap()["listener"]["certificate"]["failure"].clone();
    assert!(failure.is_string(), "{failure}");
    assert_eq!(&greeted(machine.tls, &machine.path("first.pem")).unwrap().0, first.der());
    // Its key comes as well.
    std::fs::write(machine.path("server.key"), second_key.serialize_pem()).unwrap();
    within(|| greeted(machine.tls, &machine.path("server.pem")), &machine.log());
    assert!(machine.status().unwrap()["listener"]["certificate"].get("failure").is_none());
    let (code, _, err) = machine.run(&["certificate", "renew"]);
    assert_eq!(code, 64, "{err}");
    running.stop();
}
