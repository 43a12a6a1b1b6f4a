//! The radio as it is on Linux: BlueZ, asked over D-Bus; connections and attributes through btleplug.
//!
//! What is done here rather than by btleplug, and why:
//! - events come straight from the bus ([`signals`]): btleplug asks BlueZ about the device again for every single
//!   advertisement, in series, behind a queue without a bound, and tells nothing of adapters that come and go or of
//!   a Bluetooth service that was restarted;
//! - scanning is asked for with `Transport = le`: btleplug's looks for classic devices half of the time, and switches
//!   on an adapter that somebody switched off;
//! - connecting, subscribing, and the notifications' values ([`values`]), which are signals like all others: btleplug reads them from
//!   streams that, when they end while signals come, panic inside bluez-async and leave a match rule behind;
//! - pairing needs an agent ([`agent`]).
//!
//! btleplug finds the services and reads what a wearable says of itself. Its connection to the bus is kept for the life of the process: it
//! could not be given back.
//!
//! Every call has its own time limit. A connect that is given up leaves BlueZ trying: the caller disconnects.

mod agent;
mod error;
mod signals;
mod values;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use btleplug::api::{Central, Characteristic as Attribute, Manager as _, Peripheral as _};
use btleplug::platform::{Adapter, Manager, Peripheral, PeripheralId};
use bytes::Bytes;
use dbus::arg::{PropMap, Variant};
use dbus::nonblock::stdintf::org_freedesktop_dbus::Properties;
use dbus::nonblock::{MsgMatch, Proxy, SyncConnection};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::radio::{AdapterId, Characteristic, Event, Peer, Radio, RadioError};
use error::radio_error;
use values::Values;

const SERVICE: &str = "org.bluez";
const ADAPTER: &str = "org.bluez.Adapter1";
const DEVICE: &str = "org.bluez.Device1";
/// BlueZ answers at once what needs no radio.
const CALL: Duration = Duration::from_secs(10);
/// BlueZ tries for 40 s.
const CONNECT: Duration = Duration::from_secs(45);
/// How often it is asked whether it knows the services already; most often it does when the connect call is back.
const RESOLVED_EVERY: Duration = Duration::from_millis(100);
/// Services of a strap that BlueZ has not cached take seconds on a slow controller.
const DISCOVER: Duration = Duration::from_secs(20);
const PAIR: Duration = Duration::from_secs(30);
const SYSTEMD: &str = "org.freedesktop.systemd1";
/// systemd queues the job and answers; it may have to start polkit first.
const RESTART: Duration = Duration::from_secs(20);
/// Events on their way to the driver: what a full gym's advertisements need in a second.
const EVENTS: usize = 1024;

/// BlueZ on the system bus. Clones share the connection.
#[derive(Clone, Default)]
pub struct BlueZ {
    link: Arc<Mutex<Option<Arc<Link>>>>,
    manager: Arc<Mutex<Option<Manager>>>,
}

/// One connection to the bus, and what was set up through it.
struct Link {
    bus: Arc<SyncConnection>,
    manager: Manager,
    /// btleplug's handles hold what is known of a wearable's services, so there is one per wearable.
    peripherals: Mutex<HashMap<Peer, Peripheral>>,
    agent: tokio::sync::OnceCell<()>,
    values: Arc<Mutex<Values>>,
    /// Signals come for as long as these live.
    _signals: Vec<MsgMatch>,
}

impl Radio for BlueZ {
    async fn events(&self) -> Result<mpsc::Receiver<Event>, RadioError> {
        self.replace(None);
        let (resource, bus) = dbus_tokio::connection::new_system_sync().map_err(|e| radio_error(&e))?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let listening = Arc::clone(&bus);
        let lost = sender.clone();
        // Ends with the connection, or when nobody listens any more.
        tokio::spawn(async move {
            tokio::select! {
                error = resource => tracing::debug!(%error, "the connection to the system bus is lost"),
                () = lost.closed() => {}
            }
            drop(listening);
        });
        let values = Arc::new(Mutex::new(Values::default()));
        let signals = signals::listen(&bus, &sender, &values).await?;
        let manager = self.manager().await?;
        let link = Link {
            bus,
            manager,
            peripherals: Mutex::default(),
            agent: tokio::sync::OnceCell::new(),
            values,
            _signals: signals,
        };
        self.replace(Some(Arc::new(link)));
        Ok(receiver)
    }

