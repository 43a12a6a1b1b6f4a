//! Uplinks: dry runs against real peers, and a running gateway's word.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fogbeat::doctor::Verdict;

use crate::Patient;
use crate::broker::{Mosquitto, Rules};
use crate::pki::{Pair, Pki};
use crate::support::daemon::free_port;

fn private(pair: &Pair) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn iot(broker: &Mosquitto, pki: &Pki, pair: &Pair) -> String {
    format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"localhost\"\nport = {}\nrule = \"r\"\nca = {:?}\n\
         certificate = {:?}\nkey = {:?}\n",
        broker.tls.port(),
        pki.ca,
        pair.certificate,
        pair.key
    )
}

#[test]
fn a_broker_is_tried_whole_while_no_gateway_runs_and_never_puts_one_out() {
    let mut patient = Patient::new("iot");
    let pki = Pki::new(&patient.dir.path().join("pki"), "ca");
    let server = pki.issue("server", "localhost", &["localhost"], 2099);
    let own = pki.issue("own", "proof", &[], 2099);
    private(&own);
    let broker = Mosquitto::start(patient.dir.path(), &pki, &server, &Rules { access: None });
    patient.setup.extra = iot(&broker, &pki, &own);
    std::fs::create_dir_all(&patient.setup.state_dir).unwrap();
    patient.examine().exit(0).expect("uplink iot_core", Verdict::Ok, "takes us as proof");
    assert_eq!(connects(&broker), 1, "{}", broker.log());

    let daemon = patient.start();
    // Nothing was delivered yet: the gateway has not connected, and nobody says CONNECT in its place.
    patient.ask(&[]).expect("uplink iot_core", Verdict::Ok, "no CONNECT was tried");
    crate::support::wire::publish_once(patient.setup.mqtt, "hr/strap-1", "71");
    let started = std::time::Instant::now();
    while connects(&broker) < 2 {
        assert!(started.elapsed() < Duration::from_secs(30), "it does not deliver: {}", broker.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    patient.ask(&[]).expect("uplink iot_core", Verdict::Ok, "is connected");
    assert_eq!(connects(&broker), 2, "{}", broker.log());
    assert!(!broker.log().contains("already connected"), "{}", broker.log());
    daemon.kill();

    // A certificate that the broker does not know.
    let foreign = Pki::new(&patient.dir.path().join("foreign"), "foreign");
    let wrong = foreign.issue("wrong", "proof", &[], 2099);
    private(&wrong);
    patient.setup.extra = iot(&broker, &pki, &wrong);
    patient.examine().exit(69).expect("uplink iot_core", Verdict::Error, "certificate");
    // A server that we do not believe.
    patient.setup.extra = iot(&broker, &foreign, &own);
    patient.examine().exit(69).expect("uplink iot_core", Verdict::Error, "not known here");
}

/// Clients that the broker has accepted under the gateway's name.
fn connects(broker: &Mosquitto) -> usize {
    broker
        .log()
        .lines()
        .filter(|line| line.contains("New client connected") && line.contains("proof"))
        .count()
}

#[test]
fn an_endpoint_that_nobody_answers_at_and_one_that_says_nothing() {
    let mut patient = Patient::new("wrong");
    patient.setup.extra = format!("[[uplink]]\nkind = \"mqtt\"\nurl = \"mqtt://{}\"\n", free_port());
    patient.examine().exit(69).expect("uplink mqtt", Verdict::Error, "cannot be reached");
    // The kernel accepts for it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    patient.setup.extra =
        format!("[[uplink]]\nkind = \"mqtt\"\nurl = \"mqtt://{}\"\n", silent.local_addr().unwrap());
    std::fs::create_dir_all(&patient.setup.state_dir).unwrap();
    patient.examine().exit(69).expect("uplink mqtt", Verdict::Error, "127.0.0.1");
}

/// A Firehose that is asked for its stream.
struct Service {
    address: SocketAddr,
    /// What it was asked to do.
    asked: Arc<Mutex<Vec<String>>>,
    /// Status and body of the next answers; `None`: it never answers.
    answer: Arc<Mutex<Option<(u16, String)>>>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
        let (noted, told) = (Arc::clone(&asked), Arc::clone(&answer));
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut text = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                // The head; of the body nothing is needed.
                while reader.read_line(&mut text).is_ok_and(|read| read > 2) {}
                let target = text
                    .lines()
                    .find_map(|line| line.split_once("Firehose_20150804.").map(|(_, act)| act.to_owned()));
                noted.lock().unwrap().push(target.unwrap_or_default());
                let answer: Option<(u16, String)> = told.lock().unwrap().clone();
                match answer {
                    None => silent.push(stream),
                    Some((status, body)) => {
                        let length = body.len();
                        let head = format!(
                            "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\n\
                             content-length: {length}\r\nconnection: close\r\n\r\n"
                        );
                        let _ = stream.write_all((head + &body).as_bytes());
                    }
                }
            }
        });
        Self { address, asked, answer }
    }

    fn refuses(&self, code: &str) {
        let body = format!("{{\"__type\": \"{code}\", \"message\": \"made to fail\"}}");
        *self.answer.lock().unwrap() = Some((400, body));
    }
}

