//! The listener's ports on the local network: DNS service discovery over multicast DNS (RFC 6763, RFC 6762).
//!
//! `_secure-mqtt._tcp` is the encrypted port, `_mqtt._tcp` the plain one, each named after the gateway. The host is called
//! `fogbeat-<gateway>.local`, a name of its own, so that another responder on this machine (avahi) keeps `<host>.local` to
//! itself. What is announced is no proof of anything: devices check the certificate.

use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};

/// How long the word that a service is gone may take at the end.
const FAREWELL: Duration = Duration::from_millis(500);

/// One port to be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    pub port: u16,
    pub encrypted: bool,
}

impl Announcement {
    /// The service's type.
    pub fn kind(self) -> &'static str {
        if self.encrypted { "_secure-mqtt._tcp.local." } else { "_mqtt._tcp.local." }
    }
}

/// What is announced as long as this lives.
pub struct Announced {
    daemon: ServiceDaemon,
    names: Vec<String>,
}

impl Announced {
    /// Announces `ports` of the gateway; its addresses are followed by themselves. Starts a thread.
    ///
    /// # Errors
    /// When the multicast sockets cannot be had, or the machine's addresses cannot be seen.
    pub fn start(gateway: &str, ports: &[Announcement]) -> Result<Self, mdns_sd::Error> {
        // Without them mDNS would be silent, and nobody would know why.
        if let Err(error) = if_addrs::get_if_addrs() {
            return Err(mdns_sd::Error::Msg(format!(
                "this machine's addresses cannot be seen ({error}); the packaged service needs \
                 /usr/share/doc/fogbeat/examples/lan.conf in /etc/systemd/system/fogbeat.service.d/"
            )));
        }
        let announced = Self { daemon: ServiceDaemon::new()?, names: Vec::new() };
        // Nobody is there who does not know already.
        announced.daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        let host = format!("{}.local.", host_label(gateway));
        ports.iter().try_fold(announced, |mut announced, port| {
            let facts = [("gateway", gateway)];
            let service =
                ServiceInfo::new(port.kind(), gateway, &host, "", port.port, &facts[..])?.enable_addr_auto();
            announced.names.push(service.get_fullname().to_owned());
            announced.daemon.register(service)?;
            Ok(announced)
        })
    }

    /// Says that it is over, so that nobody looks for the gateway in vain. Blocking, for a moment.
    pub fn end(self) {
        for name in &self.names {
            // A thread that has ended has nothing more to say.
            if let Ok(done) = self.daemon.unregister(name) {
                let _ = done.recv_timeout(FAREWELL);
            }
        }
        if let Ok(done) = self.daemon.shutdown() {
            let _ = done.recv_timeout(FAREWELL);
        }
    }
}

/// The host's name in mDNS, without `.local`: a DNS label (RFC 1035 section 2.3.1, at most 63 letters).
pub fn host_label(gateway: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = "fogbeat-".chars().chain(gateway.chars().map(plain)).take(63).collect();
    label.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_a_label() {
        assert_eq!(host_label("gym-12"), "fogbeat-gym-12");
        assert_eq!(host_label("Gym_12.Hall"), "fogbeat-gym-12-hall");
        assert_eq!(host_label("---"), "fogbeat");
        assert_eq!(host_label(&"x".repeat(64)).len(), 63);
    }
}