    async fn scan(&self, adapter: &AdapterId, on: bool) -> Result<(), RadioError> {
        let link = self.link()?;
        let proxy = link.proxy(adapter_path(adapter), CALL);
        if !on {
            let stopped: Result<(), _> = proxy.method_call(ADAPTER, "StopDiscovery", ()).await;
            return stopped.map_err(|e| radio_error(&e));
        }
        let powered: bool = proxy.get(ADAPTER, "Powered").await.map_err(|e| radio_error(&e))?;
        if !powered {
            return Err(RadioError::Off);
        }
        let mut filter = PropMap::new();
        filter.insert("Transport".into(), Variant(Box::new("le".to_owned())));
        filter.insert("DuplicateData".into(), Variant(Box::new(true)));
        let set: Result<(), _> = proxy.method_call(ADAPTER, "SetDiscoveryFilter", (filter,)).await;
        set.map_err(|e| radio_error(&e))?;
        let started: Result<(), _> = proxy.method_call(ADAPTER, "StartDiscovery", ()).await;
        match started.map_err(|e| radio_error(&e)) {
            // It listens for us already. Or the kernel goes on for a bluetoothd that was killed, for ten seconds more: then
            // BlueZ gives up with the same words.
            Err(RadioError::Busy) => {
                let listens: bool = proxy.get(ADAPTER, "Discovering").await.map_err(|e| radio_error(&e))?;
                if listens { Ok(()) } else { Err(RadioError::Busy) }
            }
            result => result,
        }
    }

    async fn power(&self, adapter: &AdapterId, on: bool) -> Result<(), RadioError> {
        let link = self.link()?;
        let proxy = link.proxy(adapter_path(adapter), CALL);
        proxy.set(ADAPTER, "Powered", on).await.map_err(|e| radio_error(&e))
    }

    async fn notifications(&self, peer: &Peer) -> Result<mpsc::Receiver<Bytes>, RadioError> {
        let link = self.link()?;
        let receiver = link.values.lock().unwrap_or_else(PoisonError::into_inner).take(peer);
        Ok(receiver)
    }

    async fn connect(&self, peer: &Peer) -> Result<(), RadioError> {
        let link = self.link()?;
        let device = link.proxy(device_path(peer), CONNECT);
        let connected: Result<(), _> = device.method_call(DEVICE, "Connect", ()).await;
        connected.map_err(|e| radio_error(&e))?;
        within(DISCOVER, services_known(&link.proxy(device_path(peer), CALL))).await?;
        // BlueZ has told where it is, unless its signals came in another order than usual.
        let known = link.values.lock().unwrap_or_else(PoisonError::into_inner).place(peer);
        if let Some(place) = known
            && link.start_notify(place).await.is_ok()
        {
            return Ok(());
        }
        link.forget(peer);
        let peripheral = link.peripheral(peer).await?;
        let attribute = find(&peripheral, HEART_RATE_SERVICE, HEART_RATE_MEASUREMENT).await?;
        within(CALL, async { peripheral.subscribe(&attribute).await.map_err(error::btleplug) }).await
    }

    async fn disconnect(&self, peer: &Peer) -> Result<(), RadioError> {
        let link = self.link()?;
        // Asked directly: btleplug wants to know the wearable first, and BlueZ may have forgotten it.
        let proxy = link.proxy(device_path(peer), CALL);
        let ended: Result<(), _> = proxy.method_call(DEVICE, "Disconnect", ()).await;
        match ended.map_err(|e| radio_error(&e)) {
            Err(RadioError::Unknown | RadioError::NotConnected) => Ok(()),
            result => result,
        }
    }

