//! Sessions: what a client's connection leaves to the next one, and whose turn it is.
//!
//! Promises: at most one connection has a session at a time. A new connection with the same client id asks the old
//! one to go and gets the session from its hands, so that what the old one still does cannot disturb the new one.
//! Sessions live in memory: after a restart none is present. A client id belongs to a user: another user with the
//! same client id has a session of its own.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::ack::Reason;
use super::delivery::Subscriber;
use crate::config;
use crate::journal::Ticket;
use crate::relayed::Kept;

/// Orders that may wait for one connection: a takeover, a removal, and room for a second takeover.
pub(crate) const ORDERS: usize = 4;

/// What an acknowledgement waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    Stored(Ticket),
    /// A batch of another gateway that is on disk.
    Kept(Kept),
    Refused(Reason),
    /// It is not acknowledged on this connection: who sent it keeps it.
    Never,
}

/// The state that outlives a connection.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// QoS 2 packet ids that wait for their PUBREL, with what their PUBREC said or will say.
    pub awaiting_release: HashMap<u16, Wait>,
    pub subscriber: Subscriber,
}

impl Session {
    /// Bytes of its tables.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>()
            + self.awaiting_release.capacity() * size_of::<(u16, Wait)>()
            + self.subscriber.weight()
    }
}

/// What a connection is told from outside.
#[derive(Debug)]
pub(crate) enum Order {
    /// Its client has connected anew: hand the session over and close.
    Yield(oneshot::Sender<Session>),
    /// Its user was removed or changed.
    Revoked,
}

/// Who a session belongs to: user and client id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub user: Option<String>,
    pub client_id: String,
}

#[derive(Debug)]
enum Slot {
    Live { connection: u64, orders: mpsc::Sender<Order> },
    Parked { session: Box<Session>, bytes: usize, until: Option<Instant>, since: Instant },
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct Registry {
    slots: Mutex<HashMap<Owner, Slot>>,
    /// Most sessions without a connection; beyond it, or beyond [`config::SESSIONS`] bytes of them, the one that
    /// waited longest goes.
    parked: usize,
}

/// What a new connection finds.
#[derive(Debug)]
pub(crate) enum Found {
    Nothing,
    Session(Box<Session>),
    /// Another connection has it and was told to hand it over.
    Elsewhere(oneshot::Receiver<Session>),
}

impl Registry {
    pub(crate) fn new(parked: usize) -> Self {
        Self { slots: Mutex::default(), parked }
    }

    /// Makes `connection` the one that has `owner`'s session.
    pub(crate) fn claim(&self, owner: &Owner, connection: u64, orders: mpsc::Sender<Order>) -> Found {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.insert(owner.clone(), Slot::Live { connection, orders }) {
            None => Found::Nothing,
            Some(Slot::Parked { until, .. }) if until.is_some_and(|until| until <= Instant::now()) => {
                Found::Nothing
            }
            Some(Slot::Parked { session, .. }) => Found::Session(session),
            Some(Slot::Live { orders, .. }) => {
                let (give, take) = oneshot::channel();
                // Under the lock: the old connection finds either its slot untouched or this order.
                match orders.try_send(Order::Yield(give)) {
                    Ok(()) => Found::Elsewhere(take),
                    Err(_) => Found::Nothing,
                }
            }
        }
    }

    /// `connection` is over; its session is kept for `keep` (`None`: as long as there is room). Gives the session
    /// back if another connection has claimed it meanwhile.
    pub(crate) fn leave(
        &self,
        owner: &Owner,
        connection: u64,
        session: Session,
        keep: Option<Duration>,
    ) -> Result<(), Box<Session>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.get(owner) {
            Some(Slot::Live { connection: now, .. }) if *now == connection => {}
            _ => return Err(Box::new(session)),
        }
        if keep == Some(Duration::ZERO) {
            slots.remove(owner);
            return Ok(());
        }
        let since = Instant::now();
        let until = keep.and_then(|keep| since.checked_add(keep));
        let bytes = session.weight() + owner.client_id.len();
        slots.insert(owner.clone(), Slot::Parked { session: Box::new(session), bytes, until, since });
        self.evict(&mut slots);
        Ok(())
    }

