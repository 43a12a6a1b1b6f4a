//! The accounts: sums that hold at every moment, across restarts, and when generations go.

use super::*;
use crate::journal::proof::Readable;
use crate::journal::tally::Tally;

/// Confirms `count` readings from where the cursor stands.
fn deliver(cursor: &UplinkCursor, to: Seq, count: u64) {
    let bounds = Bounds { from: cursor.cursor(), to, fixed_ms: 0, clock: 0, guessed: false };
    cursor.begin(bounds).unwrap();
    cursor.confirm(bounds, Tally { delivered: count, ..Tally::default() }).unwrap();
}

fn require(journal: &Journal) {
    assert!(journal.accounts().add_up(), "{:?}", journal.accounts());
    for uplink in journal.uplinks() {
        let account = journal.account(&uplink);
        assert!(account.adds_up, "{account:?}");
    }
    let mut readable = Readable::new();
    let facts = journal.facts();
    for given in &facts.generations {
        if let Some(mut known) = journal.generations().into_iter().find(|g| g.generation == given.generation)
            && matches!(known.state, GenerationState::Open | GenerationState::Sealed)
        {
            known.readings = given.record.count;
            readable.insert(given.generation, journal.verify(&known).unwrap().found);
        }
    }
    for proof in facts.prove(&readable) {
        assert!(proof.adds_up, "{proof:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn received_is_refused_duplicate_durable_and_unacknowledged_at_every_moment() {
    let disk = Arc::new(FailingDisk { failures: 3.into() });
    let rig = Rig { disk: Arc::clone(&disk) as Arc<dyn Disk>, ..Rig::new(1 << 24) };
    disk.failures.store(0, Ordering::SeqCst);
    let running = rig.start();
    let ids = ["a", "b", "c"].map(|name| running.journal.devices().intern(name).unwrap());
    let mut sources = tokio::task::JoinSet::new();
    for source in 0..4u32 {
        let journal = running.journal.clone();
        sources.spawn(async move {
            let mut out = Vec::new();
            for round in 0..100i64 {
                // Every reading is sent by two sources; which of the two comes first is chance.
                let stamps = (0..20).map(|n| i64::from(source / 2) * 1_000_000 + round * 20 + n);
                let mut group: Vec<_> =
                    stamps.map(|stamp| reading_at(ids[(stamp % 3) as usize].0, stamp, 70)).collect();
                journal.append(&mut group, &mut out).await;
                journal.refuse(&[(Some(ids[0]), 1), (None, 2)]);
                if round % 10 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            journal.wait(out.iter().map(|appended| appended.ticket).max().unwrap()).await;
        });
    }
    let (mut looks, mut waiting) = (0, 0);
    while !sources.is_empty() {
        let accounts = running.journal.accounts();
        assert!(accounts.add_up(), "{accounts:?}");
        looks += 1;
        waiting += u64::from(accounts.total.unacknowledged > 0);
        if looks == 5 {
            disk.failures.store(2, Ordering::SeqCst);
        }
        tokio::select! {
            Some(joined) = sources.join_next() => joined.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    assert!(waiting > 0, "the test never saw a reading on its way ({looks} looks)");
    let end = running.journal.accounts();
    let total =
        Account { received: 9_200, refused: 1_200, duplicate: 4_000, durable: 4_000, unacknowledged: 0 };
    assert_eq!(end.total, total);
    assert_eq!(end.unattributed.refused, 800);
    assert_eq!(end.devices["a"].refused, 400);
    assert_eq!(running.journal.metrics().readings.get(), 4_000);
    running.stop().await;
}

#[tokio::test]
async fn a_batch_that_is_sent_again_after_a_crash_counts_once() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..100).await;
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    let batch = Bounds { from: cursor.cursor(), to: Seq::new(1, 60), fixed_ms: 5, clock: 0, guessed: false };
    let tally = Tally { delivered: 60, ..Tally::default() };
    cursor.begin(batch).unwrap();
    // Confirmed, and the confirmation not yet written: it is due only with the next bounds or after some seconds.
    cursor.confirm(batch, tally.clone()).unwrap();
    assert_eq!(running.journal.account(&cursor).delivered, 60);
    require(&running.journal);
    running.crash().await;

    let running = rig.start();
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    let before = running.journal.account(&cursor);
    assert!(before.adds_up && before.delivered == 0 && before.queued == 100, "{before:?}");
    assert_eq!(cursor.open(), vec![batch], "the same batch again");
    cursor.confirm(batch, tally.clone()).unwrap();
    // Asked once more, as when the file could not be written the first time.
    cursor.confirm(batch, tally).unwrap();
    cursor.sync().unwrap();
    require(&running.journal);
    running.crash().await;

    let running = rig.start();
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    let after = running.journal.account(&cursor);
    assert!(after.adds_up, "{after:?}");
    assert_eq!((after.durable, after.delivered, after.queued), (100, 60, 40));
    running.stop().await;
}

#[tokio::test]
async fn the_account_lasts_longer_than_the_generations_it_speaks_of() {
    let rig = Rig::new(300_000);
    let running = rig.start();
    let early = running.journal.uplink("early", StartAt::Oldest).unwrap();
    for round in 0..200i64 {
        running.store("bike-1", round * 100..(round + 1) * 100).await;
    }
    let late = running.journal.uplink("late", StartAt::Now).unwrap();
    for round in 200..400i64 {
        running.store("bike-1", round * 100..(round + 1) * 100).await;
    }
    require(&running.journal);
    let head = *running.journal.watch_watermark().borrow();
    deliver(&early, head, 40_000);
    deliver(&late, head, 20_000);
    let generations = running.journal.generations().len();
    running.journal.keep_house();
    assert!(running.journal.generations().len() < generations, "nothing was removed");
    require(&running.journal);
    running.crash().await;

    let running = rig.start();
    running.store("bike-1", 40_000..40_010).await;
    require(&running.journal);
    let account = |name| running.journal.account(&running.journal.uplink(name, StartAt::Oldest).unwrap());
    let (early, late) = (account("early"), account("late"));
    assert_eq!((early.durable, early.delivered, early.queued), (40_010, 40_000, 10));
    assert_eq!((late.durable, late.delivered, late.queued), (20_010, 20_000, 10));
    running.stop().await;
}

#[tokio::test]
async fn a_manifest_made_anew_begins_the_account_anew_and_says_so() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..100).await;
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    deliver(&cursor, Seq::new(1, 40), 40);
    cursor.sync().unwrap();
    running.crash().await;
    for file in ["spool/manifest.json", "spool/manifest.copy"] {
        std::fs::remove_file(rig.dir.path().join(file)).unwrap();
    }

    let running = rig.start();
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    let account = running.journal.account(&cursor);
    assert!(account.adds_up, "{account:?}");
    assert_eq!((account.durable, account.queued, account.delivered_earlier), (60, 60, 40));
    require(&running.journal);
    running.stop().await;
}

#[tokio::test]
async fn what_is_lost_ahead_of_the_cursor_is_in_the_sum() {
    let rig = Rig::new(1 << 24);
    let running = rig.start();
    running.store("bike-1", 0..100).await;
    running.journal.uplink("a", StartAt::Oldest).unwrap();
    running.stop().await;
    std::fs::write(rig.dir.path().join("spool/raw/gen-1/conf"), b"nonsense").unwrap();
    std::fs::write(rig.dir.path().join("spool/raw/gen-1/db"), b"nonsense").unwrap();

    let running = rig.start();
    // Somebody reads, and the generation is found to be gone.
    while running.journal.read(Seq::new(1, 0), 10).is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let account = running.journal.account(&running.journal.uplink("a", StartAt::Oldest).unwrap());
    assert!(account.adds_up, "{account:?}");
    let sum = account.queued + account.missing.values().sum::<u64>();
    assert_eq!((account.durable, sum), (100, 100));
    require(&running.journal);
    running.stop().await;
}

#[tokio::test]
async fn what_gave_way_to_summaries_is_in_the_sum_wherever_the_cursor_stands() {
    let rig = Rig::new(1_000_000);
    let running = rig.start();
    let cursor = running.journal.uplink("a", StartAt::Oldest).unwrap();
    for round in 0..160i64 {
        running.store("bike-1", round * 1000..(round + 1) * 1000).await;
    }
    let thinned = running.journal.thin_one().unwrap();
    assert!(matches!(thinned, Thinning::Done(_)), "{thinned:?}");
    let account = running.journal.account(&cursor);
    let thinned = account.missing[&GapCause::Thinned];
    assert!(account.adds_up && thinned > 0, "{account:?}");
    assert_eq!(account.devices["bike-1"][&GapCause::Thinned], thinned);
    require(&running.journal);
    // Among the summaries, then behind them.
    let first = cursor.cursor().generation();
    let batch =
        Bounds { from: cursor.cursor(), to: Seq::new(first, 1), fixed_ms: 0, clock: 0, guessed: false };
    cursor.begin(batch).unwrap();
    cursor.confirm(batch, Tally::default()).unwrap();
    require(&running.journal);
    let rest = Bounds { from: batch.to, to: Seq::new(first + 1, 0), fixed_ms: 0, clock: 0, guessed: false };
    cursor.begin(rest).unwrap();
    cursor.confirm(rest, Tally { delivered: 0, told: [(GapCause::Thinned, thinned)].into() }).unwrap();
    require(&running.journal);
    assert_eq!(running.journal.account(&cursor).missing[&GapCause::Thinned], thinned);
    running.stop().await;
}

/// Whoever evicts or thins asks for the uplinks' places while it holds the generations; an account asks for both too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_for_accounts_never_stands_in_the_way_of_making_room() {
    let rig = Rig::new(300_000);
    let running = rig.start();
    for round in 0..40i64 {
        running.store("bike-1", round * 100..(round + 1) * 100).await;
    }
    running.journal.uplink("a", StartAt::Oldest).unwrap();
    let (done, waits) = std::sync::mpsc::channel();
    for thread in 0..2 {
        let (journal, done) = (running.journal.clone(), done.clone());
        std::thread::spawn(move || {
            let since = Instant::now();
            while since.elapsed() < Duration::from_millis(500) {
                if thread == 0 {
                    journal.uplinks().iter().for_each(|uplink| assert!(journal.account(uplink).adds_up));
                } else {
                    // Nobody is inside any of them: each is looked at, under the lock of all.
                    let _ = journal.thin_one();
                    journal.keep_house();
                }
            }
            done.send(()).unwrap();
        });
    }
    for _ in 0..2 {
        waits.recv_timeout(Duration::from_secs(20)).expect("both come to their end");
    }
    running.stop().await;
}