    async fn read(&self, peer: &Peer, what: Characteristic) -> Result<Bytes, RadioError> {
        let link = self.link()?;
        let peripheral = link.peripheral(peer).await?;
        let (service, characteristic) = place(what);
        let attribute = find(&peripheral, service, characteristic).await?;
        within(CALL, async { peripheral.read(&attribute).await.map_err(error::btleplug) })
            .await
            .map(Bytes::from)
    }

    async fn pair(&self, peer: &Peer) -> Result<(), RadioError> {
        let link = self.link()?;
        let proxy = link.proxy(device_path(peer), PAIR);
        let paired: bool = proxy.get(DEVICE, "Paired").await.map_err(|e| radio_error(&e))?;
        if paired {
            return Ok(());
        }
        link.agent.get_or_try_init(|| agent::register(&link.bus)).await?;
        let done: Result<(), _> = proxy.method_call(DEVICE, "Pair", ()).await;
        done.map_err(|e| radio_error(&e))
    }

    async fn restart_stack(&self) -> Result<(), RadioError> {
        let link = self.link()?;
        let systemd = Proxy::new(SYSTEMD, "/org/freedesktop/systemd1", RESTART, Arc::clone(&link.bus));
        let done: Result<(dbus::Path<'static>,), _> = systemd
            .method_call("org.freedesktop.systemd1.Manager", "RestartUnit", ("bluetooth.service", "replace"))
            .await;
        done.map(drop).map_err(|e| radio_error(&e))
    }
}

impl BlueZ {
    fn link(&self) -> Result<Arc<Link>, RadioError> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.clone().ok_or_else(|| RadioError::NoStack("not connected to the system bus".into()))
    }

    /// btleplug's session, made anew only when its connection to the bus is lost: an old one never ends.
    async fn manager(&self) -> Result<Manager, RadioError> {
        let known = self.manager.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(manager) = known
            && within(CALL, async { manager.adapters().await.map_err(error::btleplug) }).await.is_ok()
        {
            return Ok(manager);
        }
        let manager = within(CALL, async { Manager::new().await.map_err(error::btleplug) }).await?;
        *self.manager.lock().unwrap_or_else(PoisonError::into_inner) = Some(manager.clone());
        Ok(manager)
    }

    fn replace(&self, link: Option<Arc<Link>>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }
}

impl Link {
    fn proxy<'a>(&'a self, path: String, limit: Duration) -> Proxy<'a, Arc<SyncConnection>> {
        Proxy::new(SERVICE, path, limit, Arc::clone(&self.bus))
    }

    async fn start_notify(&self, characteristic: String) -> Result<(), RadioError> {
        let proxy = self.proxy(characteristic, CALL);
        let started: Result<(), _> =
            proxy.method_call("org.bluez.GattCharacteristic1", "StartNotify", ()).await;
        match started.map_err(|e| radio_error(&e)) {
            // It notifies us already.
            Err(RadioError::Busy) => Ok(()),
            result => result,
        }
    }

    fn cached(&self, peer: &Peer) -> Option<Peripheral> {
        self.peripherals.lock().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    fn forget(&self, peer: &Peer) {
        self.peripherals.lock().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    async fn peripheral(&self, peer: &Peer) -> Result<Peripheral, RadioError> {
        if let Some(peripheral) = self.cached(peer) {
            return Ok(peripheral);
        }
        let path = device_path(peer);
        let id: bluez_async::DeviceId = path
            .trim_start_matches("/org/bluez/")
            .parse()
            .map_err(|error| RadioError::Other(format!("{path} is no device ({error})")))?;
        let adapter = self.adapter(&peer.adapter).await?;
        let found = within(CALL, async {
            adapter.peripheral(&PeripheralId::from(id)).await.map_err(error::btleplug)
        });
        let peripheral = found.await?;
        let mut peripherals = self.peripherals.lock().unwrap_or_else(PoisonError::into_inner);
        if peripherals.len() >= MOST_PERIPHERALS {
            peripherals.clear();
        }
        Ok(peripherals.entry(peer.clone()).or_insert(peripheral).clone())
    }

    async fn adapter(&self, id: &AdapterId) -> Result<Adapter, RadioError> {
        let adapters = within(CALL, async { self.manager.adapters().await.map_err(error::btleplug) }).await?;
        for adapter in adapters {
            // "hci0 (usb:v1D6Bp0246d0542)"
            let info = within(CALL, async { adapter.adapter_info().await.map_err(error::btleplug) }).await?;
            if info.split(' ').next() == Some(&*id.0) {
                return Ok(adapter);
            }
        }
        Err(RadioError::NoAdapter)
    }
}

/// Handles of wearables that are kept: far beyond what any site has. A wearable asked for again gets a new one.
const MOST_PERIPHERALS: usize = 1024;

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, RadioError>>,
) -> Result<T, RadioError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(RadioError::Timeout))
}

