//! The journal against a model that fits on a page: what was acknowledged, under which number, and how far each uplink
//! has come. Random sequences of appends, crashes, restarts, failing disks, keys that change, a quota that
//! drops, and uplinks that begin and confirm; after each restart and at the end the journal is read and compared. A counterexample is shrunk by proptest
//! and printed as the sequence of operations. `FOGBEAT_MODEL_CASES` sequences (8).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Weak;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;

/// A generation is ended as soon as its size is looked at.
const GENERATION: u64 = 1;
const UPLINKS: [&str; 2] = ["a", "b"];

#[derive(Debug, Clone)]
enum Op {
    /// New readings of one device; waits for the proof, or leaves them in the open group.
    Append {
        device: u8,
        count: u8,
        wait: bool,
    },
    /// Readings that are stored already, sent once more.
    SendAgain {
        which: u8,
        count: u8,
    },
    Crash,
    Restart,
    /// The next few calls of one kind fail.
    Fail {
        call: Call,
        times: u8,
    },
    /// Another key from now on.
    Rotate,
    /// An uplink fixes the bounds of a batch of about so many entries.
    Begin {
        uplink: bool,
        size: u8,
    },
    /// The other side confirms one of its batches.
    Confirm {
        uplink: bool,
        which: u8,
    },
    KeepHouse,
    /// The quota takes the oldest generation.
    Evict,
    Read,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    SyncData,
    SyncPath,
    Replace,
}

fn op() -> impl Strategy<Value = Op> {
    let call = prop_oneof![Just(Call::SyncData), Just(Call::SyncPath), Just(Call::Replace)];
    prop_oneof![
        8 => (0..4u8, 1..60u8, any::<bool>()).prop_map(|(device, count, wait)| Op::Append { device, count, wait }),
        3 => (any::<u8>(), 1..20u8).prop_map(|(which, count)| Op::SendAgain { which, count }),
        2 => Just(Op::Crash),
        2 => Just(Op::Restart),
        1 => (call, 1..3u8).prop_map(|(call, times)| Op::Fail { call, times }),
        1 => Just(Op::Rotate),
        5 => (any::<bool>(), 1..100u8).prop_map(|(uplink, size)| Op::Begin { uplink, size }),
        5 => (any::<bool>(), any::<u8>()).prop_map(|(uplink, which)| Op::Confirm { uplink, which }),
        3 => Just(Op::KeepHouse),
        1 => Just(Op::Evict),
        1 => Just(Op::Read),
    ]
}

/// Fails what it is told to, each call as often as told.
#[derive(Default)]
struct Flaky {
    failures: [AtomicU32; 3],
}

impl Flaky {
    fn fails(&self, call: Call) -> std::io::Result<()> {
        let left = &self.failures[call as usize];
        match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Ok(_) => Err(std::io::Error::other("refused by the test")),
            Err(_) => Ok(()),
        }
    }

    fn mend(&self) {
        self.failures.iter().for_each(|left| left.store(0, Ordering::SeqCst));
    }
}

impl Disk for Flaky {
    fn sync_data(&self, file: &std::fs::File) -> std::io::Result<()> {
        self.fails(Call::SyncData)?;
        RealDisk.sync_data(file)
    }
    fn sync_path(&self, path: &Path) -> std::io::Result<()> {
        self.fails(Call::SyncPath)?;
        RealDisk.sync_path(path)
    }
    fn replace(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        self.fails(Call::Replace)?;
        RealDisk.replace(path, bytes)
    }
}

/// A reading by device and stamp; the rest of it follows from these.
type Sent = (u8, i64);

/// What an uplink is known to hold.
struct Place {
    cursor: Seq,
    open: Vec<Bounds>,
    confirmed: Vec<Bounds>,
}

#[derive(Default)]
struct Model {
    next_stamp: i64,
    /// Proven durable.
    acknowledged: HashSet<Sent>,
    /// Handed in, and not proven: it may be there or not.
    open: HashSet<Sent>,
    /// Every number that was ever seen, and its reading.
    numbers: HashMap<Seq, Sent>,
    places: BTreeMap<&'static str, Place>,
    /// Generations that were dropped at the quota.
    evicted: HashSet<u32>,
}

