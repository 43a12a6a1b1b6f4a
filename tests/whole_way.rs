//! The whole way of a reading through the real binary: Mosquitto's clients in, moto's Firehose and S3 and a directory
//! out, DuckDB reading what arrived.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test stops at the first surprise"
)]
#![allow(dead_code, reason = "the support modules serve several targets")]

mod support;
#[path = "support/venv.rs"]
mod venv;

use std::io::Read as _;
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use support::daemon::Setup;
use venv::{Moto, python};

const MAKE_STREAM: &str = r#"
import sys, boto3
keys = dict(endpoint_url=sys.argv[1], region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")
boto3.client("s3", **keys).create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
boto3.client("firehose", **keys).create_delivery_stream(DeliveryStreamName="heart-rate", DeliveryStreamType="DirectPut",
    ExtendedS3DestinationConfiguration={"RoleARN": "arn:aws:iam::123456789012:role/x", "BucketARN": "arn:aws:s3:::lake"})
"#;

const READ_BUCKET: &str = r#"
import sys, boto3
s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="eu-west-1", aws_access_key_id="test", aws_secret_access_key="test")
for item in s3.list_objects_v2(Bucket="lake").get("Contents", []):
    print(s3.get_object(Bucket="lake", Key=item["Key"])["Body"].read().hex())
"#;

const COUNT: &str = r#"
import sys, duckdb
for row in duckdb.sql(f"""SELECT device, count(*), avg(bpm) FROM read_json('{sys.argv[1]}/readings/**/*.json.gz',
        hive_partitioning = true, columns = {{device: 'VARCHAR', type: 'VARCHAR', bpm: 'INTEGER', reason: 'VARCHAR'}})
        WHERE type IS NULL AND reason IS NULL GROUP BY device ORDER BY device""").fetchall():
    print(*row)
"#;

fn mosquitto(program: &str, port: u16, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(arguments)
        .output()
        .expect("mosquitto-clients are installed (.ci/tools.sh)");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn readings_come_in_by_mqtt_and_arrive_in_s3_and_in_the_directory() {
    let moto = Moto::start();
    let url = format!("http://{}", moto.address);
    python(MAKE_STREAM, &[&url]);
    let root = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(root.path());
    setup.extra = format!(
        "[[uplink]]\nkind = \"firehose\"\nstream = \"heart-rate\"\nregion = \"eu-west-1\"\nendpoint_url = \"{url}\"\n"
    );
    let mut command = setup.command(&[]);
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let mut daemon = support::daemon::Daemon::spawn(command, &setup);
    daemon.wait_ready();

    let port = setup.mqtt.port();
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("hr/{version}-{qos}");
            mosquitto("mosquitto_pub", port, &["-V", version, "-q", qos, "-t", &topic, "-m", "72", "-r"]);
        }
    }
    let json = r#"{"bpm":90,"rr_ms":[666,667],"contact":true}"#;
    mosquitto("mosquitto_pub", port, &["-q", "1", "-t", "hr/strap", "-m", json]);
    // Retained ones come to whoever subscribes later, in both versions.
    for version in ["mqttv311", "mqttv5"] {
        let words = ["-V", version, "-t", "hr/#", "-q", "1", "-C", "6", "-W", "10", "-F", "%r %p"];
        let seen = mosquitto("mosquitto_sub", port, &words);
        assert_eq!(seen.lines().filter(|line| *line == "1 72").count(), 6, "{seen}");
    }

    let lake = setup.lake.display().to_string();
    let expected: String = ["mqttv311", "mqttv5"]
        .iter()
        .flat_map(|version| ["0", "1", "2"].map(|qos| format!("{version}-{qos} 1 72.0\n")))
        .chain(["strap 1 90.0\n".to_owned()])
        .collect();
    eventually("the directory has all seven", || {
        std::fs::exists(setup.lake.join("readings")).unwrap() && python(COUNT, &[&lake]) == expected
    });
    let mut lines = String::new();
    eventually("the bucket has all seven", || {
        lines.clear();
        for object in python(READ_BUCKET, &[&url]).lines() {
            let bytes = hex::decode(object).unwrap();
            MultiGzDecoder::new(&bytes[..]).read_to_string(&mut lines).unwrap();
        }
        lines.lines().filter(|line| line.contains("\"bpm\":")).count() == 7
    });
    assert!(lines.contains(r#""bpm":90,"rr_ms":[666,667],"contact":true"#), "{lines}");
    let status = daemon.terminate(Duration::from_secs(15));
    assert!(status.success(), "{status}\n{}", setup.log_tail());
    let log = std::fs::read_to_string(&setup.log).unwrap();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "normal operation warns nobody:\n{log}");
}

