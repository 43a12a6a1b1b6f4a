//! What BlueZ tells by itself: adapters, devices and the service's own comings and goings, as [`Event`]s.
//!
//! Signals are read inside the connection's task and passed on at once, so nothing queues up without a bound:
//! advertisements leave [`RESERVE`] places of the channel free and are dropped when there are no others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dbus::arg::{PropMap, RefArg, Variant, cast, prop_cast};
use dbus::message::MatchRule;
use dbus::nonblock::{MsgMatch, Proxy, SyncConnection};
use dbus::{Message, Path};
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::error::radio_error;
use super::values::Values;
use super::{ADAPTER, DEVICE, SERVICE};
use crate::source::bluetooth::radio::{AdapterId, AdapterInfo, Address, Advert, Event, Peer, RadioError};

const LIMIT: Duration = Duration::from_secs(10);
/// Devices whose names are kept in mind. BlueZ forgets passers-by after half a minute, and says so.
const MOST_FACTS: usize = 8192;
/// Places of the channel that only adapters, power, losses and the service itself may take: a handful at a time.
const RESERVE: usize = 128;
const CHARACTERISTIC: &str = "org.bluez.GattCharacteristic1";
const HEART_RATE_MEASUREMENT: &str = "00002a37-0000-1000-8000-00805f9b34fb";
const HEART_RATE_SERVICE: &str = "0000180d-0000-1000-8000-00805f9b34fb";

type Manufacturer = SmallVec<[(u16, Bytes); 1]>;
type Interfaces = HashMap<String, PropMap>;

/// What is known of a device besides its latest advertisement.
#[derive(Debug, Clone, Default)]
struct Facts {
    name: Option<Arc<str>>,
    random_address: bool,
    heart_rate_service: bool,
}

struct Listener {
    values: Arc<Mutex<Values>>,
    facts: HashMap<Peer, Facts>,
    events: mpsc::Sender<Event>,
}

