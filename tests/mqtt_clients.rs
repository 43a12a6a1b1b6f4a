//! Clients that others wrote: rumqttc, and Mosquitto's where they are installed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod mqtt;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fogbeat::config;
use fogbeat::source::mqtt::{External, Metrics};
use mqtt::{Gateway, eventually, path_of, settings, start, try_start};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::sync::watch;

struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    client_certificate: PathBuf,
    client_key: PathBuf,
}

fn certificates(dir: &Path) -> Files {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "fogbeat test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (server, server_key) = issue("localhost");
    let (client, client_key) = issue("strap-1");
    Files {
        ca: path_of(dir, "ca.pem", &ca.pem()),
        certificate: path_of(dir, "server.pem", &server),
        key: path_of(dir, "server.key", &server_key),
        client_certificate: path_of(dir, "client.pem", &client),
        client_key: path_of(dir, "client.key", &client_key),
    }
}

async fn start_tls(require: bool) -> (Gateway, Files) {
    let dir = tempfile::tempdir().unwrap();
    let files = certificates(dir.path());
    let mut settings = settings();
    settings.tls = Some(config::Tls {
        bind: "127.0.0.1:0".parse().unwrap(),
        certificate: Some(files.certificate.clone()),
        key: Some(files.key.clone()),
        client_ca: Some(files.ca.clone()),
        require_client_certificate: require,
    });
    (try_start(dir, &settings).await.unwrap(), files)
}

/// Mosquitto is part of the test: without it there is no verdict.
fn installed(program: &str) {
    let found = std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(program).is_file()))
        || Path::new(program).is_file();
    assert!(found, "{program} is not installed: run .ci/tools.sh");
}

async fn run(command: &mut Command) -> (bool, String) {
    command.stdin(Stdio::null());
    let mut command = std::mem::replace(command, Command::new("true"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_clients_of_both_versions_and_every_qos() {
    installed("mosquitto_pub");
    let gateway = start(settings()).await;
    let port = gateway.port().to_string();
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let device = format!("hr/{version}-{qos}");
            let mut publish = Command::new("mosquitto_pub");
            publish.args(["-V", version, "-p", &port, "-q", qos, "-t", &device, "-m", "72", "-r"]);
            let (fine, text) = run(&mut publish).await;
            assert!(fine, "{version} {qos}: {text}");
        }
    }
    eventually("all are stored", async || gateway.stored().await.len() == 6).await;
    for version in ["mqttv311", "mqttv5"] {
        let mut subscribe = Command::new("mosquitto_sub");
        subscribe
            .args(["-V", version, "-p", &port, "-q", "2", "-t", "hr/#", "-C", "6", "-W", "5", "-F", "%r %p"]);
        let (fine, text) = run(&mut subscribe).await;
        assert!(fine, "{version}: {text}");
        assert_eq!(text.lines().filter(|line| *line == "1 72").count(), 6, "{text}");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_tls_with_a_client_certificate() {
    installed("mosquitto_pub");
    let (gateway, files) = start_tls(true).await;
    let port = gateway.handle.tls_addr().unwrap().port().to_string();
    let publish = |topic: &str, certificate: bool| {
        let mut command = Command::new("mosquitto_pub");
        command
            .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-m", "72", "--cafile"])
            .arg(&files.ca);
        if certificate {
            command.arg("--cert").arg(&files.client_certificate).arg("--key").arg(&files.client_key);
        }
        command
    };
    let (fine, text) = run(&mut publish("hr/strap-1", true)).await;
    assert!(fine, "{text}");
    let (fine, _) = run(&mut publish("hr/strap-1", false)).await;
    assert!(!fine, "without a certificate nobody comes in");
    assert_eq!(gateway.stored().await, [("strap-1".to_owned(), 72)], "the certificate names the device");
    let mut other = publish("hr/strap-2", true);
    let _ = tokio::time::timeout(Duration::from_secs(3), run(&mut other)).await;
    assert_eq!(gateway.stored().await.len(), 1);
    assert_eq!(gateway.handle.status().denied, 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tls_connection_blocks_nobody() {
    let (gateway, files) = start_tls(false).await;
    let addr = gateway.handle.tls_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(addr).await.unwrap());
    }
    let store = fogbeat::source::mqtt::users::Store::new(gateway.dir.path());
    let secret = store.add("strap-9", &[], &[], 0).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut options = rumqttc::MqttOptions::new("x", "127.0.0.1", addr.port());
    options.set_credentials("strap-9", secret);
    options.set_transport(rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(Arc::new(
        client_config(&files.ca),
    ))));
    let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
    client.publish("hr/strap-9", rumqttc::QoS::AtLeastOnce, false, "72").await.unwrap();
    let acknowledged = async {
        while !matches!(events.poll().await.unwrap(), rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))) {}
    };
    tokio::time::timeout(Duration::from_secs(10), acknowledged).await.unwrap();
    assert_eq!(gateway.stored().await, [("strap-9".to_owned(), 72)]);
    gateway.stop().await;
}

