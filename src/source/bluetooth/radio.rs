//! The seam to the radio: what the Bluetooth source needs of the system's stack, and nothing more.
//!
//! Every call ends within its own time limit, so that no caller needs another one. Whoever implements it turns what the
//! stack gets wrong into what is said here; tests use one that fails in every way a real stack was seen to fail.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::mpsc;

/// A Bluetooth device address, most significant byte first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub [u8; 6]);

/// An adapter of this machine as the system names it (`hci0`). The number can change when a dongle is plugged anew;
/// [`AdapterInfo::address`] does not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    pub id: AdapterId,
    pub address: Address,
    /// Switched on. Off means that somebody or something switched it off, or that it is blocked.
    pub powered: bool,
}

/// A wearable as one adapter hears it: the same wearable heard by two adapters is two peers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    pub adapter: AdapterId,
    pub address: Address,
}

/// One advertisement, or what the stack passes on of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    pub peer: Peer,
    /// A random address may be another one in a quarter of an hour.
    pub random_address: bool,
    /// The name the wearable gives itself.
    pub name: Option<Arc<str>>,
    pub rssi_dbm: Option<i8>,
    /// It announces the heart rate service, 0x180D.
    pub heart_rate_service: bool,
    /// Manufacturer specific data by company id, without it.
    pub manufacturer: SmallVec<[(u16, Bytes); 1]>,
}

/// What happens on the air and in the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Heard(Advert),
    /// The stack holds a connection to it already, from before [`Radio::events`]; what it once advertised.
    Linked(Advert),
    /// The link is gone, whoever ended it. May come late, twice or never: the calls' answers are what counts.
    Disconnected(Peer),
    AdapterAdded(AdapterInfo),
    AdapterRemoved(AdapterId),
    Powered(AdapterId, bool),
    /// The system's Bluetooth service is gone: nothing that was set up in it holds any more.
    StackLost,
    /// It is there again, empty.
    StackBack,
}

/// What a wearable is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Characteristic {
    /// 0x2A38.
    BodySensorLocation,
    /// 0x2A19.
    BatteryLevel,
    /// 0x2A29.
    ManufacturerName,
    /// 0x2A24.
    ModelNumber,
    /// 0x2A25.
    SerialNumber,
    /// 0x2A26.
    FirmwareRevision,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RadioError {
    #[error(
        "no Bluetooth service answers on the system bus ({0}); install bluez, and start bluetooth.service"
    )]
    NoStack(String),
    #[error("access to Bluetooth is denied ({0}); add fogbeat's user to the group `bluetooth`")]
    Denied(String),
    #[error("the adapter is not there")]
    NoAdapter,
    #[error("the adapter is switched off")]
    Off,
    /// The controller has no room for one more link (HCI 0x0d), or BlueZ says so in its own words.
    #[error("the adapter has no room for one more connection")]
    NoRoom,
    #[error("something else is going on with this device or adapter")]
    Busy,
    #[error("the wearable is not known to the adapter any more")]
    Unknown,
    #[error("no answer in time")]
    Timeout,
    #[error("not connected")]
    NotConnected,
    /// The wearable has no such service or characteristic.
    #[error("the wearable does not offer it")]
    NotOffered,
    #[error("it wants to be paired")]
    NotPaired,
    #[error("{0}")]
    Other(String),
}

/// The radio. Clones share it.
pub trait Radio: Clone + Send + Sync + 'static {
    /// Connects to the stack and hears everything that happens from now on, adapters that are there first. The channel
    /// ends when the connection to the stack is lost for good; called again, it begins anew and ends the one before.
    /// Advertisements that nobody takes in time are dropped, never anything else.
    fn events(&self) -> impl Future<Output = Result<mpsc::Receiver<Event>, RadioError>> + Send;

    /// Starts or stops listening for advertisements, unfiltered and with repetitions. Never switches an adapter on.
    fn scan(&self, adapter: &AdapterId, on: bool) -> impl Future<Output = Result<(), RadioError>> + Send;

    /// Switches an adapter on or off; back within some seconds when it did not obey.
    fn power(&self, adapter: &AdapterId, on: bool) -> impl Future<Output = Result<(), RadioError>> + Send;

    /// The wearable's heart rate notifications: one stream for the peer's life, silent while it is not connected. What
    /// was sent while nobody took it is dropped, oldest first, and counted in the next item's `dropped`.
    fn notifications(
        &self,
        peer: &Peer,
    ) -> impl Future<Output = Result<mpsc::Receiver<Bytes>, RadioError>> + Send;

    /// Connects, finds the services and asks for heart rate notifications.
    fn connect(&self, peer: &Peer) -> impl Future<Output = Result<(), RadioError>> + Send;

    /// Ends a connection, or an attempt that goes on after its caller has given up (dropped the future). Nothing to
    /// end is no error.
    fn disconnect(&self, peer: &Peer) -> impl Future<Output = Result<(), RadioError>> + Send;

    fn read(
        &self,
        peer: &Peer,
        what: Characteristic,
    ) -> impl Future<Output = Result<Bytes, RadioError>> + Send;

    /// Pairs without asking anybody ("just works").
    fn pair(&self, peer: &Peer) -> impl Future<Output = Result<(), RadioError>> + Send;

    /// Has the system's Bluetooth service started anew; what happens then comes as events.
    fn restart_stack(&self) -> impl Future<Output = Result<(), RadioError>> + Send;
}

// === impl Address ===

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no Bluetooth address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a Bluetooth address; write it like \"C4:AC:05:11:22:33\"")]
pub struct NotAnAddress(String);

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotAnAddress(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            hex::decode_to_slice(part, std::slice::from_mut(byte)).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for AdapterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_printed() {
        let address: Address = "c4:AC:05-11:22:33".parse().unwrap();
        assert_eq!(address.to_string(), "C4:AC:05:11:22:33");
        assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        for wrong in
            ["", "C4:AC:05:11:22", "C4:AC:05:11:22:33:44", "C4:AC:05:11:22:3", "C4:AC:05:11:22:+3", "x"]
        {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
