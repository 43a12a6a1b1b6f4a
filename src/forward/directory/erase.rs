//! Removing a device's lines from a lake.
//!
//! Every file below `readings/` is read; one that holds a line of the device is written anew without it, whole or not at
//! all (temporary file, fsync, rename, fsync of the directory). In the place of the lines a file has `gap` lines with the
//! cause `erased`, so that the account of numbers stays whole; counts by device lose the device. Files that hold nothing
//! of it are not touched, and days that are removed meanwhile are gone.
//!
//! A running uplink only adds files, and one that it writes again after the journal was erased holds nothing either.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::store::{StoreError, TEMPORARY, directories, failed, write_whole};
use crate::config::Encoding;
use crate::forward::batch::cause_label;
use crate::forward::member::{Encoder, extension};
use crate::journal::GapCause;
use crate::reading::line::LineContext;

/// What was removed (or would be).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct LakeErased {
    /// Files that held the device.
    pub files: u64,
    /// Lines of the device.
    pub lines: u64,
}

/// A lake, and what a device is called in it.
pub struct Lake<'a> {
    /// The directory that holds `readings/`.
    pub path: &'a Path,
    /// Its name and its pseudonyms.
    pub names: &'a [String],
}

impl Lake<'_> {
    /// Removes files that an interrupted write left; they are nobody's and may hold anything. Only while no uplink writes.
    /// Blocking.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_leftovers(&self) -> Result<(), StoreError> {
        self.each_file(|path, name| match name.ends_with(TEMPORARY) {
            true => fs::remove_file(path).map_err(failed("remove", path)),
            false => Ok(()),
        })
    }

    /// Removes the device's lines; with `dry_run` only counts. Blocking, for as long as reading the lake takes.
    ///
    /// # Errors
    /// When a file cannot be read or written. What was done stays done.
    pub fn erase(&self, dry_run: bool) -> Result<LakeErased, StoreError> {
        let mut erased = LakeErased::default();
        self.each_file(|path, name| {
            let encodings = [Encoding::Gzip, Encoding::Zstd, Encoding::Json];
            let Some(encoding) = encodings.into_iter().find(|encoding| name.ends_with(extension(*encoding)))
            else {
                return Ok(());
            };
            let text = match read(path, encoding) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed("read", path)(error)),
            };
            let Some((lines, rest)) = without(&text, self.names) else { return Ok(()) };
            erased.files += 1;
            erased.lines += lines;
            if dry_run {
                return Ok(());
            }
            let packed = Encoder::new(encoding).and_then(|mut encoder| encoder.encode(rest.as_bytes()));
            let packed = packed.map_err(|error| failed("pack", path)(io::Error::other(error)))?;
            let Some(directory) = path.parent() else { return Ok(()) };
            match write_whole(directory, name, &packed) {
                // The day was removed meanwhile.
                Err(_) if !directory.exists() => Ok(()),
                written => written,
            }
        })?;
        Ok(erased)
    }

    fn each_file(
        &self,
        mut act: impl FnMut(&Path, &str) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let root = self.path.join("readings");
        if !root.is_dir() {
            return Ok(());
        }
        for (_, day) in directories(&root)? {
            for (_, hour) in listed(directories(&day), &day)? {
                let entries = listed(fs::read_dir(&hour).map_err(failed("read", &hour)), &hour)?;
                for entry in entries {
                    let entry = entry.map_err(failed("read", &hour))?;
                    act(&entry.path(), &entry.file_name().to_string_lossy())?;
                }
            }
        }
        Ok(())
    }
}

/// What is in a directory; nothing, if that has been removed meanwhile.
fn listed<T: IntoIterator>(
    found: Result<T, StoreError>,
    directory: &Path,
) -> Result<impl Iterator<Item = T::Item> + use<T>, StoreError> {
    let found = match found {
        Err(_) if !directory.exists() => None,
        found => Some(found?),
    };
    Ok(found.into_iter().flatten())
}

