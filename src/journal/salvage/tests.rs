//! A real database of sled's, damaged in every way: what is found in it, and whether the damage is noticed before sled
//! makes it worse.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::values::Reader;
use super::{Job, Soundness, collect, scan, soundness};
use crate::journal::block::{Encoder, Kind, Place};
use crate::journal::disk::RealDisk;
use crate::journal::generation::{self, Generation};
use crate::journal::tests::reading_at;

const GENERATION: u32 = 7;
const DEVICES: u32 = 9;

/// splitmix64, as in the integration tests.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as usize % end
    }
}

struct Database {
    root: tempfile::TempDir,
    db: Vec<u8>,
    count: u32,
    /// Where the copies of each value stand.
    places: BTreeMap<u64, Vec<std::ops::Range<usize>>>,
}

impl Database {
    fn make() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("whole");
        let database = Generation::create(&RealDisk, &dir, GENERATION, b"{}", None).unwrap();
        let mut rng = Rng(1);
        let mut encoder = Encoder::new(None);
        let mut count = 0;
        for commit in 0..800u32 {
            let readings: Vec<_> = (0..1 + rng.below(60) as u32)
                .map(|n| {
                    let mut reading =
                        reading_at(commit % DEVICES, i64::from(count + n), 60 + (n % 50) as u16);
                    reading.rr.values = (0..4).map(|_| rng.below(60_000) as u32).collect();
                    reading
                })
                .collect();
            let place = Place { boot_tag: 7, clock_epoch: 0, generation: GENERATION, first_n: count };
            let value = encoder.encode(place, readings.iter()).unwrap();
            let mut entries = vec![(u64::from(count), value)];
            if commit < DEVICES {
                let name = encoder.encode_plain(Kind::Name, GENERATION, commit, b"a device's name").unwrap();
                entries.push((1 << 63 | u64::from(commit), name));
            }
            database.commit(&RealDisk, &entries).unwrap();
            count += readings.len() as u32;
        }
        drop(database);
        let db = fs::read(dir.join("db")).unwrap();
        assert!(db.len() > 600_000, "{} bytes are too few to prove much", db.len());
        let mut places: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        scan::scan(&db, 0, db.len(), GENERATION, &mut |header, value| {
            let start = value.as_ptr() as usize - db.as_ptr() as usize;
            places.entry(generation::key(header)).or_default().push(start..start + value.len());
        });
        assert_eq!(places.len(), 800 + DEVICES as usize + 1, "every value is found in what is whole");
        Self { root, db, count, places }
    }

    /// A copy with other bytes in `db`.
    fn with(&self, db: &[u8]) -> PathBuf {
        let dir = self.root.path().join("damaged");
        fs::remove_dir_all(&dir).ok();
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(self.root.path().join("whole")).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
            }
        }
        fs::write(dir.join("db"), db).unwrap();
        dir
    }

    /// What is found in a directory, as the child finds it.
    fn found(&self, dir: &Path) -> BTreeSet<u64> {
        let target = self.root.path().join("values");
        let job = Job { generation: GENERATION, source: dir.to_owned(), target, count: self.count };
        collect::collect(&job).unwrap();
        Reader::open(&job.target, GENERATION).unwrap().map(|value| value.key).collect()
    }

    /// The values of which a copy is whole.
    fn whole(&self, db: &[u8]) -> BTreeSet<u64> {
        let same = |place: &std::ops::Range<usize>| db.get(place.clone()) == self.db.get(place.clone());
        let whole = self.places.iter().filter(|(_, places)| places.iter().any(same));
        whole.map(|(key, _)| *key).collect()
    }
}

#[test]
fn only_values_that_were_hit_themselves_are_missing_and_damage_is_noticed_before_sled_makes_it_worse() {
    let database = Database::make();
    assert_eq!(soundness(&database.with(&database.db), GENERATION).unwrap(), Soundness::Sound);
    let mut rng = Rng(2);
    let (mut noticed, mut taken) = (0, 0);
    for round in 0..120 {
        let mut db = database.db.clone();
        let length = db.len();
        let what = match round % 4 {
            0 => {
                let bit = rng.below(length * 8);
                db[bit / 8] ^= 1 << (bit % 8);
                format!("bit {bit}")
            }
            1 => {
                // In the newest part, where sled takes damage for the end.
                let bit = length * 8 - 1 - rng.below(80_000);
                db[bit / 8] ^= 1 << (bit % 8);
                format!("bit {bit} of {}", length * 8)
            }
            2 => {
                let page = rng.below(length / 4096) * 4096;
                db[page..page + 4096].fill(0);
                format!("page at {page}")
            }
            _ => {
                db.truncate(rng.below(length));
                format!("cut at {}", db.len())
            }
        };
        let dir = database.with(&db);
        let whole = database.whole(&db);
        let found = database.found(&dir);
        // Names lie beside the database as well.
        let names = 1 << 63..(1 << 63) + u64::from(DEVICES);
        assert_eq!(found, whole.iter().copied().chain(names).collect(), "{what}");
        match soundness(&dir, GENERATION).unwrap() {
            Soundness::Damaged(..) => noticed += 1,
            Soundness::Sound => {
                // Then sled may have it, and must show all that is there.
                let Ok(opened) = Generation::recover_as_it_is(&RealDisk, &dir, GENERATION) else { continue };
                let mut shown: BTreeSet<u64> = opened.others().unwrap().iter().map(|(key, _)| *key).collect();
                let blocks = opened.blocks(0, usize::MAX).unwrap();
                shown.extend(blocks.iter().map(|stored| u64::from(stored.first_n)));
                taken += 1;
                assert!(whole.is_subset(&shown), "{what}: sled lost {:?}", whole.difference(&shown));
            }
        }
    }
    println!("noticed {noticed}, taken for sound and left to sled {taken}, of 120");
    assert!(noticed > 60, "only {noticed} of 120 were noticed");
}
