//! `fogbeat enroll` against a broker at which somebody plays AWS IoT's provisioning topics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::{Ear, Mosquitto, Rules};
use crate::pki::Pki;
use crate::site::{Strap, account, eventually, uplink};
use crate::support::daemon::{Setup, binary};
use crate::support::wire::{self, Packet, Stream};

const CREATE: &str = "$aws/certificates/create-from-csr/json";
const REGISTER: &str = "$aws/provisioning-templates/fleet/provision/json";

/// Answers provisioning requests; what it was asked.
struct Service {
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Service {
    fn start(address: SocketAddr, pki: &Arc<Pki>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut io = TcpStream::connect(address).unwrap();
        io.write_all(&wire::connect("service", true)).unwrap();
        for (id, topic) in [(1, CREATE), (2, REGISTER)] {
            let mut subscribe = vec![0x82, u8::try_from(topic.len() + 5).unwrap(), 0, id, 0];
            subscribe.push(u8::try_from(topic.len()).unwrap());
            subscribe.extend_from_slice(topic.as_bytes());
            subscribe.push(0);
            io.write_all(&subscribe).unwrap();
        }
        let (pki, all) = (Arc::clone(pki), Arc::clone(&asked));
        std::thread::spawn(move || {
            let mut stream = Stream::default();
            let mut chunk = [0; 65_536];
            while let Ok(read @ 1..) = io.read(&mut chunk) {
                stream.push(&chunk[..read]);
                while let Some(packet) = stream.next_packet() {
                    let Packet::Publish { payload, .. } = packet else { continue };
                    let question: Value = serde_json::from_slice(&payload).unwrap();
                    all.lock().unwrap().push(question.clone());
                    let (topic, answer) = answer(&question, &pki);
                    let answer = wire::publish(&topic, 7, false, answer.to_string().as_bytes());
                    if io.write_all(&answer).is_err() {
                        return;
                    }
                }
            }
        });
        Self { asked }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(question: &Value, pki: &Pki) -> (String, Value) {
    if let Some(request) = question["certificateSigningRequest"].as_str() {
        let answer = json!({
            "certificateId": "c0ffee", "certificatePem": pki.sign(request), "certificateOwnershipToken": "token-1",
        });
        return (format!("{CREATE}/accepted"), answer);
    }
    assert_eq!(question["certificateOwnershipToken"], "token-1");
    match question["parameters"]["Site"].as_str() {
        Some("gym") => {
            let answer = json!({"thingName": "thing-proof", "deviceConfiguration": {"rule": "heartbeats"}});
            (format!("{REGISTER}/accepted"), answer)
        }
        _ => {
            let answer =
                json!({"statusCode": 400, "errorCode": "InvalidParameters", "errorMessage": "which site?"});
            (format!("{REGISTER}/rejected"), answer)
        }
    }
}

struct Scene {
    root: tempfile::TempDir,
    pki: Arc<Pki>,
    broker: Mosquitto,
    setup: Setup,
}

fn scene() -> Scene {
    let root = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::new(root.path(), "ca"));
    let server = pki.issue("server", "broker", &["localhost"], 2090);
    pki.issue("claim", "claim", &[], 2090);
    let broker = Mosquitto::start(root.path(), &pki, &server, &Rules { access: None });
    let mut setup = Setup::new(root.path());
    setup.max_age = "50ms".into();
    // Writes the configuration.
    setup.command(&[]);
    Scene { root, pki, broker, setup }
}

fn enroll(scene: &Scene, more: &[&str]) -> Output {
    let path = |name: &str| scene.root.path().join(name);
    Command::new(binary())
        .args(["enroll", "--endpoint", "localhost", "--template", "fleet", "--timeout", "5", "--port"])
        .arg(scene.broker.tls.port().to_string())
        .arg("--ca")
        .arg(&scene.pki.ca)
        .arg("--claim-cert")
        .arg(path("claim.pem"))
        .arg("--claim-key")
        .arg(path("claim.key"))
        .arg("--config")
        .arg(&scene.setup.config)
        .args(more)
        .output()
        .unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_gateway_gets_a_certificate_of_its_own_and_uses_it() {
    let mut scene = scene();
    let service = Service::start(scene.broker.plain, &scene.pki);
    let done = enroll(&scene, &["--parameter", "Site=gym"]);
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{told}");
    let section = String::from_utf8(done.stdout).unwrap();
    assert!(
        section.contains("thing = \"thing-proof\"") && section.contains("rule = \"heartbeats\""),
        "{section}"
    );

    let iot = scene.setup.state_dir.join("iot");
    let (certificate, key) = (iot.join("certificate.pem"), iot.join("private.key"));
    assert_eq!((mode(&iot), mode(&certificate), mode(&key)), (0o700, 0o600, 0o600));
    let left: Vec<_> = std::fs::read_dir(&iot).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(!scene.root.path().join("claim.pem").exists() && !scene.root.path().join("claim.key").exists());
    let asked = service.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1]["parameters"], json!({"SerialNumber": "proof", "Site": "gym"}));
    let key = std::fs::read_to_string(key).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!Value::from(asked).to_string().contains(secret), "the key has left the gateway");
    assert!(!told.contains(secret));

    let ear = Ear::listen(scene.broker.plain, "$aws/rules/#");
    scene.setup.extra = format!("{section}ca = {:?}\n", scene.pki.ca);
    let daemon = scene.setup.start();
    Strap::connect(scene.setup.mqtt, "strap").beats(20);
    eventually("the new certificate serves", Duration::from_secs(20), || {
        uplink(&scene.setup, "iot_core")["queued_readings"] == 0
    });
    assert_eq!(uplink(&scene.setup, "iot_core")["link"]["client_id"], "thing-proof");
    assert!(daemon.terminate(Duration::from_secs(20)).success());
    assert_eq!(account(&ear.heard()).0.readings.len(), 20);
}

#[test]
fn a_refusal_is_told_and_touches_nothing() {
    let scene = scene();
    let failed = |more: &[&str]| {
        let done = enroll(&scene, more);
        assert_eq!(done.status.code(), Some(69));
        String::from_utf8(done.stderr).unwrap()
    };
    let silent = failed(&[]);
    assert!(
        silent.contains("CreateCertificateFromCsr: no answer") && silent.contains("template"),
        "{silent}"
    );
    let _service = Service::start(scene.broker.plain, &scene.pki);
    let rejected = failed(&["--parameter", "Site=moon"]);
    assert!(
        rejected.contains("RegisterThing was refused: InvalidParameters (400): which site?"),
        "{rejected}"
    );
    assert!(!scene.setup.state_dir.join("iot/certificate.pem").exists());
    assert!(scene.root.path().join("claim.key").exists(), "the claim is still needed");

    let iot = scene.setup.state_dir.join("iot");
    std::fs::create_dir_all(&iot).unwrap();
    std::fs::write(iot.join("certificate.pem"), "precious").unwrap();
    let done = enroll(&scene, &["--parameter", "Site=gym"]);
    assert_eq!(done.status.code(), Some(64));
    assert_eq!(std::fs::read_to_string(iot.join("certificate.pem")).unwrap(), "precious");
}
