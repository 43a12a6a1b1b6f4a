//! Where keys come from: a file of lines, or a systemd credential of the same form.
//!
//! ```text
//! # comments and empty lines are left out
//! 1f0c9a77 = mZ0v...43 letters of base64...k=      <- an older key: what it sealed stays readable
//! 83be10d4 = 6d1f...64 hex digits...               <- the last line is the key that new values are sealed with
//! ```
//!
//! The id in front may be left out. Where it stands it must be that of the key, so that a mistyped key is noticed before
//! anything is sealed with it.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{KEY, KeyId, Keys};
use crate::config;

/// Name of the systemd credential.
const CREDENTIAL: &str = "journal-key";
/// A file larger than this is something else.
const FILE_LIMIT: u64 = 64 * 1024;
/// Access by the group or by others.
const NOT_OURS: u32 = 0o077;

/// Why there are no keys. Never shows a key, or any part of a line.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "there is no key file {path}, and none can be made there ({source}); bring it back (is its disk mounted?), make \
         one with `fogbeat journal key new {path}`, or take journal.key_file out: new readings are then not encrypted"
    )]
    Make { path: PathBuf, source: io::Error },
    #[error(
        "there is no key file {path}; bring it back (is its disk mounted?), or make one with `fogbeat journal key new \
         {path}`"
    )]
    Gone { path: PathBuf },
    #[error(
        "the key file {path} cannot be read ({source}); give it to fogbeat's user: chown fogbeat {path}, chmod 600 {path}"
    )]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the key file {path} can be read by others (mode {mode:03o}): chmod 600 {path}, and chown it to fogbeat's user"
    )]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "line {line} of the key file {path} is not a key; write `id = KEY` or `KEY`, KEY being 32 bytes in base64 or hex, \
         or make one with `fogbeat journal key new`"
    )]
    Line { path: PathBuf, line: usize },
    #[error(
        "line {line} of the key file {path}: the key has the id {is}, not {said}; it was mistyped, or belongs elsewhere"
    )]
    Id { path: PathBuf, line: usize, is: KeyId, said: String },
    #[error("the key file {path} holds no key; make one with `fogbeat journal key new {path}`")]
    Empty { path: PathBuf },
    #[error("the system has no random numbers to give ({0})")]
    Random(io::Error),
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Nothing is encrypted.
    None,
    File(PathBuf),
    /// Given by the service manager, with the rights it deems fit.
    Credential(PathBuf),
}

impl KeySource {
    /// `journal.key_file`, else the credential, if the service manager gave one.
    pub fn of(settings: &config::Journal) -> Self {
        if let Some(path) = &settings.key_file {
            return Self::File(path.clone());
        }
        let credential =
            std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(CREDENTIAL));
        credential.filter(|path| path.exists()).map_or(Self::None, Self::Credential)
    }

    /// Reads the keys. `Ok(None)`: there is no file.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(&self) -> Result<Option<Keys>, KeyError> {
        let (path, checked) = match self {
            Self::None => return Ok(Some(Keys::none())),
            Self::File(path) => (path, true),
            Self::Credential(path) => (path, false),
        };
        match File::open(path) {
            Ok(file) => read(&file, path, checked).map(Some),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeyError::Read { path: path.clone(), source }),
        }
    }

    /// Reads the keys; a file that is not there is made, with a new key, where the daemon may write.
    ///
    /// A gateway whose key is gone must go on: it takes a new one, keeps what it cannot read, and says so.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load_or_make(&self) -> Result<Keys, KeyError> {
        if let Some(keys) = self.load()? {
            return Ok(keys);
        }
        let (Self::File(path) | Self::Credential(path)) = self else { return Ok(Keys::none()) };
        let id = add_key(path)?;
        tracing::warn!(
            path = %path.display(), key = %id,
            "there was no key file: a new key was made; keep a copy of it elsewhere, without it the journal cannot be read"
        );
        let source = |kind: io::ErrorKind| KeyError::Read { path: path.clone(), source: kind.into() };
        self.load()?.ok_or_else(|| source(io::ErrorKind::NotFound))
    }

    /// Reads the keys while others are in force: nothing is made then.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load_again(&self) -> Result<Keys, KeyError> {
        match (self.load()?, self) {
            (Some(keys), _) => Ok(keys),
            (None, Self::None) => Ok(Keys::none()),
            (None, Self::File(path) | Self::Credential(path)) => Err(KeyError::Gone { path: path.clone() }),
        }
    }
}

