//! What the files of a spool tell without being opened: for a look at a gateway that is dead. Changes nothing.

use std::path::Path;

use serde_json::{Value, json};

use super::manifest::{Found, Manifest};
use crate::files;

/// Cursor files that are looked at; far more than there can be uplinks.
const MOST_CURSORS: usize = 256;
/// A cursor file is smaller.
const LARGEST_CURSOR: u64 = 1 << 20;

/// Generations and cursors as they were last written down; what is damaged is named and passed over. Blocking.
pub fn look(spool: &Path) -> Value {
    let (state, manifest) = match Manifest::load(spool) {
        Found::Manifest(manifest) => ("sound", Some(manifest)),
        Found::Copy(manifest, _) => ("damaged, its copy is sound", Some(manifest)),
        Found::Nothing => ("missing", None),
        Found::Damaged(_) => ("damaged", None),
    };
    let generations: Vec<Value> =
        manifest.iter().flat_map(|manifest| &manifest.generations).map(generation).collect();
    json!({
        "manifest": state,
        "next_generation": manifest.as_ref().map(|manifest| manifest.next_generation),
        "gone": manifest.as_ref().map(|manifest| manifest.gone),
        "generations": generations,
        "uplinks": cursors(&spool.join("cursors")),
    })
}

fn generation((number, record): (&u32, &super::manifest::Record)) -> Value {
    json!({
        "generation": number,
        "state": record.state,
        "count": record.count,
        "bytes": record.bytes,
        "created_ms": record.created_ms,
        "lost": record.lost(),
        "thinned": record.thinned(),
        "missing": record.missing.iter().map(|missing| u64::from(missing.last) + 1 - u64::from(missing.first)).sum::<u64>(),
        "damage": record.damage,
        "summaries": record.summaries,
        "encrypted": record.sealed.is_some(),
        "revision": record.revision,
    })
}

fn cursors(dir: &Path) -> Vec<Value> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let files = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).take(MOST_CURSORS);
    let mut found: Vec<_> = files
        .map(|path| {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            let small = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST_CURSOR);
            let bytes = if small { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
            let place = files::without_sum(&bytes).ok().and_then(|text| serde_json::from_slice::<Value>(text).ok());
            match place {
                Some(place) => json!({ "name": name, "cursor": place.get("cursor"), "open": place.get("open"), "tally": place.get("tally") }),
                None => json!({ "name": name, "state": "damaged" }),
            }
        })
        .collect();
    found.sort_by_key(|place| place.get("name").and_then(Value::as_str).unwrap_or_default().to_owned());
    found
}
