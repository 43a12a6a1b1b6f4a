//! A secret key from a file or a systemd credential.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// 256 bits that are never shown.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "there is no key: set {setting} to a file made with `openssl rand -hex 32`, or give the systemd credential \
         {credential}"
    )]
    Missing { setting: &'static str, credential: &'static str },
    #[error("the key {path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the key {0} can be read by everybody: chmod 640")]
    Open(PathBuf),
    #[error("the key {0} is not 64 hexadecimal digits: make one with `openssl rand -hex 32`")]
    Format(PathBuf),
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key in `file`, else that of the systemd credential. Blocking.
    ///
    /// # Errors
    /// [`KeyError`]; `setting` is what the operator should set.
    pub fn load(
        file: Option<&Path>,
        setting: &'static str,
        credential: &'static str,
    ) -> Result<Self, KeyError> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|dir| !dir.is_empty());
        let given = credentials.map(|dir| PathBuf::from(dir).join(credential)).filter(|path| path.exists());
        let path = file.map(Path::to_owned).or(given).ok_or(KeyError::Missing { setting, credential })?;
        Self::read(&path)
    }

    /// The key in `path`. Blocking.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(failed)?.permissions().mode() & 0o007 != 0 {
            return Err(KeyError::Open(path.to_owned()));
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_| KeyError::Format(path.to_owned()))?;
        Ok(Self(key))
    }

    /// The key in `path`, made there if there is none yet. Blocking.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read_or_make(path: &Path) -> Result<Self, KeyError> {
        match Self::read(path) {
            Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let key = Self::random()?;
        let text = format!("{}\n", hex::encode(key.0));
        let failed = |source| KeyError::Read { path: path.to_owned(), source };
        crate::files::replace(path, text.as_bytes()).map_err(failed)?;
        Ok(key)
    }

    /// A key that is kept nowhere.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn random() -> Result<Self, KeyError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| KeyError::Random(error.to_string()))?;
        Ok(Self(key))
    }

    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_digits_that_not_everybody_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(matches!(Key::load(None, "x", "no-such-credential"), Err(KeyError::Missing { .. })));
        assert!(matches!(Key::read(&path), Err(KeyError::Read { .. })));
        fs::write(&path, format!("{}\n", "ab".repeat(32))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Key::read(&path), Err(KeyError::Open(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Key::read(&path).unwrap().bytes(), &[0xab; 32]);
        assert_eq!(format!("{:?}", Key::read(&path).unwrap()), "Key");
        fs::write(&path, "abc").unwrap();
        let told = Key::read(&path).unwrap_err().to_string();
        assert!(told.contains("openssl rand -hex 32") && !told.contains("abc"), "{told}");
    }

    #[test]
    fn a_key_of_our_own_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = Key::read_or_make(&path).unwrap();
        assert_eq!(Key::read_or_make(&path).unwrap().bytes(), made.bytes());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
