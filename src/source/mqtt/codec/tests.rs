use super::*;
use crate::source::mqtt::publish::frame;
use proptest::prelude::*;

fn connect(bytes: &[u8]) -> Result<Connect, BadConnect> {
    read_connect(frame(bytes, 10_000).unwrap().unwrap(), bytes)
}

fn control(bytes: &[u8], version: Version) -> Result<Control, Malformed> {
    read_control(frame(bytes, 10_000).unwrap().unwrap(), bytes, version)
}

#[test]
fn connects_of_both_versions() {
    let v4 = connect(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a").unwrap();
    assert_eq!((v4.version, v4.client_id.as_str(), v4.keep_alive, v4.clean), (Version::V4, "a", 60, true));
    let v5 = connect(b"\x10\x19\0\x04MQTT\x05\x00\0\0\x0b\x11\0\0\0\x0a\x27\0\0\x01\0\x21\0\x05\0\0").err();
    assert!(v5.is_some(), "a property length that does not fit");
    let v5 =
        connect(b"\x10\x1a\0\x04MQTT\x05\x00\0\0\x0d\x11\0\0\0\x0a\x27\0\0\x01\0\x21\0\x05\0\0").unwrap();
    assert_eq!((v5.session_expiry, v5.max_packet, v5.receive_maximum), (10, 256, 5));
}

#[test]
fn old_and_unknown_protocols_are_refused_cleanly() {
    let old = connect(b"\x10\x0f\0\x06MQIsdp\x03\x02\0\x3c\0\x01a").err();
    assert_eq!(old, Some(BadConnect::Refused(Refusal::Protocol)));
    let new = connect(b"\x10\x0d\0\x04MQTT\x06\x02\0\x3c\0\x01a").err();
    assert_eq!(new, Some(BadConnect::Refused(Refusal::Protocol)));
    let flags = connect(b"\x10\x0d\0\x04MQTT\x04\x03\0\x3c\0\x01a").err();
    assert_eq!(flags, Some(BadConnect::Malformed(Malformed::Flags)));
    let other = connect(b"\xc0\x00").err();
    assert_eq!(other, Some(BadConnect::Malformed(Malformed::Unexpected)));
}

#[test]
fn a_will_keeps_its_properties() {
    let bytes = b"\x10\x2c\0\x04MQTT\x05\x2e\0\0\0\0\x01c\x12\x02\0\0\0\x09\x01\x01\x03\0\x01t\x26\0\x01k\0\x01v\0\x01w\0\x03off";
    let mut bytes = bytes.to_vec();
    bytes[1] = (bytes.len() - 2) as u8;
    let connect = connect(&bytes).unwrap();
    let will = connect.will.unwrap();
    let message = will.message(1, 1000);
    let opened = crate::source::mqtt::message::open(&message.envelope).unwrap();
    assert_eq!((opened.qos, opened.retain, opened.expires), (Qos::AtLeastOnce, true, 10_000));
    assert_eq!(opened.properties, b"\x01\x01\x03\0\x01t\x26\0\x01k\0\x01v");
    assert_eq!(opened.payload, b"off");
}

#[test]
fn a_will_that_could_not_be_published_is_refused() {
    let bytes = |format: u8| {
        let mut bytes = b"\x10\0\0\x04MQTT\x05\x2e\0\0\0\0\x01c\x02\x01".to_vec();
        bytes.push(format);
        bytes.extend_from_slice(b"\0\x01w\0\x03off");
        bytes[1] = (bytes.len() - 2) as u8;
        bytes
    };
    assert!(connect(&bytes(1)).unwrap().will.is_some());
    assert_eq!(connect(&bytes(2)).err(), Some(BadConnect::Malformed(Malformed::Property)));
}

#[test]
fn controls() {
    assert_eq!(control(&[0xC0, 0], Version::V4), Ok(Control::Ping));
    assert_eq!(control(&[0x62, 2, 0, 9], Version::V4), Ok(Control::PubRel(9)));
    assert_eq!(control(&[0x62, 4, 0, 9, 0, 0], Version::V5), Ok(Control::PubRel(9)));
    assert_eq!(
        control(&[0xE0, 1, 4], Version::V5),
        Ok(Control::Disconnect { with_will: true, session_expiry: None })
    );
    assert_eq!(
        control(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 7], Version::V5),
        Ok(Control::Disconnect { with_will: false, session_expiry: Some(7) })
    );
    assert_eq!(control(&[0xE0, 1, 4], Version::V4), Err(Malformed::Contents));
    assert_eq!(control(&[0x82, 2, 0, 1], Version::V4), Err(Malformed::Contents), "no filter");
    assert_eq!(control(&[0xF0, 2, 0, 0], Version::V5), Err(Malformed::Unexpected), "AUTH");
    assert_eq!(control(&[0x60, 2, 0, 9], Version::V4), Err(Malformed::Unexpected), "PUBREL flags");
    assert!(control(b"\x82\x08\0\x01\x02\x0b\x05\0\x01a", Version::V5).is_err());
    let Ok(Control::Subscribe(1, filters)) = control(b"\x82\x07\0\x01\0\0\x01a\x2d", Version::V5) else {
        panic!("a subscription")
    };
    assert!(filters[0].no_local && filters[0].retain_as_published);
    assert_eq!((filters[0].qos, filters[0].retain), (Qos::AtLeastOnce, RetainHandling::Never));
}

proptest! {
    #[test]
    fn no_bytes_panic(first in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..120), v5 in any::<bool>()) {
        let version = if v5 { Version::V5 } else { Version::V4 };
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend_from_slice(&body);
        let _ = control(&bytes, version);
        for known in [0x40, 0x62, 0x82, 0xA2, 0xE0] {
            bytes[0] = known;
            let _ = control(&bytes, version);
        }
    }

    #[test]
    fn no_connect_panics(flags in any::<u8>(), v5 in any::<bool>(), rest in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut bytes = vec![0x10, 8 + rest.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', if v5 { 5 } else { 4 }, flags & !1];
        bytes.extend_from_slice(&rest);
        let _ = connect(&bytes);
    }
}
