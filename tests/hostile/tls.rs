//! The encrypted port of the real binary: an ordinary client with a will, and slow handshakes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::peer::{connect, login, packet, publish, string, subscribe};
use crate::support::daemon::{binary, free_port};
use crate::{Scene, attack, attacker, peer};

/// A self-signed certificate, its files, and the section that names them.
struct Encrypted {
    address: std::net::SocketAddr,
    certificate: CertificateDer<'static>,
    section: String,
}

fn encrypted(root: &Path) -> Encrypted {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (pem, key_file) = (root.join("server.pem"), root.join("server.key"));
    std::fs::write(&pem, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let address = free_port();
    let section = format!(
        "[mqtt.listener.tls]\nbind = \"{address}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
        pem.display(),
        key_file.display()
    );
    Encrypted { address, certificate: certificate.der().clone(), section }
}

fn connector(certificate: &CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A device that may say farewell to `gone/#`; its secret.
fn add_device(scene: &Scene) -> String {
    let added = std::process::Command::new(binary())
        .args(["device", "add", "strap-1", "--publish", "gone/#", "--config"])
        .arg(&scene.setup.config)
        .output()
        .unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let text = String::from_utf8(added.stdout).unwrap();
    let is_secret = |word: &&str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    text.split_whitespace().find(is_secret).unwrap().to_owned()
}

#[test]
fn an_encrypted_device_is_acknowledged_and_its_will_tells_of_its_end() {
    let mut files = None;
    let scene = Scene::with("will", &[], |root| files.insert(encrypted(root)).section.clone());
    let files = files.unwrap();
    let secret = add_device(&scene);
    attack(async {
        // A running gateway looks at its devices once a second.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let mut watcher = peer::client(attacker(3), scene.setup.mqtt, 4, "watcher").await.unwrap();
        watcher.write_all(&subscribe(4, 1, &["gone/#"], 1)).await.unwrap();
        assert_eq!(packet(&mut watcher).await, Some(vec![0x90, 3, 0, 1, 1]));

        let name = ServerName::try_from("localhost").unwrap();
        let tcp = peer::dial(attacker(4), files.address).await.unwrap();
        let mut device = connector(&files.certificate).connect(name.clone(), tcp).await.unwrap();
        let rest = [string("gone/strap-1"), string("bye"), string("strap-1"), string(&secret)].concat();
        device.write_all(&connect(4, 0xCE, "strap-1", &rest)).await.unwrap();
        assert_eq!(packet(&mut device).await, Some(vec![0x20, 2, 0, 0]));
        device.write_all(&publish(4, "hr/strap-1", 7, b"72")).await.unwrap();
        assert_eq!(packet(&mut device).await, Some(vec![0x40, 2, 0, 7]));
        // More than the buffers of TLS hold, both ways.
        let large = publish(4, "gone/large", 8, &vec![b'x'; 200_000]);
        device.write_all(&large).await.unwrap();
        device.flush().await.unwrap();
        assert_eq!(packet(&mut device).await, Some(vec![0x40, 2, 0, 8]));
        let got = packet(&mut watcher).await.unwrap();
        assert_eq!(got.len(), large.len());
        watcher.write_all(&[0x40, 2, 0, 1]).await.unwrap();
        // The line goes dead: no DISCONNECT, no close of TLS.
        drop(device);
        assert_eq!(packet(&mut watcher).await, Some(publish(4, "gone/strap-1", 2, b"bye")));
        watcher.write_all(&[0x40, 2, 0, 2]).await.unwrap();

        // Without a secret nobody comes in here, although the other port is open to all of this machine.
        let tcp = peer::dial(attacker(4), files.address).await.unwrap();
        let mut nobody = connector(&files.certificate).connect(name, tcp).await.unwrap();
        nobody.write_all(&connect(4, 2, "nobody", &[])).await.unwrap();
        assert_eq!(packet(&mut nobody).await, Some(vec![0x20, 2, 0, 5]));
    });
    scene.verdict("TLS and a will", &[attacker(3), attacker(4)]);
}

#[test]
fn slow_tls_handshakes_keep_no_encrypted_device_out() {
    let mut files = None;
    let scene = Scene::with("slow-tls", &[], |root| files.insert(encrypted(root)).section.clone());
    let files = files.unwrap();
    let secret = add_device(&scene);
    let worst = attack(async {
        let mut lorises = JoinSet::new();
        for n in 0..300u32 {
            let (from, to) = (attacker(3 + (n % 6) as u8), files.address);
            lorises.spawn(async move {
                let Ok(mut io) = peer::dial(from, to).await else { return };
                // The record of a large ClientHello, byte by byte; every fourth says nothing at all.
                let hello = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3F, 0xFC, 3, 3][..], &[0x55; 600]].concat();
                if n % 4 == 0 {
                    return std::future::pending().await;
                }
                for byte in hello {
                    if io.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let mut worst = Duration::ZERO;
        for n in 0..10u8 {
            let start = Instant::now();
            let name = ServerName::try_from("localhost").unwrap();
            let tcp = peer::dial(std::net::Ipv4Addr::new(127, 0, 1, 50 + n), files.address).await.unwrap();
            let mut device = connector(&files.certificate).connect(name, tcp).await.unwrap();
            device.write_all(&login(5, &format!("d{n}"), "strap-1", &secret)).await.unwrap();
            assert_eq!(packet(&mut device).await.unwrap()[3], 0);
            device.write_all(&publish(5, "hr/strap-1", 1, b"72")).await.unwrap();
            assert_eq!(packet(&mut device).await, Some(vec![0x40, 2, 0, 1]));
            worst = worst.max(start.elapsed());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        worst
    });
    println!("slow TLS: the slowest encrypted newcomer took {worst:?}");
    assert!(worst <= crate::PATIENCE, "{worst:?}");
    let attackers: Vec<_> = (3..9).map(attacker).collect();
    scene.verdict("slow TLS", &attackers);
}
