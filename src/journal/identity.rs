//! The spool's name: random, made with the state directory and bound to the machine, so that a cloned card, which would
//! give the same numbers to other readings, starts a name of its own.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk::Disk;

#[derive(Serialize, Deserialize)]
struct Identity {
    spool: String,
    /// SHA-256 of the machine id under a fixed prefix: systemd asks that the id itself is not passed on.
    machine: String,
}

/// The name, read or made now.
///
/// # Errors
/// When the file cannot be read or written, or the system has no randomness.
pub fn spool_name(disk: &dyn Disk, dir: &Path) -> io::Result<String> {
    let path = dir.join("id.json");
    let machine = machine();
    match std::fs::read(&path) {
        Ok(bytes) => {
            let identity: Identity = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
            if identity.machine == machine {
                return Ok(identity.spool);
            }
            tracing::info!(
                "the state directory comes from another machine: its readings keep their ids, new ones get a new name"
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let identity = Identity { spool: random_name()?, machine };
    disk.replace(&path, &serde_json::to_vec_pretty(&identity).map_err(io::Error::other)?)?;
    Ok(identity.spool)
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