/// Adds a new key as the last line of the file, which is made (mode 0600) if there is none. On disk when it returns.
/// A file that is there keeps its owner.
///
/// # Errors
/// See [`KeyError`]; the file is as it was then.
pub fn add_key(path: &Path) -> Result<KeyId, KeyError> {
    let failed = |source| KeyError::Make { path: path.to_owned(), source };
    let mut key = Zeroizing::new([0; KEY]);
    getrandom::fill(&mut *key).map_err(|error| KeyError::Random(io::Error::other(error)))?;
    let id = KeyId::of(&key);
    let old = match File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let mut text = Zeroizing::new(String::with_capacity(FILE_LIMIT as usize));
    let mut owner = None;
    if let Some(old) = &old {
        // A file that is not understood is not added to.
        read(old, path, true)?;
        let meta = old.metadata().map_err(failed)?;
        owner = Some((meta.uid(), meta.gid()));
        File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map_err(failed)?;
        if !text.ends_with('\n') && !text.is_empty() {
            text.push('\n');
        }
    }
    let encoded = Zeroizing::new(STANDARD.encode(*key));
    for part in [&id.to_string(), " = ", &encoded, "\n"] {
        text.push_str(part);
    }
    crate::files::replace(path, text.as_bytes()).map_err(failed)?;
    if let Some((uid, gid)) = owner.filter(|_| rustix::process::geteuid().is_root()) {
        let file = File::open(path).map_err(failed)?;
        fchown(&file, Some(uid), Some(gid)).map_err(failed)?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(id)
}

fn read(mut file: &File, path: &Path, checked: bool) -> Result<Keys, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let meta = file.metadata().map_err(failed)?;
    if checked && meta.mode() & NOT_OURS != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode: meta.mode() & 0o777 });
    }
    // Of its full size from the start: a buffer that grows leaves copies of keys behind.
    let size = meta.len().min(FILE_LIMIT);
    let mut text = Zeroizing::new(String::with_capacity(size as usize + 1));
    file.by_ref().take(FILE_LIMIT).read_to_string(&mut text).map_err(failed)?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Keys, KeyError> {
    let mut keys = Vec::new();
    for (line, text) in (1..).zip(text.lines().map(str::trim)) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        // base64 may end in `=`, so an id is what stands before " =" or "=" with something behind it.
        let (said, encoded) = match text.split_once('=') {
            Some((said, rest)) if said.trim().len() < 32 => (Some(said.trim()), rest.trim()),
            _ => (None, text),
        };
        let key = decode(encoded).ok_or_else(|| KeyError::Line { path: path.to_owned(), line })?;
        let is = KeyId::of(&key);
        if let Some(said) = said.filter(|said| !said.eq_ignore_ascii_case(&is.to_string())) {
            // What stands there may be part of a key, put in the wrong place.
            let said = if said.len() == 8 { said.to_owned() } else { "what stands there".to_owned() };
            return Err(KeyError::Id { path: path.to_owned(), line, is, said });
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(KeyError::Empty { path: path.to_owned() });
    }
    Keys::new(keys.iter()).map_err(KeyError::Random)
}

fn decode(text: &str) -> Option<Zeroizing<[u8; KEY]>> {
    let mut key = Zeroizing::new([0; KEY]);
    if text.len() == 2 * KEY {
        hex::decode_to_slice(text, &mut *key).ok()?;
        return Some(key);
    }
    // Room for what 44 letters might decode to at most.
    let mut buffer = Zeroizing::new([0; KEY + 2]);
    let length = STANDARD.decode_slice(text, &mut *buffer).ok().filter(|length| *length == KEY)?;
    key.copy_from_slice(buffer.get(..length)?);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, text: &str, mode: u32) -> KeySource {
        let path = dir.join("keys");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        KeySource::File(path)
    }

    fn problem(source: &KeySource) -> String {
        source.load().unwrap_err().to_string()
    }

    #[test]
    fn keys_are_added_one_behind_the_other_and_the_last_one_seals() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let first = add_key(&path).unwrap();
        let second = add_key(&path).unwrap();
        assert_ne!(first, second);
        let keys = KeySource::File(path.clone()).load().unwrap().unwrap();
        assert_eq!(keys.sealing(), Some(second));
        assert!(keys.has(first));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn base64_and_hex_with_and_without_an_id_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = ([1; KEY], [2; KEY]);
        let text = format!(
            "# ours\n\n{}\n{} = {}\n  {}={}  \n",
            STANDARD.encode([3; KEY]),
            KeyId::of(&b),
            hex::encode(b),
            KeyId::of(&a).to_string().to_uppercase(),
            STANDARD.encode(a)
        );
        let keys = write(dir.path(), &text, 0o600).load().unwrap().unwrap();
        assert_eq!(keys.known.len(), 3);
        assert_eq!(keys.sealing(), Some(KeyId::of(&a)));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let line = format!("{}\n", STANDARD.encode([1; KEY]));
        for mode in [0o640, 0o604, 0o660] {
            assert!(problem(&write(dir.path(), &line, mode)).contains("chmod 600"), "{mode:o}");
        }
        // The service manager sets the rights of a credential.
        let KeySource::File(path) = write(dir.path(), &line, 0o440) else { unreachable!() };
        KeySource::Credential(path).load().unwrap().unwrap();
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let good = STANDARD.encode([1; KEY]);
        let (short, mistyped) = ("c2VjcmV0", format!("{} = {}", KeyId::of(&[2; KEY]), good));
        for (bad, told) in [(short, "line 2"), (&mistyped, "line 2"), (&format!("{good} = x"), "line 2")] {
            let told_is = problem(&write(dir.path(), &format!("{good}\n{bad}\n"), 0o600));
            assert!(told_is.contains(told), "{told_is}");
            assert!(!told_is.contains(short) && !told_is.contains(&good), "{told_is}");
        }
        assert!(problem(&write(dir.path(), "# nothing\n", 0o600)).contains("holds no key"));
    }

    #[test]
    fn a_missing_file_is_made_and_a_missing_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let source = KeySource::File(dir.path().join("keys"));
        assert!(source.load().unwrap().is_none());
        let made = source.load_or_make().unwrap().sealing().unwrap();
        assert_eq!(source.load_or_make().unwrap().sealing(), Some(made));
        let nowhere = KeySource::File(dir.path().join("not/mounted/keys"));
        assert!(nowhere.load_or_make().unwrap_err().to_string().contains("mounted"));
    }

    #[test]
    fn nothing_shows_a_key() {
        let keys = Keys::for_tests(b"K");
        let shown = format!("{keys:?} {:?}", keys.sealer());
        assert!(!shown.contains("75, 75") && !shown.contains("4b4b") && !shown.contains("KKK"), "{shown}");
    }
}
