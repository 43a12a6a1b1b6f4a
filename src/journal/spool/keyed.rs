//! What the spool knows of keys: which generation needs which, and what cannot be read for want of one.

use std::collections::BTreeSet;
use std::io;

use super::{Spool, update};
use crate::journal::keys::{KeyId, Keyring};
use crate::journal::manifest::State;

/// The journal's encryption at a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Encryption {
    /// The key that new readings are sealed with; `None`: they are not encrypted.
    pub key: Option<KeyId>,
    /// Keys that stored readings are sealed with, and that are not at hand.
    pub missing_keys: Vec<KeyId>,
    /// Readings that cannot be read for want of them.
    pub withheld: u64,
}

impl Spool {
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    pub fn encryption(&self) -> Encryption {
        let keys = self.keyring.keys();
        let mut missing = BTreeSet::new();
        let mut withheld = 0;
        for record in self.state().manifest.generations.values() {
            let there = matches!(record.state, State::Open | State::Sealed);
            let Some(sealed) = record.sealed.filter(|_| there) else { continue };
            if record.count > 0 && !keys.has(sealed.key) {
                missing.insert(sealed.key);
                withheld += u64::from(record.count);
            }
        }
        Encryption { key: keys.sealing(), missing_keys: missing.into_iter().collect(), withheld }
    }

    /// Says, once per loading of the keys, what cannot be read.
    pub fn tell_missing_keys(&self) {
        let encryption = self.encryption();
        if encryption.missing_keys.is_empty() {
            return;
        }
        let missing: Vec<String> = encryption.missing_keys.iter().map(KeyId::to_string).collect();
        tracing::error!(
            keys = missing.join(", "),
            readings = encryption.withheld,
            "keys of the journal are missing: readings sealed with them are kept and not delivered; bring their lines \
             back into the key file, before the last one, and send SIGHUP"
        );
    }

    /// Notes that an uplink is about to be told that readings of this generation are withheld: on disk before it is
    /// told, so that they are there when the key comes back.
    ///
    /// # Errors
    /// When the manifest cannot be written; the uplink must not be told then.
    pub fn keep_withheld(&self, number: u32) -> io::Result<()> {
        let mut state = self.state();
        let sealed = state.manifest.generations.get(&number).and_then(|record| record.sealed);
        if sealed.is_none_or(|sealed| sealed.withheld) {
            return Ok(());
        }
        let mut manifest = state.manifest.clone();
        update(&mut manifest, number, |record| {
            if let Some(sealed) = &mut record.sealed {
                sealed.withheld = true;
            }
        });
        manifest.store(&*self.disk, &self.dir)?;
        state.manifest = manifest;
        Ok(())
    }
}
