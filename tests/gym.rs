//! The Bluetooth source with its real driver and the real journal, against a radio that fails on demand; time goes by
//! many times faster. One at a time: each watches what the whole process uses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[path = "gym/air.rs"]
mod air;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use air::{Air, FAULTS, FastClock, Fault, Strap, strap};
use fogbeat::config::{self, Ble, BleDevice};
use fogbeat::journal::{Journal, RealDisk};
use fogbeat::source::bluetooth::{Driver, Handle, Metrics, Pace, set_up};
use tokio::sync::watch;

static ALONE: Mutex<()> = Mutex::new(());

struct Gateway {
    _alone: MutexGuard<'static, ()>,
    dir: tempfile::TempDir,
    air: Air,
    journal: Journal,
    handle: Handle,
    metrics: Metrics,
    stop: watch::Sender<bool>,
    source: tokio::task::JoinHandle<()>,
}

fn devices(straps: &[Strap]) -> Vec<BleDevice> {
    let device = |(n, strap): (usize, &Strap)| BleDevice {
        address: Some(strap.address.to_string()),
        alias: Some(format!("bike-{n}")),
        ..BleDevice::default()
    };
    straps.iter().enumerate().map(device).collect()
}

impl Gateway {
    /// `listed` straps of those on the air are the gym's own.
    fn start(factor: u32, adapters: u8, straps: Vec<Strap>, listed: usize, ble: Ble) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(FastClock { begun: Instant::now(), factor });
        let settings =
            config::Journal { commit_interval: Duration::from_millis(200), ..config::Journal::default() };
        let (journal, driver, _) =
            Journal::open(&settings, dir.path(), clock.clone(), Arc::new(RealDisk)).unwrap();
        tokio::spawn(driver.run());
        let ble = Ble { devices: devices(&straps[..listed]), ..ble };
        let air = Air::new(factor, adapters, straps);
        tokio::spawn(air.clone().blow());
        let metrics = Metrics::default();
        let core = set_up(&ble, &[]);
        let (source, handle) = Driver::new(air.clone(), core, journal.clone(), clock, metrics.clone(), true);
        let (stop, stopped) = watch::channel(false);
        let source = tokio::spawn(source.at(Pace::times(factor)).run(stopped));
        Self { _alone: alone, dir, air, journal, handle, metrics, stop, source }
    }

    async fn pass(&self, seconds: u64) {
        self.air.pass(Duration::from_secs(seconds)).await;
    }

    async fn stop(self) -> u64 {
        self.stop.send_replace(true);
        self.source.await.unwrap();
        self.journal.close().await;
        let durable = self.journal.accounts().total.durable;
        drop(self.dir);
        durable
    }
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Resident memory, bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_leave_no_task_and_no_stream_behind() {
    let cycles: u64 = std::env::var("FOGBEAT_CYCLES").map_or(10_000, |cycles| cycles.parse().unwrap());
    const STRAPS: usize = 10;
    let straps = (0..STRAPS as u16).map(strap).collect();
    let ble = Ble { slots: 20, ..Ble::default() };
    let gym = Gateway::start(200, STRAPS as u8, apart(straps), STRAPS, ble);
    gym.pass(120).await;
    assert_eq!(gym.air.links(), STRAPS);
    let (tasks_before, begun) = (tasks(), Instant::now());
    while gym.air.connects() < cycles {
        for index in 0..STRAPS {
            if gym.air.linked(index) {
                gym.air.drop_link(index);
            }
        }
        gym.air.pass(Duration::from_millis(500)).await;
        assert!(begun.elapsed() < Duration::from_secs(600), "{} connects", gym.air.connects());
    }
    gym.pass(120).await;
    assert_eq!(gym.air.links(), STRAPS, "everybody is back");
    assert_eq!(gym.air.streams(), STRAPS, "one stream for each");
    assert!(tasks() <= tasks_before + 2, "{} tasks, {tasks_before} before", tasks());
    assert_eq!(gym.air.crimes(), Vec::<String>::new());
    let (sent, taken) = (gym.air.sent(), gym.metrics.readings.get());
    println!(
        "{} connects: {} tasks, {tasks_before} before; {} streams; {taken} readings of {sent} notifications; {} MiB",
        gym.air.connects(),
        tasks(),
        gym.air.streams(),
        resident() >> 20
    );
    assert!(sent.abs_diff(taken) <= STRAPS as u64, "each notification is one reading: {sent}, {taken}");
    gym.stop().await;
}

