//! Settings by the named shadow `fogbeat`, against a broker at which somebody plays AWS IoT's shadow topics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::broker::{Ear, Mosquitto, Rules};
use crate::pki::Pki;
use crate::site::{Strap, account, eventually, status, uplink};
use crate::support::daemon::Setup;
use crate::support::wire::{self, Packet, Stream};

const BASE: &str = "$aws/things/proof/shadow/name/fogbeat";

/// One thing's shadow: `get` is an empty payload, `update` a document.
struct Service {
    io: Mutex<TcpStream>,
    state: Mutex<Value>,
    updates: Mutex<usize>,
}

impl Service {
    fn start(address: SocketAddr, desired: Value) -> Arc<Self> {
        let mut io = TcpStream::connect(address).unwrap();
        io.write_all(&wire::connect("shadow", true)).unwrap();
        for (id, end) in [(1, "get"), (2, "update")] {
            let topic = format!("{BASE}/{end}");
            let mut subscribe = vec![0x82, u8::try_from(topic.len() + 5).unwrap(), 0, id, 0];
            subscribe.push(u8::try_from(topic.len()).unwrap());
            subscribe.extend_from_slice(topic.as_bytes());
            subscribe.push(0);
            io.write_all(&subscribe).unwrap();
        }
        let reader = io.try_clone().unwrap();
        let service = Arc::new(Self {
            io: Mutex::new(io),
            state: Mutex::new(json!({"desired": desired, "reported": {}})),
            updates: Mutex::new(0),
        });
        let own = Arc::clone(&service);
        std::thread::spawn(move || own.serve(reader));
        service
    }

    fn serve(&self, mut io: TcpStream) {
        let mut stream = Stream::default();
        let mut chunk = [0; 65_536];
        while let Ok(read @ 1..) = io.read(&mut chunk) {
            stream.push(&chunk[..read]);
            while let Some(packet) = stream.next_packet() {
                let Packet::Publish { payload, .. } = packet else { continue };
                if payload.is_empty() {
                    let state = self.state.lock().unwrap().clone();
                    self.say("get/accepted", &json!({"state": state, "version": 1}));
                    continue;
                }
                let update: Value = serde_json::from_slice(&payload).unwrap();
                assert!(update["state"]["desired"].is_null(), "a gateway reports, it does not wish");
                *self.updates.lock().unwrap() += 1;
                merge(&mut self.state.lock().unwrap()["reported"], &update["state"]["reported"]);
                self.updated();
            }
        }
    }

    /// As the service: after every update.
    fn updated(&self) {
        self.say("update/documents", &json!({"current": {"state": self.state.lock().unwrap().clone()}}));
    }

    fn say(&self, end: &str, document: &Value) {
        let packet = wire::publish(&format!("{BASE}/{end}"), 9, false, document.to_string().as_bytes());
        self.io.lock().unwrap().write_all(&packet).unwrap();
    }

    fn wish(&self, desired: Value) {
        self.state.lock().unwrap()["desired"] = desired;
        self.updated();
    }

    fn reported(&self) -> Value {
        self.state.lock().unwrap()["reported"].clone()
    }
}

fn merge(into: &mut Value, from: &Value) {
    if let Value::Object(from) = from {
        if !into.is_object() {
            *into = Value::Object(Map::new());
        }
        for (key, value) in from {
            match value {
                Value::Null => {
                    into.as_object_mut().unwrap().remove(key);
                }
                value => merge(&mut into[key.as_str()], value),
            }
        }
    } else {
        *into = from.clone();
    }
}

#[test]
fn settings_from_afar_are_applied_or_refused_with_reasons() {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "broker", &["localhost"], 2090);
    let gateway = pki.issue("gateway", "proof", &[], 2090);
    let broker = Mosquitto::start(root.path(), &pki, &server, &Rules { access: None });
    let ear = Ear::listen(broker.plain, "$aws/rules/#");
    let service = Service::start(broker.plain, json!({"batch": {"max_age": "100ms"}}));
    let mut setup = Setup::new(root.path());
    setup.max_age = "1h".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"localhost\"\nport = {}\nrule = \"fogbeat\"\ntimeout = \"5s\"\n\
         shadow = true\ncertificate = {:?}\nkey = {:?}\nca = {:?}\n",
        broker.tls.port(),
        gateway.certificate,
        gateway.key,
        pki.ca,
    );
    let daemon = setup.start();
    let soon = Duration::from_secs(20);
    eventually("the desired age is reported", soon, || service.reported()["batch"]["max_age"] == "100ms");
    let mut strap = Strap::connect(setup.mqtt, "strap");
    strap.beats(10);
    eventually("batches go out at the new age", soon, || uplink(&setup, "iot_core")["queued_readings"] == 0);

    let pause = |yes: bool| {
        json!({"batch": {"max_age": "100ms"}, "uplinks": {"iot_core": {"paused": yes}},
        "devices": {"strap": {"alias": "anna"}}})
    };
    service.wish(pause(true));
    eventually("the pause is reported", soon, || service.reported()["uplinks"]["iot_core"]["paused"] == true);
    strap.beats(10);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(uplink(&setup, "iot_core")["queued_readings"], 10, "paused");
    assert_eq!(status(&setup)["remote"]["applied"]["uplinks"]["iot_core"]["paused"], true);

    let updates = *service.updates.lock().unwrap();
    service.wish(json!({"batch": {"max_age": "1ms"}, "http": {"bind": "0.0.0.0:80"}}));
    eventually("the refusal is reported", soon, || service.reported()["refused"].is_object());
    assert_eq!(service.reported()["uplinks"]["iot_core"]["paused"], true, "the last good ones hold");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(*service.updates.lock().unwrap(), updates + 1, "a report answers a document once");

    // Through a restart, with the refused document still in the shadow.
    assert!(daemon.terminate(Duration::from_secs(20)).success(), "{}", setup.log_tail());
    let daemon = setup.start();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(uplink(&setup, "iot_core")["queued_readings"], 10, "still paused");
    service.wish(pause(false));
    eventually("everything arrives", soon, || uplink(&setup, "iot_core")["queued_readings"] == 0);
    eventually("the refusal is taken back", soon, || service.reported()["refused"].is_null());
    service.wish(json!({}));
    eventually("what is wished no more is reported no more", soon, || {
        service.reported()["batch"].is_null() && service.reported()["devices"].is_null()
    });
    assert!(daemon.terminate(Duration::from_secs(20)).success());
    let (lake, _) = account(&ear.heard());
    let of = |name: &str| lake.readings.values().filter(|reading| reading.device == name).count();
    assert_eq!((of("strap"), of("anna")), (10, 10), "the alias holds from its time on");
}
