//! The stages that bring readings: the listener, external brokers and replays. They end before everything else.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::GatewayError;
use super::stages::{Ended, Stages};
use crate::clock::SystemClock;
use crate::config::{self, Config};
use crate::journal::Journal;
use crate::reading::validity::DeviceTimeWindow;
use crate::relayed::Shelf;
use crate::site;
use crate::source::mqtt::{self, mapping::Mappings};
use crate::source::{bluetooth, replay};
use crate::state::StateDir;

/// While sources end, the open group is closed this often: they wait for it.
const HURRY_EVERY: Duration = Duration::from_millis(50);

/// The running sources.
#[derive(Default)]
pub(super) struct Intake {
    stages: Stages,
    stop: watch::Sender<bool>,
    listener: Option<mqtt::Handle>,
    externals: Vec<mqtt::ExternalHandle>,
    bluetooth: Option<bluetooth::Handle>,
    /// Where the listener puts batches of other gateways, if it takes them.
    members: Option<Shelf>,
}

impl Intake {
    /// Binds the ports and starts all sources.
    pub async fn start(
        config: &Config,
        gateway: &str,
        state: &StateDir,
        journal: &Journal,
        members: Option<&Shelf>,
        clock: &Arc<SystemClock>,
        registry: &mut Registry,
    ) -> Result<Self, GatewayError> {
        let mut intake = Self { members: members.cloned(), ..Self::default() };
        if config.mqtt.listener.enabled || !config.mqtt.externals.is_empty() {
            intake.start_mqtt(config, gateway, state, journal, clock, registry).await?;
        }
        if config.ble.enabled {
            intake.start_bluetooth(&config.ble, state, journal, clock, registry);
        }
        if !config.replay.is_empty() {
            let metrics = replay::Metrics::default();
            metrics.register(registry);
            for replay in &config.replay {
                let (replay, journal, clock) = (replay.clone(), journal.clone(), clock.clone());
                let (metrics, stop) = (metrics.clone(), intake.stop.subscribe());
                intake.stages.start("replay", play(replay, journal, clock, metrics, stop));
            }
        }
        Ok(intake)
    }