fn read(path: &Path, encoding: Encoding) -> io::Result<String> {
    let file = File::open(path)?;
    let mut text = String::new();
    match encoding {
        Encoding::Gzip => flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text)?,
        Encoding::Zstd => zstd::stream::read::Decoder::new(file)?.read_to_string(&mut text)?,
        Encoding::Json => { file }.read_to_string(&mut text)?,
    };
    Ok(text)
}

/// The text without the lines of a device, and how many those were; `None`: it is not in it.
pub(crate) fn without(text: &str, names: &[String]) -> Option<(u64, String)> {
    // As they stand in a line, without the quotes: what does not hold them is not parsed.
    let inside =
        |name: &String| serde_json::to_string(name).map(|quoted| quoted.trim_matches('"').to_owned());
    let needles: Vec<String> = names.iter().filter_map(|name| inside(name).ok()).collect();
    let holds = |text: &str| needles.iter().any(|needle| text.contains(needle.as_str()));
    if !holds(text) {
        return None;
    }
    let mut rest = String::with_capacity(text.len());
    let mut gaps = Gaps::default();
    let (mut removed, mut changed) = (0, false);
    for line in text.lines() {
        let parsed = if holds(line) { serde_json::from_str::<Value>(line).ok() } else { None };
        let is_device = |value: &Value| value.as_str().is_some_and(|name| names.iter().any(|n| n == name));
        match parsed {
            Some(line) if line.get("device").is_some_and(is_device) => {
                removed += 1;
                gaps.note(&line);
            }
            Some(parsed) if counts(&parsed).any(|(name, _)| names.iter().any(|n| n == name)) => {
                changed = true;
                match gap_without(&parsed, names) {
                    Some(gap) => rest.push_str(&gap),
                    // A line that is not one of ours: the whole of it goes.
                    None => removed += 1,
                }
            }
            _ => {
                rest.push_str(line);
                rest.push('\n');
            }
        }
    }
    gaps.write(&mut rest);
    (removed > 0 || changed).then_some((removed, rest))
}

/// Readings by device in a `gap` line.
fn counts(line: &Value) -> impl Iterator<Item = (&String, u64)> {
    let devices = line.get("devices").and_then(Value::as_object);
    devices.into_iter().flatten().filter_map(|(name, count)| Some((name, count.as_u64()?)))
}

/// The same `gap` line without counts of these devices.
fn gap_without(line: &Value, names: &[String]) -> Option<String> {
    let (spool, _) = line.get("id")?.as_str()?.split_once('-')?;
    let number = |field: &str| line.get(field)?.as_u64();
    let kept: Vec<(Arc<str>, u64)> = counts(line)
        .filter(|(name, _)| !names.contains(name))
        .map(|(name, count)| (name.as_str().into(), count))
        .collect();
    let mut out = Vec::new();
    let cause = line.get("cause")?.as_str()?;
    context(spool, line)?.write_gap(&mut out, number("first_seq")?, number("last_seq")?, cause, &kept);
    String::from_utf8(out).ok()
}

fn context(spool: &str, line: &Value) -> Option<LineContext> {
    let site = line.get("site").and_then(Value::as_str);
    Some(LineContext::new(spool, line.get("gateway")?.as_str()?, site))
}

/// Numbers whose readings were removed, by spool.
#[derive(Default)]
struct Gaps(BTreeMap<String, (Vec<u64>, Option<LineContext>)>);

impl Gaps {
    fn note(&mut self, line: &Value) {
        // Only a reading has a number; a summary stands for numbers that have their own `gap` line.
        let id = line.get("id").and_then(Value::as_str).filter(|_| line.get("type").is_none());
        let Some((spool, number)) = id.and_then(|id| id.rsplit_once('-')) else { return };
        if let Ok(number) = number.parse() {
            let (numbers, known) = self.0.entry(spool.to_owned()).or_default();
            numbers.push(number);
            if known.is_none() {
                *known = context(spool, line);
            }
        }
    }

