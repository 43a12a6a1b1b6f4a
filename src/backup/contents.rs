//! What of a gateway goes into its backup.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Archive, BackupError, CREDENTIALS, Entry, Origin, Owner, STATE, failed};
use crate::config::Config;
use crate::state::StateDir;

/// Keys of the configuration whose values are files.
const FILES: [&str; 7] =
    ["certificate", "key", "ca", "client_ca", "key_file", "password_file", "proxy_credentials_file"];

/// Everything of the gateway that is moved. `file` is where `text`, its configuration, stands; `config` is what follows
/// from it. With `service` the credentials of the installed service go along. The second value names files that the
/// configuration asks for and that are not there. Blocking.
///
/// # Errors
/// A file that is there and cannot be read: half a backup is none.
pub fn take(text: &str, config: &Config, service: bool) -> Result<(Archive, Vec<PathBuf>), BackupError> {
    let state_dir = &config.gateway.state_dir;
    let owner = std::fs::metadata(state_dir).map_err(failed(state_dir))?.uid();
    let mut entries = vec![Entry {
        origin: Origin::Configuration,
        mode: 0o644,
        owner: Owner::Other,
        bytes: text.as_bytes().to_vec().into(),
    }];
    for name in STATE {
        entries.extend(read(&state_dir.join(name), Origin::State(name.into()), owner)?);
    }
    let mut missing = Vec::new();
    for path in named(config) {
        if path.starts_with(state_dir) {
            continue;
        }
        match read(&path, Origin::Named(path.clone()), owner)? {
            Some(entry) => entries.push(entry),
            None => missing.push(path),
        }
    }
    if service {
        for path in CREDENTIALS.map(Path::new) {
            entries.extend(read(path, Origin::Named(path.to_owned()), owner)?);
        }
    }
    let gateway = match &config.gateway.id {
        Some(id) => Some(id.clone()),
        None => StateDir::known_id(state_dir).map_err(failed(state_dir))?,
    };
    Ok((Archive { gateway, entries }, missing))
}

/// `None`: it is not there.
fn read(path: &Path, origin: Origin, service: u32) -> Result<Option<Entry>, BackupError> {
    let (meta, bytes) = match std::fs::metadata(path).and_then(|meta| Ok((meta, std::fs::read(path)?))) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(BackupError::File { path: path.to_owned(), source }),
    };
    let mut bytes = zeroize::Zeroizing::new(bytes);
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        // Being appended to: its last line may not be whole yet.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(whole);
    }
    let owner = if meta.uid() == service && service != 0 { Owner::Service } else { Owner::Other };
    Ok(Some(Entry { origin, mode: meta.permissions().mode() & 0o777, owner, bytes }))
}

/// The files that a configuration names, but for those that systemd puts there.
fn named(config: &Config) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    walk(&serde_json::to_value(config).unwrap_or_default(), &mut found);
    found.retain(|path| path.is_absolute() && !path.starts_with("/run"));
    found
}

fn walk(value: &Value, found: &mut BTreeSet<PathBuf>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(path) if FILES.contains(&key.as_str()) => {
                        found.insert(path.into());
                    }
                    other => walk(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every path that the documented configuration shows is one of a file that is moved, or of a place that is not.
    #[test]
    fn no_file_that_a_configuration_can_name_is_forgotten() {
        let places = ["state_dir", "path"];
        for line in crate::init::PACKAGED.lines().map(|line| line.trim_start_matches('#')) {
            let Some((key, value)) = line.split_once(" = ") else { continue };
            if value.starts_with("\"/") && !is_pointer(key) {
                assert!(FILES.contains(&key) || places.contains(&key), "{line}");
            }
        }
    }

    /// JSON pointers look like paths.
    fn is_pointer(key: &str) -> bool {
        key.contains('.')
            || ["each", "bpm", "rr", "time", "contact", "energy_kj", "battery", "rssi"].contains(&key)
    }

    #[test]
    fn files_are_found_wherever_they_are_named() {
        let config = crate::config::from_toml(
            "[journal]\nkey_file = \"/a\"\n[mqtt.listener.tls]\nbind = \"127.0.0.1:1\"\ncertificate = \"/b\"\nkey = \"/c\"\n\
             [[uplink]]\nkind = \"mqtt\"\nurl = \"mqtts://x\"\nca = \"/d\"\nproxy = \"http://p\"\n\
             proxy_credentials_file = \"/run/credentials/fogbeat.service/p\"\n",
        )
        .unwrap();
        let found: Vec<PathBuf> = named(&config).into_iter().collect();
        assert_eq!(found, ["/a", "/b", "/c", "/d"].map(PathBuf::from));
    }
}
