//! Whether there is a way out of this machine at all. Nothing is sent.

use std::net::IpAddr;

use super::scene::Scene;
use super::{Finding, probe};
use crate::config::{Config, Proxy, UplinkKind, host_and_port};

const NAME: &str = "network";
const PROXY: &str = "proxy";

/// How far packets get by the kernel's routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// This machine alone.
    Nowhere,
    /// Its own networks.
    Near,
    /// There is a default route.
    Everywhere,
}

impl Reach {
    pub fn now() -> Self {
        let v4 = probe::text("/proc/net/route").unwrap_or_default();
        let v6 = probe::text("/proc/net/ipv6_route").unwrap_or_default();
        Self::of(&v4, &v6)
    }

    /// By `/proc/net/route` and `/proc/net/ipv6_route`.
    fn of(v4: &str, v6: &str) -> Self {
        let v4 = v4.lines().skip(1).filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (name, to, mask) = (*fields.first()?, *fields.get(1)?, *fields.get(7)?);
            (name != "lo").then_some(match (to, mask) {
                ("00000000", "00000000") => Self::Everywhere,
                _ => Self::Near,
            })
        });
        let v6 = v6.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (to, length, name) = (*fields.first()?, *fields.get(1)?, *fields.last()?);
            // Every interface has addresses of its own link.
            (name != "lo" && !to.starts_with("fe80") && !to.starts_with("ff")).then_some(match length {
                "00" => Self::Everywhere,
                _ => Self::Near,
            })
        });
        v4.chain(v6).max().unwrap_or(Self::Nowhere)
    }

    /// Whether it is worth trying to reach `host`; if not, why.
    pub fn obstacle(self, host: &str) -> Option<&'static str> {
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        (self == Self::Nowhere && !here).then_some("there is no network: this machine has no route")
    }
}

pub fn findings(scene: &Scene) -> Vec<Finding> {
    let hosts = hosts(&scene.config);
    let resolvers = probe::text("/etc/resolv.conf").unwrap_or_default();
    let resolvers = resolvers.lines().filter(|line| line.trim_start().starts_with("nameserver")).count();
    let mut found = vec![judge(Reach::now(), resolvers, !hosts.is_empty())];
    let environment =
        ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"].iter().any(|name| std::env::var_os(name).is_some());
    found.extend(judge_proxy(&proxies(&scene.config), hosts.len(), environment));
    found
}

/// Uplinks that are not on this machine.
fn hosts(config: &Config) -> Vec<String> {
    let host = |kind: &UplinkKind| match kind {
        UplinkKind::Directory(_) => None,
        UplinkKind::Firehose(firehose) => {
            let url = firehose.endpoint_url.as_deref().unwrap_or("https://aws");
            let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
            host_and_port(rest, 443).map(|(host, _)| host)
        }
        UplinkKind::IotCore(iot) => Some(iot.endpoint.clone()),
        UplinkKind::Mqtt(broker) => {
            let rest = broker.url.split_once("://").map_or(broker.url.as_str(), |(_, rest)| rest);
            host_and_port(rest, 1883).map(|(host, _)| host)
        }
    };
    let all = config.uplinks.iter().filter_map(|uplink| host(&uplink.kind));
    all.filter(|host| Reach::Nowhere.obstacle(host).is_some()).collect()
}

fn judge(reach: Reach, resolvers: usize, needed: bool) -> Finding {
    let next = "check cable, Wi-Fi and `ip route`; readings are kept meanwhile";
    match reach {
        _ if !needed => Finding::skipped(NAME, "no uplink needs one"),
        Reach::Nowhere => {
            Finding::warning(NAME, "there is none: this machine has no route; uplinks wait", next)
        }
        Reach::Near => {
            Finding::warning(NAME, "there is no default route: only the local network can be reached", next)
        }
        Reach::Everywhere if resolvers == 0 => {
            let next = "write a `nameserver` line into /etc/resolv.conf, or check DHCP";
            Finding::warning(NAME, "no DNS server is known: names cannot be looked up", next)
        }
        Reach::Everywhere => {
            Finding::ok(NAME, format!("there is a default route, and {resolvers} DNS servers"))
        }
    }
}

/// The configured ones, each once.
fn proxies(config: &Config) -> Vec<String> {
    let uplinks = config.uplinks.iter().filter_map(|uplink| match &uplink.kind {
        UplinkKind::Directory(_) => None,
        UplinkKind::Firehose(firehose) => firehose.proxy.clone(),
        UplinkKind::IotCore(iot) => iot.proxy.clone(),
        UplinkKind::Mqtt(broker) => broker.proxy.clone(),
    });
    let credentials = config.aws.iot_credentials.iter().filter_map(|credentials| credentials.proxy.clone());
    let mut all: Vec<String> = uplinks.chain(credentials).collect();
    all.sort();
    all.dedup();
    all
}

/// `environment`: the usual variables name a proxy.
fn judge_proxy(proxies: &[String], remote: usize, environment: bool) -> Option<Finding> {
    let named: Vec<String> = proxies
        .iter()
        .filter_map(|proxy| Proxy::parse(proxy))
        .map(|proxy| match proxy {
            Proxy::Http { host, port } => format!("{host}:{port} (HTTP)"),
            Proxy::Socks5 { host, port } => format!("{host}:{port} (SOCKS5)"),
        })
        .collect();
    match (named.is_empty(), environment) {
        (true, true) if remote > 0 => Some(Finding::warning(
            PROXY,
            "the environment names a proxy, and fogbeat does not read it from there",
            "set [[uplink]].proxy if there is no other way out",
        )),
        (true, _) => None,
        (false, _) => Some(Finding::ok(
            PROXY,
            format!("{}; the uplinks' lines tell whether it lets them through", named.join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn routes_say_how_far_packets_get() {
        let near = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let all = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let own = "fe800000000000000000000000000000 40 0 00 0 0 0 0 1 eth0\n00000000000000000000000000000001 80 0 00 0 0 0 0 1 lo\n";
        assert_eq!(Reach::of(HEAD, ""), Reach::Nowhere);
        assert_eq!(Reach::of(&format!("{HEAD}{near}"), own), Reach::Near);
        assert_eq!(Reach::of(&format!("{HEAD}{near}{all}"), own), Reach::Everywhere);
        assert_eq!(Reach::of(HEAD, own), Reach::Nowhere);
        assert_eq!(
            Reach::of("", "00000000000000000000000000000000 00 0 00 0 fe80 0 0 1 wlan0"),
            Reach::Everywhere
        );
        assert!(Reach::Nowhere.obstacle("aws.example").is_some());
        assert_eq!(Reach::Nowhere.obstacle("127.0.0.1"), None);
        assert_eq!(Reach::Near.obstacle("aws.example"), None);
    }

    #[test]
    fn a_network_is_missed_only_where_it_is_needed() {
        assert_eq!(judge(Reach::Nowhere, 0, false).verdict, Verdict::Skipped);
        assert_eq!(judge(Reach::Nowhere, 0, true).verdict, Verdict::Warning);
        assert_eq!(judge(Reach::Near, 1, true).verdict, Verdict::Warning);
        assert_eq!(judge(Reach::Everywhere, 0, true).verdict, Verdict::Warning);
        assert_eq!(judge(Reach::Everywhere, 2, true).verdict, Verdict::Ok);
        assert_eq!(judge_proxy(&[], 1, true).unwrap().verdict, Verdict::Warning);
        assert_eq!(judge_proxy(&[], 0, true), None);
        assert_eq!(judge_proxy(&["http://p:3128".into()], 1, false).unwrap().verdict, Verdict::Ok);
    }
}
