//! Encryption at rest: the keys, and what is sealed with them.
//!
//! # What it promises
//! - Every value of a generation that was made while there was a key is sealed whole with XChaCha20-Poly1305: its body
//!   cannot be read without the key, and neither body nor header can be changed unnoticed. The header stays readable.
//! - A generation is sealed with one key. A new key is in force with the first commit after it was loaded; nothing that
//!   is stored already is written again, and stays readable as long as its key is in the file.
//! - Keys are zeroized when they are dropped, and appear in no log, status or `Debug`.
//!
//! # What it does not
//! - It does not hide that there are readings, how many, and when they arrived: headers, manifest and cursors are in clear.
//! - It does not protect what has left the journal, a running gateway's memory, or a card that also holds the key.
//!
//! # Why this cipher
//! A Raspberry Pi 4 has no AES instructions; ChaCha20 is fast on every core, and its constant-time form is the simple one.
//! RustCrypto's crate is used and not ring's, which is in the tree: it offers the long nonce and zeroizes its keys.
//!
//! # Why no nonce is ever used twice
//! A nonce has 24 bytes: 16 are drawn at random when a [`Sealer`] is made, 8 are its counter. A sealer is made with
//! every loading of the keys, never stored, never copied; its counter goes up with every value that is sealed, also when
//! the same readings are sealed once more because a commit failed. So two values could share a nonce only if two
//! sealers under one key drew the same 128 bits: after 2^32 starts of gateways that share a key the odds are 2^-65. (XChaCha20
//! derives a key of its own from those 16 bytes, so each sealer has its own.) A clock, a file or a generation's number
//! has no part in it: a restored backup or a cloned card cannot bring a nonce back. Only a virtual machine that is resumed
//! twice from one snapshot of its memory could.

mod file;
mod seal;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use file::{KeyError, KeySource, add_key};
pub use seal::{Closed, Nonce, Sealer, TAG};

/// Bytes of a key.
pub const KEY: usize = 32;

/// Which key: the first four bytes of SHA-256 over a label and the key, so that a key is the same everywhere and a
/// mistyped one is noticed. Shown as eight hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyId(NonZeroU32);

/// The keys at hand at one moment.
pub struct Keys {
    known: BTreeMap<KeyId, XChaCha20Poly1305>,
    /// Seals what is written now. `None`: nothing is sealed.
    sealer: Option<Arc<Sealer>>,
}

/// The keys in force; clones share them.
#[derive(Debug, Clone)]
pub struct Keyring(Arc<RwLock<Arc<Keys>>>);

// === impl KeyId ===

impl KeyId {
    fn of(key: &[u8; KEY]) -> Self {
        let digest = Sha256::new().chain_update(b"fogbeat journal key id").chain_update(key).finalize();
        let [a, b, c, d, ..] = digest.0;
        Self(NonZeroU32::new(u32::from_be_bytes([a, b, c, d])).unwrap_or(NonZeroU32::MIN))
    }

    /// As a block's header holds it, where 0 stands for no key.
    pub fn from_header(id: u64) -> Option<Self> {
        u32::try_from(id).ok().and_then(NonZeroU32::new).map(Self)
    }

    pub fn to_header(self) -> u64 {
        u64::from(self.0.get())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for KeyId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == 8);
        number.and_then(NonZeroU32::new).map(Self).ok_or("a key id is eight hex digits, not all 0")
    }
}

// === impl Keys ===

impl Keys {
    /// No key: new values are not sealed, sealed ones cannot be opened.
    pub fn none() -> Self {
        Self { known: BTreeMap::new(), sealer: None }
    }

    /// The last one seals.
    ///
    /// # Errors
    /// When the system has no random numbers to give.
    fn new<'a>(keys: impl Iterator<Item = &'a Zeroizing<[u8; KEY]>>) -> std::io::Result<Self> {
        let mut all = Self::none();
        for key in keys {
            let id = KeyId::of(key);
            let cipher = XChaCha20Poly1305::new((&**key).into());
            all.sealer = Some(Arc::new(Sealer::new(id, cipher.clone())?));
            all.known.insert(id, cipher);
        }
        Ok(all)
    }

    /// Seals new values, if there is a key.
    pub fn sealer(&self) -> Option<&Arc<Sealer>> {
        self.sealer.as_ref()
    }

    /// The key that new values are sealed with.
    pub fn sealing(&self) -> Option<KeyId> {
        self.sealer.as_ref().map(|sealer| sealer.id())
    }

    pub fn has(&self, id: KeyId) -> bool {
        self.known.contains_key(&id)
    }

    fn cipher(&self, id: KeyId) -> Option<&XChaCha20Poly1305> {
        self.known.get(&id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("known", &self.known.keys()).field("sealing", &self.sealing()).finish()
    }
}

// === impl Keyring ===

impl Keyring {
    pub fn new(keys: Keys) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    /// The keys in force now.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other keys in force; what is under way goes on with those it began with.
    pub fn replace(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

#[cfg(any(test, fuzzing))]
impl Keys {
    /// Keys made of one byte each, the last one sealing.
    pub fn for_tests(bytes: &[u8]) -> Self {
        let keys: Vec<_> = bytes.iter().map(|byte| Zeroizing::new([*byte; KEY])).collect();
        Self::new(keys.iter()).unwrap_or_else(|_| Self::none())
    }
}