/// Sends what is there, and from then on whatever happens, for as long as what is returned is held.
pub async fn listen(
    bus: &Arc<SyncConnection>,
    events: &mpsc::Sender<Event>,
    values: &Arc<Mutex<Values>>,
) -> Result<Vec<MsgMatch>, RadioError> {
    let listener = Listener { values: Arc::clone(values), facts: HashMap::new(), events: events.clone() };
    let listener = Arc::new(Mutex::new(listener));
    let mut matches = Vec::new();
    for rule in rules() {
        let listener = Arc::clone(&listener);
        let matched = bus.add_match(rule).await.map_err(|e| radio_error(&e))?;
        matches.push(matched.msg_cb(move |message| {
            listener.lock().unwrap_or_else(PoisonError::into_inner).signal(&message);
            true
        }));
    }
    let root = Proxy::new(SERVICE, "/", LIMIT, Arc::clone(bus));
    let objects: Result<(HashMap<Path<'static>, Interfaces>,), _> =
        root.method_call("org.freedesktop.DBus.ObjectManager", "GetManagedObjects", ()).await;
    let (objects,) = objects.map_err(|e| radio_error(&e))?;
    let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
    // Adapters before the devices they have heard.
    let (adapters, devices): (Vec<_>, Vec<_>) =
        objects.iter().partition(|(_, interfaces)| interfaces.contains_key(ADAPTER));
    for (path, interfaces) in adapters.into_iter().chain(devices) {
        listener.added(path, interfaces, false);
    }
    Ok(matches)
}

fn rules() -> [MatchRule<'static>; 3] {
    let mut objects = MatchRule::new_signal("org.freedesktop.DBus.ObjectManager", "InterfacesAdded");
    objects.member = None;
    objects.sender = Some(SERVICE.into());
    let mut properties = MatchRule::new_signal("org.freedesktop.DBus.Properties", "PropertiesChanged");
    properties.sender = Some(SERVICE.into());
    properties.path = Some("/org/bluez".into());
    properties.path_is_namespace = true;
    let mut owner = MatchRule::new_signal("org.freedesktop.DBus", "NameOwnerChanged");
    owner.sender = Some("org.freedesktop.DBus".into());
    [objects, properties, owner]
}

impl Listener {
    fn signal(&mut self, message: &Message) {
        let Some(member) = message.member() else { return };
        match &*member {
            "PropertiesChanged" => {
                let (Some(path), Ok((interface, changed, _))) =
                    (message.path(), message.read3::<String, PropMap, Vec<String>>())
                else {
                    return;
                };
                self.changed(&path, &interface, &changed);
            }
            "InterfacesAdded" => {
                if let Ok((path, interfaces)) = message.read2::<Path<'_>, Interfaces>() {
                    self.added(&path, &interfaces, true);
                }
            }
            "InterfacesRemoved" => {
                if let Ok((path, interfaces)) = message.read2::<Path<'_>, Vec<String>>() {
                    self.removed(&path, &interfaces);
                }
            }
            "NameOwnerChanged" => {
                let Ok((name, _, owner)) = message.read3::<String, String, String>() else { return };
                if name == SERVICE {
                    self.facts.clear();
                    self.values().clear();
                    self.send(if owner.is_empty() { Event::StackLost } else { Event::StackBack });
                }
            }
            _ => {}
        }
    }

    /// `live`: it has just been heard; else it is what BlueZ remembers.
    fn added(&mut self, path: &Path<'_>, interfaces: &Interfaces, live: bool) {
        if let Some(properties) = interfaces.get(ADAPTER) {
            let address = text(properties, "Address").and_then(|address| address.parse().ok());
            if let (Some(id), Some(address)) = (adapter_id(path), address) {
                let powered = prop_cast(properties, "Powered").copied().unwrap_or(false);
                self.send(Event::AdapterAdded(AdapterInfo { id, address, powered }));
            }
        }
        if interfaces.get(CHARACTERISTIC).and_then(|properties| text(properties, "UUID"))
            == Some(HEART_RATE_MEASUREMENT)
            && let Some(peer) = owner(path)
        {
            self.values().learn(path, peer);
        }
        if let Some(properties) = interfaces.get(DEVICE)
            && let Some(peer) = peer(path)
        {
            self.learn(&peer, properties);
            if live {
                self.heard(&peer, properties);
            } else if prop_cast(properties, "Connected") == Some(&true) {
                self.send(Event::Linked(self.advert(&peer, None, SmallVec::new())));
            }
        }
    }

    fn removed(&mut self, path: &Path<'_>, interfaces: &[String]) {
        if interfaces.iter().any(|interface| interface == ADAPTER)
            && let Some(id) = adapter_id(path)
        {
            self.facts.retain(|peer, _| peer.adapter != id);
            self.send(Event::AdapterRemoved(id));
        }
        if interfaces.iter().any(|interface| interface == CHARACTERISTIC) {
            self.values().forget(path);
        }
        if interfaces.iter().any(|interface| interface == DEVICE)
            && let Some(peer) = peer(path)
        {
            self.facts.remove(&peer);
        }
    }

    fn changed(&mut self, path: &Path<'_>, interface: &str, changed: &PropMap) {
        match interface {
            ADAPTER => {
                if let (Some(id), Some(powered)) = (adapter_id(path), prop_cast(changed, "Powered")) {
                    self.send(Event::Powered(id, *powered));
                }
            }
            CHARACTERISTIC => {
                if let Some(value) = prop_cast::<Vec<u8>>(changed, "Value") {
                    self.values().value(path, value);
                }
            }
            DEVICE => {
                let Some(peer) = peer(path) else { return };
                self.learn(&peer, changed);
                if prop_cast(changed, "Connected") == Some(&false) {
                    self.send(Event::Disconnected(peer.clone()));
                }
                self.heard(&peer, changed);
            }
            _ => {}
        }
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&mut self, peer: &Peer, properties: &PropMap) {
        if !self.facts.contains_key(peer) && self.facts.len() >= MOST_FACTS {
            return;
        }
        let facts = self.facts.entry(peer.clone()).or_default();
        // `Name`, not `Alias`: that one belongs to whoever uses this machine.
        if let Some(name) = text(properties, "Name") {
            facts.name = Some(name.into());
        }
        if let Some(kind) = text(properties, "AddressType") {
            facts.random_address = kind == "random";
        }
        if let Some(services) = prop_cast::<Vec<String>>(properties, "UUIDs") {
            facts.heart_rate_service = services.iter().any(|service| service == HEART_RATE_SERVICE);
        }
    }

    /// An advertisement shows as a new signal strength, as manufacturer data, or as both; the data is passed on only
    /// when it came with this one.
    fn heard(&self, peer: &Peer, properties: &PropMap) {
        let rssi = prop_cast::<i16>(properties, "RSSI");
        let manufacturer = manufacturer(properties);
        if rssi.is_none() && manufacturer.is_empty() {
            return;
        }
        let advert = self.advert(peer, rssi.copied(), manufacturer);
        if self.events.capacity() > RESERVE {
            // The next one comes in a moment.
            let _ = self.events.try_send(Event::Heard(advert));
        }
    }

    fn advert(&self, peer: &Peer, rssi: Option<i16>, manufacturer: Manufacturer) -> Advert {
        let facts = self.facts.get(peer).cloned().unwrap_or_default();
        Advert {
            peer: peer.clone(),
            random_address: facts.random_address,
            name: facts.name,
            rssi_dbm: rssi.and_then(|dbm| i8::try_from(dbm).ok()),
            heart_rate_service: facts.heart_rate_service,
            manufacturer,
        }
    }

    fn send(&self, event: Event) {
        // Closed: nobody listens any more, then there is nobody to tell.
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::error!(?event, "Bluetooth events are not taken: this one is lost");
        }
    }
}

