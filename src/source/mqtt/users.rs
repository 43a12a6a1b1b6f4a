//! The devices that may connect, and the check of their secrets.
//!
//! The store is `devices.toml` in the state directory (mode 0600; written to a temporary file, fsynced, renamed, the
//! directory fsynced). A secret is 128 random bits, shown once as 32 hexadecimal digits; kept is
//! SHA-256(salt || secret). A generated secret cannot be guessed, so a slow hash would only cost memory and time.
//! Comparisons take the same time for right, wrong and unknown names.
//!
//! [`Store`] is plain and synchronous, for the command line. [`Users`] is what a running daemon holds: it looks at
//! the file's identity and time once a second, and before it refuses a secret, and reads it again when they changed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::topic;

const FILE: &str = "devices.toml";
/// How often a running daemon looks at the file.
const LOOK: Duration = Duration::from_secs(1);

/// A device's name and what it was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
}

impl User {
    /// A user without grants.
    pub(crate) fn plain(name: &str) -> Self {
        Self { name: name.to_owned(), publish: Vec::new(), subscribe: Vec::new() }
    }
}

/// One entry of the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    salt: String,
    sha256: String,
    /// Seconds since the epoch.
    created: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    publish: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscribe: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    device: Vec<Entry>,
}

/// A line of `fogbeat device list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub name: String,
    /// Seconds since the epoch.
    pub created: i64,
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} cannot be read: {reason}; restore it from a backup, or remove it and add the devices again"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "device name {0:?}: 1 to 64 characters, none of / + #, no leading $, no control characters, and not \"hr\""
    )]
    Name(String),
    #[error(
        "topic filter {0:?} is not valid: levels are separated by /, + stands for one, # at the end for all below"
    )]
    Filter(String),
    #[error("device {0:?} exists already: remove it first to make a new secret")]
    Exists(String),
    #[error("there is no device {0:?}: see `fogbeat device list`")]
    Unknown(String),
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// Inode, time and size of the file: changes with every save.
type Identity = (u64, i64, i64, u64);

/// The file, for the commands that change it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    /// Adds a device; the secret is returned once and kept nowhere. `now` is in seconds since the epoch.
    ///
    /// # Errors
    /// An invalid name or filter, a name that exists, or a file that cannot be read or written.
    pub fn add(
        &self,
        name: &str,
        publish: &[String],
        subscribe: &[String],
        now: i64,
    ) -> Result<String, UsersError> {
        if !valid_name(name) {
            return Err(UsersError::Name(name.to_owned()));
        }
        if let Some(bad) = publish.iter().chain(subscribe).find(|filter| !topic::valid_filter(filter)) {
            return Err(UsersError::Filter(bad.clone()));
        }
        let mut document = self.load()?;
        if document.device.iter().any(|entry| entry.name == name) {
            return Err(UsersError::Exists(name.to_owned()));
        }
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).map_err(|e| UsersError::Random(e.to_string()))?;
        let (secret, salt) = random.split_at(16);
        let secret = hex::encode(secret);
        document.device.push(Entry {
            name: name.to_owned(),
            salt: hex::encode(salt),
            sha256: hex::encode(digest(salt, &secret)),
            created: now,
            publish: publish.to_vec(),
            subscribe: subscribe.to_vec(),
        });
        self.save(&document)?;
        Ok(secret)
    }

    /// Removes a device; a running daemon closes its connections within seconds.
    ///
    /// # Errors
    /// An unknown name, or a file that cannot be read or written.
    pub fn remove(&self, name: &str) -> Result<(), UsersError> {
        let mut document = self.load()?;
        let before = document.device.len();
        document.device.retain(|entry| entry.name != name);
        if document.device.len() == before {
            return Err(UsersError::Unknown(name.to_owned()));
        }
        self.save(&document)
    }

    /// All devices, by name.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, UsersError> {
        let mut listed: Vec<_> = self
            .load()?
            .device
            .into_iter()
            .map(|e| Listed { name: e.name, created: e.created, publish: e.publish, subscribe: e.subscribe })
            .collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn load(&self) -> Result<Document, UsersError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Document::default()),
            Err(source) => return Err(UsersError::Io { path: self.path.clone(), source }),
        };
        // The parser's message quotes the line, and a line may hold a hash: name the place only.
        toml::from_str(&text).map_err(|e: toml::de::Error| UsersError::Damaged {
            path: self.path.clone(),
            reason: e.message().to_owned(),
        })
    }

    fn save(&self, document: &Document) -> Result<(), UsersError> {
        let text = toml::to_string(document)
            .map_err(|e| UsersError::Damaged { path: self.path.clone(), reason: e.to_string() })?;
        crate::files::replace(&self.path, text.as_bytes())
            .map_err(|source| UsersError::Io { path: self.path.clone(), source })
    }

    fn look(&self) -> Option<Identity> {
        let m = fs::metadata(&self.path).ok()?;
        Some((m.ino(), m.mtime(), m.mtime_nsec(), m.size()))
    }
}

/// Can a device be called so?
pub(crate) fn valid_name(name: &str) -> bool {
    let length = name.chars().count();
    (1..=64).contains(&length)
        && name != "hr"
        && !name.starts_with('$')
        && !name.chars().any(|c| matches!(c, '/' | '+' | '#') || c.is_control())
}

fn digest(salt: &[u8], secret: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(secret.as_bytes());
    hash.finalize().into()
}

/// What a running daemon knows of the store.
#[derive(Debug)]
pub struct Users {
    store: Store,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    seen: Option<Identity>,
    /// What could not be read when it was last tried: told once.
    unreadable: Option<Identity>,
    known: Vec<Known>,
    /// Removed or changed since the last [`Users::take_removed`].
    removed: HashSet<String>,
}

