//! Where the demo lives: its folder, the gateway's configuration, and the uplink that can be pulled out.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use super::DemoError;

/// Name of the folder when none is given; a number is added while the name is taken.
const FOLDER: &str = "fogbeat-demo";
/// Folders tried before the demo gives up.
const TRIES: u32 = 1000;
/// Batches are closed early, so that one sees them come; 60 s is the gateway's default.
const BATCH_MAX_AGE: &str = "2s";
/// See [`free_port`].
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The demo's folder.
#[derive(Debug)]
pub struct Place {
    /// As a person in the working directory would name it.
    shown: PathBuf,
    root: PathBuf,
    /// Everything is kept, the gateway's state too.
    keep_all: bool,
    pub mqtt: SocketAddr,
    pub http: SocketAddr,
}

/// What lies in the way while the uplink is down, and after the swap the name of the real lake.
const PLUG: &str = "lake.unplugged";

impl Place {
    /// Makes the folder and writes the gateway's configuration. Blocking.
    ///
    /// # Errors
    /// The folder cannot be made, or holds something already.
    pub fn prepare(keep: Option<&Path>) -> Result<Self, DemoError> {
        let shown = match keep {
            Some(path) => given(path)?,
            None => fresh()?,
        };
        let root = std::path::absolute(&shown)
            .map_err(|source| DemoError::Folder { path: shown.clone(), source })?;
        let mqtt = free_port()?;
        // Held until the second one is chosen.
        let taken = TcpListener::bind(mqtt).map_err(DemoError::Port)?;
        let http = free_port()?;
        drop(taken);
        let place = Self { shown, root, keep_all: keep.is_some(), mqtt, http };
        for folder in [place.lake(), place.state()] {
            std::fs::create_dir_all(&folder).map_err(|source| DemoError::Folder { path: folder, source })?;
        }
        let path = place.config();
        let settings =
            toml::to_string(&place.settings()).map_err(|error| DemoError::Settings(error.to_string()))?;
        std::fs::write(&path, settings).map_err(|source| DemoError::Folder { path, source })?;
        Ok(place)
    }

