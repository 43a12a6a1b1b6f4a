//! Honest devices: each publishes at QoS 1 and waits for its PUBACK; some were there before the attack, one after the
//! other comes anew. They have a thread and a runtime of their own, so that a busy attacker does not look like a slow
//! gateway.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::peer;
use crate::support::wall_ms;

/// Devices that stay connected. The last [`NEIGHBOURS`] of them share the first attacker's address.
pub const DEVICES: usize = 20;
const NEIGHBOURS: usize = 5;
const EVERY: Duration = Duration::from_millis(100);

/// What became of the honest.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub acknowledged: u64,
    /// The slowest PUBACK.
    pub worst: Duration,
    /// Connections that ended.
    pub lost: u64,
    /// Devices that came anew while the attack went on.
    pub newcomers: u64,
    /// The slowest way from the TCP connect to the first PUBACK.
    pub worst_newcomer: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, worst, lost, newcomers, worst_newcomer } = self;
        let (worst, newcomer) = (worst.as_millis(), worst_newcomer.as_millis());
        write!(
            f,
            "{acknowledged} acknowledged, worst {worst} ms; {newcomers} newcomers, worst {newcomer} ms; {lost} lost"
        )
    }
}

pub struct Honest {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Figures>,
}

impl Honest {
    /// Returns when all of them are connected.
    pub fn start(gateway: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let (ready, all_in) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(live(gateway, seen, ready))
        });
        all_in.recv().expect("before the attack there is room");
        Self { stop, thread }
    }

    pub fn stop(self) -> Figures {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the honest devices' thread")
    }
}

async fn live(gateway: SocketAddr, stop: Arc<AtomicBool>, ready: mpsc::Sender<()>) -> Figures {
    let mut tasks = Vec::new();
    for n in 0..DEVICES {
        let from = match n < DEVICES - NEIGHBOURS {
            true => Ipv4Addr::new(127, 0, 1, n as u8 + 1),
            false => crate::attacker(2),
        };
        // One after the other: so many at once would fill the few places there are for handshakes by themselves.
        let name = format!("honest-{n}");
        let io = peer::client(from, gateway, 4, &name).await.expect("before the attack there is room");
        tasks.push(tokio::spawn(device(io, name, Arc::clone(&stop))));
    }
    ready.send(()).expect("the test waits");
    tasks.push(tokio::spawn(newcomers(gateway, Arc::clone(&stop))));
    let mut sum = Figures::default();
    for task in tasks {
        let one = task.await.unwrap();
        sum.acknowledged += one.acknowledged;
        sum.worst = sum.worst.max(one.worst);
        sum.lost += one.lost;
        sum.newcomers += one.newcomers;
        sum.worst_newcomer = sum.worst_newcomer.max(one.worst_newcomer);
    }
    sum
}

async fn device(mut io: TcpStream, name: String, stop: Arc<AtomicBool>) -> Figures {
    let mut figures = Figures::default();
    let mut pkid = 0u16;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(EVERY).await;
        pkid = pkid % 60_000 + 1;
        let since = Instant::now();
        if !beat(&mut io, &name, pkid).await {
            figures.lost += 1;
            return figures;
        }
        figures.acknowledged += 1;
        figures.worst = figures.worst.max(since.elapsed());
    }
    // Gone in good order; the gateway may have closed it already.
    let _ = io.write_all(&[0xE0, 0]).await;
    figures
}

/// One reading, acknowledged.
async fn beat(io: &mut TcpStream, name: &str, pkid: u16) -> bool {
    let payload = format!(r#"{{"bpm":72,"time":{}}}"#, wall_ms());
    let packet = peer::publish(4, &format!("hr/{name}"), pkid, payload.as_bytes());
    if io.write_all(&packet).await.is_err() {
        return false;
    }
    let [high, low] = pkid.to_be_bytes();
    peer::packet(io).await == Some(vec![0x40, 2, high, low])
}

async fn newcomers(gateway: SocketAddr, stop: Arc<AtomicBool>) -> Figures {
    let mut figures = Figures::default();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(4 * EVERY).await;
        let from = Ipv4Addr::new(127, 0, 1, 100 + (figures.newcomers % 100) as u8);
        let name = format!("newcomer-{}", figures.newcomers % 100);
        let since = Instant::now();
        let Ok(mut io) = peer::client(from, gateway, 4, &name).await else {
            figures.lost += 1;
            continue;
        };
        if !beat(&mut io, &name, 1).await {
            figures.lost += 1;
            continue;
        }
        figures.newcomers += 1;
        figures.worst_newcomer = figures.worst_newcomer.max(since.elapsed());
        // Gone in good order; the gateway may have closed it already.
        let _ = io.write_all(&[0xE0, 0]).await;
    }
    figures
}