fn text<'a>(properties: &'a PropMap, key: &str) -> Option<&'a str> {
    prop_cast::<String>(properties, key).map(String::as_str)
}

fn manufacturer(properties: &PropMap) -> Manufacturer {
    let data = prop_cast::<HashMap<u16, Variant<Box<dyn RefArg>>>>(properties, "ManufacturerData");
    let entries = data.into_iter().flatten().filter_map(|(company, value)| {
        cast::<Vec<u8>>(&value.0).map(|bytes| (*company, Bytes::copy_from_slice(bytes)))
    });
    entries.collect()
}

/// `/org/bluez/hci0`
fn adapter_id(path: &Path<'_>) -> Option<AdapterId> {
    let id = path.strip_prefix("/org/bluez/")?;
    (!id.contains('/')).then(|| AdapterId(id.into()))
}

/// `/org/bluez/hci0/dev_C4_AC_05_11_22_33/service000c/char000d`
fn owner(path: &Path<'_>) -> Option<Peer> {
    let (device, _) = path.split_once("/service")?;
    peer(&Path::new(device).ok()?)
}

/// `/org/bluez/hci0/dev_C4_AC_05_11_22_33`
fn peer(path: &Path<'_>) -> Option<Peer> {
    let (adapter, device) = path.strip_prefix("/org/bluez/")?.split_once('/')?;
    let address: Address = device.strip_prefix("dev_")?.replace('_', ":").parse().ok()?;
    Some(Peer { adapter: AdapterId(adapter.into()), address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (Listener, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(RESERVE + 2);
        (Listener { values: Arc::default(), facts: HashMap::new(), events }, receiver)
    }

    fn properties(entries: Vec<(&str, Box<dyn RefArg>)>) -> PropMap {
        entries.into_iter().map(|(key, value)| (key.to_owned(), Variant(value))).collect()
    }

    #[test]
    fn a_device_keeps_its_facts_and_data_is_never_repeated() {
        let (mut listener, mut events) = listener();
        let path = Path::from("/org/bluez/hci1/dev_C4_AC_05_11_22_33");
        let mut data: HashMap<u16, Variant<Box<dyn RefArg>>> = HashMap::new();
        data.insert(0x6B, Variant(Box::new(vec![0x3bu8, 0x1b, 0x54, 0x52])));
        let device = properties(vec![
            ("Name", Box::new("Polar H7 11223344".to_owned())),
            ("AddressType", Box::new("random".to_owned())),
            ("UUIDs", Box::new(vec![HEART_RATE_SERVICE.to_owned()])),
            ("RSSI", Box::new(-61i16)),
            ("ManufacturerData", Box::new(data)),
        ]);
        listener.added(&path, &[(DEVICE.to_owned(), device)].into_iter().collect(), true);
        let Some(Event::Heard(first)) = events.blocking_recv() else { panic!() };
        assert_eq!(first.name.as_deref(), Some("Polar H7 11223344"));
        assert!(first.random_address && first.heart_rate_service);
        assert_eq!(first.manufacturer.as_slice(), [(0x6B, Bytes::from_static(&[0x3b, 0x1b, 0x54, 0x52]))]);
        listener.changed(&path, DEVICE, &properties(vec![("RSSI", Box::new(-70i16))]));
        let Some(Event::Heard(second)) = events.blocking_recv() else { panic!() };
        assert_eq!(second.rssi_dbm, Some(-70));
        assert_eq!(second.name, first.name);
        assert!(second.manufacturer.is_empty(), "old data is no new reading");
    }

    #[test]
    fn notifications_are_values_of_0x2a37_and_of_nothing_else() {
        let (mut listener, _events) = listener();
        let peer = peer(&Path::from("/org/bluez/hci0/dev_C4_AC_05_11_22_33")).unwrap();
        let mut values = listener.values().take(&peer);
        let place =
            |last: &str| Path::from(format!("/org/bluez/hci0/dev_C4_AC_05_11_22_33/service000c/{last}"));
        for (last, uuid) in [
            ("char000d", HEART_RATE_MEASUREMENT),
            ("char0010", "00002a19-0000-1000-8000-00805f9b34fb"),
            ("char0013", "00002a37-0000-3512-2118-0009af100700"),
        ] {
            let characteristic = properties(vec![("UUID", Box::new(uuid.to_owned()))]);
            listener.added(
                &place(last),
                &[(CHARACTERISTIC.to_owned(), characteristic)].into_iter().collect(),
                true,
            );
            let value = properties(vec![("Value", Box::new(vec![0x10u8, 72]))]);
            listener.changed(&place(last), CHARACTERISTIC, &value);
        }
        assert_eq!(values.try_recv().ok(), Some(Bytes::from_static(&[0x10, 72])));
        assert!(values.try_recv().is_err(), "a battery, and a maker's own meaning of the short number");
        listener.removed(&place("char000d"), &[CHARACTERISTIC.to_owned()]);
        listener.changed(
            &place("char000d"),
            CHARACTERISTIC,
            &properties(vec![("Value", Box::new(vec![0u8]))]),
        );
        assert!(values.try_recv().is_err());
    }

    #[test]
    fn advertisements_never_take_the_last_places() {
        let (listener, mut events) = listener();
        let peer = peer(&Path::from("/org/bluez/hci1/dev_C4_AC_05_11_22_33")).unwrap();
        for _ in 0..10 {
            listener.heard(&peer, &properties(vec![("RSSI", Box::new(-70i16))]));
        }
        for _ in 0..RESERVE {
            listener.send(Event::StackLost);
        }
        let mut taken = Vec::new();
        while let Ok(event) = events.try_recv() {
            taken.push(event);
        }
        assert_eq!(taken.iter().filter(|event| matches!(event, Event::Heard(_))).count(), 2);
        assert_eq!(taken.iter().filter(|event| **event == Event::StackLost).count(), RESERVE);
    }
}