    async fn start_mqtt(
        &mut self,
        config: &Config,
        gateway: &str,
        state: &StateDir,
        journal: &Journal,
        clock: &Arc<SystemClock>,
        registry: &mut Registry,
    ) -> Result<(), GatewayError> {
        let mappings = Mappings::compile(&config.mqtt.custom, &config.mqtt.mappings).map_err(|errors| {
            GatewayError::Mapping(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        let window = DeviceTimeWindow::new(config.clock.device_past, config.clock.device_future);
        let mappings = mappings.judging_by(window);
        mappings.metrics().register(registry);
        let mappings = Arc::new(mappings);
        let mut metrics = mqtt::Metrics::default();
        if config.mqtt.listener.enabled {
            let deps = mqtt::Deps {
                journal: journal.clone(),
                clock: clock.clone(),
                mappings: mappings.clone(),
                state_dir: state.path().to_owned(),
                announced: config.mqtt.listener.mdns.then(|| site::host_label(gateway)),
                buffers: config::Account::of(config).buffers(),
            };
            let listener = mqtt::Listener::bind(&config.mqtt.listener, deps).await?;
            let handle = listener.handle();
            // Before the first packet is read: what nobody is there for would be acknowledged and gone.
            if let Some(members) = &self.members {
                handle.take_members(members.clone());
            }
            metrics = handle.metrics();
            for (address, encrypted) in [(handle.local_addr(), false), (handle.tls_addr(), true)] {
                if let Some(address) = address {
                    tracing::info!(%address, encrypted, "MQTT listener");
                }
            }
            if config.mqtt.listener.mdns {
                let ports = reachable(&handle);
                self.stages.start("mDNS", announce(gateway.to_owned(), ports, self.stop.subscribe()));
            }
            self.listener = Some(handle);
            self.stages.start("listener", listener.run(self.stop.subscribe(), config.gateway.shutdown_grace));
        }
        metrics.register(registry);
        for settings in &config.mqtt.externals {
            let (journal, clock, mappings) = (journal.clone(), clock.clone(), mappings.clone());
            let external = mqtt::External::new(settings, gateway, journal, clock, mappings, metrics.clone())?;
            self.externals.push(external.handle());
            self.stages.start("external broker", external.run(self.stop.subscribe()));
        }
        Ok(())
    }

    fn start_bluetooth(
        &mut self,
        ble: &config::Ble,
        state: &StateDir,
        journal: &Journal,
        clock: &Arc<SystemClock>,
        registry: &mut Registry,
    ) {
        let metrics = bluetooth::Metrics::default();
        metrics.register(registry);
        let allowed = bluetooth::Allowed::new(state.path()).list().unwrap_or_else(|error| {
            tracing::error!(%error, "who was allowed by `fogbeat scan --allow` is not heard");
            Vec::new()
        });
        let core = bluetooth::set_up(ble, &allowed);
        let counted_on = !(ble.adapters.is_empty() && ble.devices.is_empty() && allowed.is_empty());
        let radio = bluetooth::BlueZ::default();
        let (driver, handle) =
            bluetooth::Driver::new(radio, core, journal.clone(), clock.clone(), metrics, counted_on);
        self.bluetooth = Some(handle);
        self.stages.start("bluetooth", driver.run(self.stop.subscribe()));
    }

    pub fn bluetooth(&self) -> Option<bluetooth::Handle> {
        self.bluetooth.clone()
    }

    pub fn externals(&self) -> Vec<mqtt::ExternalHandle> {
        self.externals.clone()
    }

    pub fn listener(&self) -> Option<mqtt::Handle> {
        self.listener.clone()
    }

    /// The next source that ends unasked. Cancel safe.
    pub async fn ended(&mut self) -> Ended {
        self.stages.ended().await
    }

    /// Stops all sources and waits until what they took is acknowledged; tells which panicked.
    pub async fn stop(&mut self, journal: &Journal) -> Vec<&'static str> {
        self.stop.send_replace(true);
        let mut hurry = tokio::time::interval(HURRY_EVERY);
        let mut all_ended = std::pin::pin!(self.stages.all_ended());
        loop {
            tokio::select! {
                panicked = &mut all_ended => return panicked,
                _ = hurry.tick() => journal.hurry(),
            }
        }
    }
}

/// The ports that others can reach.
fn reachable(listener: &mqtt::Handle) -> Vec<site::Announcement> {
    let ports = [(listener.local_addr(), false), (listener.tls_addr(), true)];
    let ports = ports.into_iter().filter_map(|(address, encrypted)| Some((address?, encrypted)));
    ports
        .filter(|(address, _)| !address.ip().is_loopback())
        .map(|(address, encrypted)| site::Announcement { port: address.port(), encrypted })
        .collect()
}

/// Announces the ports until the end. That it cannot be done is told, and keeps nobody from publishing.
async fn announce(gateway: String, ports: Vec<site::Announcement>, mut stop: watch::Receiver<bool>) {
    let announced = site::Announced::start(&gateway, &ports);
    match &announced {
        Ok(_) => tracing::info!(host = site::host_label(&gateway), ports = ports.len(), "announced by mDNS"),
        Err(error) => {
            tracing::warn!(%error, "the listener cannot be announced by mDNS: is UDP port 5353 to be had?")
        }
    }
    let _ = stop.wait_for(|stop| *stop).await;
    if let Ok(announced) = announced {
        // Waits for the last word; a panic there takes nothing along.
        let _ = tokio::task::spawn_blocking(move || announced.end()).await;
    }
}

/// A replay that has come to its end, or cannot be played, is no reason to stop a gateway: it waits for the end.
async fn play(
    settings: config::Replay,
    journal: Journal,
    clock: Arc<SystemClock>,
    metrics: replay::Metrics,
    mut stop: watch::Receiver<bool>,
) {
    let path = settings.path.display().to_string();
    let mut stopped = stop.clone();
    let until_stop = async move {
        // An error means that the gateway is gone: a reason to stop as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    match replay::play(&settings, &journal, &*clock, &metrics, until_stop).await {
        Ok(played) => {
            tracing::info!(path, readings = played.readings, rounds = played.rounds, "replay ended")
        }
        Err(error) => tracing::error!(path, %error, "the recording is not replayed"),
    }
    let _ = stop.wait_for(|stop| *stop).await;
}
