//! Device names and their run-local numbers.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::reading::DeviceId;

/// Gives each device name a number, the same for the whole run. Names are never taken back, so their count is limited.
pub struct Devices {
    most: usize,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    numbers: HashMap<Arc<str>, DeviceId>,
    names: Vec<Arc<str>>,
}

// === impl Devices ===

impl Devices {
    pub(super) fn new(most: usize) -> Self {
        Self { most, table: RwLock::default() }
    }

    /// The number of `name`, given now if it is new. `None`: the limit on distinct devices is reached.
    pub fn intern(&self, name: &str) -> Option<DeviceId> {
        if let Some(&id) = self.read().numbers.get(name) {
            return Some(id);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = table.numbers.get(name) {
            return Some(id);
        }
        if table.names.len() >= self.most {
            return None;
        }
        let id = DeviceId(u32::try_from(table.names.len()).ok()?);
        let name: Arc<str> = name.into();
        table.names.push(Arc::clone(&name));
        table.numbers.insert(name, id);
        Some(id)
    }

    pub fn name(&self, id: DeviceId) -> Option<Arc<str>> {
        self.read().names.get(id.0 as usize).cloned()
    }

    /// How many devices were seen in this run.
    pub fn len(&self) -> usize {
        self.read().names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}
