//! Sealing and opening one body.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use super::{KeyId, Keys};
use crate::journal::varint;

/// Bytes of the authentication tag, behind the sealed body.
pub const TAG: usize = 16;
const SALT: usize = 16;

/// Seals values with one key; why its nonces never repeat is told in [`super`].
pub struct Sealer {
    id: KeyId,
    cipher: XChaCha20Poly1305,
    salt: [u8; SALT],
    next: AtomicU64,
}

/// A nonce that is used up: good for one sealing.
pub struct Nonce {
    salt: [u8; SALT],
    counter: u64,
}

// === impl Sealer ===

impl Sealer {
    /// # Errors
    /// When the system has no random numbers to give.
    pub(super) fn new(id: KeyId, cipher: XChaCha20Poly1305) -> io::Result<Self> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        Ok(Self { id, cipher, salt, next: AtomicU64::new(0) })
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// A nonce that this sealer has never given before.
    pub fn nonce(&self) -> Nonce {
        Nonce { salt: self.salt, counter: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// Seals `body` in place and returns the tag; `about` is authenticated with it. `None`: the body is too long (256 GiB).
    pub fn seal(&self, nonce: Nonce, about: &[u8], body: &mut [u8]) -> Option<[u8; TAG]> {
        let tag = self.cipher.encrypt_inout_detached(&nonce.whole(), about, body.into()).ok()?;
        Some(tag.0)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl Nonce ===

impl Nonce {
    /// As it is stored: the salt, then the counter as a varint.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.salt);
        varint::put(out, self.counter);
    }

    /// Takes one off the front.
    pub fn take(input: &mut &[u8]) -> Option<Self> {
        let (salt, rest) = input.split_first_chunk()?;
        *input = rest;
        Some(Self { salt: *salt, counter: varint::take(input)? })
    }

    fn whole(&self) -> XNonce {
        let mut nonce = XNonce::default();
        let (salt, counter) = nonce.0.split_at_mut(SALT);
        salt.copy_from_slice(&self.salt);
        counter.copy_from_slice(&self.counter.to_be_bytes());
        nonce
    }
}

// === impl Keys ===

/// Why a sealed body stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its key is not at hand.
    NoKey,
    /// It, or its header, is not what was sealed.
    Altered,
}

impl Keys {
    /// Opens `body` in place.
    ///
    /// # Errors
    /// See [`Closed`]; `body` holds nothing to use then.
    pub fn open(
        &self,
        id: KeyId,
        nonce: &Nonce,
        about: &[u8],
        body: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), Closed> {
        let cipher = self.cipher(id).ok_or(Closed::NoKey)?;
        let tag = Tag::from(*tag);
        cipher.decrypt_inout_detached(&nonce.whole(), about, body.into(), &tag).map_err(|_| Closed::Altered)
    }
}