    /// As a person in the working directory would name it.
    #[must_use]
    pub fn shown(&self) -> &Path {
        &self.shown
    }
    #[must_use]
    pub fn lake(&self) -> PathBuf {
        self.root.join("lake")
    }
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }
    #[must_use]
    pub fn databases(&self) -> PathBuf {
        // Not the whole spool: its ballast waits for a full disk and holds no reading.
        self.state().join("spool/raw")
    }
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("gateway.toml")
    }
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("gateway.log")
    }

    /// The gateway's configuration: defaults, but for the ports, the places and the age of a batch.
    fn settings(&self) -> serde_json::Value {
        serde_json::json!({
            "gateway": { "id": "demo", "site": "demo", "state_dir": self.state() },
            "mqtt": { "listener": { "bind": self.mqtt, "anonymous": true } },
            // The story is not about waiting for NTP.
            "clock": { "patience": "0s" },
            "batch": { "max_age": BATCH_MAX_AGE },
            "http": { "bind": self.http },
            "uplink": [{ "kind": "directory", "path": self.lake() }],
        })
    }

    /// Puts a file where the lake was, in one step: from now on nothing can be delivered. Blocking.
    ///
    /// # Errors
    /// The file system cannot swap two names.
    pub fn unplug(&self) -> Result<(), DemoError> {
        let plug = self.root.join(PLUG);
        std::fs::write(&plug, "The demo has pulled the plug of its uplink.\n")
            .map_err(|source| DemoError::Folder { path: plug.clone(), source })?;
        self.swap(&plug)
    }

    /// Puts the lake back. Blocking.
    ///
    /// # Errors
    /// As [`Self::unplug`].
    pub fn plug_in(&self) -> Result<(), DemoError> {
        let plug = self.root.join(PLUG);
        self.swap(&plug)?;
        std::fs::remove_file(&plug).map_err(|source| DemoError::Folder { path: plug, source })
    }

    fn swap(&self, plug: &Path) -> Result<(), DemoError> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, plug, CWD, self.lake(), RenameFlags::EXCHANGE)
            .map_err(|error| DemoError::Folder { path: self.lake(), source: error.into() })
    }

    /// Removes what nobody wants to see afterwards: all but the lake, unless the folder was asked for. Blocking.
    pub fn tidy(&self) {
        if self.keep_all {
            return;
        }
        // What cannot be removed stays: it harms nobody.
        let _ = std::fs::remove_dir_all(self.state());
        let _ = std::fs::remove_file(self.config());
        let _ = std::fs::remove_file(self.log());
    }

    /// Removes everything that was made, unless the folder was asked for. Blocking.
    pub fn discard(&self) {
        if !self.keep_all {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// A folder that was asked for must be new or empty.
fn given(path: &Path) -> Result<PathBuf, DemoError> {
    let failed = |source| DemoError::Folder { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(failed)?;
    if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(DemoError::NotEmpty(path.to_owned()));
    }
    Ok(path.to_owned())
}

/// A new folder in the working directory, or below the system's temporary one if that is not writable.
fn fresh() -> Result<PathBuf, DemoError> {
    numbered(Path::new("")).or_else(|_| {
        let temp = std::env::temp_dir();
        numbered(&temp).map_err(|source| DemoError::Folder { path: temp, source })
    })
}

fn numbered(parent: &Path) -> io::Result<PathBuf> {
    for number in 1..=TRIES {
        let name = if number == 1 { FOLDER.to_owned() } else { format!("{FOLDER}-{number}") };
        let path = parent.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// A loopback port that nobody uses at this moment, below the range of outgoing connections: a strap that knocks on the
/// closed port of a dead gateway could otherwise be given that very port for its own end, and connect to itself.
fn free_port() -> Result<SocketAddr, DemoError> {
    let first = PORTS.start + (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for port in (first..PORTS.end).chain(PORTS.start..first) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr()) {
            Ok(address) => return Ok(address),
            Err(error) => refused = error,
        }
    }
    Err(DemoError::Port(refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &Path) -> Place {
        Place::prepare(Some(&root.join("demo"))).unwrap()
    }

    #[test]
    fn while_unplugged_nothing_can_be_delivered_and_nothing_is_lost() {
        let root = tempfile::tempdir().unwrap();
        let place = place(root.path());
        std::fs::write(place.lake().join("delivered"), "x").unwrap();
        place.unplug().unwrap();
        assert!(std::fs::create_dir_all(place.lake().join("readings")).is_err());
        place.plug_in().unwrap();
        assert!(place.lake().join("delivered").exists());
        assert!(!place.root.join(PLUG).exists());
    }

    #[test]
    fn the_configuration_has_a_place_for_everything() {
        let root = tempfile::tempdir().unwrap();
        let place = place(root.path());
        let text = std::fs::read_to_string(place.config()).unwrap();
        let config = crate::config::from_toml(&text).unwrap();
        assert_eq!(config.mqtt.listener.bind, place.mqtt);
        assert_eq!(config.gateway.state_dir, place.state());
        assert_ne!(place.mqtt, place.http);
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("mine"), "x").unwrap();
        assert!(matches!(Place::prepare(Some(root.path())), Err(DemoError::NotEmpty(_))));
    }

    #[test]
    fn tidying_leaves_only_what_was_delivered() {
        let root = tempfile::tempdir().unwrap();
        let folder = numbered(root.path()).unwrap();
        assert_eq!(numbered(root.path()).unwrap().file_name().unwrap(), "fogbeat-demo-2");
        let place = Place { root: folder, keep_all: false, ..place(root.path()) };
        std::fs::create_dir_all(place.lake()).unwrap();
        std::fs::write(place.log(), "x").unwrap();
        place.tidy();
        assert!(place.lake().exists() && !place.log().exists());
        place.discard();
        assert!(!place.root.exists());
    }
}
