//! Attacks by mass and by patience.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::rng::Rng;
use crate::{CONNECTIONS, DEVICES, Scene, attack, attacker, peer, size};

/// How long an attack goes on.
const LENGTH: Duration = Duration::from_secs(6);

/// `count` half-open connections from eight addresses: nothing sent, or the beginning of a CONNECT.
#[test]
fn ten_thousand_half_open_connections_keep_nobody_out() {
    let scene = Scene::new("half-open");
    let gateway = scene.setup.mqtt;
    let count = 1000 * size();
    let attackers: Vec<_> = (2..10).map(attacker).collect();
    attack(async {
        let start = Instant::now();
        let mut open = Vec::new();
        for n in 0..count {
            let Ok(mut io) = peer::dial(attackers[n as usize % attackers.len()], gateway).await else {
                continue;
            };
            // The gateway may have given it up already.
            let _ = io.write_all(&peer::connect(4, 2, "half", &[])[..n as usize % 10]).await;
            open.push(io);
        }
        println!("half-open: {} sockets in {:?}", open.len(), start.elapsed());
        tokio::time::sleep(LENGTH.saturating_sub(start.elapsed())).await;
    });
    let given_up = scene.refused("handshake_given_up") + scene.refused("too_many_handshakes");
    assert!(given_up + scene.refused("address_throttled") >= count / 2, "the limits were never reached");
    scene.verdict("half-open", &attackers);
}

