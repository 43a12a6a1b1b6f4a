//! The wearables that were allowed by command (`fogbeat scan --allow`), besides those in the configuration.
//!
//! `bluetooth.toml` in the state directory, with entries like the configuration's `[[ble.device]]`; mode 0600, replaced
//! whole. The gateway reads it at its start and writes it itself while it runs; without one the command does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::roster::{ListError, Listed};
use super::settings::is_alias;
use crate::config::BleDevice;

const FILE: &str = "bluetooth.toml";
/// Far beyond any site; the file is read whole.
const MOST: usize = 10_000;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    device: Vec<BleDevice>,
}

#[derive(Debug, thiserror::Error)]
pub enum AllowError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} cannot be read: {reason}; restore it from a backup, or remove it and allow the devices again"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error(transparent)]
    Device(#[from] ListError),
    #[error("{0:?} cannot be an alias; use 1 to 64 characters, no control characters")]
    Alias(String),
    #[error("the alias {0:?} is another wearable's; two of one alias would be one heart: choose another")]
    Taken(String),
    #[error("priority 0 is out of range; choose 1 (first) to 255")]
    Priority,
    #[error(
        "{0:?} was not allowed by command; `fogbeat scan` shows who is, [[ble.device]] in the configuration lists others"
    )]
    Unknown(String),
    #[error("there are {MOST} allowed devices already; forget those that are gone")]
    TooMany,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Allowed {
    path: PathBuf,
}

impl Allowed {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    /// Everybody in it. Blocking.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn list(&self) -> Result<Vec<BleDevice>, AllowError> {
        Ok(self.load()?.device)
    }

    /// Adds an entry, or replaces the one for the same wearable. `configured` are the entries of the configuration.
    /// Blocking.
    ///
    /// # Errors
    /// An entry that cannot be used, or a file that cannot be read or written.
    pub fn allow(&self, device: &BleDevice, configured: &[BleDevice]) -> Result<Listed, AllowError> {
        let listed = Listed::from_config(device)?;
        if device.priority == 0 {
            return Err(AllowError::Priority);
        }
        let mut document = self.load()?;
        let is_same =
            |other: &BleDevice| Listed::from_config(other).is_ok_and(|other| other.key == listed.key);
        document.device.retain(|other| !is_same(other));
        if let Some(alias) = &device.alias {
            if !is_alias(alias) {
                return Err(AllowError::Alias(alias.clone()));
            }
            let mut others = document.device.iter().chain(configured).filter(|other| !is_same(other));
            if others.any(|other| other.alias.as_ref() == Some(alias)) {
                return Err(AllowError::Taken(alias.clone()));
            }
        }
        if document.device.len() >= MOST {
            return Err(AllowError::TooMany);
        }
        document.device.push(device.clone());
        self.save(&document)?;
        Ok(listed)
    }

    /// Takes out the entry that goes by this alias, address, Polar id or name. Blocking.
    ///
    /// # Errors
    /// There is none, or the file cannot be read or written.
    pub fn forget(&self, id: &str) -> Result<Listed, AllowError> {
        let mut document = self.load()?;
        let place = document.device.iter().position(|device| goes_by(device, id));
        let Some(place) = place else { return Err(AllowError::Unknown(id.to_owned())) };
        let device = document.device.remove(place);
        self.save(&document)?;
        Ok(Listed::from_config(&device)?)
    }

    fn load(&self) -> Result<Document, AllowError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Document::default()),
            Err(source) => return Err(AllowError::Io { path: self.path.clone(), source }),
        };
        toml::from_str(&text).map_err(|error| self.damaged(error.message()))
    }

    fn save(&self, document: &Document) -> Result<(), AllowError> {
        let text = toml::to_string(document).map_err(|error| self.damaged(&error.to_string()))?;
        crate::files::replace(&self.path, text.as_bytes())
            .map_err(|source| AllowError::Io { path: self.path.clone(), source })
    }

    fn damaged(&self, reason: &str) -> AllowError {
        AllowError::Damaged { path: self.path.clone(), reason: reason.to_owned() }
    }
}

/// Whether an operator would call the entry that.
fn goes_by(device: &BleDevice, id: &str) -> bool {
    let exact = [&device.alias, &device.name];
    let hexadecimal = [&device.address, &device.polar_id];
    exact.iter().any(|field| field.as_deref() == Some(id))
        || hexadecimal
            .iter()
            .any(|field| field.as_deref().is_some_and(|field| field.eq_ignore_ascii_case(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strap(polar_id: &str, alias: &str) -> BleDevice {
        BleDevice {
            address: None,
            polar_id: Some(polar_id.to_owned()),
            name: None,
            alias: Some(alias.to_owned()),
            priority: 1,
            pair: false,
        }
    }

    #[test]
    fn what_is_allowed_is_kept_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let allowed = Allowed::new(dir.path());
        assert!(allowed.list().unwrap().is_empty());
        allowed.allow(&strap("75087320", "bike-1"), &[]).unwrap();
        allowed.allow(&strap("7508732A", "bike-2"), &[]).unwrap();
        allowed.allow(&strap("75087320", "bike-3"), &[]).unwrap();
        let again = Allowed::new(dir.path());
        let aliases: Vec<_> = again.list().unwrap().into_iter().map(|device| device.alias.unwrap()).collect();
        assert_eq!(aliases, ["bike-2", "bike-3"], "the same strap again is the same entry");
        again.forget("7508732a").unwrap();
        again.forget("bike-3").unwrap();
        assert!(again.list().unwrap().is_empty());
        assert!(matches!(again.forget("bike-3"), Err(AllowError::Unknown(_))));
    }

    #[test]
    fn two_hearts_never_get_one_alias_and_nothing_else_unusable_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let allowed = Allowed::new(dir.path());
        let configured = [strap("00000001", "bed-1")];
        assert!(matches!(allowed.allow(&strap("75087320", "bed-1"), &configured), Err(AllowError::Taken(_))));
        allowed.allow(&strap("75087320", "bike-1"), &configured).unwrap();
        assert!(matches!(allowed.allow(&strap("7508732A", "bike-1"), &[]), Err(AllowError::Taken(_))));
        assert!(matches!(allowed.allow(&strap("x", "bike-2"), &[]), Err(AllowError::Device(_))));
        assert!(matches!(allowed.allow(&strap("7508732A", "a\nb"), &[]), Err(AllowError::Alias(_))));
        let last = BleDevice { priority: 0, ..strap("7508732A", "bike-2") };
        assert!(matches!(allowed.allow(&last, &[]), Err(AllowError::Priority)));
        assert_eq!(allowed.list().unwrap().len(), 1);
        fs::write(dir.path().join(FILE), "rubbish").unwrap();
        assert!(matches!(allowed.allow(&strap("7508732A", "bike-2"), &[]), Err(AllowError::Damaged { .. })));
        assert_eq!(
            fs::read_to_string(dir.path().join(FILE)).unwrap(),
            "rubbish",
            "left for whoever restores it"
        );
    }
}
