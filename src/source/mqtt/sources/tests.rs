use std::net::Ipv4Addr;

use super::*;

const RULES: Rules = Rules {
    connections: 10,
    new_per_second: 20,
    reconnects_per_minute: 6,
    failures_per_minute: 3,
    handshakes: 8,
};

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn sources() -> (Sources<()>, Instant) {
    let now = Instant::now();
    (Sources::new(RULES, now), now)
}

/// Arrives and becomes a connection at once.
fn connect(sources: &mut Sources<()>, from: IpAddr, number: u64, now: Instant) -> bool {
    let (source, arrival) = sources.arrive(from, number, (), now);
    matches!(arrival, Arrival::Welcome) && sources.settle(source, number)
}

#[test]
fn an_address_has_a_share_of_connections_and_gives_it_back() {
    let (mut sources, now) = sources();
    for number in 0..10 {
        assert!(connect(&mut sources, address(1), number, now));
    }
    assert!(!connect(&mut sources, address(1), 10, now));
    sources.finish(address(1).into(), 10);
    assert!(connect(&mut sources, address(2), 11, now));
    sources.leave(address(1).into());
    assert!(connect(&mut sources, address(1), 12, now));
    assert_eq!(sources.handshakes(), 0);
}

#[test]
fn an_address_makes_so_many_connections_a_second_and_others_are_not_concerned() {
    let (mut sources, now) = sources();
    let mut welcome = 0;
    for n in 0..1000 {
        let at = now + Duration::from_millis(n);
        let (source, arrival) = sources.arrive(address(1), n, (), at);
        welcome += usize::from(arrival == Arrival::Welcome);
        sources.finish(source, n);
    }
    assert!((39..=40).contains(&welcome), "a burst of 20 and 20 in a second: {welcome}");
    assert_eq!(sources.throttled(now + Duration::from_secs(1)), 1);
    assert!(connect(&mut sources, address(2), 5000, now + Duration::from_secs(1)));
}

#[test]
fn the_greediest_gives_up_its_oldest_handshake() {
    let (mut sources, now) = sources();
    for number in 0..8 {
        assert_eq!(sources.arrive(address(1), number, (), now).1, Arrival::Welcome);
    }
    let (_, arrival) = sources.arrive(address(2), 8, (), now);
    assert_eq!(arrival, Arrival::InPlaceOf(address(1).into()));
    assert!(!sources.entries[&address(1).into()].handshakes.iter().any(|(number, ..)| *number == 0));
    assert_eq!(sources.handshakes(), 8);
    // It does not help the greedy one to come again, until its own have grown old.
    assert_eq!(sources.arrive(address(1), 9, (), now).1, Arrival::Refused(Fault::Handshakes));
    let later = now + YOUNG;
    assert_eq!(sources.arrive(address(1), 10, (), later).1, Arrival::InPlaceOf(address(1).into()));
    // What was given up has no place to give back.
    sources.finish(address(1).into(), 0);
    assert_eq!(sources.handshakes(), 8);
}

#[test]
fn one_handshake_each_from_everywhere_keeps_nobody_out() {
    let (mut sources, now) = sources();
    for n in 0..100 {
        assert!(!matches!(sources.arrive(address(n), n.into(), (), now).1, Arrival::Refused(_)), "{n}");
    }
    assert_eq!(sources.handshakes(), 8);
}

#[test]
fn a_client_that_reconnects_without_end_is_slowed_down_alone() {
    let (mut sources, now) = sources();
    let source = address(1).into();
    let accepted = (0..1000).filter(|n| {
        let at = now + Duration::from_millis(n * 10);
        sources.reconnect(source, "loop", at)
    });
    assert!((6..=7).contains(&accepted.count()));
    assert!(sources.reconnect(source, "neighbour", now));
    assert!(sources.reconnect(address(2).into(), "loop", now));
}

#[test]
fn wrong_secrets_are_answered_so_often() {
    let (mut sources, now) = sources();
    let (source, _) = sources.arrive(address(1), 1, (), now);
    let answered = (0..60).filter(|n| sources.wrong_secret(source, now + Duration::from_millis(n * 1000)));
    assert!((5..=6).contains(&answered.count()), "a burst of 3 and 3 in a minute");
}

#[test]
fn an_address_is_told_about_once_a_minute_with_counts() {
    let (mut sources, now) = sources();
    let (source, _) = sources.arrive(address(1), 1, (), now);
    let mut lines = Vec::new();
    for second in 0..180 {
        let at = now + Duration::from_secs(second);
        for _ in 0..5 {
            lines.extend(sources.note(source, Fault::Credentials, at));
        }
        lines.extend(sources.sweep(at));
    }
    let counts: Vec<u64> = lines.iter().map(|line| line.faults.credentials).collect();
    assert_eq!(counts, [1, 300, 300]);
    // What is left is told although nothing more happens.
    let lines = sources.sweep(now + Duration::from_secs(240));
    assert_eq!(lines.iter().map(|line| line.faults.credentials).sum::<u64>(), 299);
}

#[test]
fn an_attack_from_everywhere_does_not_fill_the_log_or_the_memory() {
    let (mut sources, now) = sources();
    let mut lines = 0;
    for n in 0..20_000u32 {
        let from = IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + n));
        let (source, _) = sources.arrive(from, n.into(), (), now);
        sources.finish(source, n.into());
        lines += usize::from(sources.note(source, Fault::Malformed, now).is_some());
        sources.reconnect(source, &n.to_string(), now);
    }
    assert_eq!(lines, 20);
    assert!(sources.entries.len() <= ADDRESSES + 1);
    assert!(sources.clients.len() <= CLIENTS);
    for minute in 1..1000 {
        sources.sweep(now + Duration::from_secs(60 * minute));
    }
    assert_eq!((sources.entries.len(), sources.clients.len()), (0, 0), "all is forgotten in time");
}

#[test]
fn a_network_is_one_source() {
    let one: Source = "2001:db8:1:2:3::4".parse::<IpAddr>().unwrap().into();
    let other: Source = "2001:db8:1:2:ffff::1".parse::<IpAddr>().unwrap().into();
    assert_eq!(one, other);
    assert_eq!(one.to_string(), "2001:db8:1:2::/64");
    let mapped: Source = "::ffff:10.0.0.1".parse::<IpAddr>().unwrap().into();
    assert_eq!(mapped, address(1).into());
}
