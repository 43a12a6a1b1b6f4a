//! A look around without a running gateway, for `fogbeat scan`: listens, connects to nobody, stores nothing.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::core::{Call, Core, Input, Output, Sight};
use super::radio::{Event, Radio, RadioError};
use crate::clock::Clock;

const TICK: Duration = Duration::from_millis(250);

/// A radio that listens.
pub struct Look<'a, R: Radio> {
    radio: R,
    core: Core,
    clock: &'a dyn Clock,
    events: mpsc::Receiver<Event>,
}

impl<'a, R: Radio> Look<'a, R> {
    /// Begins to listen. `core` must be one that does not connect ([`super::set_up_look`]).
    ///
    /// # Errors
    /// There is no radio; says what to do about it.
    pub async fn begin(radio: R, core: Core, clock: &'a dyn Clock) -> Result<Self, RadioError> {
        let events = radio.events().await?;
        let mut look = Self { radio, core, clock, events };
        look.take(Input::Renewed).await;
        look.core.survey(Instant::now(), clock.now());
        Ok(look)
    }

    /// Listens for `time`, then tells who is on the air.
    ///
    /// # Errors
    /// The radio was lost, or there is no adapter to listen with.
    pub async fn listen(&mut self, time: Duration) -> Result<Vec<Sight>, RadioError> {
        let until = tokio::time::Instant::now() + time;
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    let event = event.ok_or_else(|| RadioError::NoStack("the system bus is lost".into()))?;
                    self.take(Input::Event(event)).await;
                }
                _ = tick.tick() => self.take(Input::Tick).await,
                () = tokio::time::sleep_until(until) => break,
            }
        }
        match self.core.has_adapter() {
            true if self.core.is_on() => Ok(self.core.survey(Instant::now(), self.clock.now())),
            true => Err(RadioError::Off),
            false => Err(RadioError::NoAdapter),
        }
    }

    /// Scans as the core wants it; what else it may want (its ladder) is for a gateway.
    async fn take(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.take(input, Instant::now(), self.clock.now(), 0.5, &mut out);
        for output in out {
            if let Output::Call(Call::Scan(adapter, true)) = output {
                let result = self.radio.scan(&adapter, true).await.map(|()| bytes::Bytes::new());
                let mut more = Vec::new();
                let done = Input::Done(Call::Scan(adapter, true), result);
                // Whatever follows from it is due at the next tick as well.
                self.core.take(done, Instant::now(), self.clock.now(), 0.5, &mut more);
            }
        }
    }

    /// Ends the scan.
    pub async fn end(self) {
        for adapter in self.core.adapters() {
            // The stack ends it by itself when this process is gone.
            let _ = self.radio.scan(&adapter, false).await;
        }
    }
}
