//! The last publishes that were not understood, for `fogbeat status`: what an operator needs to write a mapping or
//! to find the misbehaving device. Bounded in number and size; newest last.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Entries kept.
const ENTRIES: usize = 32;
/// Bytes of a topic that are shown.
const TOPIC: usize = 128;
/// Bytes of a payload that are shown.
const PAYLOAD: usize = 64;
/// Distinct first levels whose unmapped topics are shown once each.
const PREFIXES: usize = 256;

/// A publish that did not become a reading.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// The wall clock's guess, ms since the epoch.
    pub time_ms: i64,
    pub client: String,
    pub topic: String,
    /// The beginning: as text, or in hexadecimal digits if it is not text.
    pub payload: String,
    pub cause: &'static str,
}

/// The bounded memory of them.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Refused>,
    prefixes: HashSet<Vec<u8>>,
}

impl Ring {
    pub(crate) fn push(&self, time_ms: i64, client: &str, topic: &[u8], payload: &[u8], cause: &'static str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.push(time_ms, client, topic, payload, cause);
    }

    /// Notes a topic that no mapping matches, once per first level.
    pub(crate) fn unmapped(&self, time_ms: i64, client: &str, topic: &[u8], payload: &[u8]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = topic.split(|b| *b == b'/').next().unwrap_or_default();
        if inner.prefixes.len() < PREFIXES && inner.prefixes.insert(prefix.to_vec()) {
            inner.push(time_ms, client, topic, payload, "unmapped");
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<Refused> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.entries.iter().cloned().collect()
    }
}

impl Inner {
    fn push(&mut self, time_ms: i64, client: &str, topic: &[u8], payload: &[u8], cause: &'static str) {
        if self.entries.len() == ENTRIES {
            self.entries.pop_front();
        }
        let topic = topic.get(..TOPIC).unwrap_or(topic);
        let shown = payload.get(..PAYLOAD).unwrap_or(payload);
        self.entries.push_back(Refused {
            time_ms,
            client: client.chars().take(64).collect(),
            topic: String::from_utf8_lossy(topic).into_owned(),
            payload: text(shown, shown.len() < payload.len()).unwrap_or_else(|| hex::encode(shown)),
            cause,
        });
    }
}

/// The bytes as printable text; a character cut at the end is left out.
fn text(bytes: &[u8], cut: bool) -> Option<String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) if cut && e.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..e.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_shows_the_newest() {
        let ring = Ring::default();
        for n in 0..100 {
            ring.push(n, "c", &[b't'; 500], &[b'x'; 500], "json");
        }
        let entries = ring.snapshot();
        assert_eq!((entries.len(), entries[31].time_ms), (ENTRIES, 99));
        assert_eq!((entries[0].topic.len(), entries[0].payload.len()), (TOPIC, PAYLOAD));
    }

    #[test]
    fn binary_is_hex_and_text_is_text() {
        let ring = Ring::default();
        ring.push(0, "c", b"t", &[0x10, 0x48], "a");
        let long = "é".repeat(40);
        ring.push(0, "c", b"t", &[b"x", long.as_bytes()].concat(), "b");
        let entries = ring.snapshot();
        assert_eq!(entries[0].payload, "1048");
        assert!(entries[1].payload.starts_with("xéé"));
    }

    #[test]
    fn unmapped_once_per_first_level() {
        let ring = Ring::default();
        ring.unmapped(0, "c", b"home/a", b"1");
        ring.unmapped(0, "c", b"home/b", b"1");
        ring.unmapped(0, "c", b"gym/b", b"1");
        assert_eq!(ring.snapshot().len(), 2);
    }
}
