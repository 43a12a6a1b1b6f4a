//! The MQTT listener over real sockets, byte by byte.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod mqtt;

use std::time::Duration;

use mqtt::{Raw, connect, eventually, packet, publish, settings, start, string, subscribe};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_qos_is_stored_and_answered() {
    let gateway = start(settings()).await;
    let mut v4 = Raw::v4(gateway.addr(), "a").await;
    v4.send(&publish(4, 0, "hr/a", 0, "60")).await;
    v4.send(&publish(4, 2, "hr/a", 1, "61")).await;
    v4.expect(&[0x40, 2, 0, 1]).await;
    v4.send(&publish(4, 4, "hr/a", 2, "62")).await;
    v4.expect(&[0x50, 2, 0, 2]).await;
    v4.send(&[0x62, 2, 0, 2]).await;
    v4.expect(&[0x70, 2, 0, 2]).await;

    let mut v5 = Raw::v5(gateway.addr(), "b").await;
    v5.send(&publish(5, 2, "hr/b", 1, "{\"bpm\": 71}")).await;
    v5.expect(&[0x40, 2, 0, 1]).await;
    v5.send(&[0x62, 2, 0, 9]).await;
    v5.expect(&[0x70, 3, 0, 9, 0x92]).await;
    v5.send(&[0xC0, 0]).await;
    v5.expect(&[0xD0, 0]).await;

    let stored = gateway.stored().await;
    let expected = [("a", 60), ("a", 61), ("a", 62), ("b", 71)];
    assert_eq!(stored, expected.map(|(d, b)| (d.to_owned(), b)));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos2_publish_sent_again_is_stored_once() {
    let gateway = start(settings()).await;
    let mut first = Raw::open(gateway.addr()).await;
    first.send(&connect(4, 0, &[], "a", &[])).await;
    first.expect(&[0x20, 2, 0, 0]).await;
    first.send(&publish(4, 4, "hr/a", 5, "62")).await;
    first.expect(&[0x50, 2, 0, 5]).await;
    first.send(&publish(4, 0xC, "hr/a", 5, "62")).await;
    first.expect(&[0x50, 2, 0, 5]).await;
    drop(first);

    // The session goes on, so the exchange does.
    let mut second = Raw::open(gateway.addr()).await;
    second.send(&connect(4, 0, &[], "a", &[])).await;
    second.expect(&[0x20, 2, 1, 0]).await;
    second.send(&publish(4, 0xC, "hr/a", 5, "62")).await;
    second.expect(&[0x50, 2, 0, 5]).await;
    second.send(&[0x62, 2, 0, 5]).await;
    second.expect(&[0x70, 2, 0, 5]).await;
    // The id is free again: this is a new message.
    second.send(&publish(4, 4, "hr/a", 5, "63")).await;
    second.expect(&[0x50, 2, 0, 5]).await;
    assert_eq!(gateway.stored().await, [("a".to_owned(), 62), ("a".to_owned(), 63)]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_reading_is_answered_with_its_reason() {
    let gateway = start(settings()).await;
    let mut v5 = Raw::v5(gateway.addr(), "b").await;
    v5.send(&publish(5, 2, "hr/b", 1, "{\"bpm\": ")).await;
    v5.expect(&[0x40, 3, 0, 1, 0x99]).await;
    v5.send(&publish(5, 4, "hr/b", 2, "{\"bpm\": ")).await;
    v5.expect(&[0x50, 3, 0, 2, 0x99]).await;
    v5.send(&publish(5, 4, "hr/b", 2, "72")).await;
    v5.expect(&[0x50, 2, 0, 2]).await;
    v5.send(&publish(5, 2, "light/kitchen", 3, "on")).await;
    v5.expect(&[0x40, 3, 0, 3, 0x10]).await;
    let mut v4 = Raw::v4(gateway.addr(), "a").await;
    v4.send(&publish(4, 2, "hr/a", 1, "{\"bpm\": ")).await;
    v4.expect(&[0x40, 2, 0, 1]).await;

    assert_eq!(gateway.stored().await, [("b".to_owned(), 72)]);
    let status = gateway.handle.status();
    assert_eq!((status.unmapped, status.readings), (1, 1));
    assert_eq!(status.refused.len(), 4, "{:?}", status.refused);
    assert_eq!(status.refused[0].payload, "{\"bpm\": ");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_keep_the_order_of_the_publishes() {
    let gateway = start(settings()).await;
    let mut v5 = Raw::v5(gateway.addr(), "b").await;
    let mut burst = Vec::new();
    for pkid in 1..=100u16 {
        let topic = if pkid % 3 == 0 { "light/x" } else { "hr/b" };
        burst.extend(publish(5, 2, topic, pkid, if pkid % 5 == 0 { "bad" } else { "72" }));
    }
    v5.send(&burst).await;
    for pkid in 1..=100u16 {
        let answer = v5.packet().await.unwrap();
        assert_eq!(answer[2..4], pkid.to_be_bytes());
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_aliases_are_resolved_per_connection() {
    let gateway = start(settings()).await;
    let mut v5 = Raw::v5(gateway.addr(), "b").await;
    let with_alias = |topic: &str, pkid: u8, alias: u8| {
        let mut body = string(topic);
        body.extend_from_slice(&[0, pkid, 3, 0x23, 0, alias]);
        body.extend_from_slice(b"72");
        packet(0x32, &body)
    };
    v5.send(&with_alias("hr/b", 1, 4)).await;
    v5.send(&with_alias("", 2, 4)).await;
    v5.expect(&[0x40, 2, 0, 1, 0x40, 2, 0, 2]).await;
    v5.send(&with_alias("", 3, 5)).await;
    v5.expect(&[0xE0, 1, 0x94]).await;
    v5.closed().await;
    assert_eq!(gateway.stored().await.len(), 2);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_packets_close_the_connection_with_their_code() {
    let gateway = start(settings()).await;
    let cases: [(&[u8], u8); 9] = [
        (&[0x36, 6, 0, 1, b'a', 0, 1, 0], 0x81),
        (&[0x32, 6, 0, 1, b'a', 0, 0, 0], 0x82),
        (&[0x30, 4, 0, 1, b'+', 0], 0x90),
        (&[0x30, 4, 0, 1, 0xFF, 0], 0x90),
        (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], 0x81),
        (&[0x30, 0xFF, 0xFF, 0x7F], 0x95),
        (&[0xF0, 0], 0x82),
        (&[0x20, 2, 0, 0], 0x82),
        (&[0x82, 3, 0, 1, 0], 0x81),
    ];
    for (bytes, code) in cases {
        let mut v5 = Raw::v5(gateway.addr(), "b").await;
        v5.send(bytes).await;
        v5.expect(&[0xE0, 1, code]).await;
        v5.closed().await;
        let mut v4 = Raw::v4(gateway.addr(), "a").await;
        v4.send(bytes).await;
        v4.closed().await;
    }
    // What came before the malformed packet counts.
    let mut v4 = Raw::v4(gateway.addr(), "a").await;
    let mut bytes = publish(4, 2, "hr/a", 1, "72");
    bytes.extend_from_slice(&[0xF0, 0]);
    v4.send(&bytes).await;
    eventually("the first is stored", async || gateway.stored().await.len() == 1).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connects_are_refused_with_a_reason() {
    let mut closed = settings();
    closed.anonymous = false;
    let gateway = start(closed).await;
    let store = fogbeat::source::mqtt::users::Store::new(gateway.dir.path());
    let secret = store.add("strap-1", &[], &[], 0).unwrap();

    let cases: [(Vec<u8>, &[u8]); 6] = [
        (connect(4, 2, &[], "a", &[]), &[0x20, 2, 0, 5]),
        (connect(5, 2, &[], "a", &[]), &[0x20, 3, 0, 0x87, 0]),
        (connect(4, 0xC2, &[], "a", &[string("strap-1"), string("x")].concat()), &[0x20, 2, 0, 4]),
        (connect(5, 0xC2, &[], "a", &[string("nobody"), string("x")].concat()), &[0x20, 3, 0, 0x86, 0]),
        (connect(5, 2, b"\x15\0\x01x", "a", &[]), &[0x20, 3, 0, 0x8C, 0]),
        (connect(6, 2, &[], "a", &[]), &[0x20, 2, 0, 1]),
    ];
    for (bytes, answer) in cases {
        let mut raw = Raw::open(gateway.addr()).await;
        raw.send(&bytes).await;
        raw.expect(answer).await;
        raw.closed().await;
    }

    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut device = Raw::open(gateway.addr()).await;
    let login = [string("strap-1"), string(&secret)].concat();
    device.send(&connect(4, 0xC2, &[], "", &login)).await;
    device.expect(&[0x20, 2, 0, 0]).await;
    device.send(&publish(4, 2, "hr/strap-1", 1, "72")).await;
    device.expect(&[0x40, 2, 0, 1]).await;
    device.send(&subscribe(4, 2, "#", 0)).await;
    device.expect(&[0x90, 3, 0, 2, 0x80]).await;
    device.send(&publish(4, 2, "hr/strap-2", 3, "72")).await;
    device.closed().await;

    let mut device = Raw::open(gateway.addr()).await;
    device.send(&connect(5, 0xC2, &[], "x", &login)).await;
    assert_eq!(device.packet().await.unwrap()[3], 0);
    device.send(&publish(5, 2, "hr/strap-2", 4, "72")).await;
    device.expect(&[0x40, 3, 0, 4, 0x87]).await;
    store.remove("strap-1").unwrap();
    assert_eq!(device.packet().await, Some(vec![0xE0, 1, 0x98]), "a removed device is disconnected");
    assert_eq!(gateway.stored().await.len(), 1);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_connections_is_told() {
    let mut few = settings();
    few.limits.connections = 2;
    few.limits.connections_per_address = Some(2);
    let gateway = start(few).await;
    let first = Raw::v4(gateway.addr(), "a").await;
    let _second = Raw::v4(gateway.addr(), "b").await;
    let mut third = Raw::open(gateway.addr()).await;
    third.send(&connect(5, 2, &[], "c", &[])).await;
    third.expect(&[0x20, 3, 0, 0x97, 0]).await;
    drop(first);
    eventually("there is room again", async || gateway.handle.status().connections == 1).await;
    Raw::v4(gateway.addr(), "c").await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_in_flight_than_announced() {
    let mut narrow = settings();
    narrow.limits.in_flight = 10;
    let gateway = start(narrow).await;
    // 3.1.1 knows no limit: everything is taken, at the gateway's pace.
    let mut v4 = Raw::v4(gateway.addr(), "a").await;
    let burst: Vec<u8> = (1..=500u16).flat_map(|pkid| publish(4, 2, "hr/a", pkid, "72")).collect();
    v4.send(&burst).await;
    for pkid in 1..=500u16 {
        let [high, low] = pkid.to_be_bytes();
        v4.expect(&[0x40, 2, high, low]).await;
    }
    // MQTT 5 was told.
    let mut v5 = Raw::v5(gateway.addr(), "b").await;
    let burst: Vec<u8> = (1..=500u16).flat_map(|pkid| publish(5, 2, "hr/b", pkid, "72")).collect();
    v5.send(&burst).await;
    let mut last = Vec::new();
    while let Some(packet) = v5.packet().await {
        last = packet;
    }
    assert_eq!(last, [0xE0, 1, 0x93]);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alive() {
    let gateway = start(settings()).await;
    let mut never = Raw::v4(gateway.addr(), "zero").await;
    let mut soon = Raw::open(gateway.addr()).await;
    soon.send(b"\x10\x0d\0\x04MQTT\x05\x02\0\x01\0\0\0").await;
    let connack = soon.packet().await.unwrap();
    assert!(connack.windows(5).any(|w| w == b"auto-"), "an id was assigned: {connack:?}");
    assert_eq!(soon.packet().await, Some(vec![0xE0, 1, 0x8D]), "silence beyond 1.5 s");
    never.send(&[0xC0, 0]).await;
    never.expect(&[0xD0, 0]).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_get_what_is_durable() {
    let gateway = start(settings()).await;
    let mut publisher = Raw::v4(gateway.addr(), "p").await;
    let mut v4 = Raw::v4(gateway.addr(), "s4").await;
    v4.send(&subscribe(4, 1, "hr/+", 1)).await;
    v4.expect(&[0x90, 3, 0, 1, 1]).await;
    let mut v5 = Raw::v5(gateway.addr(), "s5").await;
    v5.send(&subscribe(5, 1, "#", 2)).await;
    v5.expect(&[0x90, 4, 0, 1, 0, 1]).await;

    publisher.send(&publish(4, 2, "hr/a", 1, "72")).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    v4.expect(&publish(4, 2, "hr/a", 1, "72")).await;
    v4.send(&[0x40, 2, 0, 1]).await;
    v5.expect(&publish(5, 2, "hr/a", 1, "72")).await;
    v5.send(&[0x40, 2, 0, 1]).await;
    // The lesser QoS, and topics that carry no readings.
    publisher.send(&publish(4, 0, "é/light", 0, "on")).await;
    v5.expect(&publish(5, 0, "é/light", 0, "on")).await;

    v4.send(&packet(0xA2, &[&[0, 7][..], &string("never/seen"), &string("hr/+")].concat())).await;
    v4.expect(&[0xB0, 2, 0, 7]).await;
    v5.send(&packet(0xA2, &[&[0, 7, 0][..], &string("never/seen"), &string("#")].concat())).await;
    v5.expect(&[0xB0, 5, 0, 7, 0, 0x11, 0]).await;
    publisher.send(&publish(4, 2, "hr/a", 2, "73")).await;
    publisher.expect(&[0x40, 2, 0, 2]).await;
    v4.silent().await;
    v5.silent().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_subscriptions_harm_nobody() {
    let gateway = start(settings()).await;
    let mut v5 = Raw::v5(gateway.addr(), "s5").await;
    for (pkid, (filter, code)) in
        [("$SYS/#", 0x8F), ("a#", 0x8F), ("$share/g/x", 0x9E), ("", 0x8F), ("ok/#", 0)].iter().enumerate()
    {
        v5.send(&subscribe(5, pkid as u16 + 1, filter, 0)).await;
        v5.expect(&[0x90, 4, 0, pkid as u8 + 1, 0, *code]).await;
    }
    // A PUBACK for nothing.
    v5.send(&[0x40, 2, 0, 99]).await;
    v5.send(&publish(5, 0, "ok/x", 0, "1")).await;
    v5.expect(&publish(5, 0, "ok/x", 0, "1")).await;
    // A subscription identifier.
    v5.send(&packet(0x82, &[&[0, 9, 2, 0x0B, 0][..], &string("x"), &[0]].concat())).await;
    assert_eq!(v5.packet().await.unwrap()[0], 0xE0);
    assert_eq!(gateway.handle.status().router_restarts, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_messages() {
    let gateway = start(settings()).await;
    let mut publisher = Raw::v4(gateway.addr(), "p").await;
    publisher.send(&publish(4, 3, "hr/a", 1, "72")).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    publisher.send(&publish(4, 3, "mode", 2, "night")).await;
    publisher.expect(&[0x40, 2, 0, 2]).await;
    assert_eq!(gateway.stored().await.len(), 1, "a retained reading is a reading");

    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut first = Raw::v4(gateway.addr(), "s1").await;
    first.send(&subscribe(4, 1, "hr/#", 0)).await;
    first.expect(&[0x90, 3, 0, 1, 0]).await;
    first.expect(&publish(4, 1, "hr/a", 0, "72")).await;
    // An empty payload without the flag clears nothing, one with it does. (In `hr/` it is also not a reading.)
    publisher.send(&publish(4, 2, "mode", 3, "")).await;
    publisher.expect(&[0x40, 2, 0, 3]).await;
    let mut second = Raw::v4(gateway.addr(), "s2").await;
    second.send(&subscribe(4, 1, "mode", 1)).await;
    second.expect(&[0x90, 3, 0, 1, 1]).await;
    second.expect(&publish(4, 3, "mode", 1, "night")).await;
    second.send(&[0x40, 2, 0, 1]).await;
    publisher.send(&publish(4, 3, "mode", 4, "")).await;
    publisher.expect(&[0x40, 2, 0, 4]).await;
    second.expect(&publish(4, 2, "mode", 2, "")).await;
    let mut third = Raw::v4(gateway.addr(), "s3").await;
    third.send(&subscribe(4, 1, "mode", 0)).await;
    third.expect(&[0x90, 3, 0, 1, 0]).await;
    third.silent().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_tells_of_an_ungraceful_end_only() {
    let gateway = start(settings()).await;
    let mut subscriber = Raw::v4(gateway.addr(), "s").await;
    subscriber.send(&subscribe(4, 1, "gone/#", 1)).await;
    subscriber.expect(&[0x90, 3, 0, 1, 1]).await;
    let will = [string("gone/a"), string("a")].concat();
    let mut graceful = Raw::open(gateway.addr()).await;
    graceful.send(&connect(4, 0x06, &[], "g", &will)).await;
    graceful.expect(&[0x20, 2, 0, 0]).await;
    graceful.send(&[0xE0, 0]).await;
    graceful.closed().await;
    let mut lost = Raw::open(gateway.addr()).await;
    lost.send(&connect(4, 0x0E, &[], "l", &will)).await;
    lost.expect(&[0x20, 2, 0, 0]).await;
    drop(lost);
    subscriber.expect(&publish(4, 2, "gone/a", 1, "a")).await;
    subscriber.send(&[0x40, 2, 0, 1]).await;
    subscriber.silent().await;
    assert!(gateway.stored().await.is_empty(), "a will is not a reading");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persistent_subscriber_gets_what_it_missed() {
    let gateway = start(settings()).await;
    let mut publisher = Raw::v4(gateway.addr(), "p").await;
    let mut subscriber = Raw::open(gateway.addr()).await;
    subscriber.send(&connect(4, 0, &[], "s", &[])).await;
    subscriber.expect(&[0x20, 2, 0, 0]).await;
    subscriber.send(&subscribe(4, 1, "hr/a", 1)).await;
    subscriber.expect(&[0x90, 3, 0, 1, 1]).await;
    publisher.send(&publish(4, 2, "hr/a", 1, "70")).await;
    // Taken, not acknowledged.
    subscriber.expect(&publish(4, 2, "hr/a", 1, "70")).await;
    drop(subscriber);
    eventually("it is gone", async || gateway.handle.status().connections == 1).await;
    publisher.send(&publish(4, 2, "hr/a", 2, "71")).await;
    publisher.expect(&[0x40, 2, 0, 1, 0x40, 2, 0, 2]).await;

    let mut again = Raw::open(gateway.addr()).await;
    again.send(&connect(4, 0, &[], "s", &[])).await;
    again.expect(&[0x20, 2, 1, 0]).await;
    again.expect(&publish(4, 0xA, "hr/a", 1, "70")).await;
    again.expect(&publish(4, 2, "hr/a", 2, "71")).await;
    // A clean start ends it.
    drop(again);
    let mut clean = Raw::v4(gateway.addr(), "s").await;
    publisher.send(&publish(4, 2, "hr/a", 3, "72")).await;
    publisher.expect(&[0x40, 2, 0, 3]).await;
    clean.silent().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_while_data_flows_harms_nobody() {
    let gateway = start(settings()).await;
    let mut acknowledged = 0usize;
    let mut old = Raw::v5(gateway.addr(), "same").await;
    for round in 0..200u16 {
        let burst: Vec<u8> = (1..=10u16).flat_map(|pkid| publish(5, 2, "hr/same", pkid, "72")).collect();
        old.send(&burst).await;
        let mut new = Raw::v5(gateway.addr(), "same").await;
        // The new connection works at once and stays.
        new.send(&publish(5, 2, "hr/same", 1, "73")).await;
        new.expect(&[0x40, 2, 0, 1]).await;
        acknowledged += 1;
        let mut last = Vec::new();
        while let Some(packet) = old.packet().await {
            acknowledged += usize::from(packet[0] == 0x40);
            last = packet;
        }
        assert_eq!(last, [0xE0, 1, 0x8E], "round {round}");
        old = new;
    }
    assert!(gateway.stored().await.len() >= acknowledged);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_and_sudden_goodbyes_of_subscribers() {
    let gateway = start(settings()).await;
    let mut publisher = Raw::v4(gateway.addr(), "p").await;
    let burst: Vec<u8> = (0..400).flat_map(|_| publish(4, 0, "noise/x", 0, "0123456789")).collect();
    for round in 0..400 {
        let mut subscriber = Raw::v4(gateway.addr(), &format!("s{}", round % 7)).await;
        subscriber.send(&subscribe(4, 1, "noise/#", (round % 2) as u8)).await;
        subscriber.expect(&[0x90, 3, 0, 1, (round % 2) as u8]).await;
        publisher.send(&burst).await;
        assert_eq!(subscriber.packet().await.unwrap()[0] & 0xF0, 0x30);
        subscriber.send(&[0xE0, 0]).await;
    }
    publisher.send(&publish(4, 2, "hr/a", 1, "72")).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    assert_eq!(gateway.handle.status().router_restarts, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_keep_nobody_out() {
    let mut hasty = settings();
    hasty.limits.handshake = Duration::from_millis(800);
    hasty.limits.handshakes = 300;
    let gateway = start(hasty).await;
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut raw = Raw::open(gateway.addr()).await;
        raw.send(&connect(4, 2, &[], "half", &[])[..n % 10]).await;
        silent.push(raw);
    }
    let mut alive = Raw::v4(gateway.addr(), "a").await;
    alive.send(&publish(4, 2, "hr/a", 1, "72")).await;
    alive.expect(&[0x40, 2, 0, 1]).await;
    for mut raw in silent {
        raw.closed().await;
    }
    alive.send(&publish(4, 2, "hr/a", 2, "72")).await;
    alive.expect(&[0x40, 2, 0, 2]).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_slows_nobody() {
    let gateway = start(settings()).await;
    let mut lazy = Raw::v4(gateway.addr(), "lazy").await;
    lazy.send(&subscribe(4, 1, "#", 0)).await;
    lazy.expect(&[0x90, 3, 0, 1, 0]).await;
    let mut publisher = Raw::v4(gateway.addr(), "p").await;
    let big = "x".repeat(60_000);
    for pkid in 1..=600u16 {
        publisher.send(&publish(4, 2, "big", pkid, &big)).await;
        publisher.expect(&[0x40, 2, pkid.to_be_bytes()[0], pkid.to_be_bytes()[1]]).await;
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_acknowledges_what_was_taken() {
    let gateway = start(settings()).await;
    let mut v5 = Raw::v5(gateway.addr(), "a").await;
    v5.send(&publish(5, 2, "hr/a", 1, "72")).await;
    v5.expect(&[0x40, 2, 0, 1]).await;
    gateway.shut_down();
    v5.expect(&[0xE0, 1, 0x8B]).await;
    v5.closed().await;
    let addr = gateway.addr();
    gateway.stop().await;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
