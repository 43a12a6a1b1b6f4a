//! Where the rows come from: a running gateway, or our own ear.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::{Failure, Kind};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::control::{self, Request};
use crate::source::bluetooth::radio::RadioError;
use crate::source::bluetooth::{Allowed, BlueZ, Look, Sight, set_up_look};

/// How a wearable is looked for.
pub(super) enum Air<'a> {
    /// A gateway runs: it has the radio, and is asked.
    Daemon { socket: PathBuf },
    /// None does.
    Own { runtime: Runtime, look: Box<Look<'a, BlueZ>> },
}

impl Air<'_> {
    /// # Errors
    /// There is no radio, or the state directory cannot be read.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        if let Some(socket) = super::super::status::daemon(&config.gateway.state_dir)? {
            return Ok(Self::Daemon { socket });
        }
        // Lives as long as the command: a look borrows it.
        let clock: &'static SystemClock =
            Box::leak(Box::new(SystemClock::new(&config.clock, &config.gateway.state_dir)));
        let allowed = Allowed::new(&config.gateway.state_dir).list()?;
        let core = set_up_look(&config.ble, &allowed);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::unavailable)?;
        let look = runtime.block_on(Look::begin(BlueZ::default(), core, clock))?;
        Ok(Self::Own { runtime, look: Box::new(look) })
    }

    /// Who is on the air, after `time`.
    ///
    /// # Errors
    /// There is no radio any more.
    pub fn look(&mut self, time: Duration) -> Result<Vec<Sight>, Failure> {
        match self {
            Self::Daemon { socket } => {
                std::thread::sleep(time);
                let rows = control::ask(socket, &Request::BleScan)?;
                serde_json::from_value(rows).map_err(Failure::defect)
            }
            Self::Own { runtime, look } => Ok(runtime.block_on(look.listen(time))?),
        }
    }

    /// The gateway's socket.
    pub fn daemon(&self) -> Option<&Path> {
        match self {
            Self::Daemon { socket } => Some(socket),
            Self::Own { .. } => None,
        }
    }

    /// Ends the listening.
    pub fn close(self) {
        if let Self::Own { runtime, look } = self {
            runtime.block_on(look.end());
        }
    }
}

impl From<RadioError> for Failure {
    fn from(error: RadioError) -> Self {
        let remedy = match error {
            RadioError::NoAdapter => "; plug one in, or see [ble] adapters",
            RadioError::Off => {
                "; `bluetoothctl power on` switches it on, `rfkill unblock bluetooth` if it is blocked"
            }
            _ => "",
        };
        Self::new(Kind::Unavailable, anyhow::anyhow!("no Bluetooth: {error}{remedy}"))
    }
}