#[derive(Debug)]
struct Known {
    user: Arc<User>,
    salt: Vec<u8>,
    sha256: Vec<u8>,
}

impl Users {
    /// A store that is damaged admits nobody until it is restored; the gateway works on.
    ///
    /// # Errors
    /// A store that exists and cannot be read.
    pub fn open(state_dir: &Path) -> Result<Self, UsersError> {
        let store = Store::new(state_dir);
        let seen = store.look();
        let known = match store.load() {
            Err(error @ UsersError::Damaged { .. }) => {
                tracing::error!("{error}; no device is let in until then");
                Vec::new()
            }
            document => known(document?),
        };
        Ok(Self {
            store,
            state: Mutex::new(State {
                looked: Instant::now(),
                seen,
                unreadable: None,
                known,
                removed: HashSet::new(),
            }),
        })
    }

    /// The device, if the secret is its own. Before the answer is no the file is looked at: a device that was added a
    /// moment ago is let in at once.
    pub fn verify(&self, name: &str, secret: &str) -> Option<Arc<User>> {
        self.refresh();
        self.check(name, secret).or_else(|| {
            self.read_if_changed(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
            self.check(name, secret)
        })
    }

    fn check(&self, name: &str, secret: &str) -> Option<Arc<User>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let found = state.known.iter().find(|known| known.user.name == name);
        let (salt, expected): (&[u8], &[u8]) = match found {
            Some(known) => (&known.salt, &known.sha256),
            None => (&[0; 16], &[0; 32]),
        };
        let right = bool::from(digest(salt, secret).ct_eq(expected));
        found.filter(|_| right).map(|known| Arc::clone(&known.user))
    }

    /// The device of this name, for those who have proven it otherwise (a client certificate).
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.refresh();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.known.iter().find(|known| known.user.name == name).map(|known| Arc::clone(&known.user))
    }

    /// Devices that were removed, or whose secret or grants changed, since the last call: their connections have to
    /// go.
    pub fn take_removed(&self) -> HashSet<String> {
        self.refresh();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.removed)
    }

    /// [`Self::read_if_changed`], at most once in [`LOOK`].
    fn refresh(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK {
            self.read_if_changed(&mut state);
        }
    }

    /// A store that became unreadable leaves what was known in force.
    fn read_if_changed(&self, state: &mut State) {
        state.looked = Instant::now();
        let seen = self.store.look();
        if seen == state.seen {
            return;
        }
        match self.store.load() {
            Ok(document) => {
                state.seen = seen;
                state.unreadable = None;
                let before = std::mem::replace(&mut state.known, known(document));
                for old in before {
                    if !state.known.iter().any(|now| now.user == old.user && now.sha256 == old.sha256) {
                        state.removed.insert(old.user.name.clone());
                    }
                }
            }
            Err(error) if state.unreadable != seen => {
                state.unreadable = seen;
                tracing::warn!(%error, "the device store changed and cannot be read; the old one stays in force");
            }
            Err(_) => {}
        }
    }
}

fn known(document: Document) -> Vec<Known> {
    document
        .device
        .into_iter()
        .filter_map(|e| {
            Some(Known {
                salt: hex::decode(&e.salt).ok()?,
                sha256: hex::decode(&e.sha256).ok()?,
                user: Arc::new(User { name: e.name, publish: e.publish, subscribe: e.subscribe }),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_device_lives_from_add_to_remove() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let secret = store.add("strap-1", &["home/#".to_owned()], &[], 1_790_000_000).unwrap();
        assert_eq!(secret.len(), 32);
        assert!(matches!(store.add("strap-1", &[], &[], 0), Err(UsersError::Exists(_))));
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!text.contains(&secret));
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);

        let users = Users::open(dir.path()).unwrap();
        assert_eq!(users.verify("strap-1", &secret).unwrap().publish, ["home/#"]);
        assert!(users.verify("strap-1", "wrong").is_none());
        assert!(users.verify("strap-2", &secret).is_none());
        assert_eq!(store.list().unwrap().len(), 1);

        store.remove("strap-1").unwrap();
        assert!(matches!(store.remove("strap-1"), Err(UsersError::Unknown(_))));
        std::thread::sleep(LOOK);
        assert!(users.verify("strap-1", &secret).is_none(), "a running daemon sees the removal");
        let secret = store.add("strap-2", &[], &[], 0).unwrap();
        assert!(users.verify("strap-2", &secret).is_some(), "who was added is let in at once");
    }

    #[test]
    fn names_and_filters_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        for bad in ["", "a/b", "a+", "#", "$x", "hr", "a\n", &"x".repeat(65)] {
            assert!(matches!(store.add(bad, &[], &[], 0), Err(UsersError::Name(_))), "{bad:?}");
        }
        assert!(matches!(store.add("a", &["x#".to_owned()], &[], 0), Err(UsersError::Filter(_))));
        store.add(&"ü".repeat(64), &[], &[], 0).unwrap();
    }

    #[test]
    fn a_damaged_store_lets_nobody_in_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Store::new(dir.path()).add("a", &[], &[], 0).unwrap();
        assert!(Users::open(dir.path()).unwrap().verify("a", &secret).is_some());
        fs::write(dir.path().join(FILE), "device = 3").unwrap();
        assert!(matches!(Store::new(dir.path()).list(), Err(UsersError::Damaged { .. })));
        let users = Users::open(dir.path()).unwrap();
        assert!(users.verify("a", &secret).is_none() && users.get("a").is_none());
    }
}
