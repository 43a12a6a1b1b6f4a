//! Tells sources that a group has become durable.
//!
//! Each commit would otherwise wake every source, those too whose readings are in the next group: with hundreds of
//! connections most of them for nothing. Groups are committed one by one, and a source waits for the one under way or
//! for the open one, so that two channels taken in turn reach just those who wait.

use tokio::sync::watch;

use super::types::Ticket;

const TURNS: usize = 2;

/// The telling side.
pub(super) struct Told([watch::Sender<Ticket>; TURNS]);

/// Hears of groups that have become durable.
pub struct DurableWatch([watch::Receiver<Ticket>; TURNS]);

impl Told {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| watch::Sender::new(Ticket(0))))
    }

    pub(super) fn tell(&self, ticket: Ticket) {
        let [even, odd] = &self.0;
        let channel = if ticket.0.is_multiple_of(2) { even } else { odd };
        channel.send_replace(ticket);
    }

    pub(super) fn watch(&self) -> DurableWatch {
        DurableWatch(std::array::from_fn(|turn| {
            let [even, odd] = &self.0;
            if turn == 0 { even.subscribe() } else { odd.subscribe() }
        }))
    }
}

impl DurableWatch {
    /// What was told up to now does not count. To miss nothing: this first, then the look at what is durable, then
    /// [`DurableWatch::changed`].
    pub fn mark_seen(&mut self) {
        for channel in &mut self.0 {
            channel.borrow_and_update();
        }
    }

    /// Waits until the ticket's group may have become durable; without a ticket, until any has. May return early: look,
    /// and wait again. Loses nothing when it is dropped.
    pub async fn changed(&mut self, ticket: Option<Ticket>) {
        let [even, odd] = &mut self.0;
        let told = match ticket {
            Some(ticket) if ticket.0.is_multiple_of(2) => even.changed().await,
            Some(_) => odd.changed().await,
            None => tokio::select! {
                told = even.changed() => told,
                told = odd.changed() => told,
            },
        };
        if told.is_err() {
            // The journal is gone; whoever waits holds a handle on it, so this is never seen.
            std::future::pending::<()>().await;
        }
    }
}