    /// Forgets sessions whose time is over.
    pub(crate) fn expire(&self, now: Instant) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| !matches!(slot, Slot::Parked { until: Some(until), .. } if *until <= now));
    }

    /// Tells every connection of a user that `revoked` names.
    pub(crate) fn revoke(&self, revoked: impl Fn(&str) -> bool) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|owner, slot| {
            if !owner.user.as_deref().is_some_and(&revoked) {
                return true;
            }
            match slot {
                Slot::Live { orders, .. } => {
                    // A full channel holds an order that closes the connection already.
                    let _ = orders.try_send(Order::Revoked);
                    true
                }
                Slot::Parked { .. } => false,
            }
        });
    }

    fn evict(&self, slots: &mut HashMap<Owner, Slot>) {
        let parked = |slot: &Slot| match slot {
            Slot::Parked { since, bytes, .. } => Some((*since, *bytes)),
            Slot::Live { .. } => None,
        };
        loop {
            let kept = slots.values().filter_map(parked);
            let (count, bytes) = kept.fold((0, 0), |(n, sum), (_, bytes)| (n + 1, sum + bytes));
            if count <= self.parked && bytes <= config::SESSIONS as usize {
                return;
            }
            let oldest = slots.iter().filter_map(|(owner, slot)| Some((parked(slot)?.0, owner)));
            let Some(owner) = oldest.min_by_key(|(since, _)| *since).map(|(_, owner)| owner.clone()) else {
                return;
            };
            slots.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(client_id: &str) -> Owner {
        Owner { user: None, client_id: client_id.to_owned() }
    }

    fn marked(pkid: u16) -> Session {
        let mut session = Session::default();
        session.awaiting_release.insert(pkid, Wait::Refused(Reason::NotAReading));
        session
    }

    #[test]
    fn a_parked_session_is_found_again() {
        let registry = Registry::new(10);
        let (orders, _keep) = mpsc::channel(ORDERS);
        assert!(matches!(registry.claim(&owner("a"), 1, orders.clone()), Found::Nothing));
        registry.leave(&owner("a"), 1, marked(7), None).unwrap();
        let Found::Session(session) = registry.claim(&owner("a"), 2, orders.clone()) else {
            panic!("parked")
        };
        assert!(session.awaiting_release.contains_key(&7));
        registry.leave(&owner("a"), 2, *session, Some(Duration::ZERO)).unwrap();
        assert!(matches!(registry.claim(&owner("a"), 3, orders), Found::Nothing), "a clean session ends");
    }

    #[test]
    fn an_expired_session_is_gone() {
        let registry = Registry::new(10);
        let (orders, _keep) = mpsc::channel(ORDERS);
        registry.claim(&owner("a"), 1, orders.clone());
        registry.leave(&owner("a"), 1, marked(7), Some(Duration::from_nanos(1))).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        registry.expire(Instant::now());
        assert!(matches!(registry.claim(&owner("a"), 2, orders), Found::Nothing));
    }

    #[test]
    fn large_sessions_are_kept_as_long_as_all_of_them_fit() {
        let registry = Registry::new(1000);
        let (orders, _keep) = mpsc::channel(ORDERS);
        let large = || Session { awaiting_release: HashMap::with_capacity(10_000), ..Session::default() };
        let each = large().weight();
        let most = config::SESSIONS as usize / each;
        for n in 0..most + 3 {
            let owner = owner(&n.to_string());
            registry.claim(&owner, n as u64, orders.clone());
            registry.leave(&owner, n as u64, large(), None).unwrap();
        }
        assert!(matches!(registry.claim(&owner("0"), 9999, orders.clone()), Found::Nothing));
        let newest = owner(&(most + 2).to_string());
        assert!(matches!(registry.claim(&newest, 10_000, orders), Found::Session(_)));
    }

    #[test]
    fn a_takeover_goes_from_hand_to_hand() {
        let registry = Registry::new(10);
        let (old, mut old_orders) = mpsc::channel(ORDERS);
        let (new, _new_orders) = mpsc::channel(ORDERS);
        registry.claim(&owner("a"), 1, old);
        let Found::Elsewhere(mut take) = registry.claim(&owner("a"), 2, new) else { panic!("elsewhere") };
        // The old one ends by itself at the same moment: it gets its session back and finds the order.
        let session = registry.leave(&owner("a"), 1, marked(9), None).unwrap_err();
        let Ok(Order::Yield(give)) = old_orders.try_recv() else { panic!("an order") };
        give.send(*session).unwrap();
        assert!(take.try_recv().unwrap().awaiting_release.contains_key(&9));
    }

    #[test]
    fn parked_sessions_are_bounded_and_revoked() {
        let registry = Registry::new(2);
        let (orders, _keep) = mpsc::channel(ORDERS);
        for (n, name) in ["a", "b", "c"].iter().enumerate() {
            registry.claim(&owner(name), n as u64, orders.clone());
            registry.leave(&owner(name), n as u64, Session::default(), None).unwrap();
        }
        assert!(matches!(registry.claim(&owner("a"), 9, orders.clone()), Found::Nothing), "the oldest went");
        let mine = Owner { user: Some("u".to_owned()), client_id: "x".to_owned() };
        let (orders, mut received) = mpsc::channel(ORDERS);
        registry.claim(&mine, 10, orders);
        registry.revoke(|user| user == "u");
        assert!(matches!(received.try_recv(), Ok(Order::Revoked)));
    }
}
