//! What may leave a gateway for somebody who helps: by a list of what is allowed, not of what is forbidden.
//!
//! Free text ([`Redactor::text`]) keeps its shape: words of the program's own messages (collected from the source when it
//! is built) and of the systems below it (`words.txt`), small numbers, durations. Every other word is replaced by a tag,
//! as a whole: who a name, an address, a secret or a payload belongs to need not be recognised for it to be gone.
//! Documents ([`Redactor::document`]) are gone through by the names of their fields (`keys.rs`): a field that is not on
//! the list is left out, and a map's key that is none is a tag.
//!
//! A tag is `~` and 80 bits of HMAC-SHA-256 in base32, under the key of the gateway's audit log: the same text has the
//! same tag in every file and every bundle of one gateway, so that lines can be held together, and without the key,
//! which never leaves, nobody can try names out. `fogbeat audit show --device NAME` shows a device's tag (as `d-...`), so
//! that those on the spot can say who is meant.
//!
//! What is not promised: a name that is itself a word of the program's messages stays readable in free text unless it
//! was given to [`Redactor::knowing`].

mod document;
mod keys;
mod metrics;
mod text;
mod token;

use std::collections::HashSet;
use std::path::Path;

use crate::audit;
use crate::privacy::{Key, tag};

pub use keys::{Rule, rule};

/// Puts tags in the place of what must not leave.
pub struct Redactor {
    key: Key,
    /// Whether the key is the gateway's own; else tags are good for one bundle only.
    lasting: bool,
    /// Names of this gateway that would pass for a word, in small letters.
    words: HashSet<String>,
    /// The same for names of several words; longest first.
    phrases: Vec<String>,
}

impl Redactor {
    /// Under the key of the audit log in `state_dir`; where it cannot be read, under one that is forgotten afterwards.
    /// Writes nothing. Blocking.
    ///
    /// # Errors
    /// When there is no such key and the system gives no random numbers.
    pub fn new(state_dir: &Path) -> Result<Self, crate::privacy::KeyError> {
        let (key, lasting) = match Key::read(&audit::key_file(state_dir)) {
            Ok(key) => (key, true),
            Err(_) => (Key::random()?, false),
        };
        Ok(Self { key, lasting, words: HashSet::new(), phrases: Vec::new() })
    }

    /// Whether another bundle of this gateway has the same tags.
    pub const fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// From now on these are replaced also where they look like words of a message.
    pub fn knowing(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            let name = name.trim().to_lowercase();
            // What nobody could read anyway needs no looking for. One letter would be found everywhere.
            if name.len() < 2 || !text::would_show(&name) {
                continue;
            }
            if token::words(&name).eq(std::iter::once(0..name.len())) {
                self.words.insert(name);
            } else if !self.phrases.contains(&name) {
                self.phrases.push(name);
            }
        }
        self.phrases.sort_by_key(|name| std::cmp::Reverse(name.len()));
    }

    /// What stands for `text` wherever it is met.
    pub fn tag(&self, text: &str) -> String {
        tag(&self.key, "~", text)
    }
}

#[cfg(test)]
mod tests;
