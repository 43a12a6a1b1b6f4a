//! The file: made whole, read whole, written slot by slot.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};

use super::slot::{self, SLOT, Slot};
use super::{Entry, Lane};

/// Read and written at once, so that nothing of it stays in memory.
const PIECE: usize = 64 << 10;
/// Room that has to be left when the file has been made: what a full disk has left is not for this.
const LEFT: u64 = 4 << 20;
const SLOTS: [u64; 3] = [256, 1280, 512];
/// Bytes of the file.
pub const SIZE: u64 = (256 + 1280 + 512) * SLOT as u64;

/// The recorder's file, for the one process that writes it.
pub struct Ring {
    file: File,
    /// Number of the next record.
    next: u64,
    /// Where in its ring the next record of each lane goes.
    places: [u64; 3],
}

/// What the last life of the gateway has left.
#[derive(Debug, Default)]
pub struct Before {
    /// The last record of its life.
    pub last: Option<Entry>,
    /// Slots that were written and cannot be read.
    pub damaged: usize,
}

/// What a ring holds, oldest first.
#[derive(Debug, Default)]
pub struct Flight {
    pub records: Vec<(u64, Lane, Entry)>,
    /// Slots that were written and cannot be read.
    pub damaged: usize,
}

fn first(lane: Lane) -> u64 {
    SLOTS.iter().take(lane as usize).sum()
}

impl Ring {
    /// Opens the ring, makes it where there is none, and brings one of a wrong length back to its own. Blocking.
    ///
    /// # Errors
    /// When it can be neither used nor made (a full disk), or another process writes it.
    pub fn open(path: &Path) -> io::Result<(Self, Before)> {
        let file = match existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            file => file?,
        };
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let length = file.metadata()?.len();
        if length != SIZE {
            file.set_len(SIZE)?;
            // Room that was never written would have to be found when it is, on a disk that may be full by then.
            zero(&file, length.min(SIZE))?;
        }
        let mut places = [0; 3];
        let mut newest = [None; 3];
        let mut before = Before::default();
        each_slot(&file, |at, slot| {
            let (n, lane, payload) = match slot {
                Slot::Empty => return,
                Slot::Damaged => {
                    before.damaged += 1;
                    return;
                }
                Slot::Record { n, lane, payload } => (n, lane, payload),
            };
            let place = at.checked_sub(first(lane));
            let found = newest
                .get_mut(lane as usize)
                .zip(places.get_mut(lane as usize))
                .zip(SLOTS.get(lane as usize));
            if let (Some(place), Some(((newest, next), slots))) = (place, found)
                && place < *slots
                && newest.is_none_or(|known| n > known)
            {
                *newest = Some(n);
                *next = (place + 1) % slots;
                if lane == Lane::Life {
                    before.last = serde_json::from_slice(&payload).ok();
                }
            }
        })?;
        let next = newest.into_iter().flatten().max().map_or(0, |n| n.wrapping_add(1));
        Ok((Self { file, next, places }, before))
    }

    /// Writes a record over the oldest of its lane.
    ///
    /// # Errors
    /// What the disk says.
    pub fn append(&mut self, lane: Lane, entry: Entry) -> io::Result<()> {
        let bytes = slot::write(self.next, lane, &slot::fit(entry));
        let Some((place, slots)) = self.places.get_mut(lane as usize).zip(SLOTS.get(lane as usize)) else {
            return Ok(());
        };
        self.file.write_all_at(&bytes, (first(lane) + *place) * SLOT as u64)?;
        *place = (*place + 1) % slots;
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// What was written is on the disk when this returns. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Reads a ring, whoever writes it meanwhile. Changes nothing. Blocking.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> io::Result<Flight> {
    let file = OpenOptions::new().read(true).custom_flags(flags()).open(path)?;
    let mut found = Flight::default();
    each_slot(&file, |_, slot| match slot {
        Slot::Empty => {}
        Slot::Damaged => found.damaged += 1,
        Slot::Record { n, lane, payload } => match serde_json::from_slice(&payload) {
            Ok(entry) => found.records.push((n, lane, entry)),
            Err(_) => found.damaged += 1,
        },
    })?;
    found.records.sort_by_key(|(n, ..)| *n);
    Ok(found)
}

/// Shows each slot with its number, from the first to the last.
fn each_slot(file: &File, mut show: impl FnMut(u64, Slot)) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < SIZE {
        let read = file.read_at(&mut piece, at)?;
        // A file that is being made anew is shorter for a moment.
        let whole = read - read % SLOT;
        if whole == 0 {
            break;
        }
        for bytes in piece.get(..whole).unwrap_or_default().chunks_exact(SLOT) {
            show(at / SLOT as u64, slot::read(bytes));
            at += SLOT as u64;
        }
    }
    Ok(())
}

/// Never through a link, and never waiting for somebody at the other end.
fn flags() -> i32 {
    i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0)
}

fn existing(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags()).open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file")) }
}

