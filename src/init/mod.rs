//! The first hour: from a few answers to a commented configuration that is known to be good.
//!
//! Promise: what is written is `config/fogbeat.toml` with the answers in their places, every comment kept, and it has
//! been read by the same code that the gateway reads it with before it takes the old one's place, whole. A file that
//! somebody has edited is not replaced unless that is asked for, and then kept beside it.

mod text;

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::files;

pub use text::{TextError, configuration};

/// The configuration as the package brings it.
pub const PACKAGED: &str = include_str!("../../config/fogbeat.toml");

/// How batches leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// `None`: below the state directory.
    Directory {
        path: Option<PathBuf>,
    },
    Firehose {
        stream: String,
        region: Option<String>,
    },
    IotCore {
        endpoint: String,
        rule: String,
    },
    Mqtt {
        url: String,
        username: Option<String>,
        password_file: Option<PathBuf>,
        ca: Option<PathBuf>,
    },
}

/// What the configuration is to say; what is `None` keeps its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    pub site: Option<String>,
    pub id: Option<String>,
    pub timezone: Option<String>,
    pub state_dir: Option<PathBuf>,
    pub way: Way,
    pub bluetooth: bool,
    /// Where devices publish over the network, with TLS.
    pub lan: Option<std::net::SocketAddr>,
    pub mdns: bool,
}

/// Why a configuration was not put in place. The one before is still there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "{0} is there already, and was edited; nothing was changed. --force replaces it (and keeps it as {kept})",
        kept = kept(.0).display()
    )]
    Edited(PathBuf),
    #[error("{path}: {source}; {}", remedy(.source))]
    File { path: PathBuf, source: io::Error },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root (sudo), or write elsewhere with --output FILE",
        io::ErrorKind::StorageFull => "free some space on that disk; nothing was changed",
        _ => "nothing was changed",
    }
}

/// Where the configuration goes that another one replaces.
pub fn kept(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".old");
    path.with_file_name(name)
}

/// Whether `path` may be written without asking: nothing is there, or what the package brought, or just that.
///
/// # Errors
/// [`PlaceError`]
pub fn may_replace(path: &Path, text: &str) -> Result<(), PlaceError> {
    match std::fs::read_to_string(path) {
        Ok(there) if there == PACKAGED || there == text => Ok(()),
        Ok(_) => Err(PlaceError::Edited(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(PlaceError::Edited(path.to_owned())),
        Err(source) => Err(PlaceError::File { path: path.to_owned(), source }),
    }
}

/// Puts `text` in place, with the owner and mode of the file before; a new one belongs to who runs this and may be read by
/// all: there is no secret in it. An edited one is kept beside it. Blocking.
///
/// # Errors
/// [`PlaceError`]
pub fn put(path: &Path, text: &str) -> Result<(), PlaceError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PlaceError::File { path, source }
    };
    let mut access = files::Access { mode: 0o644, owner: None };
    match std::fs::read(path) {
        Ok(before) => {
            let meta = std::fs::metadata(path).map_err(failed(path))?;
            access = files::Access {
                mode: meta.permissions().mode() & 0o777,
                owner: Some((meta.uid(), meta.gid())),
            };
            if before != PACKAGED.as_bytes() && before != text.as_bytes() {
                files::replace_with(&kept(path), &before, access).map_err(failed(&kept(path)))?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(PlaceError::File { path: path.to_owned(), source }),
    }
    files::replace_with(path, text.as_bytes(), access).map_err(failed(path))
}
