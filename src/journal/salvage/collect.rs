//! The child's work: everything of one generation that can still be read, written down value by value.
//!
//! First the files are searched without sled, which costs one pass and cannot go wrong in an interesting way; then, only
//! when numbers are still missing, sled is asked as well, on a copy, from both ends, each call behind the fence. What was
//! found is handed over before sled is let near anything: it may take the process with it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::scan;
use super::values::Writer;
use crate::journal::block::{self, Header, Kind};
use crate::journal::disk::RealDisk;
use crate::journal::generation::{self, Generation, GenerationError, Stored};
use crate::journal::names;

/// Bytes searched at a time.
const WINDOW: usize = 1 << 20;
/// What a failing card loses at least with one unreadable place.
const SECTOR: usize = 4096;
/// Blocks asked of sled at a time: what one damaged page costs.
const RANGE: usize = 16;
/// The files of a generation that hold values.
const FILES: [&str; 3] = ["db", "blobs", names::FILE];

/// One generation to salvage.
#[derive(Debug, Clone)]
pub struct Job {
    pub generation: u32,
    /// The quarantined directory; it is only read.
    pub source: PathBuf,
    /// Where the values go.
    pub target: PathBuf,
    /// Numbers of readings, or of summaries, that are known to have been given.
    pub count: u32,
}

/// What has been found so far.
struct Found {
    writer: Writer,
    keys: HashSet<u64>,
    /// First number to the number behind the last one.
    numbers: BTreeMap<u32, u32>,
}

/// # Errors
/// When the target cannot be written. What of the source cannot be read is left out.
pub fn collect(job: &Job) -> io::Result<()> {
    let mut found =
        Found { writer: Writer::create(&job.target)?, keys: HashSet::new(), numbers: BTreeMap::new() };
    for name in FILES {
        let path = job.source.join(name);
        if path.is_dir() {
            for entry in fs::read_dir(&path)?.flatten() {
                search(&entry.path(), job.generation, &mut |header, value| found.searched(header, value))?;
            }
        } else {
            search(&path, job.generation, &mut |header, value| found.searched(header, value))?;
        }
    }
    found.writer.flush()?;
    if !found.is_whole(job.count) {
        let copy = job.target.with_extension("copy");
        let asked = copy_of(&job.source, &copy).and_then(|()| ask_sled(&copy, job.generation, &mut found));
        fs::remove_dir_all(&copy).ok();
        asked?;
    }
    found.writer.flush()
}

impl Found {
    fn take(&mut self, key: u64, header: &Header, value: &[u8]) -> io::Result<()> {
        if !self.keys.insert(key) {
            return Ok(());
        }
        if matches!(header.kind, Kind::Readings | Kind::Summaries) {
            self.numbers.insert(header.first_n, header.first_n.saturating_add(header.count));
        }
        self.writer.put(key, value)
    }

    fn searched(&mut self, header: &Header, value: &[u8]) -> io::Result<()> {
        self.take(generation::key(header), header, value)
    }

    /// Every number up to `count`, and up to the last one found, is there.
    fn is_whole(&self, count: u32) -> bool {
        let mut reached = 0;
        for (&first, &after) in &self.numbers {
            if first > reached {
                return false;
            }
            reached = reached.max(after);
        }
        reached >= count
    }
}

/// Searches one file for values.
fn search(
    path: &Path,
    generation: u32,
    found: &mut impl FnMut(&Header, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    let length = file.metadata()?.len();
    let mut done = Ok(());
    let mut start = 0;
    let mut buffer = Vec::new();
    while start < length && done.is_ok() {
        let before = scan::BEHIND.min(usize::try_from(start).unwrap_or(scan::BEHIND));
        read_around_damage(&file, start - before as u64, before + WINDOW + scan::AHEAD, &mut buffer);
        scan::scan(&buffer, before, before + WINDOW, generation, &mut |header, value| {
            if done.is_ok() {
                done = found(header, value);
            }
        });
        start += WINDOW as u64;
    }
    done
}

/// Fills `buffer` with what is at `offset`; what the device does not give is zeros.
fn read_around_damage(file: &File, offset: u64, length: usize, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(length, 0);
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                let at = offset as usize + filled;
                filled += SECTOR - at % SECTOR;
            }
        }
    }
    buffer.truncate(filled.min(length));
}

/// sled works on a copy: opening writes, and what is in quarantine stays as it was found.
fn copy_of(source: &Path, copy: &Path) -> io::Result<()> {
    match fs::remove_dir_all(copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(copy)?,
    }
    for entry in fs::read_dir(source)?.flatten() {
        let target = copy.join(entry.file_name());
        // What cannot be copied, sled will have to do without.
        if entry.path().is_dir() {
            fs::create_dir_all(&target)?;
            for inner in fs::read_dir(entry.path())?.flatten() {
                fs::copy(inner.path(), target.join(inner.file_name())).ok();
            }
        } else if entry.file_name() != generation::OPENING {
            fs::copy(entry.path(), target).ok();
        }
    }
    Ok(())
}

fn ask_sled(copy: &Path, generation: u32, found: &mut Found) -> io::Result<()> {
    let Ok(database) = Generation::recover_as_it_is(&RealDisk, copy, generation) else { return Ok(()) };
    for (key, value) in database.others().unwrap_or_default() {
        if let Ok(header) = block::header(&value)
            && header.generation == generation
            && generation::key(&header) == key
        {
            found.take(key, &header, &value)?;
        }
    }
    let mut up = 0;
    take_while(generation, found, || {
        let blocks = database.blocks(up, RANGE)?;
        let last = blocks.last().map_or(0, |stored| stored.first_n);
        let more = last >= up && !blocks.is_empty();
        up = last.saturating_add(1);
        Ok((blocks, more))
    })?;
    let mut down = u32::MAX;
    take_while(generation, found, || {
        let blocks = database.blocks_before(down, RANGE)?;
        down = blocks.last().map_or(0, |stored| stored.first_n);
        Ok((blocks, down > up))
    })
}

/// Takes what `next` brings until it brings nothing more, or fails.
fn take_while(
    generation: u32,
    found: &mut Found,
    mut next: impl FnMut() -> Result<(Vec<Stored>, bool), GenerationError>,
) -> io::Result<()> {
    while let Ok((blocks, more)) = next() {
        for Stored { first_n, value } in blocks {
            if let Ok(header) = block::header(&value)
                && header.generation == generation
                && header.first_n == first_n
            {
                found.take(u64::from(first_n), &header, &value)?;
            }
        }
        if !more {
            break;
        }
    }
    Ok(())
}