/// Makes it beside its place and puts it there whole: a start that is cut off leaves no half one.
fn make(path: &Path) -> io::Result<File> {
    let directory = File::open(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    let room = rustix::fs::fstatvfs(&directory)?;
    if room.f_bavail.saturating_mul(room.f_frsize) < SIZE + LEFT {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&fresh)?;
    let owner = directory.metadata()?;
    let made = || -> io::Result<()> {
        if rustix::process::geteuid().is_root() && owner.uid() != 0 {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        zero(&file, 0)?;
        std::fs::rename(&fresh, path)?;
        directory.sync_all()
    };
    if let Err(error) = made() {
        // Of no use to anybody, and it holds room on a disk that may have none.
        let _ = std::fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(file)
}

/// Writes zeros from `at` to the end.
fn zero(file: &File, at: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE];
    let mut at = at;
    while at < SIZE {
        let piece = usize::try_from(SIZE - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..piece).unwrap_or_default(), at)?;
        at += piece as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn entry(text: &str) -> Entry {
        let (level, from) = ("info".to_owned(), "test".to_owned());
        let fields = Map::new();
        Entry {
            time_ms: 1,
            uptime_ms: 2,
            boot: "0".into(),
            level,
            from,
            text: text.into(),
            fields,
            again: 0,
            dropped: 0,
        }
    }

    fn texts(flight: &Flight, lane: Lane) -> Vec<String> {
        flight.records.iter().filter(|(_, of, _)| *of == lane).map(|(.., entry)| entry.text.clone()).collect()
    }

    #[test]
    fn it_wraps_within_its_bound_and_each_lane_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let (mut ring, before) = Ring::open(&path).unwrap();
        assert!(before.last.is_none() && before.damaged == 0);
        ring.append(Lane::Life, entry("start")).unwrap();
        for n in 0..3000 {
            ring.append(Lane::Events, entry(&format!("e{n}"))).unwrap();
        }
        ring.append(Lane::Life, entry("stop")).unwrap();
        drop(ring);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
        let flight = read(&path).unwrap();
        assert_eq!(texts(&flight, Lane::Life), ["start", "stop"]);
        let expected: Vec<String> = (3000 - 1280..3000).map(|n| format!("e{n}")).collect();
        assert_eq!(texts(&flight, Lane::Events), expected);
        // It goes on where it was.
        assert_eq!(flight.records.last().unwrap().0, 3001);
        let (mut ring, before) = Ring::open(&path).unwrap();
        assert_eq!(before.last.unwrap().text, "stop");
        ring.append(Lane::Events, entry("more")).unwrap();
        let flight = read(&path).unwrap();
        assert_eq!(flight.records.last().unwrap().0, 3002);
        assert_eq!(texts(&flight, Lane::Events).first().unwrap(), &format!("e{}", 3001 - 1280));
    }

    #[test]
    fn whatever_happens_to_the_file_only_what_was_hit_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let (mut ring, _) = Ring::open(&path).unwrap();
        for n in 0..400 {
            ring.append(Lane::Events, entry(&format!("e{n}"))).unwrap();
        }
        drop(ring);
        let sound = std::fs::read(&path).unwrap();
        let check = |bytes: &[u8], least: usize| {
            std::fs::write(&path, bytes).unwrap();
            let flight = read(&path).unwrap();
            let (mut ring, _) = Ring::open(&path).unwrap();
            assert!(flight.records.len() >= least, "{} of {least}", flight.records.len());
            ring.append(Lane::Events, entry("after")).unwrap();
            drop(ring);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
            assert!(texts(&read(&path).unwrap(), Lane::Events).contains(&"after".to_owned()));
        };
        for step in 0..200_usize {
            let mut hurt = sound.clone();
            let byte = (256 * SLOT + step * 1009) % hurt.len();
            hurt[byte] ^= 1 << (step % 8);
            check(&hurt, 399);
        }
        let zeroed: Vec<u8> =
            sound.iter().enumerate().map(|(at, b)| if at / 4096 == 40 { 0 } else { *b }).collect();
        check(&zeroed, 392);
        for cut in [0, 1, 511, 256 * SLOT, 256 * SLOT + 100 * SLOT + 7, sound.len() - 1] {
            let left = (cut / SLOT).saturating_sub(256).min(400);
            check(&sound[..cut], left);
        }
        let mut longer = sound.clone();
        longer.extend_from_slice(&[7; 9000]);
        check(&longer, 400);
        check(&vec![0xff; sound.len()], 0);
    }

    #[test]
    fn one_process_writes_it_and_a_link_or_a_directory_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let held = Ring::open(&path).unwrap();
        assert!(Ring::open(&path).is_err());
        drop(held);
        let (link, elsewhere) = (dir.path().join("link"), dir.path().join("elsewhere"));
        std::fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        assert!(Ring::open(&link).is_err() && Ring::open(dir.path()).is_err());
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "mine");
    }
}