/// Waits until BlueZ has the services of a wearable that is connected.
async fn services_known(device: &Proxy<'_, Arc<SyncConnection>>) -> Result<(), RadioError> {
    loop {
        if device.get(DEVICE, "ServicesResolved").await.map_err(|e| radio_error(&e))? {
            return Ok(());
        }
        if !device.get::<bool>(DEVICE, "Connected").await.map_err(|e| radio_error(&e))? {
            return Err(RadioError::NotConnected);
        }
        tokio::time::sleep(RESOLVED_EVERY).await;
    }
}

/// A wearable's characteristic; its services are found first where they are not known from an earlier connection.
async fn find(peripheral: &Peripheral, service: Uuid, characteristic: Uuid) -> Result<Attribute, RadioError> {
    if peripheral.services().is_empty() {
        within(DISCOVER, async { peripheral.discover_services().await.map_err(error::btleplug) }).await?;
    }
    attribute(peripheral, service, characteristic)
}

fn adapter_path(adapter: &AdapterId) -> String {
    format!("/org/bluez/{adapter}")
}

fn device_path(peer: &Peer) -> String {
    format!("/org/bluez/{}/dev_{}", peer.adapter, peer.address.to_string().replace(':', "_"))
}

/// A 16-bit UUID of the Bluetooth SIG as the 128 bits it stands for.
const fn assigned(short: u16) -> Uuid {
    Uuid::from_u128(0x0000_0000_0000_1000_8000_0080_5F9B_34FB | (short as u128) << 96)
}

const HEART_RATE_SERVICE: Uuid = assigned(0x180D);
const HEART_RATE_MEASUREMENT: Uuid = assigned(0x2A37);

const fn place(what: Characteristic) -> (Uuid, Uuid) {
    let (service, characteristic) = match what {
        Characteristic::BodySensorLocation => (0x180D, 0x2A38),
        Characteristic::BatteryLevel => (0x180F, 0x2A19),
        Characteristic::ManufacturerName => (0x180A, 0x2A29),
        Characteristic::ModelNumber => (0x180A, 0x2A24),
        Characteristic::SerialNumber => (0x180A, 0x2A25),
        Characteristic::FirmwareRevision => (0x180A, 0x2A26),
    };
    (assigned(service), assigned(characteristic))
}

fn attribute(peripheral: &Peripheral, service: Uuid, characteristic: Uuid) -> Result<Attribute, RadioError> {
    let services = peripheral.services();
    let found = services
        .iter()
        .filter(|known| known.uuid == service)
        .flat_map(|known| &known.characteristics)
        .find(|known| known.uuid == characteristic);
    found.cloned().ok_or(RadioError::NotOffered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::bluetooth::radio::Address;

    #[test]
    fn names_on_the_bus() {
        let peer =
            Peer { adapter: AdapterId("hci0".into()), address: Address([0xC4, 0xAC, 5, 0x11, 0x22, 0x33]) };
        assert_eq!(device_path(&peer), "/org/bluez/hci0/dev_C4_AC_05_11_22_33");
        assert_eq!(HEART_RATE_MEASUREMENT.to_string(), "00002a37-0000-1000-8000-00805f9b34fb");
    }
}