/// Each strap in reach of an adapter of its own: all of them connect at once.
fn apart(mut straps: Vec<Strap>) -> Vec<Strap> {
    straps.iter_mut().zip(0..).for_each(|(strap, number)| strap.adapter = number);
    straps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_fault_the_straps_are_back_and_nothing_is_doubled() {
    let gym = Gateway::start(50, 1, (0..3).map(strap).collect(), 3, Ble::default());
    gym.pass(30).await;
    assert_eq!(gym.air.links(), 3);
    for fault in FAULTS {
        gym.air.set(fault, true);
        gym.pass(5).await;
        gym.air.drop_link(0);
        gym.air.drop_link(1);
        gym.pass(45).await;
        gym.air.set(fault, false);
        // The longest back-off is a minute; a link that was refused is tried again after five, one at a time.
        let patience = if fault == Fault::NoRoom { 900 } else { 120 };
        let until = Instant::now() + Duration::from_secs(patience) / 50;
        while gym.air.links() < 3 && Instant::now() < until {
            gym.pass(1).await;
        }
        assert_eq!(gym.air.links(), 3, "after {fault:?}");
        gym.pass(5).await;
        let before = gym.metrics.readings.get();
        gym.pass(10).await;
        assert!(
            gym.metrics.readings.get() >= before + 20,
            "after {fault:?}: {before}, {}",
            gym.metrics.readings.get()
        );
    }
    for fault in ["stack", "bus", "power"] {
        match fault {
            "stack" => gym.air.stack(false),
            "bus" => gym.air.cut_bus(),
            _ => gym.air.switch(0, false),
        }
        gym.pass(20).await;
        match fault {
            "stack" => gym.air.stack(true),
            "bus" => {}
            _ => {
                assert_eq!(gym.air.links(), 0, "what the operator switched off stays off");
                gym.air.switch(0, true);
            }
        }
        gym.pass(20).await;
        assert_eq!(gym.air.links(), 3, "after {fault}");
        let before = gym.metrics.readings.get();
        gym.pass(10).await;
        assert!(gym.metrics.readings.get() >= before + 20, "after {fault}");
    }
    assert_eq!(gym.air.crimes(), Vec::<String>::new());
    let (sent, taken) = (gym.air.sent(), gym.metrics.readings.get());
    assert!(sent.abs_diff(taken) <= 3, "each notification is one reading: {sent} sent, {taken} taken");
    let durable = gym.stop().await;
    assert!(durable + 6 >= sent, "{durable} durable of {sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_of_a_full_gym_leaves_memory_flat_and_no_trace_of_passers_by() {
    const FACTOR: u32 = 60;
    let members = 40;
    let mut straps: Vec<Strap> = (0..240).map(strap).collect();
    for (n, strap) in straps.iter_mut().enumerate() {
        strap.broadcasts = n < members || n % 3 == 0;
        strap.service = n >= members && n % 2 == 0;
        strap.random = n >= members;
    }
    let gym = Gateway::start(FACTOR, 1, straps, members, Ble::default());
    gym.pass(600).await;
    let early = resident();
    let mut passed = 600;
    while passed < 3600 {
        gym.pass(60).await;
        passed += 60;
        // Passers-by go, others come.
        for index in members..240 {
            gym.air.strap(index, |strap| strap.address.0[1] = (passed / 60) as u8);
        }
    }
    let late = resident();
    let (frames, taken) = (gym.air.frames_of(members), gym.metrics.readings.get());
    assert!(taken * 100 >= frames * 99, "{taken} of {frames} frames of the members");
    let shown = gym.handle.shown().view;
    println!(
        "an hour: {taken} readings of {frames} frames; {} KiB after ten minutes, {} KiB after sixty",
        early >> 10,
        late >> 10
    );
    assert_eq!(shown.wearables.len(), members);
    assert!(shown.wearables.iter().all(|wearable| wearable.device.as_ref().unwrap().starts_with("bike-")));
    assert!(
        late < early + (6 << 20),
        "{} KiB after ten minutes, {} KiB after an hour",
        early >> 10,
        late >> 10
    );
    assert_eq!(gym.metrics.dropped.get(), 0);
    let devices = gym.journal.accounts().devices;
    assert!(devices.keys().all(|device| device.starts_with("bike-")), "{devices:?}");
    gym.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_that_is_not_there_is_waited_for_and_taken() {
    let gym = Gateway::start(50, 1, vec![strap(0)], 1, Ble::default());
    gym.air.stack(false);
    gym.air.cut_bus();
    gym.pass(30).await;
    assert!(gym.handle.shown().unavailable.unwrap().contains("start bluetooth.service"));
    gym.air.stack(true);
    gym.air.set(Fault::Deaf, false);
    gym.pass(90).await;
    assert!(gym.handle.shown().unavailable.is_none());
    assert_eq!(gym.air.links(), 1);
    gym.stop().await;
}
