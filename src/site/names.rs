//! What devices may call this gateway, and so what its certificate is made for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustls::pki_types::ServerName;

/// Names and addresses, sorted, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Names {
    /// Those of this machine as somebody finds it who connects to `bind`: the host name, alone and below `.local`,
    /// the IPv4 addresses, and `announced`, the host's name in mDNS. IPv6 addresses only where one is bound: those
    /// that a machine gives itself change every day. Blocking.
    pub fn of_machine(bind: SocketAddr, announced: Option<&str>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
        let short = host.split('.').next().unwrap_or_default().to_owned();
        let dns = [
            Some("localhost".to_owned()),
            Some(format!("{short}.local")),
            announced.map(|label| format!("{label}.local")),
            Some(short),
            Some(host),
        ];
        let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        if bind.ip().is_unspecified() {
            // In a sandbox without netlink nobody can say: the names have to do.
            let all = if_addrs::get_if_addrs().unwrap_or_default();
            addresses.extend(all.iter().map(if_addrs::Interface::ip).filter(|ip| lasting(*ip)));
        } else {
            addresses.push(bind.ip());
        }
        Self::new(dns.into_iter().flatten().collect(), addresses)
    }

    /// Leaves out what cannot stand in a certificate.
    pub fn new(mut dns: Vec<String>, mut addresses: Vec<IpAddr>) -> Self {
        dns.retain(|name| matches!(ServerName::try_from(name.as_str()), Ok(ServerName::DnsName(_))));
        dns.sort();
        dns.dedup();
        addresses.sort();
        addresses.dedup();
        Self { dns, addresses }
    }

    /// All of them, as somebody would ask for them.
    pub fn iter(&self) -> impl Iterator<Item = String> + '_ {
        self.dns.iter().cloned().chain(self.addresses.iter().map(ToString::to_string))
    }
}

/// Whether an address is worth a place in a certificate.
fn lasting(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if !v4.is_link_local() && !v4.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_its_names_and_what_cannot_be_a_name_is_left_out() {
        let any = Names::of_machine("0.0.0.0:8883".parse().unwrap(), Some("fogbeat-gym-12"));
        assert!(any.dns.iter().any(|name| name == "localhost"), "{any:?}");
        assert!(any.dns.iter().any(|name| name == "fogbeat-gym-12.local"), "{any:?}");
        assert!(any.addresses.contains(&IpAddr::from(Ipv4Addr::LOCALHOST)), "{any:?}");
        let one = Names::of_machine("[fd00::1]:8883".parse().unwrap(), None);
        assert!(one.addresses.contains(&"fd00::1".parse().unwrap()), "{one:?}");
        let odd = Names::new(
            vec![String::new(), "a b".to_owned(), "b".to_owned(), "a".to_owned(), "a".to_owned()],
            vec![],
        );
        assert_eq!(odd.dns, ["a", "b"]);
    }
}