const STREAM: &str = r#"{"DeliveryStreamDescription": {"DeliveryStreamName": "heart-rate", "DeliveryStreamARN": "arn:x",
    "DeliveryStreamStatus": "ACTIVE", "DeliveryStreamType": "DirectPut", "VersionId": "1", "Destinations": [],
    "HasMoreDestinations": false}}"#;

#[test]
fn a_stream_is_asked_for_and_never_written() {
    let mut patient = Patient::new("firehose");
    let environment = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    patient.environment =
        environment(&[("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "secret")]);
    let service = Service::start();
    patient.setup.extra = format!(
        "[[uplink]]\nkind = \"firehose\"\nstream = \"heart-rate\"\nregion = \"eu-west-1\"\nendpoint_url = \"http://{}\"\n",
        service.address
    );
    patient.examine().exit(69).expect("uplink firehose", Verdict::Error, "did not answer within 10s");
    *service.answer.lock().unwrap() = Some((200, STREAM.to_owned()));
    patient.ask(&[]).exit(0).expect("uplink firehose", Verdict::Ok, "is there and takes us");
    *service.answer.lock().unwrap() = Some((200, STREAM.replace("ACTIVE", "CREATING")));
    patient.ask(&[]).exit(69).expect("uplink firehose", Verdict::Error, "is CREATING");
    for code in ["ResourceNotFoundException", "UnrecognizedClientException"] {
        service.refuses(code);
        patient.ask(&[]).exit(69).expect("uplink firehose", Verdict::Error, code);
    }
    // A role that may write and nothing else: the credentials were believed.
    service.refuses("AccessDeniedException");
    patient.ask(&[]).exit(0).expect("uplink firehose", Verdict::Ok, "the credentials are good");
    let asked = service.asked.lock().unwrap().clone();
    assert!(asked.len() >= 6 && asked.iter().all(|act| act == "DescribeDeliveryStream"), "{asked:?}");

    // No credentials at all: neither here nor from a machine in the cloud.
    patient.environment = environment(&[("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nonexistent")]);
    patient.ask(&[]).exit(69).expect("uplink firehose", Verdict::Error, "no AWS credentials");
}

#[test]
fn what_a_running_gateway_meets_is_told_with_its_remedy() {
    let patient = Patient::new("stuck");
    patient.setup.block_lake();
    let daemon = patient.start();
    crate::support::wire::publish_once(patient.setup.mqtt, "hr/strap-1", "71");
    let started = std::time::Instant::now();
    loop {
        let seen = patient.ask(&[]);
        // A file where a directory is wanted may be gone in a moment, so it is tried again.
        if seen.code == 1 {
            seen.expect("uplink directory", Verdict::Warning, "1 readings wait on disk");
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{:#?}", seen.report);
    }
    daemon.kill();
}
