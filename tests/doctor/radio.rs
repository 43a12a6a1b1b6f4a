//! The radio, as far as it can be had here: a bus without BlueZ, a bus that hangs, a BlueZ that is played.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dbus::Message;
use dbus::arg::{PropMap, Variant};
use dbus::blocking::Connection;
use dbus::channel::{Channel, MatchingReceiver as _, Sender as _};
use dbus::message::MatchRule;
use fogbeat::doctor::Verdict;

use crate::Patient;

#[test]
fn without_an_adapter_wearables_come_by_mqtt_unless_some_are_listed() {
    if std::path::Path::new("/sys/class/bluetooth").exists() {
        println!("SKIPPED: this machine has Bluetooth");
        return;
    }
    let mut patient = Patient::new("radio");
    patient.environment = vec![("DBUS_SYSTEM_BUS_ADDRESS".to_owned(), "unix:path=/nonexistent".to_owned())];
    patient.examine().exit(0).expect("bluetooth", Verdict::Skipped, "there is no Bluetooth adapter");
    patient.setup.extra = "[[ble.device]]\npolar_id = \"75087320\"\n".to_owned();
    patient.examine().exit(69).expect("bluetooth", Verdict::Error, "there is no Bluetooth adapter");
    patient.setup.extra = "[ble]\nenabled = false\n".to_owned();
    patient.examine().exit(0).expect("bluetooth", Verdict::Skipped, "switched off in the configuration");
}

/// A bus that accepts and never says a word.
#[test]
fn a_dead_bus_holds_nobody_up() {
    let mut patient = Patient::new("bus");
    let socket = patient.dir.path().join("bus");
    let _bus = UnixListener::bind(&socket).unwrap();
    patient.environment =
        vec![("DBUS_SYSTEM_BUS_ADDRESS".to_owned(), format!("unix:path={}", socket.display()))];
    let seen = patient.examine();
    // Everything else was looked at meanwhile.
    seen.expect("listener", Verdict::Ok, "is free");
    assert_eq!(seen.of("bluetooth").len(), 1);
}

#[test]
fn an_adapter_its_settings_and_who_is_heard() {
    let mut patient = Patient::new("bluez");
    let Some(bus) = Bus::start(patient.dir.path()) else {
        println!("SKIPPED: there is no dbus-daemon");
        return;
    };
    patient.environment = vec![("DBUS_SYSTEM_BUS_ADDRESS".to_owned(), bus.address.clone())];
    patient.listen = "2s".to_owned();
    let bluez = BlueZ::play(&bus.address, Mood::Fine);
    let seen = patient.examine();
    seen.expect("bluetooth", Verdict::Ok, "works")
        .expect("wearables", Verdict::Warning, "1 heard within 2s at -61 dBm; 0 of them allowed")
        .expect("bluetooth mode", Verdict::Ok, "ControllerMode");
    assert_eq!(seen.of("bluetooth links").len(), 1);
    let text = serde_json::to_string(&seen.report).unwrap();
    assert!(!text.contains("TICKR") && !text.contains("C4:AC"), "a wearable is named: {text}");
    patient.setup.extra = "[[ble.device]]\nname = \"TICKR 4F21\"\n".to_owned();
    patient.examine().expect("wearables", Verdict::Ok, "1 of them allowed");
    drop(bluez);

    let bluez = BlueZ::play(&bus.address, Mood::Denied);
    let seen = patient.examine();
    seen.exit(69).expect("bluetooth", Verdict::Error, "");
    drop(bluez);
    let bluez = BlueZ::play(&bus.address, Mood::Off);
    patient.examine().exit(69).expect("bluetooth", Verdict::Error, "switched off");
    drop(bluez);
}

/// A bus of our own, on which everybody may do everything.
struct Bus {
    process: Child,
    address: String,
}

impl Bus {
    fn start(dir: &Path) -> Option<Self> {
        let (socket, config) = (dir.join("system_bus"), dir.join("bus.conf"));
        let address = format!("unix:path={}", socket.display());
        let text = format!(
            "<busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/>\
             <allow user=\"*\"/></policy></busconfig>"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg(format!("--config-file={}", config.display())).args(["--nofork", "--nopidfile"]);
        let process = command.stdout(Stdio::null()).spawn().ok()?;
        let started = Instant::now();
        while !socket.exists() {
            assert!(started.elapsed() < Duration::from_secs(20), "the bus does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self { process, address })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Fine,
    Denied,
    Off,
}

/// As much of BlueZ as is asked: one adapter, and a strap that is heard once somebody scans.
struct BlueZ {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

type Interfaces = HashMap<String, PropMap>;

impl BlueZ {
    fn play(address: &str, mood: Mood) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut channel = Channel::open_private(address).unwrap();
        channel.register().unwrap();
        let until = Arc::clone(&stop);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let bus = Connection::from(channel);
            bus.request_name("org.bluez", false, true, false).unwrap();
            let calls = MatchRule::new_method_call();
            let answer = move |call: Message, bus: &Connection| {
                answer(&call, bus, mood);
                true
            };
            bus.start_receive(calls, Box::new(answer));
            ready.send(()).unwrap();
            while !until.load(Ordering::Relaxed) {
                bus.process(Duration::from_millis(50)).unwrap();
            }
        });
        is_ready.recv().unwrap();
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for BlueZ {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn property<T: dbus::arg::RefArg + 'static>(
    name: &str,
    value: T,
) -> (String, Variant<Box<dyn dbus::arg::RefArg>>) {
    (name.to_owned(), Variant(Box::new(value)))
}

fn answer(call: &Message, bus: &Connection, mood: Mood) {
    let member = call.member().map(|member| member.to_string()).unwrap_or_default();
    if mood == Mood::Denied {
        let text = std::ffi::CString::new("Rejected send message").unwrap();
        bus.send(call.error(&"org.freedesktop.DBus.Error.AccessDenied".into(), &text)).unwrap();
        return;
    }
    let powered = mood != Mood::Off;
    let reply = call.method_return();
    let reply = match member.as_str() {
        "GetManagedObjects" => {
            let adapter = PropMap::from([
                property("Address", "B8:27:EB:11:22:33".to_owned()),
                property("Powered", powered),
            ]);
            let adapter = Interfaces::from([("org.bluez.Adapter1".to_owned(), adapter)]);
            reply.append1(HashMap::from([(dbus::Path::from("/org/bluez/hci0"), adapter)]))
        }
        "Get" => reply.append1(Variant(powered)),
        _ => reply,
    };
    bus.send(reply).unwrap();
    if member == "StartDiscovery" {
        let strap = PropMap::from([
            property("Address", "C4:AC:05:11:22:33".to_owned()),
            property("AddressType", "public".to_owned()),
            property("Name", "TICKR 4F21".to_owned()),
            property("RSSI", -61_i16),
            property("UUIDs", vec!["0000180d-0000-1000-8000-00805f9b34fb".to_owned()]),
        ]);
        let strap = Interfaces::from([("org.bluez.Device1".to_owned(), strap)]);
        let path = dbus::Path::from("/org/bluez/hci0/dev_C4_AC_05_11_22_33");
        let heard =
            Message::new_signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded").unwrap();
        bus.send(heard.append2(path, strap)).unwrap();
    }
}
