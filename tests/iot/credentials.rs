//! Firehose with credentials for the gateway's certificate, from a server that plays the AWS IoT credential provider.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::pki::{Pair, Pki};
use crate::site::{Strap, eventually, uplink};
use crate::support::daemon::{Daemon, Setup};
use crate::support::rng::Rng;
use crate::support::world::World;
use crate::venv::{Moto, python};

#[derive(Debug, Clone, Copy)]
enum Mood {
    /// Credentials that are good for so many seconds.
    Fine(i64),
    Forbidden,
    Away,
}

struct Provider {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    given: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Provider {
    fn start(pki: &Pki, server: &Pair) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&pki.ca).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
        let chain = vec![CertificateDer::from_pem_file(&server.certificate).unwrap()];
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&server.key).unwrap())
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let played = Self {
            address,
            mood: Arc::new(Mutex::new(Mood::Fine(3600))),
            given: Arc::default(),
            requests: Arc::default(),
        };
        let (mood, given, requests) =
            (Arc::clone(&played.mood), Arc::clone(&played.given), Arc::clone(&played.requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mood = *mood.lock().unwrap();
                let Ok(stream) = stream else { continue };
                if matches!(mood, Mood::Away) {
                    continue;
                }
                let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if tls.read_exact(&mut byte).is_err() {
                        break;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let right = head.starts_with("GET /role-aliases/gateways/credentials ")
                    && head.contains("x-amzn-iot-thingname: gym-12\r\n");
                requests.lock().unwrap().push(head);
                let (status, body) = match mood {
                    Mood::Fine(seconds) if right => {
                        given.fetch_add(1, Ordering::Relaxed);
                        let end = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
                        let end = end.format(&time::format_description::well_known::Rfc3339).unwrap();
                        let body = format!(
                            "{{\"credentials\":{{\"accessKeyId\":\"ASIATEST\",\"secretAccessKey\":\"s3cret\",\
                             \"sessionToken\":\"t0ken\",\"expiration\":\"{end}\"}}}}"
                        );
                        (200, body)
                    }
                    _ => (403, "{\"message\":\"Access Denied\"}".to_owned()),
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = tls.write_all(answer.as_bytes());
                let _ = tls.flush();
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        });
        played
    }

    fn mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

const MAKE_STREAM: &str = r#"
import sys, boto3
keys = dict(endpoint_url=sys.argv[1], region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")
boto3.client("s3", **keys).create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
boto3.client("firehose", **keys).create_delivery_stream(DeliveryStreamName="heart-rate", DeliveryStreamType="DirectPut",
    ExtendedS3DestinationConfiguration={"RoleARN": "arn:aws:iam::123456789012:role/x", "BucketARN": "arn:aws:s3:::lake"})
"#;

#[test]
fn firehose_without_a_key_on_the_gateway() {
    let moto = Moto::start();
    let url = format!("http://{}", moto.address);
    python(MAKE_STREAM, &[&url]);
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "provider", &["localhost"], 2090);
    let gateway = pki.issue("gateway", "gym-12", &[], 2090);
    let provider = Provider::start(&pki, &server);
    provider.mood(Mood::Forbidden);
    let mut setup = Setup::new(root.path());
    setup.max_age = "50ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"firehose\"\nstream = \"heart-rate\"\nregion = \"eu-west-1\"\nendpoint_url = \"{url}\"\n\
         [aws.iot_credentials]\nendpoint = \"localhost:{}\"\nrole_alias = \"gateways\"\nthing = \"gym-12\"\n\
         certificate = {:?}\nkey = {:?}\nca = {:?}\n",
        provider.address.port(),
        gateway.certificate,
        gateway.key,
        pki.ca,
    );
    let mut command = setup.command(&[]);
    // Nothing else may give credentials.
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let mut daemon = Daemon::spawn(command, &setup);
    daemon.wait_ready();
    let mut strap = Strap::connect(setup.mqtt, "strap");
    let firehose = || uplink(&setup, "firehose");
    let soon = Duration::from_secs(40);
    let delivered = |what: &str| eventually(what, soon, || firehose()["queued_readings"] == 0);

    strap.beats(10);
    eventually("a refusal is told", soon, || firehose()["failure"]["cause"] == "credentials");
    let told = firehose()["failure"].clone();
    assert!(told["message"].as_str().unwrap().contains("403"), "{told}");
    assert!(
        told["remedy"].as_str().unwrap().contains("iot:AssumeRoleWithCertificate on the role alias gateways"),
        "{told}"
    );

    // Good for 24 s, renewed after 16.
    provider.mood(Mood::Fine(24));
    daemon.signal(rustix::process::Signal::HUP);
    delivered("with credentials of the certificate");
    assert_eq!(provider.given.load(Ordering::Relaxed), 1, "one fetch serves many requests");
    provider.mood(Mood::Away);
    strap.beats(10);
    delivered("while the provider is away");
    std::thread::sleep(Duration::from_secs(15));
    strap.beats(10);
    eventually("the end of the credentials is told", soon, || {
        strap.beat();
        firehose()["failure"]["message"].as_str().is_some_and(|message| message.contains("cannot be reached"))
    });
    provider.mood(Mood::Fine(24));
    daemon.signal(rustix::process::Signal::HUP);
    delivered("after the outage");
    assert_eq!(provider.given.load(Ordering::Relaxed), 2);
    std::thread::sleep(Duration::from_secs(17));
    strap.beats(10);
    delivered("with renewed credentials");
    assert_eq!(provider.given.load(Ordering::Relaxed), 3, "renewed before their end");
    let log = std::fs::read_to_string(&setup.log).unwrap();
    assert!(!log.contains("s3cret") && !log.contains("t0ken"), "a secret in the log");
    assert!(daemon.terminate(Duration::from_secs(20)).success());
}

