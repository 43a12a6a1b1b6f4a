//! TCP connections, straight or through an HTTP proxy (CONNECT, RFC 9110 section 9.3.6) or SOCKS5 (RFC 1928, RFC 1929).
//!
//! Names are looked up by the proxy where there is one. A connection notices within [`DEAD_AFTER`] that what it has
//! written arrives nowhere.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::config::Proxy;

/// What the kernel may hold unsent: about a round trip of 200 ms at 512 KiB a second. More would only be in the way of
/// what is urgent.
const SEND_BUFFER: usize = 128 * 1024;
/// A host or proxy that is there answers sooner, over a mobile network as well.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEAD_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{path}: {source}")]
    Credentials { path: PathBuf, source: std::io::Error },
    #[error("{path} is not one line `user:password`")]
    CredentialsForm { path: PathBuf },
    #[error("\"{0}\" cannot be part of an address")]
    Address(String),
    #[error("the name {host} cannot be looked up: {cause}")]
    Name { host: String, cause: String },
    #[error("{address} cannot be reached: {cause}")]
    Connect { address: String, cause: String },
    #[error("the proxy {proxy} gives no connection to {address}: {cause}")]
    Proxy { proxy: String, address: String, cause: String },
}

/// A way to reach hosts.
#[derive(Debug, Clone)]
pub struct Way {
    kind: Kind,
    proxy: Option<String>,
}

#[derive(Debug, Clone)]
enum Kind {
    Direct(HttpConnector),
    Tunnel(Tunnel<HttpConnector>),
    Socks(SocksV5<HttpConnector>),
}

impl Way {
    /// `credentials`: a file with one line `user:password` for the proxy.
    ///
    /// # Errors
    /// The proxy's address or credentials cannot be used.
    pub fn new(proxy: Option<&str>, credentials: Option<&Path>) -> Result<Self, DialError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_send_buffer_size(Some(SEND_BUFFER));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_tcp_user_timeout(Some(DEAD_AFTER));
        let Some(text) = proxy else { return Ok(Self { kind: Kind::Direct(tcp), proxy: None }) };
        let wrong = || DialError::Address(text.to_owned());
        let login = credentials.map(login).transpose()?;
        let kind = match Proxy::parse(text).ok_or_else(wrong)? {
            Proxy::Http { host, port } => {
                let tunnel = Tunnel::new(uri("http", &host, port)?, tcp);
                Kind::Tunnel(match login {
                    None => tunnel,
                    Some((user, password)) => {
                        let text =
                            base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                        let mut value =
                            HeaderValue::try_from(format!("Basic {text}")).map_err(|_| wrong())?;
                        value.set_sensitive(true);
                        tunnel.with_auth(value)
                    }
                })
            }
            Proxy::Socks5 { host, port } => {
                let socks = SocksV5::new(uri("http", &host, port)?, tcp);
                Kind::Socks(match login {
                    None => socks,
                    Some((user, password)) => socks.with_auth(user, password),
                })
            }
        };
        Ok(Self { kind, proxy: Some(text.to_owned()) })
    }

    /// A connection to `host`. Never ends by itself if nobody answers: to be given a time limit.
    ///
    /// # Errors
    /// [`DialError`]
    pub async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let target = uri("https", host, port)?;
        Ok(self.clone().connect(target).await?.into_inner())
    }

    async fn connect(self, target: Uri) -> Result<TokioIo<TcpStream>, DialError> {
        let address = target.authority().map(ToString::to_string).unwrap_or_default();
        let through = |cause: String| DialError::Proxy {
            proxy: self.proxy.clone().unwrap_or_default(),
            address: address.clone(),
            cause,
        };
        match self.kind {
            Kind::Direct(mut tcp) => tcp.call(target.clone()).await.map_err(|error| {
                let cause = super::chain(&error);
                let host = target.host().unwrap_or_default().to_owned();
                match cause.starts_with("dns error") {
                    true => DialError::Name { host, cause },
                    false => DialError::Connect { address: address.clone(), cause },
                }
            }),
            Kind::Tunnel(mut tunnel) => {
                tunnel.call(target).await.map_err(|error| through(super::chain(&error)))
            }
            Kind::Socks(mut socks) => socks.call(target).await.map_err(|error| through(super::chain(&error))),
        }
    }
}

impl Service<Uri> for Way {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        Box::pin(self.clone().connect(target))
    }
}

fn uri(scheme: &str, host: &str, port: u16) -> Result<Uri, DialError> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let text = format!("{scheme}://{host}:{port}");
    Uri::try_from(text.as_str()).map_err(|_| DialError::Address(text))
}

fn login(path: &Path) -> Result<(String, String), DialError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| DialError::Credentials { path: path.to_owned(), source })?;
    let (user, password) = text
        .trim_end_matches(['\r', '\n'])
        .split_once(':')
        .ok_or_else(|| DialError::CredentialsForm { path: path.to_owned() })?;
    Ok((user.to_owned(), password.to_owned()))
}