/// A broker of somebody else, ended with the test.
struct Broker {
    process: std::process::Child,
    port: u16,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Broker {
    fn start(root: &std::path::Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = root.join("mosquitto.conf");
        std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).unwrap();
        let mut command = Command::new("/usr/sbin/mosquitto");
        command.arg("-c").arg(config).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let process = command.spawn().expect("mosquitto is installed (.ci/tools.sh)");
        let broker = Self { process, port };
        eventually("mosquitto listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        broker
    }
}

/// What a source does not take is received and refused, under the device its topic names, whichever source it came
/// through; it is acknowledged, so that nobody sends it for ever, and never delivered.
#[test]
fn payloads_that_are_no_readings_are_counted_as_refused_for_each_device_and_source() {
    let root = tempfile::tempdir().unwrap();
    let broker = Broker::start(root.path());
    let mut setup = Setup::new(root.path());
    setup.extra = format!(
        "[[mqtt.external]]\nname = \"hall\"\nurl = \"mqtt://127.0.0.1:{}\"\ntopics = [\"hr/+\"]\n",
        broker.port
    );
    let daemon = setup.start();
    let status = || -> serde_json::Value {
        let mut command = Command::new(support::daemon::binary());
        let output = command.args(["status", "--json", "--config"]).arg(&setup.config).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    eventually("the hall's broker is connected", || status().to_string().contains("\"connected\":true"));

    let good = r#"{"bpm":72}"#;
    let bad = ["{\"bpm\": ", r#"{"bpm":"fast"}"#, "seventy-two"];
    let publish = |port: u16, device: &str, payload: &str| {
        let topic = format!("hr/{device}");
        mosquitto("mosquitto_pub", port, &["-q", "1", "-t", &topic, "-m", payload]);
    };
    // Two good and three bad through the listener; one good and one bad through the hall's broker.
    let own = setup.mqtt.port();
    bad.iter().for_each(|payload| publish(own, "bike", payload));
    publish(own, "bike", good);
    publish(own, "bike", r#"{"bpm":73}"#);
    publish(own, "light", bad[0]);
    publish(broker.port, "rower", bad[1]);
    publish(broker.port, "rower", good);
    publish(broker.port, "bike", bad[2]);
    // What never claimed to be a reading is none.
    mosquitto("mosquitto_pub", own, &["-q", "1", "-t", "door/kitchen", "-m", "open"]);

    let account = |received: u64, refused: u64, durable: u64| serde_json::json!({"received": received, "refused": refused, "duplicate": 0, "durable": durable, "unacknowledged": 0});
    let expected = serde_json::json!({
        "bike": account(6, 4, 2), "light": account(1, 1, 0), "rower": account(2, 1, 1),
    });
    let mut seen = serde_json::Value::Null;
    eventually("everything is accounted for", || {
        seen = status()["accounts"].clone();
        seen["run"]["total"] == account(9, 6, 3)
    });
    assert_eq!(
        (&seen["run"]["devices"], &seen["adds_up"]),
        (&expected, &serde_json::json!(true)),
        "{seen:#}"
    );
    assert_eq!(daemon.metric("fogbeat_account_refused_total"), Some(6.0));
    assert_eq!(daemon.metric("fogbeat_account_adds_up"), Some(1.0));
    let lake = setup.lake.display().to_string();
    eventually("the good ones are delivered", || {
        std::fs::exists(setup.lake.join("readings")).unwrap()
            && python(COUNT, &[&lake]) == "bike 2 72.5\nrower 1 72.0\n"
    });
    assert!(daemon.terminate(Duration::from_secs(15)).success(), "{}", setup.log_tail());
}
