//! What BlueZ's errors mean. Their names are few and their texts vary between versions, so both are looked at.

use bluez_async::BluetoothError;

use crate::source::bluetooth::radio::RadioError;

/// Texts by which BlueZ says that the controller has no room for one more link: HCI 0x0d arrives as ECONNREFUSED,
/// 0x09 as EMLINK (`btd_error_le_conn_*`, src/error.c).
const NO_ROOM: [&str; 4] =
    ["limited-resources", "connection-limit", "le-connection-refused", "memory-allocation"];

pub fn radio_error(error: &dbus::Error) -> RadioError {
    let name = error.name().unwrap_or_default();
    let text = error.message().unwrap_or_default();
    let whole = || format!("{name}: {text}");
    match name {
        "org.freedesktop.DBus.Error.AccessDenied" | "org.freedesktop.DBus.Error.AuthFailed" => {
            RadioError::Denied(whole())
        }
        "org.freedesktop.DBus.Error.ServiceUnknown"
        | "org.freedesktop.DBus.Error.NameHasNoOwner"
        | "org.freedesktop.DBus.Error.FileNotFound"
        | "org.freedesktop.DBus.Error.NoServer"
        | "org.freedesktop.DBus.Error.Disconnected"
        | "org.freedesktop.DBus.Error.Spawn.ChildExited"
        | "org.freedesktop.systemd1.NoSuchUnit" => RadioError::NoStack(whole()),
        "org.freedesktop.DBus.Error.UnknownObject" | "org.bluez.Error.DoesNotExist" => RadioError::Unknown,
        // BlueZ removes a device's interfaces before its object.
        "org.freedesktop.DBus.Error.UnknownMethod" | "org.freedesktop.DBus.Error.UnknownInterface" => {
            RadioError::Unknown
        }
        "org.freedesktop.DBus.Error.NoReply" | "org.freedesktop.DBus.Error.Timeout" => RadioError::Timeout,
        "org.bluez.Error.NotReady" => RadioError::Off,
        "org.bluez.Error.InProgress" => RadioError::Busy,
        "org.bluez.Error.NotConnected" => RadioError::NotConnected,
        "org.bluez.Error.NotPermitted"
        | "org.bluez.Error.NotAuthorized"
        | "org.bluez.Error.AuthenticationFailed"
        | "org.bluez.Error.AuthenticationRejected"
        | "org.bluez.Error.AuthenticationCanceled" => RadioError::NotPaired,
        _ if NO_ROOM.iter().any(|part| text.contains(part)) => RadioError::NoRoom,
        _ if text.contains("in progress") => RadioError::Busy,
        _ if text == "Not connected" => RadioError::NotConnected,
        _ => RadioError::Other(whole()),
    }
}

pub fn btleplug(error: btleplug::Error) -> RadioError {
    match error {
        btleplug::Error::DeviceNotFound => RadioError::Unknown,
        btleplug::Error::NotConnected => RadioError::NotConnected,
        btleplug::Error::NoSuchCharacteristic => RadioError::NotOffered,
        btleplug::Error::TimedOut(_) => RadioError::Timeout,
        btleplug::Error::Other(inner) => match inner.downcast::<BluetoothError>() {
            Ok(inner) => match *inner {
                BluetoothError::DbusError(error) => radio_error(&error),
                BluetoothError::NoBluetoothAdapters => RadioError::NoAdapter,
                BluetoothError::ServiceDiscoveryTimedOut => RadioError::Timeout,
                BluetoothError::UuidNotFound { .. } => RadioError::NotOffered,
                other => RadioError::Other(other.to_string()),
            },
            Err(other) => RadioError::Other(other.to_string()),
        },
        other => RadioError::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bluez_says_and_what_it_means() {
        let failed = "org.bluez.Error.Failed";
        for (name, text, expected) in [
            ("org.bluez.Error.InProgress", "Operation already in progress", RadioError::Busy),
            (failed, "Operation already in progress", RadioError::Busy),
            (failed, "le-connection-concurrent-connection-limit", RadioError::NoRoom),
            (failed, "le-connection-refused", RadioError::NoRoom),
            (failed, "Not connected", RadioError::NotConnected),
            ("org.bluez.Error.NotReady", "Resource Not Ready", RadioError::Off),
            ("org.freedesktop.DBus.Error.UnknownObject", "Method \"Connect\" ...", RadioError::Unknown),
            ("org.bluez.Error.AuthenticationFailed", "Authentication Failed", RadioError::NotPaired),
        ] {
            assert_eq!(radio_error(&dbus::Error::new_custom(name, text)), expected, "{name} {text}");
        }
        let unknown = dbus::Error::new_custom("org.freedesktop.DBus.Error.ServiceUnknown", "org.bluez");
        assert!(matches!(radio_error(&unknown), RadioError::NoStack(_)));
        let abort = dbus::Error::new_custom(failed, "le-connection-abort-by-local");
        assert!(matches!(radio_error(&abort), RadioError::Other(_)));
    }
}
