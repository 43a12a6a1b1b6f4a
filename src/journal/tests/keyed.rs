//! Encryption at rest, in a journal that lives, dies and changes its keys.

use super::*;
use crate::journal::tally::Tally;

const KEYS: &str = "keys";

/// A journal whose key file is beside it.
fn keyed(size: u64) -> Rig {
    let mut rig = Rig::new(size);
    rig.key_file = Some(rig.dir.path().join(KEYS));
    rig
}

fn settings_of(rig: &Rig) -> config::Journal {
    config::Journal { key_file: rig.key_file.clone(), ..settings(rig.size) }
}

fn gaps(entries: &[Entry]) -> Vec<(u64, u64, GapCause)> {
    let gaps = entries.iter().filter_map(|entry| match entry {
        Entry::Gap { first, last, cause, .. } => Some((first.0, last.0, *cause)),
        _ => None,
    });
    gaps.collect()
}

fn files_below(dir: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(std::fs::read(&path).unwrap()),
        }
    }
    files
}

#[tokio::test]
async fn what_is_stored_with_a_key_cannot_be_read_on_the_disk_and_is_read_with_the_key() {
    let needle = b"strap-of-anna";
    let found = |rig: &Rig| {
        let files = files_below(&rig.dir.path().join("spool"));
        files.iter().any(|file| file.windows(needle.len()).any(|bytes| bytes == needle))
    };
    for encrypted in [false, true] {
        let rig = if encrypted { keyed(1 << 24) } else { Rig::new(1 << 24) };
        let running = rig.start();
        running.store("strap-of-anna", 0..2500).await;
        running.crash().await;
        assert_eq!(found(&rig), !encrypted, "the name in the files");
        let running = rig.start();
        assert_eq!(stamps(&everything(&running.journal, Seq(0))).len(), 2500);
        assert!(running.store("strap-of-anna", 0..10).await.iter().all(|appended| appended.duplicate));
        running.stop().await;
    }
}

#[tokio::test]
async fn values_stay_within_their_limit_with_the_seal_around_them() {
    let rig = keyed(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..20_000).await;
    let database = running.journal.inner.spool.database(1);
    let values = database.blocks(0, usize::MAX).unwrap();
    assert!(values.len() > 20);
    assert!(values.iter().all(|stored| stored.value.len() <= block::MAX_VALUE));
    assert!(values.iter().any(|stored| stored.value.len() > block::MAX_VALUE / 2), "the limit is met");
    drop(database);
    running.stop().await;
}

#[tokio::test]
async fn a_new_key_seals_from_the_next_commit_on_and_the_old_generations_stay_readable() {
    let rig = keyed(1 << 24);
    let running = rig.start();
    let first = running.journal.status().encryption.key.unwrap();
    running.store("bike-1", 0..100).await;
    let second = add_key(rig.key_file.as_deref().unwrap()).unwrap();
    running.journal.reload_keys(&settings_of(&rig)).unwrap();
    running.store("bike-1", 100..200).await;
    assert_eq!(running.journal.status().encryption.key, Some(second));
    let keys = |journal: &Journal| -> Vec<_> {
        journal.generations().iter().map(|g| (g.readings, g.sealed.unwrap().key)).collect()
    };
    assert_eq!(keys(&running.journal), [(100, first), (100, second)]);
    let entries = everything(&running.journal, Seq(0));
    assert_eq!(stamps(&entries).len(), 200);
    running.crash().await;
    let running = rig.start();
    let after = everything(&running.journal, Seq(0));
    assert_eq!(stamps(&entries), stamps(&after));
    assert_eq!(gaps(&after), []);
    assert_eq!(running.journal.status().encryption.missing_keys, []);
    running.stop().await;
}

#[tokio::test]
async fn a_journal_that_was_not_encrypted_stays_readable_and_turns_encrypted_and_back() {
    let mut rig = Rig::new(1 << 24);
    for round in 0..3 {
        rig.key_file = (round == 1).then(|| rig.dir.path().join(KEYS));
        let running = rig.start();
        running.store("bike-1", round * 100..(round + 1) * 100).await;
        running.stop().await;
    }
    rig.key_file = Some(rig.dir.path().join(KEYS));
    let running = rig.start();
    let sealed: Vec<bool> = running.journal.generations().iter().map(|g| g.sealed.is_some()).collect();
    assert_eq!(sealed, [false, true, false, true]);
    assert_eq!(stamps(&everything(&running.journal, Seq(0))).len(), 300);
    running.stop().await;
}

