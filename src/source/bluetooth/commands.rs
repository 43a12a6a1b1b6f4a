//! What commands ask of a running source: over the control socket, blocking.

use super::allowed::{AllowError, Allowed};
use super::core::Sight;
use super::handle::{Ended, Handle};
use super::roster::Listed;
use crate::config::BleDevice;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("Bluetooth is switched off in the configuration; set ble.enabled = true")]
    SwitchedOff,
    #[error("no Bluetooth: {0}")]
    Unavailable(String),
    #[error(transparent)]
    Allow(#[from] AllowError),
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// What the commands work on.
pub struct Commands {
    handle: Option<Handle>,
    allowed: Allowed,
    configured: Vec<BleDevice>,
}

impl Commands {
    /// `handle`: `None` when the source is switched off. `configured`: the devices of the configuration.
    pub fn new(handle: Option<Handle>, allowed: Allowed, configured: Vec<BleDevice>) -> Self {
        Self { handle, allowed, configured }
    }

    /// The running source, if there is one.
    pub fn handle(&self) -> Option<&Handle> {
        self.handle.as_ref()
    }

    /// Who is on the air.
    ///
    /// # Errors
    /// There is no radio.
    pub fn survey(&self) -> Result<Vec<Sight>, CommandError> {
        let handle = self.handle.as_ref().ok_or(CommandError::SwitchedOff)?;
        match handle.shown().unavailable {
            Some(lack) => Err(CommandError::Unavailable(lack)),
            None => Ok(handle.survey()?),
        }
    }

    /// Allows a wearable from now on.
    ///
    /// # Errors
    /// The entry cannot be used, or the list cannot be written.
    pub fn allow(&self, device: &BleDevice) -> Result<Listed, CommandError> {
        let listed = self.allowed.allow(device, &self.configured)?;
        if let Some(handle) = &self.handle {
            handle.allow(listed.clone())?;
        }
        Ok(listed)
    }

    /// Takes back an [`Commands::allow`]; a connection ends.
    ///
    /// # Errors
    /// It was not allowed by command, or the list cannot be written.
    pub fn forget(&self, id: &str) -> Result<Listed, CommandError> {
        let listed = self.allowed.forget(id)?;
        if let Some(handle) = &self.handle {
            handle.forget(listed.key.clone())?;
        }
        Ok(listed)
    }
}
