//! Packets at every limit of length, and valid packets in an order that is not.

use tokio::io::AsyncWriteExt;

use crate::peer::{connect, frame, publish, string, subscribe};
use crate::{Scene, attack, attacker, peer};

/// What a connection gets for its last packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The connection ends; MQTT 5 is told why.
    Ends(u8),
    /// A packet of this type comes, and the connection goes on.
    Type(u8),
}

#[test]
fn packets_at_every_limit_of_length_are_taken_or_refused_with_the_reason() {
    let scene = Scene::new("lengths");
    let gateway = scene.setup.mqtt;
    let most = 256 << 10;
    // Fixed header of 4, topic of 2 + 3, packet id of 2, and in MQTT 5 a byte for no properties.
    let sized = |level: u8, total: usize| {
        let head = if level == 5 { 12 } else { 11 };
        let packet = publish(level, "big", 1, &vec![b'x'; total - head]);
        assert_eq!(packet.len(), total);
        packet
    };
    attack(async {
        for level in [4, 5] {
            let topic = |length: usize| publish(level, &"t".repeat(length), 1, b"72");
            let filters: Vec<String> = (0..101).map(|n| format!("hr/{n}/{}", "f".repeat(900))).collect();
            let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
            let cases: Vec<(&str, Vec<u8>, Answer)> = vec![
                ("the largest packet", sized(level, most), Answer::Type(0x40)),
                ("one byte more", sized(level, most + 1), Answer::Ends(0x95)),
                ("the largest length there is", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], Answer::Ends(0x95)),
                ("a length of five bytes", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], Answer::Ends(0x81)),
                ("an empty publish", vec![0x30, 0], Answer::Ends(0x81)),
                ("the longest topic", topic(1024), Answer::Type(0x40)),
                ("a longer topic", topic(1025), Answer::Ends(0x90)),
                ("no topic", publish(level, "", 1, b"72"), Answer::Ends(0x90)),
                ("no payload", publish(level, "hr/x", 1, b""), Answer::Type(0x40)),
                ("many long filters", subscribe(level, 1, &filters, 0), Answer::Type(0x90)),
                ("no filter", frame(0x82, if level == 5 { &[0, 1, 0] } else { &[0, 1] }), Answer::Ends(0x81)),
                ("a ping with a body", vec![0xC0, 1, 0], Answer::Ends(0x82)),
            ];
            for (what, packet, answer) in cases {
                expect(gateway, level, what, &packet, answer).await;
            }
            // CONNECT has limits of its own.
            for (length, welcome) in [(1024, true), (1025, false)] {
                let mut io = peer::dial(attacker(3), gateway).await.unwrap();
                io.write_all(&connect(level, 2, &"c".repeat(length), &[])).await.unwrap();
                let connack = peer::packet(&mut io).await.unwrap();
                assert_eq!(connack[3] == 0, welcome, "a client id of {length}: {connack:02x?}");
            }
            let mut io = peer::dial(attacker(3), gateway).await.unwrap();
            let will = [string("will"), string(&"w".repeat(17_000))].concat();
            // It is refused by its length, before all of it has come.
            let _ = io.write_all(&connect(level, 6, "c", &will)).await;
            assert_eq!(peer::packet(&mut io).await, None, "a CONNECT of 17 KB");
        }
    });
    scene.verdict("lengths", &[attacker(3)]);
}

