//! Which files lie in the state directory, how large and how old: a look at names, not into them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::redact::Redactor;

const MOST: usize = 2000;
const DEEPEST: usize = 6;

/// Every file below `dir`, as long as there are not too many.
///
/// # Errors
/// When the directory cannot be read.
pub fn below(dir: &Path, redactor: &Redactor) -> Result<Value, String> {
    let mut list = Vec::new();
    std::fs::read_dir(dir).map_err(|error| format!("the state directory cannot be read: {error}"))?;
    walk(dir, dir, redactor, DEEPEST, &mut list);
    let complete = list.len() < MOST;
    Ok(json!({ "complete": complete, "files": list }))
}

fn walk(root: &Path, dir: &Path, redactor: &Redactor, depth: usize, list: &mut Vec<Value>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).take(MOST).collect();
    paths.sort();
    for path in paths {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if list.len() >= MOST {
            return;
        }
        if meta.is_dir() && depth > 0 {
            walk(root, &path, redactor, depth - 1, list);
            continue;
        }
        let below = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        // Blanks and brackets are part of a name here, not between words.
        let parts: Vec<String> =
            below
                .split('/')
                .map(|part| {
                    if part.contains(char::is_whitespace) { redactor.tag(part) } else { redactor.text(part) }
                })
                .collect();
        list.push(json!({
            "path": parts.join("/"), "bytes": meta.len(), "blocks_bytes": meta.blocks() * 512, "modified_s": meta.mtime(),
            "mode": format!("{:o}", meta.mode()), "uid": meta.uid(),
        }));
    }
}
