//! Tells the program when it was built, as `FOGBEAT_BUILT_S` (seconds since the Unix epoch): no correct clock is before
//! that. `SOURCE_DATE_EPOCH` is honoured, so that a build can be repeated to the byte.
//!
//! Collects the words of the program's own messages (`words.txt`, sorted, one a line): in what leaves the gateway in a
//! support bundle only they stay readable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[path = "src/redact/token.rs"]
mod token;

#[allow(clippy::disallowed_methods, reason = "a build has no clock seam")]
fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // Named so that an edit of the program, and not only of this file, moves the date.
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.lock");
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    println!("cargo::rustc-env=FOGBEAT_BUILT_S={}", given.unwrap_or_else(now));

    let mut found = BTreeSet::new();
    collect(Path::new("src"), &mut found);
    if let Ok(more) = std::fs::read_to_string("src/redact/words.txt") {
        found.extend(
            more.lines()
                .filter(|line| !line.starts_with('#'))
                .flat_map(str::split_whitespace)
                .map(str::to_owned),
        );
    }
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    let text: String = found.iter().flat_map(|word| [word.as_str(), "\n"]).collect();
    if let Err(error) = std::fs::write(out.join("words.txt"), text) {
        println!("cargo::error=the list of words cannot be written: {error}");
    }
}

/// Parts of the source whose literals are not messages of the gateway: tests, and the show.
fn is_beside(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name == "demo" || name == "tests" || name == "sim.rs" || name == "fuzz.rs" || name.ends_with("tests.rs")
}

fn collect(dir: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| !is_beside(path)) {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs")
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            let program = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for literal in literals(program) {
                let words = token::words(&literal).filter_map(|range| literal.get(range));
                found.extend(words.filter(|word| is_word(word)).map(str::to_owned));
            }
        }
    }
}

/// Something with a digit may be a name; a single letter tells nothing.
fn is_word(word: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphabetic() || "-_./:'".contains(c);
    word.len() > 1 && word.chars().all(inner) && word.chars().any(|c| c.is_ascii_alphabetic())
}

/// The string literals of a source text; what an escape stands for is a blank here.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (before, from) = rest.split_at(at);
        if from.starts_with("//") {
            rest = from.find('\n').map_or("", |end| from.split_at(end).1);
        } else if from.starts_with("'\"'") || from.starts_with("'\\") {
            rest = from.split_at(3.min(from.len())).1;
        } else if from.starts_with('"') && (before.ends_with("r#")) {
            let inside = from.split_at(1).1;
            let end = inside.find("\"#").unwrap_or(inside.len());
            found.push(inside.split_at(end).0.to_owned());
            rest = inside.split_at(end).1.trim_start_matches("\"#");
        } else if from.starts_with('"') {
            let mut literal = String::new();
            let mut escaped = false;
            let mut end = from.len();
            for (place, c) in from.char_indices().skip(1) {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => {
                        escaped = true;
                        literal.push(' ');
                    }
                    '"' => {
                        end = place + 1;
                        break;
                    }
                    c => literal.push(c),
                }
            }
            found.push(literal);
            rest = from.split_at(end).1;
        } else {
            rest = from.split_at(1).1;
        }
    }
    found
}
