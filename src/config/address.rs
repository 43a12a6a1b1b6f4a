//! Addresses as they stand in the file. Pure.

/// `host`, `host:port`, `[v6]` or `[v6]:port`: host and port.
pub fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let rest = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            match after.strip_prefix(':') {
                Some(port) => (host, port.parse().ok()?),
                None if after.is_empty() => (host, default),
                None => return None,
            }
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (rest, default),
        },
    };
    let strange = |c: char| c.is_whitespace() || c.is_control() || "/@?#\"'".contains(c);
    (!host.is_empty() && port != 0 && !host.contains(strange)).then(|| (host.to_owned(), port))
}

/// How a connection gets out of a network that lets nothing out directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// HTTP CONNECT.
    Http { host: String, port: u16 },
    /// SOCKS version 5; the proxy looks names up.
    Socks5 { host: String, port: u16 },
}

impl Proxy {
    /// `http://host:port` or `socks5://host:port` (`socks5h` says the same).
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, address) = text.split_once("://")?;
        match scheme {
            "http" => host_and_port(address, 3128).map(|(host, port)| Self::Http { host, port }),
            "socks5" | "socks5h" => {
                host_and_port(address, 1080).map(|(host, port)| Self::Socks5 { host, port })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_kind() {
        let is = |text, host: &str, port| {
            assert_eq!(host_and_port(text, 1), Some((host.to_owned(), port)), "{text}")
        };
        is("broker", "broker", 1);
        is("broker:8883/", "broker", 8883);
        is("[::1]", "::1", 1);
        is("[fe80::1]:99", "fe80::1", 99);
        for bad in ["", ":1", "a:b", "a:70000", "a:0", "[::1", "[::1]x", "u@h", "a/b", "a b", "::1"] {
            assert_eq!(host_and_port(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn proxies() {
        let http = Proxy::Http { host: "p".to_owned(), port: 3128 };
        assert_eq!(Proxy::parse("http://p:3128"), Some(http.clone()));
        assert_eq!(Proxy::parse("http://p"), Some(http));
        assert_eq!(Proxy::parse("socks5h://p"), Some(Proxy::Socks5 { host: "p".to_owned(), port: 1080 }));
        for bad in ["p:3128", "ftp://p", "http://", "https://p"] {
            assert_eq!(Proxy::parse(bad), None, "{bad}");
        }
    }
}