    fn write(self, rest: &mut String) {
        for (numbers, context) in self.0.into_values() {
            let (mut numbers, Some(context)) = (numbers, context) else { continue };
            numbers.sort_unstable();
            numbers.dedup();
            let mut out = Vec::new();
            for run in numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
                if let (Some(first), Some(last)) = (run.first(), run.last()) {
                    context.write_gap(&mut out, *first, *last, cause_label(GapCause::Erased), &[]);
                }
            }
            rest.push_str(&String::from_utf8_lossy(&out));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = concat!(
        r#"{"id":"s-5","gateway":"g","site":"ward","device":"Mr \"X\"","time":"t","bpm":61}"#,
        "\n",
        r#"{"id":"s-6","gateway":"g","site":"ward","device":"Mr \"X\"","time":"t","bpm":62}"#,
        "\n",
        r#"{"id":"s-7","gateway":"g","device":"Mr \"X\" too","time":"t","bpm":63}"#,
        "\n",
        r#"{"id":"s-9","gateway":"g","site":"ward","device":"p-abc","time":"t","bpm":61}"#,
        "\n",
        r#"{"id":"s-20-29","type":"gap","gateway":"g","first_seq":20,"last_seq":29,"cause":"thinned","devices":{"Mr \"X\"":4,"b":6}}"#,
        "\n",
        r#"{"id":"s-30","type":"end","gateway":"g","generation":0,"count":30}"#,
        "\n",
    );

    #[test]
    fn lines_go_and_their_numbers_are_told_as_erased() {
        let names = ["Mr \"X\"".to_owned(), "p-abc".to_owned()];
        let (removed, rest) = without(LINES, &names).unwrap();
        assert_eq!(removed, 3);
        let expected = concat!(
            r#"{"id":"s-7","gateway":"g","device":"Mr \"X\" too","time":"t","bpm":63}"#,
            "\n",
            r#"{"id":"s-20-29","type":"gap","gateway":"g","first_seq":20,"last_seq":29,"cause":"thinned","devices":{"b":6}}"#,
            "\n",
            r#"{"id":"s-30","type":"end","gateway":"g","generation":0,"count":30}"#,
            "\n",
            r#"{"id":"s-5-6","type":"gap","gateway":"g","site":"ward","first_seq":5,"last_seq":6,"cause":"erased"}"#,
            "\n",
            r#"{"id":"s-9-9","type":"gap","gateway":"g","site":"ward","first_seq":9,"last_seq":9,"cause":"erased"}"#,
            "\n",
        );
        assert_eq!(rest, expected);
        assert!(without(&rest, &names).is_none(), "erasing again finds nothing");
    }

    #[test]
    fn a_file_without_the_device_is_not_touched() {
        assert!(without(LINES, &["Mr".to_owned(), "ward".to_owned(), "gap".to_owned()]).is_none());
    }

    #[test]
    fn every_encoding_is_rewritten_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let hour = dir.path().join("readings/dt=2026-11-23/hour=20");
        fs::create_dir_all(&hour).unwrap();
        for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Json] {
            let bytes = Encoder::new(encoding).unwrap().encode(LINES.as_bytes()).unwrap();
            fs::write(hour.join(format!("x{}", extension(encoding))), &bytes).unwrap();
        }
        fs::write(hour.join("y.json.tmp"), LINES).unwrap();
        fs::write(hour.join("foreign.txt"), "Mr X").unwrap();
        let names = ["Mr \"X\"".to_owned()];
        let lake = Lake { path: dir.path(), names: &names };
        let expected = LakeErased { files: 3, lines: 6 };
        assert_eq!(lake.erase(true).unwrap(), expected);
        assert_eq!(lake.erase(false).unwrap(), expected);
        assert_eq!(lake.erase(false).unwrap(), LakeErased::default());
        lake.remove_leftovers().unwrap();
        let mut left: Vec<_> = fs::read_dir(&hour).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["foreign.txt", "x.json", "x.json.gz", "x.json.zst"]);
        for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Json] {
            let text = read(&hour.join(format!("x{}", extension(encoding))), encoding).unwrap();
            assert!(!text.contains("Mr \\\"X\\\"\"") && text.contains("erased"), "{text}");
        }
    }
}
