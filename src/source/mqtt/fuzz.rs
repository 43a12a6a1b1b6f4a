//! What the bytes of one connection meet before anything is stored, without its socket: frames, CONNECT, PUBLISH and
//! the other packets, topics, permissions, and the message that local subscribers get.

use std::sync::Arc;

use bytes::BytesMut;

use super::codec::{self, Control};
use super::message::{self, Manner, Message};
use super::permission::{Permission, Permissions};
use super::publish::{Publish, Qos, Version, frame};
use super::topic;
use super::users::User;

/// Largest packet of the connection.
const LARGEST: usize = 64 << 10;

/// The bytes of a connection. The first one tells whose: bit 0 the version if the first packet is not a CONNECT, bit 1
/// whether the client is a device.
pub fn session(data: &[u8]) {
    let Some((&who, mut rest)) = data.split_first() else { return };
    let permissions = match who & 2 {
        0 => Permissions::Everything,
        _ => Permissions::Device(Arc::new(User {
            name: "strap".into(),
            publish: vec!["hall/+/hr".into()],
            subscribe: vec!["board/#".into()],
        })),
    };
    let mut version = if who & 1 == 0 { Version::V4 } else { Version::V5 };
    let mut out = BytesMut::new();
    let mut first = true;
    while let Ok(Some(packet)) = frame(rest, LARGEST) {
        let (whole, after) = rest.split_at(packet.total);
        rest = after;
        if first && packet.first == 0x10 {
            let Ok(connect) = codec::read_connect(packet, whole) else { return };
            version = connect.version;
            if let Some(will) = &connect.will {
                let message = will.message(1, 1_000);
                deliver(&message, version, &mut out);
            }
        } else if packet.first >> 4 == 3 {
            let Ok(publish) = Publish::read(packet, version) else { return };
            published(&publish, &permissions, version, &mut out);
        } else {
            let Ok(control) = codec::read_control(packet, whole, version) else { return };
            controlled(&control, &permissions);
        }
        first = false;
    }
}

fn published(publish: &Publish<'_>, permissions: &Permissions, version: Version, out: &mut BytesMut) {
    let Ok(name) = std::str::from_utf8(publish.topic) else { return };
    if !topic::valid_name(name) {
        return;
    }
    assert!(topic::valid_filter(name) && topic::matches(name, name) && topic::matches("#", name));
    if permissions.publish(name) == Permission::Own {
        assert!(name.contains("strap"), "{name}");
    }
    let message = Message::of_publish(publish.topic, publish, 7, 1_000);
    let opened = message::open(&message.envelope);
    assert!(opened.is_some_and(|opened| opened.payload == publish.payload && opened.qos == publish.qos));
    deliver(&message, version, out);
}

/// What is written to a subscriber is a PUBLISH of the same topic and payload.
fn deliver(message: &Message, version: Version, out: &mut BytesMut) {
    let Some(opened) = message::open(&message.envelope) else { return };
    let name = message::client_topic(&message.topic);
    for version in [version, Version::V4, Version::V5] {
        out.clear();
        let manner = Manner {
            version,
            qos: Qos::AtLeastOnce,
            pkid: 9,
            dup: false,
            retain: opened.retain,
            max_packet: 2 * LARGEST,
            uptime_ms: 1_000,
        };
        if !message::write(out, &name, &opened, manner) {
            assert!(out.is_empty());
            continue;
        }
        let packet = frame(out, 2 * LARGEST);
        assert!(matches!(packet, Ok(Some(packet)) if packet.total == out.len()));
        let Ok(Some(packet)) = packet else { continue };
        let read = Publish::read(packet, version);
        // A will comes from another codec, which lets an empty topic pass; such a CONNECT is refused later.
        if name.is_empty() {
            continue;
        }
        assert!(
            read.is_ok_and(|read| read.topic == &name[..]
                && read.payload == opened.payload
                && read.pkid == 9),
            "{read:?}"
        );
    }
}

fn controlled(control: &Control, permissions: &Permissions) {
    let filters: Vec<&String> = match control {
        Control::Subscribe(pkid, filters) => {
            assert_ne!(*pkid, 0);
            filters.iter().map(|subscription| &subscription.filter).collect()
        }
        Control::Unsubscribe(_, filters) => filters.iter().collect(),
        _ => return,
    };
    for filter in filters.into_iter().filter(|filter| topic::valid_filter(filter)) {
        assert!(topic::covers("#", filter) && topic::covers(filter, filter), "{filter}");
        let _ = permissions.subscribe(filter);
    }
}