/// What can be wrong between a gateway and the provider, in the words that an MQTT uplink has for it.
#[test]
fn what_is_wrong_with_certificates_clock_or_endpoint_is_told_in_one_line() {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "provider", &["localhost"], 2090);
    let good = pki.issue("gateway", "gym-12", &[], 2090);
    let expired = pki.issue("expired", "gym-12", &[], 2021);
    let foreign = Pki::new(&root.path().join("other"), "other").issue("foreign", "gym-12", &[], 2090);
    let provider = Provider::start(&pki, &server);
    let port = provider.address.port();
    let told = |case: &str, host: &str, pair: &Pair, at_1970: bool| {
        let dir = root.path().join(case);
        std::fs::create_dir_all(&dir).unwrap();
        let mut setup = Setup::new(&dir);
        setup.max_age = "50ms".into();
        setup.extra = format!(
            "[[uplink]]\nkind = \"firehose\"\nstream = \"heart-rate\"\nregion = \"eu-west-1\"\n\
             endpoint_url = \"http://127.0.0.1:9\"\n[aws.iot_credentials]\nendpoint = \"{host}:{port}\"\n\
             role_alias = \"gateways\"\nthing = \"gym-12\"\ncertificate = {:?}\nkey = {:?}\nca = {:?}\n",
            pair.certificate, pair.key, pki.ca,
        );
        let mut command = setup.command(&[]);
        let mut rng = Rng::new(1970);
        let world = at_1970.then(|| World::new(&dir.join("world"), &mut rng));
        if let Some(world) = &world {
            world.step(86_400_000 - i64::try_from(crate::support::wall_ms()).unwrap());
            world.synchronise(false);
            world.around(&mut command);
        }
        let mut daemon = Daemon::spawn(command, &setup);
        daemon.wait_ready();
        Strap::connect(setup.mqtt, "strap").beats(5);
        let failure = || uplink(&setup, "firehose")["failure"].clone();
        eventually("it is told", Duration::from_secs(40), || failure().is_object());
        let line = crate::site::told(&setup);
        println!("status: {line}");
        assert!(failure()["message"].as_str().is_some_and(|message| message.len() < 250), "{line}");
        assert_eq!(uplink(&setup, "firehose")["queued_readings"], 5, "nothing is lost");
        line
    };
    let has =
        |line: String, words: [&str; 2]| words.iter().for_each(|word| assert!(line.contains(word), "{line}"));
    has(
        told("foreign", "localhost", &foreign, false),
        ["refuses the gateway's certificate", "registered and active"],
    );
    has(told("expired", "localhost", &expired, false), ["expired at 2021-12-31", "taken without a restart"]);
    has(
        told("wrong", "127.0.0.1", &good, false),
        ["somebody else", "[aws.iot_credentials].endpoint; for AWS: `aws iot describe-endpoint"],
    );
    has(told("clock", "localhost", &good, true), ["not yet valid: this gateway believes it is 1970", "NTP"]);
    has(
        told("nobody", "no-such-host.invalid", &good, false),
        ["no-such-host.invalid", "[aws.iot_credentials].endpoint"],
    );
}