#[tokio::test]
async fn a_lost_key_is_told_stops_nothing_new_and_what_it_sealed_is_kept_until_it_is_back() {
    let rig = keyed(1 << 24);
    let path = rig.key_file.clone().unwrap();
    let running = rig.start();
    let lost = running.journal.status().encryption.key.unwrap();
    running.store("bike-1", 0..2500).await;
    running.crash().await;
    let kept = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();

    // A new key is made, and new readings are taken.
    let running = rig.start();
    let encryption = running.journal.status().encryption;
    assert_eq!((encryption.missing_keys, encryption.withheld), (vec![lost], 2500));
    assert_ne!(encryption.key, Some(lost));
    running.store("bike-1", 2500..2600).await;
    let page = running.journal.peek(Seq(0), 100).unwrap();
    assert_eq!(gaps(&page.entries), [(Seq::new(1, 0).0, Seq::new(1, 2499).0, GapCause::Withheld)]);
    assert_eq!(running.journal.generations()[0].sealed.map(|sealed| sealed.withheld), Some(false));
    let entries = everything(&running.journal, Seq(0));
    assert_eq!(stamps(&entries).len(), 100);
    assert_eq!(gaps(&entries), [(Seq::new(1, 0).0, Seq::new(1, 2499).0, GapCause::Withheld)]);
    assert!(entries.iter().any(|entry| matches!(entry, Entry::End { generation: 1, count: 2500 })));
    let verified = running.journal.verify(&running.journal.generations()[0]).unwrap();
    assert_eq!((verified.sealed, verified.readings, verified.missing), (2500, 0, 0));
    assert!(verified.damaged.is_empty());
    assert_eq!(verified.found, [(0, 2499)], "a missing key is no damage");
    running.crash().await;

    // An uplink passes them; many generations later they are still there.
    let mut running = rig.start();
    for round in 0..5 {
        running.stop().await;
        running = rig.start();
        running.store("bike-1", 3000 + round..3001 + round).await;
    }
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    let to = *running.journal.watch_watermark().borrow();
    let bounds = Bounds { from: cursor.cursor(), to, fixed_ms: 0, clock: 0, guessed: false };
    cursor.begin(bounds).unwrap();
    cursor.confirm(bounds, Tally::default()).unwrap();
    running.journal.keep_house();
    let numbers: Vec<u32> = running.journal.generations().iter().map(|g| g.generation).collect();
    assert!(numbers.len() <= 1 + KEPT_DELIVERED + 1 && numbers[0] == 1, "{numbers:?}");

    // The key comes back, before the newest one.
    let newest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{kept}{newest}")).unwrap();
    running.journal.reload_keys(&settings_of(&rig)).unwrap();
    assert_eq!(running.journal.status().encryption.missing_keys, []);
    let entries = everything(&running.journal, Seq(0));
    let old: Vec<_> = stamps(&entries).into_iter().filter(|(_, at)| *at < 2500).collect();
    assert_eq!(old.len(), 2500);
    assert!(old.iter().all(|(name, _)| name == "bike-1"), "the names are back as well");
    running.stop().await;
}

#[tokio::test]
async fn a_key_file_that_is_gone_at_a_reload_leaves_the_keys_in_force() {
    let rig = keyed(1 << 24);
    let running = rig.start();
    let key = running.journal.status().encryption.key;
    std::fs::remove_file(rig.key_file.as_deref().unwrap()).unwrap();
    let told = running.journal.reload_keys(&settings_of(&rig)).unwrap_err().to_string();
    assert!(told.contains("journal key new"), "{told}");
    running.store("bike-1", 0..10).await;
    assert_eq!(running.journal.status().encryption.key, key);
    running.stop().await;
}

#[tokio::test]
async fn a_block_that_was_forged_or_put_elsewhere_is_lost_never_believed() {
    let rig = keyed(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..10).await;
    running.store("bike-1", 10..20).await;
    let spool = &running.journal.inner.spool;
    let database = spool.database(1);
    let blocks = database.blocks(0, 10).unwrap();
    let mut forged = blocks[0].value.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    block::tests::mend_checksum(&mut forged);
    database.commit(&RealDisk, &[(0, forged)]).unwrap();
    let entries = everything(&running.journal, Seq(0));
    let gap = (Seq::new(1, 0).0, Seq::new(1, 9).0, GapCause::Lost);
    assert_eq!(gaps(&entries), [gap]);
    assert_eq!(stamps(&entries).len(), 10);

    // Put back, and once more in the place of the other one: a generation in disorder is damaged.
    let first = blocks[0].value.to_vec();
    database.commit(&RealDisk, &[(0, first.clone()), (10, first)]).unwrap();
    let told = running.journal.peek(Seq(0), 100).map(|page| stamps(&page.entries));
    assert!(matches!(told, Err(ReadError::Damaged { generation: 1 })), "{told:?}");
    drop(database);
    running.stop().await;
}

#[tokio::test]
async fn summaries_are_sealed_as_the_readings_were_and_nothing_is_thinned_without_the_key() {
    let rig = keyed(1 << 24);
    let running = rig.start();
    for round in 0..100 {
        running.store("strap-of-anna", round * 1000..(round + 1) * 1000).await;
    }
    running.stop().await;
    let path = rig.key_file.clone().unwrap();
    let old = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();

    let running = rig.start();
    while let Thinning::Spared { .. } = running.journal.thin_one().unwrap() {}
    assert!(running.journal.generations().iter().all(|generation| generation.window_s.is_none()));
    running.stop().await;

    let new = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{old}{new}")).unwrap();
    let running = rig.start();
    let key = running.journal.status().encryption.key;
    let Thinning::Done(done) = running.journal.thin_one().unwrap() else { panic!("not thinned") };
    assert_eq!(done.generation, 1);
    assert_eq!(running.journal.generations()[0].sealed.map(|sealed| sealed.key), key);
    let entries = everything(&running.journal, Seq(0));
    let summed = entries.iter().filter_map(|entry| match entry {
        Entry::Summary { device, summary, .. } if &**device == "strap-of-anna" => Some(u64::from(summary.n)),
        _ => None,
    });
    assert_eq!(summed.sum::<u64>(), done.readings);
    let directory = rig.dir.path().join("spool/raw");
    assert!(!files_below(&directory).iter().any(|file| file.windows(8).any(|bytes| bytes == b"strap-of")));
    running.stop().await;
}