#[test]
fn valid_packets_in_illegal_order_end_the_connection() {
    let scene = Scene::new("order");
    let gateway = scene.setup.mqtt;
    attack(async {
        for level in [4, 5] {
            let v5 = level == 5;
            let cases: Vec<(&str, Vec<u8>, Answer)> = vec![
                ("a second CONNECT", connect(level, 2, "again", &[]), Answer::Ends(0x82)),
                ("CONNACK", frame(0x20, if v5 { &[0, 0, 0] } else { &[0, 0] }), Answer::Ends(0x82)),
                ("SUBACK", frame(0x90, &[0, 1, 0]), Answer::Ends(0x82)),
                ("UNSUBACK", frame(0xB0, &[0, 1]), Answer::Ends(0x82)),
                ("PINGRESP", vec![0xD0, 0], Answer::Ends(0x82)),
                ("AUTH", vec![0xF0, 0], Answer::Ends(0x82)),
                ("a reserved type", vec![0x00, 0], Answer::Ends(0x82)),
                // For these the standard wants patience: an answer from an earlier connection may come late.
                ("PUBACK for nothing", ping(frame(0x40, &[0, 9])), Answer::Type(0xD0)),
                ("PUBREL for nothing", frame(0x62, &[0, 9]), Answer::Type(0x70)),
                // What this gateway never sends at QoS 2 cannot be answered.
                ("PUBREC", frame(0x50, &[0, 9]), Answer::Ends(0x82)),
                ("PUBCOMP", frame(0x70, &[0, 9]), Answer::Ends(0x82)),
                (
                    "UNSUBSCRIBE from nothing",
                    {
                        let head: &[u8] = if v5 { &[0, 1, 0] } else { &[0, 1] };
                        frame(0xA2, &[head, &string("never")].concat())
                    },
                    Answer::Type(0xB0),
                ),
            ];
            for (what, packet, answer) in cases {
                expect(gateway, level, what, &packet, answer).await;
            }
        }
        let first: [(&str, Vec<u8>); 6] = [
            ("PUBLISH", publish(4, "hr/x", 1, b"72")),
            ("SUBSCRIBE", subscribe(4, 1, &["#"], 0)),
            ("PINGREQ", vec![0xC0, 0]),
            ("DISCONNECT", vec![0xE0, 0]),
            ("PUBREL", frame(0x62, &[0, 1])),
            ("AUTH", vec![0xF0, 0]),
        ];
        for (what, packet) in first {
            let mut io = peer::dial(attacker(3), gateway).await.unwrap();
            io.write_all(&packet).await.unwrap();
            assert_eq!(peer::packet(&mut io).await, None, "{what} before CONNECT");
        }
        // After DISCONNECT nothing is taken any more.
        let mut io = peer::client(attacker(3), gateway, 4, "gone").await.unwrap();
        let late = [&[0xE0, 0][..], &publish(4, "hr/late", 1, b"72")].concat();
        io.write_all(&late).await.unwrap();
        assert_eq!(peer::packet(&mut io).await, None, "no PUBACK behind DISCONNECT");
    });
    scene.verdict("order", &[attacker(3)]);
}

fn ping(mut packet: Vec<u8>) -> Vec<u8> {
    packet.extend_from_slice(&[0xC0, 0]);
    packet
}

async fn expect(gateway: std::net::SocketAddr, level: u8, what: &str, packet: &[u8], answer: Answer) {
    // A name of its own each time: clients that come again and again are slowed down.
    let id = format!("{what} {level}");
    let mut io = peer::client(attacker(3), gateway, level, &id).await.unwrap();
    // It may be refused before all of it has come.
    let _ = io.write_all(packet).await;
    let got = peer::packet(&mut io).await;
    match answer {
        Answer::Type(first) => {
            assert_eq!(got.map(|packet| packet[0]), Some(first), "MQTT {level}: {what}");
            io.write_all(&[0xC0, 0]).await.unwrap();
            assert_eq!(peer::packet(&mut io).await, Some(vec![0xD0, 0]), "MQTT {level}: {what}, then a ping");
        }
        Answer::Ends(code) => {
            let told = (level == 5).then(|| vec![0xE0, 1, code]);
            assert_eq!(got, told, "MQTT {level}: {what}");
            if told.is_some() {
                assert_eq!(peer::packet(&mut io).await, None, "MQTT {level}: {what}");
            }
        }
    }
}