fn client_config(ca: &Path) -> rustls::ClientConfig {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rumqttc_of_both_versions_in_a_window() {
    let gateway = start(settings()).await;
    let (client, mut events) =
        rumqttc::AsyncClient::new(rumqttc::MqttOptions::new("v4", "127.0.0.1", gateway.port()), 200);
    for n in 0..150 {
        client.publish("hr/v4", rumqttc::QoS::AtLeastOnce, false, (40 + n % 100).to_string()).await.unwrap();
    }
    let mut acknowledged = 0;
    while acknowledged < 150 {
        let event = tokio::time::timeout(Duration::from_secs(10), events.poll()).await.unwrap().unwrap();
        acknowledged += usize::from(matches!(event, rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))));
    }

    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let (client, mut events) = AsyncClient::new(MqttOptions::new("v5", "127.0.0.1", gateway.port()), 200);
    for n in 0..150 {
        client.publish("hr/v5", QoS::ExactlyOnce, false, (40 + n % 100).to_string()).await.unwrap();
    }
    let mut completed = 0;
    while completed < 150 {
        let event = tokio::time::timeout(Duration::from_secs(10), events.poll()).await.unwrap().unwrap();
        completed += usize::from(matches!(event, Event::Incoming(Packet::PubComp(_))));
    }
    let stored = gateway.stored().await;
    for device in ["v4", "v5"] {
        let bpm: Vec<u16> = stored.iter().filter(|(d, _)| d == device).map(|(_, bpm)| *bpm).collect();
        assert_eq!(bpm, (0..150).map(|n| 40 + n % 100).collect::<Vec<_>>(), "{device}");
    }
    gateway.stop().await;
}

/// A broker as Debian packages it, with a persistent store, on a free port.
struct Mosquitto {
    process: std::process::Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn mosquitto() -> Mosquitto {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 100\n"
    );
    let config = path_of(dir.path(), "mosquitto.conf", &text);
    let process = Command::new("/usr/sbin/mosquitto")
        .arg("-c")
        .arg(config)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "mosquitto does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Mosquitto { process, port, _dir: dir }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_broker_is_a_source() {
    installed("/usr/sbin/mosquitto");
    installed("mosquitto_pub");
    let broker = mosquitto().await;
    let port = broker.port.to_string();
    let publish = |device: &str, bpm: &str, retain: bool| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-p", &port, "-q", "1", "-t", &format!("hr/{device}"), "-m", bpm]);
        if retain {
            command.arg("-r");
        }
        command
    };
    assert!(run(&mut publish("old", "60", true)).await.0);

    let gateway = start(settings()).await;
    let external = config::External {
        name: "site".to_owned(),
        url: format!("mqtt://127.0.0.1:{port}"),
        topics: vec!["hr/+".to_owned()],
        username: None,
        password_file: None,
        ca: None,
    };
    let source = || {
        External::new(
            &external,
            "gw",
            gateway.journal.clone(),
            Arc::new(mqtt::TestClock::new()),
            Arc::new(fogbeat::source::mqtt::mapping::Mappings::compile(&[], &[]).unwrap()),
            Metrics::default(),
        )
        .unwrap()
    };
    let first = source();
    let handle = first.handle();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(first.run(stopped));
    eventually("it is connected", async || handle.status().connected).await;
    eventually("the retained message came", async || handle.status().messages == 1).await;
    assert!(run(&mut publish("a", "72", false)).await.0);
    eventually("it is stored", async || gateway.stored().await.len() == 1).await;
    stop.send_replace(true);
    task.await.unwrap();

    // What comes while nobody collects is kept by the broker for the session.
    assert!(run(&mut publish("a", "73", false)).await.0);
    let second = source();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(second.run(stopped));
    let expected = [("a".to_owned(), 72), ("a".to_owned(), 73)];
    eventually("what was missed comes", async || gateway.stored().await == expected).await;
    stop.send_replace(true);
    task.await.unwrap();
    gateway.stop().await;
}
