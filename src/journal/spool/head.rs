//! The head: making a generation, putting it in its place, sealing it.

use std::io;
use std::sync::Arc;

use super::{Spool, update};
use crate::journal::generation::{Generation, GenerationError};
use crate::journal::manifest::{Manifest, Record, Sealed, State};

/// Whether a handle can still be read through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Sound,
    /// sled has reported an error through it, and goes on reporting it.
    Failed,
}

impl Spool {
    /// Makes the next generation, on disk and ready, but not yet the head.
    ///
    /// # Errors
    /// When the disk refuses; the number is then void and never used again.
    pub fn create(&self) -> Result<Arc<Generation>, GenerationError> {
        let boot = self.clock.boot();
        let now = self.clock.now();
        let sealer = self.keyring.keys().sealer().cloned();
        let number = {
            let mut state = self.state();
            let number = state.manifest.next_generation;
            let record = Record {
                state: State::Creating,
                spool: self.name.to_string(),
                boot: hex::encode(boot.0),
                created_ms: now.wall_ms,
                count: 0,
                missing: Vec::new(),
                damage: None,
                summaries: None,
                revision: 0,
                sealed: sealer.as_ref().map(|sealer| Sealed { key: sealer.id(), withheld: false }),
                bytes: 0,
            };
            state.manifest.next_generation += 1;
            state.manifest.generations.insert(number, record);
            if let Err(error) = state.manifest.store(&*self.disk, &self.dir) {
                state.manifest.generations.remove(&number);
                state.manifest.next_generation = number;
                return Err(error.into());
            }
            number
        };
        let about = serde_json::json!({
            "spool": &*self.name,
            "boot": hex::encode(boot.0),
            "created_ms": now.wall_ms,
            "fogbeat": env!("CARGO_PKG_VERSION"),
        });
        let made = Generation::create(
            &*self.disk,
            &self.generation_dir(number, 0),
            number,
            about.to_string().as_bytes(),
            sealer,
        );
        if let Err(error) = &made {
            let mut state = self.state();
            if error.trouble().is_some() && state.manifest.next_generation == number.saturating_add(1) {
                // Nobody has a number of it, and a full disk would use up many: the next attempt makes it anew.
                state.manifest.generations.remove(&number);
                state.manifest.next_generation = number;
            } else {
                update(&mut state.manifest, number, |record| record.state = State::Void);
            }
        }
        made.map(Arc::new)
    }

    /// Makes a created generation the head; the one before it is sealed with `count` readings.
    ///
    /// # Errors
    /// When the manifest cannot be written; nothing has changed then.
    pub fn promote(&self, generation: &Arc<Generation>, before: Option<(u32, u32)>) -> io::Result<()> {
        let mut state = self.state();
        let mut manifest = state.manifest.clone();
        self.seal_in(&mut manifest, before, state.head.as_deref());
        update(&mut manifest, generation.number(), |record| record.state = State::Open);
        manifest.store(&*self.disk, &self.dir)?;
        state.manifest = manifest;
        state.retire_head(Health::Sound);
        state.head = Some(Arc::clone(generation));
        Ok(())
    }

    /// Seals the head with `count` readings and leaves the spool without one.
    ///
    /// # Errors
    /// When the manifest cannot be written; the next start seals it then.
    pub fn seal(&self, number: u32, count: u32, health: Health) -> io::Result<()> {
        let mut state = self.state();
        let mut manifest = state.manifest.clone();
        self.seal_in(&mut manifest, Some((number, count)), state.head.as_deref());
        let stored = manifest.store(&*self.disk, &self.dir);
        // In memory it is sealed in any case: nothing may be appended to it any more.
        state.manifest = manifest;
        state.retire_head(health);
        stored
    }

    fn seal_in(&self, manifest: &mut Manifest, before: Option<(u32, u32)>, head: Option<&Generation>) {
        if let Some((number, count)) = before {
            let bytes = head.filter(|head| head.number() == number).map_or(0, Generation::bytes);
            update(manifest, number, |record| {
                record.state = State::Sealed;
                record.count = count;
                record.bytes = bytes;
            });
        }
    }
}
