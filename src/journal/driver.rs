//! Closes the open group when the [`policy`](super::policy) says so, and has the house kept beside that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::commit::Order;
use super::policy::{Decision, Policy};
use super::{Inner, Journal, Ticket};

/// How often delivered generations are looked for and cursors written.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// The same while the disk is in trouble: its return is noticed within this time.
const TROUBLED: Duration = Duration::from_secs(1);
/// Least time between two rounds, however often the committer asks.
const HOUSE_PAUSE: Duration = Duration::from_millis(200);
/// How often a generation that could not be salvaged is tried again.
const SALVAGE_RETRY: Duration = Duration::from_secs(10);
/// Turns of the runtime between noticing a group and closing it, so that every ready socket is read into it first.
const GATHERING_TURNS: usize = 3;

/// Closes groups when they are due; awaited by whoever owns the journal.
pub struct Driver {
    pub(super) inner: Arc<Inner>,
    pub(super) policy: Policy,
    pub(super) orders: SyncSender<Order>,
    pub(super) thread: std::thread::JoinHandle<()>,
}

impl Driver {
    /// Runs until [`Journal::close`] is carried out.
    pub async fn run(mut self) {
        // A set, because it ends its task when it is dropped: a driver that is cut off leaves nothing behind.
        let mut housekeeping = tokio::task::JoinSet::new();
        housekeeping.spawn(keep_house(Journal { inner: Arc::clone(&self.inner) }));
        housekeeping.spawn(attend(Journal { inner: Arc::clone(&self.inner) }));
        let closing = self.inner.close.subscribe();
        loop {
            if *closing.borrow() && self.inner.intake.group().count == 0 {
                break;
            }
            if let Some(number) = self.inner.spool.take_damaged_head()
                && !self.order(Order::Leave(number)).await
            {
                break;
            }
            if let Some(roll) = self.inner.rolls.due() {
                let rolled = self.order(Order::Roll).await;
                self.inner.rolls.done(roll);
                if !rolled {
                    break;
                }
            }
            let decision = self.policy.decide(self.inner.intake.group(), Instant::now());
            match decision {
                Decision::Rest => self.inner.intake.changed.notified().await,
                Decision::Until(at) => {
                    tokio::select! {
                        () = self.inner.intake.changed.notified() => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
                Decision::Close => {
                    if self.policy.interval().is_zero() {
                        for _ in 0..GATHERING_TURNS {
                            tokio::task::yield_now().await;
                        }
                    }
                    if !self.order(Order::Commit).await {
                        break;
                    }
                }
            }
        }
        self.order(Order::Seal).await;
        housekeeping.shutdown().await;
        let inner = Arc::clone(&self.inner);
        let _ = tokio::task::spawn_blocking(move || Journal { inner }.keep_house()).await;
        drop(self.orders);
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
        drop(closing);
    }

    /// Has an order carried out and tells everybody; `false` when the committer is gone.
    async fn order(&self, order: Order) -> bool {
        if self.orders.try_send(order).is_err() {
            return false;
        }
        self.inner.committed.notified().await;
        self.inner.told.tell(Ticket(self.inner.durable.load(Ordering::Acquire)));
        true
    }
}

async fn keep_house(journal: Journal) {
    let mut every = tokio::time::interval(HOUSEKEEPING);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let troubled = journal.inner.keeper.admission().borrow().trouble().is_some();
        tokio::select! {
            _ = every.tick() => {}
            () = journal.inner.keeper.wake.notified() => {}
            () = tokio::time::sleep(TROUBLED), if troubled => {}
        }
        let journal = journal.clone();
        if tokio::task::spawn_blocking(move || journal.keep_house()).await.is_err() {
            tracing::error!("housekeeping of the journal panicked");
        }
        tokio::time::sleep(HOUSE_PAUSE).await;
    }
}

/// Salvages what is found damaged, one generation at a time.
async fn attend(journal: Journal) {
    loop {
        let journal_there = journal.clone();
        // Cut off with the journal, it is begun anew at the next start; the child ends with us.
        if tokio::task::spawn_blocking(move || journal_there.salvage_all()).await.is_err() {
            tracing::error!("the salvage of a generation panicked");
        }
        let _ = tokio::time::timeout(SALVAGE_RETRY, journal.inner.repair.notified()).await;
    }
}
