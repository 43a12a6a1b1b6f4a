//! The file's form: a tar archive whose first entry says what the others are.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::BackupError;
use crate::files;

/// The form that this version writes and reads.
const FORMAT: u32 = 1;
const LIST: &str = "backup.json";
/// Far beyond any gateway; the file is read whole.
const MOST: u64 = 64 << 20;

/// Where a file came from, and so where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Configuration,
    /// Below the state directory.
    State(PathBuf),
    /// Named in the configuration, or a credential of the service.
    Named(PathBuf),
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Who runs the service: the owner of the state directory.
    Service,
    /// Root, or whoever restores it.
    Other,
}

/// One file. Holds secrets: not to be shown.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Entry {
    pub origin: Origin,
    pub mode: u32,
    pub owner: Owner,
    pub bytes: zeroize::Zeroizing<Vec<u8>>,
}

/// Everything of a gateway that is moved.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Archive {
    /// The gateway's id, if it was known.
    pub gateway: Option<String>,
    pub entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct List {
    format: u32,
    #[serde(default)]
    version: String,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default)]
    files: Vec<Listed>,
}

#[derive(Serialize, Deserialize)]
struct Listed {
    /// Its name in the archive.
    name: String,
    origin: Origin,
    mode: u32,
    owner: Owner,
    sha256: String,
}

impl Archive {
    /// The archive's bytes.
    ///
    /// # Errors
    /// Never, but for a defect.
    pub fn write(&self) -> io::Result<Vec<u8>> {
        let named: Vec<(String, &Entry)> =
            self.entries.iter().enumerate().map(|(n, entry)| (name(n, &entry.origin), entry)).collect();
        let files = named.iter().map(|(name, entry)| Listed {
            name: name.clone(),
            origin: entry.origin.clone(),
            mode: entry.mode,
            owner: entry.owner,
            sha256: hex::encode(Sha256::digest(entry.bytes.as_slice())),
        });
        let list = List {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gateway: self.gateway.clone(),
            files: files.collect(),
        };
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, LIST, &files::with_sum(serde_json::to_vec_pretty(&list)?))?;
        for (name, entry) in named {
            append(&mut tar, &name, &entry.bytes)?;
        }
        tar.into_inner()
    }

    /// Reads and checks an archive, whole. Blocking.
    ///
    /// # Errors
    /// [`BackupError::Damaged`], [`BackupError::Newer`].
    pub fn read(from: impl Read) -> Result<Self, BackupError> {
        let damaged = |error: &dyn std::fmt::Display| BackupError::Damaged(error.to_string());
        let mut tar = tar::Archive::new(from.take(MOST));
        let mut entries = tar.entries().map_err(|error| damaged(&error))?;
        let first = entries.next().ok_or_else(|| damaged(&"it is empty"))?;
        let (found, bytes) =
            content(first.map_err(|error| damaged(&error))?).map_err(|error| damaged(&error))?;
        if found != LIST {
            return Err(damaged(&format!("it does not begin with {LIST}")));
        }
        let text = files::without_sum(&bytes).map_err(|error| damaged(&error))?;
        let list: List = serde_json::from_slice(text).map_err(|error| damaged(&error))?;
        if list.format != FORMAT {
            return Err(BackupError::Newer(list.format));
        }
        let mut read = Self { gateway: list.gateway, entries: Vec::new() };
        let mut origins = HashSet::new();
        for listed in list.files {
            let next = entries.next().ok_or_else(|| damaged(&format!("{} is missing", listed.name)))?;
            let (found, bytes) =
                content(next.map_err(|error| damaged(&error))?).map_err(|error| damaged(&error))?;
            if found != listed.name || hex::encode(Sha256::digest(&bytes)) != listed.sha256 {
                return Err(damaged(&format!("{} is not what was written", listed.name)));
            }
            if !sound(&listed.origin) || !origins.insert(listed.origin.clone()) {
                return Err(damaged(&format!("{} has no place to go to", listed.name)));
            }
            read.entries.push(Entry {
                origin: listed.origin,
                mode: listed.mode & 0o777,
                owner: listed.owner,
                bytes: bytes.into(),
            });
        }
        Ok(read)
    }

    /// The configuration's text, if there is one.
    pub fn configuration(&self) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| entry.origin == Origin::Configuration)?;
        std::str::from_utf8(&entry.bytes).ok()
    }
}