/// CONNECTs that come byte by byte, as many as there are places for handshakes and more.
#[test]
fn slow_connects_keep_nobody_out() {
    let scene = Scene::new("slow");
    let gateway = scene.setup.mqtt;
    let attackers: Vec<_> = (2..8).map(attacker).collect();
    let given_up = Arc::new(AtomicU64::new(0));
    attack(async {
        let mut lorises = JoinSet::new();
        for n in 0..300 {
            let (from, given_up) = (attackers[n % attackers.len()], Arc::clone(&given_up));
            lorises.spawn(async move {
                let Ok(mut io) = peer::dial(from, gateway).await else { return };
                for byte in peer::connect(4, 2, "a-client-with-a-long-name-and-much-patience", &[]) {
                    if io.write_all(&[byte]).await.is_err() {
                        given_up.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            });
        }
        tokio::time::sleep(LENGTH).await;
    });
    assert!(given_up.load(Ordering::Relaxed) > 200, "{given_up:?}");
    scene.verdict("slow connects", &attackers);
}

/// One address connects a thousand times a second: once with one name, once with a new name each time.
#[test]
fn an_address_that_reconnects_a_thousand_times_a_second_is_slowed_down_and_its_neighbours_are_not() {
    let scene = Scene::new("reconnect");
    let gateway = scene.setup.mqtt;
    let (tried, welcome) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let neighbour = attack(async {
        let mut loops = JoinSet::new();
        for lane in 0..20u64 {
            let (tried, welcome) = (Arc::clone(&tried), Arc::clone(&welcome));
            loops.spawn(async move {
                let mut every = tokio::time::interval(Duration::from_millis(20));
                for n in 0.. {
                    every.tick().await;
                    tried.fetch_add(1, Ordering::Relaxed);
                    let name = if lane < 10 { "broken".to_owned() } else { format!("{lane}-{n}") };
                    let client = peer::client(attacker(2), gateway, 4, &name);
                    if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(500), client).await {
                        welcome.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // A burst is allowed to everybody: what counts is what comes after it.
        tokio::time::sleep(LENGTH).await;
        let start = Instant::now();
        while peer::client(attacker(2), gateway, 4, "neighbour").await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "the neighbour never gets in");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        start.elapsed()
    });
    let (tried, welcome) = (tried.load(Ordering::Relaxed), welcome.load(Ordering::Relaxed));
    println!(
        "reconnect: {tried} tried, {welcome} let in; a neighbour of the same address after {neighbour:?}"
    );
    assert!(scene.refused("address_throttled") > 0, "it was never throttled: {tried} connections");
    assert!(scene.refused("client_throttled") > 0 || scene.refused("handshake_given_up") > 0);
    assert!(scene.daemon.metric("fogbeat_mqtt_throttled_addresses") == Some(1.0));
    scene.verdict("reconnect", &[attacker(2)]);
}

/// One address takes what it can get, and everybody else still gets in.
#[test]
fn one_address_cannot_take_all_connections() {
    let scene = Scene::new("share");
    let gateway = scene.setup.mqtt;
    let taken = attack(async {
        let mut clients = Vec::new();
        let mut refused = None;
        for n in 0..CONNECTIONS {
            let mut io = peer::dial(attacker(3), gateway).await.unwrap();
            io.write_all(&peer::connect(5, 2, &format!("greedy-{n}"), &[])).await.unwrap();
            match peer::packet(&mut io).await {
                Some(connack) if connack[3] == 0 => clients.push(io),
                answer => refused = refused.or(answer),
            }
            // Below the limit of new connections per second.
            if n >= CONNECTIONS / 2 {
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
        assert_eq!(refused, Some(vec![0x20, 3, 0, 0x97, 0]), "it is told: quota exceeded");
        tokio::time::sleep(Duration::from_secs(2)).await;
        clients.len()
    });
    assert_eq!(taken, CONNECTIONS / 2);
    scene.verdict("share", &[attacker(3)]);
}

/// Wrong secrets as fast as they can be sent.
#[test]
fn wrong_secrets_are_answered_slowly_and_logged_once_a_minute() {
    let scene = Scene::new("secrets");
    let gateway = scene.setup.mqtt;
    let (tried, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    attack(async {
        let mut guessers = JoinSet::new();
        for lane in 0..40 {
            let (tried, answered) = (Arc::clone(&tried), Arc::clone(&answered));
            guessers.spawn(async move {
                for n in 0.. {
                    let Ok(mut io) = peer::dial(attacker(4), gateway).await else { continue };
                    let guess = peer::login(4, &format!("g{lane}-{n}"), "strap-1", &format!("{n:032}"));
                    if io.write_all(&guess).await.is_ok() {
                        tried.fetch_add(1, Ordering::Relaxed);
                        if peer::packet(&mut io).await == Some(vec![0x20, 2, 0, 4]) {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        tokio::time::sleep(LENGTH).await;
    });
    let (tried, answered) = (tried.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
    let failures = scene.daemon.metric("fogbeat_mqtt_auth_failures_total").unwrap_or(0.0);
    println!("secrets: {tried} tried, {failures} looked at, {answered} answered");
    assert!(failures > 40.0, "{failures}");
    assert!((1..=24).contains(&answered), "{answered}");
    scene.until("it is logged", || scene.lines_about(attacker(4)) == 1);
    let text = std::fs::read_to_string(&scene.setup.log).unwrap();
    assert!(!text.contains("0000000000"), "a secret is in the log");
    scene.verdict("wrong secrets", &[attacker(4)]);
}

/// Subscribers to everything that never read what they get, while much is published.
#[test]
fn clients_that_never_read_cost_bounded_memory() {
    let scene = Scene::new("deaf");
    let gateway = scene.setup.mqtt;
    let attackers = [attacker(5), attacker(6)];
    let published = Arc::new(AtomicU64::new(0));
    attack(async {
        let mut deaf = Vec::new();
        for n in 0..30 {
            let mut io = peer::client(attackers[0], gateway, 5, &format!("deaf-{n}")).await.unwrap();
            io.write_all(&peer::subscribe(5, 1, &["#"], (n % 2) as u8)).await.unwrap();
            deaf.push(io);
        }
        let mut tasks = JoinSet::new();
        for (n, io) in deaf.into_iter().enumerate() {
            // A third of them also asks for answers it never takes.
            tasks.spawn(async move {
                let mut io = io;
                let pings = [0xC0, 0].repeat(2000);
                while n % 3 == 0 && io.write_all(&pings).await.is_ok() {}
                std::future::pending::<()>().await;
            });
        }
        for n in 0..4 {
            let published = Arc::clone(&published);
            tasks.spawn(async move {
                let payload = vec![b'x'; [100, 1000, 20_000, 200_000][n]];
                let mut io = peer::client(attacker(6), gateway, 4, &format!("loud-{n}")).await.unwrap();
                for k in 0u32.. {
                    let pkid = (k % 60_000 + 1) as u16;
                    let topic = format!("noise/{}", k % 50);
                    io.write_all(&peer::publish(4, &topic, pkid, &payload)).await.unwrap();
                    peer::packet(&mut io).await.unwrap();
                    published.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // In a long run the patience with those who take nothing ends.
        tokio::time::sleep(if size() < 10 { LENGTH } else { Duration::from_secs(40) }).await;
    });
    let closed = scene.daemon.metric("fogbeat_mqtt_timeouts_total").unwrap_or(0.0);
    println!("deaf: {published:?} published, {closed} that never read were closed");
    assert!(size() < 10 || closed >= 10.0, "who never reads is not closed: {closed}");
    assert!(published.load(Ordering::Relaxed) > 500, "publishers were held back: {published:?}");
    scene.verdict("never reading", &attackers);
}

/// Five hundred clients that want everything, by many filters, while others publish.
#[test]
fn wildcard_subscriptions_of_five_hundred_clients_harm_nobody() {
    let scene = Scene::new("wild");
    let gateway = scene.setup.mqtt;
    let attackers = [attacker(5), attacker(6)];
    let (granted, received) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let clients = 500;
    attack(async {
        let mut tasks = JoinSet::new();
        for n in 0..clients {
            let mut io = loop {
                let id = format!("wild-{n}");
                match peer::client(attackers[n % 2], gateway, 5, &id).await {
                    Ok(io) => break io,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            let own = format!("+/{n}/#");
            io.write_all(&peer::subscribe(5, 1, &["#", "hr/+", "+/+", &own], 1)).await.unwrap();
            let (granted, received) = (Arc::clone(&granted), Arc::clone(&received));
            tasks.spawn(async move {
                let suback = peer::packet(&mut io).await.unwrap();
                assert_eq!(suback[0], 0x90);
                let codes = &suback[suback.len() - 4..];
                assert!(codes.iter().all(|code| [0, 1, 0x97].contains(code)), "{codes:02x?}");
                granted.fetch_add(usize::from(codes[0] < 0x80), Ordering::Relaxed);
                let mut buf = vec![0; 4096];
                while let Ok(n @ 1..) = io.read(&mut buf).await {
                    received.fetch_add(n as u64, Ordering::Relaxed);
                }
            });
        }
        let mut io = peer::client(attacker(7), gateway, 4, "loud").await.unwrap();
        let start = Instant::now();
        for k in 0u32.. {
            let pkid = (k % 60_000 + 1) as u16;
            io.write_all(&peer::publish(4, &format!("hr/{}", k % 50), pkid, b"72")).await.unwrap();
            peer::packet(&mut io).await.unwrap();
            if start.elapsed() > LENGTH {
                break;
            }
        }
    });
    println!("wild: {granted:?} of {clients} subscribed, {received:?} bytes delivered");
    // As many as `subscribers` permits; the rest was told that there is no room.
    assert!((40..=44).contains(&granted.load(Ordering::Relaxed)), "{granted:?}");
    assert!(received.load(Ordering::Relaxed) > 1000);
    scene.verdict("wildcards", &attackers);
}

/// Distinct topics without end: as readings of ever new devices, and as messages that a subscriber gets.
#[test]
fn three_hundred_thousand_topics_cost_bounded_memory() {
    let scene = Scene::new("topics");
    let gateway = scene.setup.mqtt;
    let topics = 30_000 * size();
    let refused = attack(async {
        let mut subscriber = peer::client(attacker(8), gateway, 4, "all").await.unwrap();
        subscriber.write_all(&peer::subscribe(4, 1, &["#"], 0)).await.unwrap();
        let reader =
            tokio::spawn(async move { tokio::io::copy(&mut subscriber, &mut tokio::io::sink()).await });
        let mut refused = 0;
        for kind in ["hr", "noise"] {
            let io = peer::client(attacker(8), gateway, 5, kind).await.unwrap();
            let (mut read, mut write) = io.into_split();
            // Within the window that CONNACK announced.
            let window = Arc::new(Semaphore::new(800));
            let room = Arc::clone(&window);
            let answers = tokio::spawn(async move {
                let mut refused = 0u64;
                for _ in 0..topics {
                    let answer = peer::packet(&mut read).await.expect("an answer to each");
                    refused += u64::from(answer.len() > 4 && answer[4] == 0x97);
                    room.add_permits(1);
                }
                refused
            });
            for n in 0..topics {
                window.acquire().await.unwrap().forget();
                let topic = format!("{kind}/a-topic-of-ordinary-length-{n:06}");
                let pkid = (n % 60_000 + 1) as u16;
                write.write_all(&peer::publish(5, &topic, pkid, b"72")).await.unwrap();
            }
            refused += answers.await.unwrap();
        }
        reader.abort();
        refused
    });
    // Beyond `journal.max_devices`, less those of the honest.
    let devices = topics - refused;
    println!("topics: {topics} of each kind, {devices} became devices, {refused} were refused with 0x97");
    assert!((DEVICES - 200..=DEVICES).contains(&devices), "{devices}");
    scene.verdict("topics", &[attacker(8)]);
}

/// Packets that stop one byte before their end, of the largest size there may be.
#[test]
fn large_packets_that_never_end_cost_bounded_memory() {
    let scene = Scene::new("endless");
    let gateway = scene.setup.mqtt;
    let attackers = [attacker(5), attacker(6)];
    let packet = peer::publish(4, "big", 1, &vec![b'x'; (256 << 10) - 20]);
    let packet = Arc::new(packet[..packet.len() - 1].to_vec());
    attack(async {
        let mut tasks = JoinSet::new();
        for n in 0..400usize {
            let packet = Arc::clone(&packet);
            tasks.spawn(async move {
                let client = loop {
                    match peer::client(attackers[n % 2], gateway, 4, &format!("endless-{n}")).await {
                        Ok(client) => break client,
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                };
                endless(client, &packet).await
            });
        }
        tokio::time::sleep(LENGTH).await;
    });
    scene.verdict("endless packets", &attackers);
}

async fn endless(mut io: TcpStream, packet: &[u8]) -> io::Result<()> {
    io.write_all(packet).await?;
    std::future::pending().await
}

/// Random bytes, before and after a CONNECT.
#[test]
fn garbage_is_answered_with_the_end_of_the_connection() {
    let scene = Scene::new("garbage");
    let gateway = scene.setup.mqtt;
    let mut rng = Rng::new(7);
    attack(async {
        let start = Instant::now();
        let mut round = 0u32;
        while start.elapsed() < LENGTH {
            round += 1;
            let level = if round % 4 < 2 { 4 } else { 5 };
            let io = match round % 2 {
                0 => peer::dial(attacker(9), gateway).await,
                _ => peer::client(attacker(9), gateway, level, &format!("garbage-{round}")).await,
            };
            let Ok(mut io) = io else { continue };
            let length = rng.between(1, 600) as usize;
            let garbage: Vec<u8> = (0..length).map(|_| rng.next() as u8).collect();
            // It may be closed in the middle of it.
            let _ = io.write_all(&garbage).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("garbage: {round} connections");
    });
    scene.until("it is logged", || scene.lines_about(attacker(9)) >= 1);
    scene.verdict("garbage", &[attacker(9)]);
}

/// No descriptors are left: nothing is lost, and it goes on by itself when there are some again.
#[test]
fn accepting_survives_a_lack_of_descriptors() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let scene = Scene::new("descriptors");
    let gateway = scene.setup.mqtt;
    let pid = Pid::from_raw(scene.daemon.pid() as i32);
    let few = Rlimit { current: Some(scene.descriptors), maximum: None };
    let before = prlimit(pid, Resource::Nofile, Rlimit { maximum: Some(20_000), ..few }).unwrap();
    let waiting = attack(async {
        let start = Instant::now();
        let mut waiting = Vec::new();
        while start.elapsed() < Duration::from_secs(1) {
            waiting.push(peer::dial(attacker(3), gateway).await.unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        prlimit(pid, Resource::Nofile, before).unwrap();
        let mut late = waiting.pop().unwrap();
        late.write_all(&peer::connect(4, 2, "late", &[])).await.unwrap();
        assert_eq!(
            peer::packet(&mut late).await,
            Some(vec![0x20, 2, 0, 0]),
            "it is served when there is room"
        );
        waiting.len()
    });
    assert!(scene.refused("accept") > 0, "{waiting} connections, and descriptors were never short");
    let log = std::fs::read_to_string(&scene.setup.log).unwrap();
    assert_eq!(log.matches("cannot take connections").count(), 1);
    scene.verdict("descriptors", &[attacker(3)]);
}

/// A low limit of open files: connections are bounded below it, so that descriptors never run out.
#[test]
fn connections_are_bounded_below_the_limit_of_open_files() {
    let scene = Scene::with("limit", &["prlimit", "--nofile=200:200"], |_| String::new());
    let gateway = scene.setup.mqtt;
    let taken = attack(async {
        let mut clients = Vec::new();
        for n in 0..100 {
            clients.extend(peer::client(attacker(3), gateway, 4, &format!("many-{n}")).await);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        clients.len()
    });
    let log = std::fs::read_to_string(&scene.setup.log).unwrap();
    assert_eq!(log.matches("limit of open files is too low").count(), 1, "{log}");
    // 200 less 128 for everything else, less 18 for handshakes; one address has half of that.
    assert_eq!(taken, 27);
    assert_eq!(scene.refused("accept"), 0, "descriptors ran out");
    scene.verdict("limit of open files", &[attacker(3)]);
}
