use serde::{Deserialize, Serialize};

/// `[ble]`: the gateway's own Bluetooth radio.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ble {
    /// Quiet where there is no adapter; takes one that appears later.
    pub enabled: bool,
    /// By system name (`hci0`) or address; empty: all there are.
    pub adapters: Vec<String>,
    /// Take heart rates that wearables broadcast: no connection, no RR intervals.
    pub broadcast: bool,
    /// Connect to wearables for RR intervals, as far as the adapters' slots go.
    pub connect: bool,
    /// Take every heart-rate wearable in reach, not only those that are listed: passers-by too.
    pub accept_unknown: bool,
    /// Connections an adapter is asked to hold; fewer when it refuses.
    pub slots: u8,
    /// Ask systemd to restart bluetooth.service when an adapter is stuck and nothing else helped.
    pub restart_bluetooth: bool,
    /// Wearables of this site: `[[ble.device]]`.
    #[serde(rename = "device")]
    pub devices: Vec<BleDevice>,
}

impl Default for Ble {
    fn default() -> Self {
        Self {
            enabled: true,
            adapters: Vec::new(),
            broadcast: true,
            connect: true,
            accept_unknown: false,
            // What cheap controllers hold in practice.
            slots: 5,
            restart_bluetooth: false,
            devices: Vec::new(),
        }
    }
}

/// `[[ble.device]]`: named by exactly one of `address`, `polar_id` and `name`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BleDevice {
    /// `C4:AC:05:11:22:33`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Printed on Polar's straps: 8 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polar_id: Option<String>,
    /// The name it gives itself, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is called on every line; default: its Polar id, serial number or address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// 1 gets a connection first.
    #[serde(default = "first")]
    pub priority: u8,
    /// Pair before use: for wearables that give nothing otherwise.
    #[serde(default)]
    pub pair: bool,
}

impl Default for BleDevice {
    fn default() -> Self {
        Self { address: None, polar_id: None, name: None, alias: None, priority: first(), pair: false }
    }
}

const fn first() -> u8 {
    1
}