/// A name that says something to who lists the archive.
fn name(n: usize, origin: &Origin) -> String {
    match origin {
        Origin::Configuration => "fogbeat.toml".to_owned(),
        Origin::State(path) => format!("state/{}", path.display()),
        Origin::Named(path) => {
            format!("named/{n}-{}", path.file_name().unwrap_or_default().to_string_lossy())
        }
    }
}

/// Whether nothing of it leads out of where it belongs.
fn sound(origin: &Origin) -> bool {
    let plain =
        |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir));
    match origin {
        Origin::Configuration => true,
        Origin::State(path) => super::STATE.iter().any(|known| Path::new(known) == path),
        Origin::Named(path) => path.is_absolute() && plain(path),
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, bytes)
}

fn content(mut entry: tar::Entry<'_, impl Read>) -> io::Result<(String, Vec<u8>)> {
    if !entry.header().entry_type().is_file() {
        return Err(io::Error::other("something in it is no file"));
    }
    let name = entry.path()?.display().to_string();
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok((name, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Archive {
        let entry = |origin, text: &str| Entry {
            origin,
            mode: 0o640,
            owner: Owner::Service,
            bytes: text.as_bytes().to_vec().into(),
        };
        Archive {
            gateway: Some("gym-12".to_owned()),
            entries: vec![
                entry(Origin::Configuration, "[gateway]\nid = \"gym-12\"\n"),
                entry(Origin::State("tls/ca.key".into()), "secret"),
                entry(Origin::Named("/etc/fogbeat/hall.secret".into()), "secret too"),
            ],
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let bytes = archive().write().unwrap();
        let read = Archive::read(bytes.as_slice()).unwrap();
        assert_eq!(read, archive());
        assert_eq!(read.configuration(), Some("[gateway]\nid = \"gym-12\"\n"));
    }

    #[test]
    fn what_is_cut_or_flipped_is_refused_whole() {
        let bytes = archive().write().unwrap();
        // Two blocks of zeros end a tar file, and the last entry's own block is filled up with them.
        let whole = bytes.len() - 1024 - 512 + "secret too".len();
        for length in (0..whole).step_by(64) {
            assert!(Archive::read(&bytes[..length]).is_err(), "cut at {length}");
        }
        for at in (0..bytes.len() - 1024).step_by(7) {
            let mut hurt = bytes.clone();
            hurt[at] ^= 1;
            // A flipped bit in padding changes nothing.
            if let Ok(read) = Archive::read(hurt.as_slice()) {
                assert_eq!(read, archive(), "at {at}");
            }
        }
        assert!(matches!(Archive::read(&b""[..]), Err(BackupError::Damaged(_))));
        assert!(matches!(Archive::read(&[7u8; 5000][..]), Err(BackupError::Damaged(_))));
    }

    #[test]
    fn nothing_gets_out_of_its_place() {
        for origin in [
            Origin::State("../../etc/passwd".into()),
            Origin::State("spool/manifest.json".into()),
            Origin::State("/etc/passwd".into()),
            Origin::Named("etc/passwd".into()),
            Origin::Named("/etc/fogbeat/../passwd".into()),
        ] {
            let mut bad = archive();
            // The archive's own names are plain: what counts is where the list says a file belongs.
            let Some(last) = bad.entries.last_mut() else { panic!() };
            last.origin = origin.clone();
            let Ok(bytes) = bad.write() else { continue };
            assert!(matches!(Archive::read(bytes.as_slice()), Err(BackupError::Damaged(_))), "{origin:?}");
        }
        let mut twice = archive();
        twice.entries.push(twice.entries[1].clone());
        assert!(Archive::read(twice.write().unwrap().as_slice()).is_err());
    }
}
