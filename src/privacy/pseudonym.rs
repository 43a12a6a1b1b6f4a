//! What an uplink is told in place of a device's name: `p-` and the first 80 bits of HMAC-SHA-256 in base32.
//!
//! The same name has the same pseudonym for as long as the key is the same, on every gateway that has the key, so that a
//! consumer can follow a device without knowing it; without the key nobody can try names out. 80 bits: among a million
//! devices under one key two share a pseudonym with a chance of one in two million million (n^2 / 2^81); what a line
//! grows by is 18 bytes before compression.
//!
//! Which name a pseudonym stands for is written into [`Names`] before it is first used, and stays on the gateway.
//!
//! A changed key means new pseudonyms from the next start on, also for what waits in the journal. A batch that was sent
//! under the old key and not confirmed is sent again under the new one: the same ids and values, another device. Let
//! uplinks drain before the key is changed where a consumer could mind.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::key::{Key, KeyError};
use super::names::Names;
use crate::config;
use crate::journal::{Entry, Page};

/// Name of the systemd credential that holds the key.
pub const CREDENTIAL: &str = "fogbeat-pseudonym-key";
/// Names kept at hand; far more than the devices of one run. Beyond it they are computed anew.
const MOST_CACHED: usize = 65_536;
/// What is hashed begins so: the key may serve for other things as well.
const DOMAIN: &[u8] = b"fogbeat device 1\0";

/// Gives names their pseudonyms.
pub struct Pseudonyms {
    key: Key,
    cached: RwLock<HashMap<Arc<str>, Arc<str>>>,
    names: Names,
}

impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pseudonyms")
    }
}

impl Pseudonyms {
    pub fn new(key: Key, state_dir: &Path) -> Self {
        Self { key, cached: RwLock::default(), names: Names::new(state_dir) }
    }

    /// Those the configuration asks for; `None` when no uplink is to be told pseudonyms. Reads the key. Blocking.
    ///
    /// # Errors
    /// When they are asked for and there is no usable key: names must not leave in their place.
    pub fn configured(config: &config::Config) -> Result<Option<Self>, KeyError> {
        if !config.uplinks.iter().any(config::Uplink::pseudonymous) {
            return Ok(None);
        }
        let key = Key::load(config.privacy.key_file.as_deref(), "privacy.key_file", CREDENTIAL)?;
        Ok(Some(Self::new(key, &config.gateway.state_dir)))
    }

    /// Tells keys apart without telling the key.
    pub fn key_id(&self) -> String {
        tag(&self.key, "", "fogbeat key id").chars().take(8).collect()
    }

    /// The pseudonym, without noting it down.
    pub fn compute(&self, name: &str) -> String {
        tag(&self.key, "p-", name)
    }

    /// The pseudonym of a device; noted down when it is new. Blocking at times.
    pub fn of(&self, name: &Arc<str>) -> Arc<str> {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(pseudonym) = cached.get(name) {
            return Arc::clone(pseudonym);
        }
        drop(cached);
        let pseudonym: Arc<str> = self.compute(name).into();
        if let Err(error) = self.names.note(name, &pseudonym) {
            // It can be computed again from the name and the key; what is delivered does not wait for it.
            tracing::error!(%error, "a pseudonym could not be written down; it is tried again at the next start");
        }
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= MOST_CACHED {
            cached.clear();
        }
        cached.insert(Arc::clone(name), Arc::clone(&pseudonym));
        pseudonym
    }

    /// The file that says which device a pseudonym stands for.
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Forgets a device: its pseudonym is noted down anew when it is next used.
    pub fn forget(&self, name: &str) {
        self.cached.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Puts pseudonyms in the place of all names of a page. Blocking at times.
    pub fn conceal(&self, page: &mut Page) {
        // Within a group readings are sorted by device: nearly always it is that of the entry before.
        let mut before: Option<(Arc<str>, Arc<str>)> = None;
        for entry in &mut page.entries {
            match entry {
                Entry::Reading { device, .. } | Entry::Summary { device, .. } => {
                    let pseudonym = match &before {
                        Some((name, pseudonym)) if Arc::ptr_eq(name, device) => Arc::clone(pseudonym),
                        _ => self.of(device),
                    };
                    let name = std::mem::replace(device, Arc::clone(&pseudonym));
                    before = Some((name, pseudonym));
                }
                Entry::Gap { devices, .. } if devices.is_empty() => {}
                Entry::Gap { devices, .. } => {
                    let mut counts: Vec<_> =
                        devices.iter().map(|(name, count)| (self.of(name), *count)).collect();
                    counts.sort();
                    *devices = counts.into();
                }
                Entry::End { .. } => {}
            }
        }
    }
}

/// `prefix` and 80 bits of a keyed hash of `text`, as 16 letters and digits.
pub fn tag(key: &Key, prefix: &str, text: &str) -> String {
    // HMAC takes keys of any length.
    let mut tag = prefix.to_owned();
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.bytes()) {
        mac.update(DOMAIN);
        mac.update(text.as_bytes());
        let digest = mac.finalize().into_bytes();
        for group in digest.as_slice().chunks(5).take(2) {
            let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            for place in (0..8).rev() {
                tag.push(letter((bits >> (5 * place)) as u8 & 31));
            }
        }
    }
    tag
}

/// RFC 4648 base32 in small letters.
fn letter(five_bits: u8) -> char {
    char::from(if five_bits < 26 { b'a' + five_bits } else { b'2' + five_bits - 26 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_key(dir: &Path, digits: &str) -> Pseudonyms {
        let path = dir.join(format!("key-{digits}"));
        crate::files::replace(&path, digits.repeat(32).as_bytes()).unwrap();
        Pseudonyms::new(Key::read(&path).unwrap(), dir)
    }

    #[test]
    fn a_pseudonym_depends_on_name_and_key_alone_and_is_what_another_program_computes() {
        let dir = tempfile::tempdir().unwrap();
        let first = with_key(dir.path(), "ab");
        let other = with_key(dir.path(), "cd");
        let name: Arc<str> = "strap-17".into();
        // python3: base64.b32encode(hmac.digest(bytes.fromhex('ab'*32), b'fogbeat device 1\0strap-17', 'sha256')[:10])
        assert_eq!(&*first.of(&name), "p-h5pwrauczjmbgtlt");
        assert_eq!(first.of(&name), with_key(dir.path(), "ab").of(&name));
        assert_ne!(first.of(&name), other.of(&name));
        assert_ne!(first.of(&name), first.of(&"strap-18".into()));
        assert_ne!(first.key_id(), other.key_id());
    }

    #[test]
    fn a_thousand_names_have_a_thousand_pseudonyms() {
        let dir = tempfile::tempdir().unwrap();
        let pseudonyms = with_key(dir.path(), "ab");
        let all: std::collections::HashSet<String> =
            (0..1000).map(|n| pseudonyms.compute(&format!("strap-{n}"))).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|p| p.len() == 18 && !p.contains("strap")));
    }
}
