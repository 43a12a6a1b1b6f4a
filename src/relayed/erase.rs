//! Removing a device's lines from members that are kept.
//!
//! A file is written anew without them under its old name, so that the member as it was sent is still recognised and not
//! taken a second time. What was put aside as damaged may hold anything, and goes. Only while no uplink holds a member.

use std::io::{self, Read as _};
use std::path::Path;

use flate2::read::GzDecoder;

use crate::config::Encoding;
use crate::files;
use crate::forward::directory::erase::{LakeErased, without};
use crate::forward::member::Encoder;

/// Removes the lines of a device that is called one of `names`; with `dry_run` only counts. Blocking.
///
/// # Errors
/// When a file cannot be read or written. What was done stays done.
pub fn erase(state_dir: &Path, names: &[String], dry_run: bool) -> io::Result<LakeErased> {
    let mut erased = LakeErased::default();
    let entries = match std::fs::read_dir(state_dir.join("relayed")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(erased),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("damaged") if !dry_run => std::fs::remove_file(&path)?,
            Some("gz") => {
                let mut text = String::new();
                let packed = std::fs::read(&path)?;
                if GzDecoder::new(packed.as_slice()).read_to_string(&mut text).is_err() {
                    // Damaged: the uplinks will meet it and put it aside; here it goes.
                    if !dry_run {
                        std::fs::remove_file(&path)?;
                    }
                    continue;
                }
                let Some((lines, rest)) = without(&text, names) else { continue };
                erased.files += 1;
                erased.lines += lines;
                if !dry_run {
                    let mut encoder = Encoder::new(Encoding::Gzip).map_err(io::Error::other)?;
                    files::replace(&path, &encoder.encode(rest.as_bytes()).map_err(io::Error::other)?)?;
                }
            }
            _ => {}
        }
    }
    Ok(erased)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::From;
    use crate::relayed::Shelf;

    #[test]
    fn a_device_is_gone_from_members_and_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path(), 1 << 20, std::time::Duration::from_secs(600)).unwrap();
        let text = "{\"id\":\"sp-1\",\"gateway\":\"g\",\"device\":\"anna\",\"bpm\":60}\n\
            {\"id\":\"sp-2\",\"gateway\":\"g\",\"device\":\"bert\",\"bpm\":61}\n";
        let member = Encoder::new(Encoding::Gzip).unwrap().encode(text.as_bytes()).unwrap();
        shelf.put(&member, 0).unwrap();
        let anna = ["anna".to_owned()];
        assert_eq!(erase(dir.path(), &anna, true).unwrap(), LakeErased { files: 1, lines: 1 });
        assert_eq!(erase(dir.path(), &anna, false).unwrap(), LakeErased { files: 1, lines: 1 });
        assert_eq!(erase(dir.path(), &anna, false).unwrap(), LakeErased::default());
        shelf.put(&member, 0).unwrap();
        let lane = shelf.lane("a", From::Oldest, 1 << 20);
        let given = lane.next().unwrap().unwrap();
        let mut left = String::new();
        GzDecoder::new(&given.bytes[..]).read_to_string(&mut left).unwrap();
        assert!(!left.contains("anna") && left.contains("bert") && left.contains("erased"), "{left}");
        assert!(lane.next().unwrap().is_none());
    }
}