impl Model {
    /// Every uplink has it, or it was dropped at the quota.
    fn is_settled(&self, seq: Seq) -> bool {
        self.evicted.contains(&seq.generation()) || self.is_confirmed(seq)
    }

    fn is_confirmed(&self, seq: Seq) -> bool {
        self.places.values().all(|place| place.confirmed.iter().any(|b| b.from <= seq && seq < b.to))
    }
}

struct World {
    rig: Rig,
    flaky: Arc<Flaky>,
    running: Option<Running>,
    model: Model,
    /// Tickets of what is in `Model::open`.
    tickets: Vec<(Ticket, Sent)>,
}

fn reading((device, stamp): Sent, id: u32) -> Reading {
    let mut reading = reading_at(id, stamp, 40 + u16::from(device) + (stamp % 150) as u16);
    reading.rr.values = [stamp as u32 % 2000, u32::from(device)].into_iter().collect();
    reading
}

impl World {
    fn new() -> Self {
        let flaky = Arc::new(Flaky::default());
        let mut rig = Rig { disk: Arc::clone(&flaky) as Arc<dyn Disk>, ..Rig::new(GENERATION) };
        // What every uplink has passed goes at the next housekeeping.
        rig.dedupe_window = Duration::ZERO;
        rig.key_file = Some(rig.dir.path().join("keys"));
        let mut world = Self { rig, flaky, running: None, model: Model::default(), tickets: Vec::new() };
        world.start();
        world
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn start(&mut self) {
        // Faults of the start are those of the operator's disk: here only what runs meets them.
        self.flaky.mend();
        self.running = Some(self.rig.start());
        for name in UPLINKS {
            let cursor = self.running().journal.uplink(name, StartAt::Oldest).unwrap();
            let new = || Place { cursor: cursor.cursor(), open: Vec::new(), confirmed: Vec::new() };
            let place = self.model.places.entry(name).or_insert_with(new);
            // A confirmation that was not written is forgotten: its batch is under way once more, never a later one.
            assert!(cursor.cursor() <= place.cursor.max(cursor_of(place)), "{name} has run ahead");
            for bounds in cursor.open() {
                let known = place.open.contains(&bounds) || place.confirmed.contains(&bounds);
                assert!(known, "{name}: {bounds:?} was never begun");
            }
            for bounds in &place.open {
                assert!(cursor.open().contains(bounds), "{name}: {bounds:?} was begun and is forgotten");
            }
            place.open = cursor.open();
            place.cursor = cursor.cursor();
        }
        self.compare();
    }

    async fn apply(&mut self, op: &Op) {
        match op {
            Op::Append { device, count, wait } => {
                let sent: Vec<Sent> =
                    (0..i64::from(*count)).map(|n| (*device, self.model.next_stamp + n)).collect();
                self.model.next_stamp += i64::from(*count);
                let appended = self.append(&sent).await;
                assert!(appended.iter().all(|appended| !appended.duplicate), "new, and taken for a copy");
                self.tickets
                    .extend(appended.iter().map(|appended| appended.ticket).zip(sent.iter().copied()));
                self.model.open.extend(sent);
                if *wait {
                    self.wait().await;
                }
            }
            Op::SendAgain { which, count } => {
                // Only what no housekeeping can have removed meanwhile.
                let mut stored: Vec<Sent> = self.stored().into_values().collect();
                stored.sort_unstable();
                if stored.is_empty() {
                    return;
                }
                let from = usize::from(*which) % stored.len();
                let again: Vec<Sent> = stored.into_iter().skip(from).take(usize::from(*count)).collect();
                let appended = self.append(&again).await;
                assert!(appended.iter().all(|appended| appended.duplicate), "stored, and not recognised");
            }
            Op::Crash => self.crash().await,
            Op::Restart => {
                self.flaky.mend();
                self.wait().await;
                self.running.take().unwrap().stop().await;
                self.start();
            }
            Op::Fail { call, times } => {
                self.flaky.failures[*call as usize].store(u32::from(*times), Ordering::SeqCst);
            }
            Op::Rotate => {
                add_key(self.rig.key_file.as_deref().unwrap()).unwrap();
                let settings =
                    config::Journal { key_file: self.rig.key_file.clone(), ..settings(GENERATION) };
                self.running().journal.reload_keys(&settings).unwrap();
            }
            Op::Begin { uplink, size } => self.begin(UPLINKS[usize::from(*uplink)], usize::from(*size)),
            Op::Confirm { uplink, which } => self.confirm(UPLINKS[usize::from(*uplink)], *which),
            Op::KeepHouse => {
                // So that every number is known of what goes.
                self.compare();
                self.running().journal.keep_house();
            }
            Op::Evict => self.evict(),
            Op::Read => self.compare(),
        }
    }

    async fn append(&self, sent: &[Sent]) -> Vec<Appended> {
        let journal = &self.running().journal;
        let number = |device: u8| journal.devices().intern(&format!("device-{device}")).unwrap().0;
        let mut readings = sent.iter().map(|sent| reading(*sent, number(sent.0))).collect();
        let mut out = Vec::new();
        journal.append(&mut readings, &mut out).await;
        assert_eq!(out.len(), sent.len());
        out
    }

    /// Waits for every proof that is outstanding.
    async fn wait(&mut self) {
        for (ticket, sent) in std::mem::take(&mut self.tickets) {
            let waiting = tokio::time::timeout(Duration::from_secs(30), self.running().journal.wait(ticket));
            waiting.await.expect("a proof within 30 s");
            self.model.open.remove(&sent);
            self.model.acknowledged.insert(sent);
        }
    }

    /// No farewell; what was proven until now counts.
    async fn crash(&mut self) {
        let running = self.running.take().unwrap();
        for (ticket, sent) in std::mem::take(&mut self.tickets) {
            if running.journal.durable(ticket).is_some() {
                self.model.open.remove(&sent);
                self.model.acknowledged.insert(sent);
            }
        }
        // A thread of a dead process would be dead: here its last attempt is waited for, on a disk that works.
        self.flaky.mend();
        let inner: Weak<Inner> = Arc::downgrade(&running.journal.inner);
        running.crash().await;
        while inner.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.start();
    }

    fn evict(&mut self) {
        // So that every number in it is known.
        self.compare();
        let journal = &self.running().journal;
        let spool = &journal.inner.spool;
        let Some(number) = spool.sealed().first().copied() else { return };
        let Ok(Some(evicted)) = spool.evict(number, GapCause::Evicted, &journal.uplinks()) else { return };
        let inside =
            |bounds: &Bounds| bounds.from < Seq::new(number + 1, 0) && bounds.to > Seq::new(number, 0);
        let held = self.model.places.values().any(|place| place.open.iter().any(inside));
        assert!(!held, "generation {number} was dropped from under a batch");
        self.model.evicted.insert(evicted.generation);
    }

    fn begin(&mut self, name: &'static str, size: usize) {
        let journal = &self.running.as_ref().unwrap().journal;
        let cursor = journal.uplink(name, StartAt::Oldest).unwrap();
        let place = self.model.places.get_mut(name).unwrap();
        let from = cursor_of(place).max(cursor.cursor());
        let Ok(page) = journal.read_for(&cursor, from, size) else { return };
        if page.next == from {
            return;
        }
        let bounds = Bounds { from, to: page.next, fixed_ms: 1, clock: 0, guessed: false };
        // A batch that could not be written down is not sent.
        if cursor.begin(bounds).is_ok() {
            place.open.push(bounds);
        }
    }

    fn confirm(&mut self, name: &'static str, which: u8) {
        let journal = &self.running.as_ref().unwrap().journal;
        let cursor = journal.uplink(name, StartAt::Oldest).unwrap();
        let place = self.model.places.get_mut(name).unwrap();
        if place.open.is_empty() {
            return;
        }
        let bounds = place.open.remove(usize::from(which) % place.open.len());
        // An error says that the confirmation is not written yet; it counts.
        let _ = cursor.confirm(bounds, Tally::default());
        place.confirmed.push(bounds);
        assert_eq!(cursor.open(), place.open);
        assert!(cursor.cursor() >= place.cursor, "a cursor has gone back");
        place.cursor = cursor.cursor();
        assert!(place.open.iter().all(|open| open.from >= place.cursor), "past an open batch");
    }

    /// Everything that can be read, by number; checked against the model.
    fn stored(&mut self) -> BTreeMap<Seq, Sent> {
        let mut stored = BTreeMap::new();
        let mut accounted: BTreeMap<u32, u32> = BTreeMap::new();
        let mut from = Seq(0);
        loop {
            // A disk that fails now works the next time.
            let Ok(page) = self.running().journal.peek(from, 50) else {
                self.flaky.mend();
                continue;
            };
            if page.entries.is_empty() {
                break;
            }
            for entry in page.entries {
                match entry {
                    Entry::Reading { seq, device, reading: found } => {
                        let Some(DeviceTime::Accepted(stamp)) = found.device_time else { panic!("a stamp") };
                        let device: u8 = device.strip_prefix("device-").unwrap().parse().unwrap();
                        assert_eq!(found, reading((device, stamp), found.device.0), "altered");
                        assert_eq!(stored.insert(seq, (device, stamp)), None, "{seq} twice");
                        let n = accounted.entry(seq.generation()).or_default();
                        assert_eq!(*n, seq.n(), "a number is not accounted for");
                        *n += 1;
                    }
                    Entry::End { generation, count } => {
                        assert_eq!(accounted.get(&generation).copied().unwrap_or(0), count);
                    }
                    Entry::Gap { first, last, cause: GapCause::Evicted, .. } => {
                        assert!(self.model.evicted.contains(&first.generation()), "{first} was not dropped");
                        let n = accounted.entry(first.generation()).or_default();
                        assert_eq!(*n, first.n(), "a number is not accounted for");
                        *n = last.n() + 1;
                    }
                    other => panic!("nothing was lost, and yet {other:?}"),
                }
            }
            from = page.next;
        }
        stored
    }

    fn compare(&mut self) {
        let stored = self.stored();
        let mut found = HashSet::new();
        for (seq, sent) in &stored {
            assert!(found.insert(*sent), "{sent:?} is stored twice");
            assert!(!self.model.evicted.contains(&seq.generation()), "{seq} was dropped and is there");
            let known = self.model.acknowledged.contains(sent) || self.model.open.contains(sent);
            assert!(known, "{sent:?} was never handed in");
            assert_eq!(*self.model.numbers.entry(*seq).or_insert(*sent), *sent, "{seq} has two readings");
        }
        let number: HashMap<Sent, Seq> = self.model.numbers.iter().map(|(seq, sent)| (*sent, *seq)).collect();
        for sent in &self.model.acknowledged {
            if found.contains(sent) {
                continue;
            }
            let seq = number.get(sent).unwrap_or_else(|| panic!("{sent:?} was acknowledged and never found"));
            assert!(self.model.is_settled(*seq), "{sent:?} at {seq} was acknowledged and is gone");
        }
        for (name, place) in &self.model.places {
            // What this uplink has not got is at or behind its cursor.
            for (sent, seq) in &number {
                let got = place.confirmed.iter().any(|b| b.from <= *seq && *seq < b.to);
                let there = *seq >= place.cursor && found.contains(sent);
                let dropped = self.model.evicted.contains(&seq.generation());
                assert!(got || there || dropped, "{name} will never get {sent:?} at {seq}");
            }
        }
    }
}

/// Where the next batch of an uplink begins.
fn cursor_of(place: &Place) -> Seq {
    let ends = place.open.iter().chain(&place.confirmed).map(|bounds| bounds.to);
    ends.max().unwrap_or(Seq(0)).max(place.cursor)
}

fn run(ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new();
        for op in ops {
            world.apply(op).await;
        }
        world.flaky.mend();
        world.wait().await;
        world.compare();
        world.crash().await;
        // Everything outstanding is delivered to everybody in the end.
        for name in UPLINKS {
            while !world.model.places[name].open.is_empty() {
                world.confirm(name, 0);
            }
            loop {
                let before = cursor_of(&world.model.places[name]);
                world.begin(name, 100);
                if cursor_of(&world.model.places[name]) == before {
                    break;
                }
                world.confirm(name, 0);
            }
        }
        let model = &world.model;
        let number: HashMap<Sent, Seq> = model.numbers.iter().map(|(seq, sent)| (*sent, *seq)).collect();
        for sent in &model.acknowledged {
            assert!(model.is_settled(number[sent]), "{sent:?} was not delivered to everybody");
        }
        world.running.take().unwrap().stop().await;
    });
}

fn cases() -> u32 {
    std::env::var("FOGBEAT_MODEL_CASES").map_or(8, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_journal_does_what_the_model_does(ops in prop::collection::vec(op(), 1..40)) {
        run(&ops);
    }
}
