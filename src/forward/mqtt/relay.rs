//! Between the MQTT library and the broker: a Unix socket on one side, TCP (with TLS, through a proxy) on the other.
//!
//! The library opens its own sockets and knows no SOCKS, no way to tell a refused certificate from a broken cable, and
//! nothing of what is still unwritten. So it is given a socket of ours, with an abstract name that nobody can guess,
//! and only this process is let in. What passes is counted: plain bytes towards the broker, so that the sender knows
//! what is still on its way, and bytes on the wire in both directions.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

/// Copied at once: a TLS record.
const CHUNK: usize = 16 * 1024;
/// After writing has failed, how long to wait for the word (a TLS alert) that says why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Bytes on the wire, TLS included; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct WireBytes(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

impl WireBytes {
    pub(crate) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }
}

/// A TCP connection whose bytes are counted.
pub(crate) struct Counted {
    inner: TcpStream,
    bytes: WireBytes,
}

impl Counted {
    pub(crate) fn new(inner: TcpStream, bytes: WireBytes) -> Self {
        Self { inner, bytes }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        self.bytes.0.received.fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &result {
            self.bytes.0.sent.fetch_add(*written as u64, Ordering::Relaxed);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What leads to the broker.
pub(crate) trait Upstream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Upstream for T {}

/// Why the relay has ended.
#[derive(Debug)]
pub(crate) enum RelayEnd {
    /// The library closed its side.
    Ours,
    /// The broker closed the connection without a word.
    Closed,
    /// The connection failed; TLS alerts are in here.
    Failed(io::Error),
}

/// A socket that waits for the library.
pub(crate) struct Relay {
    listener: UnixListener,
    /// How many plain bytes have been written towards the broker.
    passed: watch::Sender<u64>,
}

impl Relay {
    /// The relay, the name of its socket, and how many plain bytes have passed towards the broker.
    pub(crate) fn bind() -> io::Result<(Self, String, watch::Receiver<u64>)> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("fogbeat-uplink-{}", hex::encode(random));
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name)?;
        let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let (passed, passing) = watch::channel(0);
        Ok((Self { listener, passed }, format!("\0{name}"), passing))
    }

    /// Copies until one side ends.
    pub(crate) async fn run(self, upstream: impl Upstream) -> RelayEnd {
        let ours = match self.accept().await {
            Ok(ours) => ours,
            Err(error) => return RelayEnd::Failed(error),
        };
        let (mut from_us, mut to_us) = ours.into_split();
        let (mut from_broker, mut to_broker) = tokio::io::split(upstream);
        let up = async {
            let mut chunk = vec![0; CHUNK];
            loop {
                match from_us.read(&mut chunk).await {
                    Ok(0) | Err(_) => {
                        // TLS wants to say goodbye; if it cannot, the other side knows already.
                        let _ = to_broker.shutdown().await;
                        return RelayEnd::Ours;
                    }
                    Ok(read) => {
                        let written = async {
                            to_broker.write_all(chunk.get(..read).unwrap_or_default()).await?;
                            to_broker.flush().await
                        };
                        if let Err(error) = written.await {
                            return RelayEnd::Failed(error);
                        }
                        self.passed.send_modify(|passed| *passed += read as u64);
                    }
                }
            }
        };
        let down = async {
            let mut chunk = vec![0; CHUNK];
            loop {
                match from_broker.read(&mut chunk).await {
                    Ok(0) => return RelayEnd::Closed,
                    Ok(read) => {
                        if to_us.write_all(chunk.get(..read).unwrap_or_default()).await.is_err() {
                            return RelayEnd::Ours;
                        }
                    }
                    // TLS wants a farewell; a broker that was killed had no time for one.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return RelayEnd::Closed,
                    Err(error) => return RelayEnd::Failed(error),
                }
            }
        };
        tokio::pin!(up, down);
        tokio::select! {
            end = &mut down => end,
            end = &mut up => match end {
                RelayEnd::Failed(error) => {
                    match tokio::time::timeout(LAST_WORD, down).await {
                        Ok(RelayEnd::Failed(word)) if crate::net::tls_error(&word).is_some() => {
                            RelayEnd::Failed(word)
                        }
                        _ => RelayEnd::Failed(error),
                    }
                }
                end => end,
            },
        }
    }

    /// The name is secret enough; a process that guesses it is turned away all the same.
    async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let own = i32::try_from(std::process::id()).ok();
            if stream.peer_cred()?.pid() == own {
                return Ok(stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_are_counted() {
        let (relay, name, passed) = Relay::bind().unwrap();
        let (upstream, mut broker) = tokio::io::duplex(1 << 20);
        let task = tokio::spawn(relay.run(upstream));
        let mut library = UnixStream::connect(&name).await.unwrap();
        library.write_all(&[7; 100_000]).await.unwrap();
        let mut got = vec![0; 100_000];
        broker.read_exact(&mut got).await.unwrap();
        assert_eq!(*passed.borrow(), 100_000);
        broker.write_all(b"ack").await.unwrap();
        let mut ack = [0; 3];
        library.read_exact(&mut ack).await.unwrap();
        assert_eq!(&ack, b"ack");
        drop(broker);
        assert!(matches!(task.await.unwrap(), RelayEnd::Closed));
        assert_eq!(library.read(&mut ack).await.unwrap(), 0, "the library sees the end");
    }

    #[tokio::test]
    async fn the_library_may_hang_up() {
        let (relay, name, _) = Relay::bind().unwrap();
        let (upstream, mut broker) = tokio::io::duplex(64);
        let task = tokio::spawn(relay.run(upstream));
        drop(UnixStream::connect(&name).await.unwrap());
        assert!(matches!(task.await.unwrap(), RelayEnd::Ours));
        assert_eq!(broker.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
