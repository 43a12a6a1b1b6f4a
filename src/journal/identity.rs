//! The spool's name: random, made with the state directory and bound to the machine, so that a cloned card, which would
//! give the same numbers to other readings, starts a name of its own.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk::Disk;
use crate::files;

#[derive(Serialize, Deserialize)]
struct Identity {
    spool: String,
    /// SHA-256 of the machine id under a fixed prefix: systemd asks that the id itself is not passed on.
    machine: String,
}

/// The name, read or made now. `numbers_lost`: nobody knows which numbers were given under the old name, so that only
/// another one keeps ids apart. A name that is damaged is replaced as well; stored readings keep theirs either way.
///
/// # Errors
/// When the file cannot be written, or the system has no randomness.
pub fn spool_name(disk: &dyn Disk, dir: &Path, numbers_lost: bool) -> io::Result<String> {
    let path = dir.join("id.json");
    let machine = machine();
    match read(&path) {
        Ok(None) => {}
        Ok(Some(identity)) if identity.machine == machine && !numbers_lost => return Ok(identity.spool),
        Ok(Some(identity)) if identity.machine == machine => {
            tracing::info!("stored readings keep their ids, new ones get a new spool name");
        }
        Ok(Some(_)) => tracing::info!(
            "the state directory comes from another machine: its readings keep their ids, new ones get a new name"
        ),
        Err(cause) => {
            tracing::error!(
                cause,
                "the spool's name is damaged: stored readings keep their ids, new ones get a new name; check the disk"
            );
            if let Err(error) = super::salvage::put_aside(dir, &path) {
                tracing::warn!(%error, file = %path.display(), "the damaged file cannot be kept for a look");
            }
        }
    }
    let identity = Identity { spool: random_name()?, machine };
    let text = serde_json::to_vec_pretty(&identity).map_err(io::Error::other)?;
    disk.replace(&path, &files::with_sum(text))?;
    Ok(identity.spool)
}

fn read(path: &Path) -> Result<Option<Identity>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let text = files::without_sum(&bytes).map_err(|error| error.to_string())?;
    serde_json::from_slice(text).map(Some).map_err(|error| error.to_string())
}

fn machine() -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let digest = Sha256::new_with_prefix("fogbeat spool ").chain_update(id.trim()).finalize();
    hex::encode(digest.get(..16).unwrap_or_default())
}

/// 40 random bits in Crockford's base32, lower case: short, because it stands in front of every id.
fn random_name() -> io::Result<String> {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes
        .iter()
        .filter_map(|byte| DIGITS.get(usize::from(byte & 31)))
        .map(|&digit| char::from(digit))
        .collect())
}
