//! The newest reading of each device, for whoever wants to show it: a tap beside the way of a reading.
//!
//! Nothing waits for it and nothing is kept: it costs one lock per append, and only once somebody has asked for it.
//! What it shows may not be durable yet.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::reading::{DeviceId, Reading};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Live {
    newest: Mutex<HashMap<DeviceId, (u64, Reading)>>,
}

impl Live {
    pub(super) fn note(&self, readings: &[Reading]) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        for reading in readings {
            let (count, known) = newest.entry(reading.device).or_insert_with(|| (0, reading.clone()));
            *count += 1;
            known.clone_from(reading);
        }
    }

    /// How many readings of each device there were: what has changed can be told from it.
    pub fn counts(&self, mut see: impl FnMut(DeviceId, u64)) {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.iter().for_each(|(device, (count, _))| see(*device, *count));
    }

    /// The newest reading of a device, and how many there were.
    pub fn newest(&self, device: DeviceId) -> Option<(u64, Reading)> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.get(&device).cloned()
    }
}
