//! Who may hold one of an adapter's few connections: pure.
//!
//! A controller holds some 5 to 10 links; how many, it says only by refusing one more. The budget starts at the
//! configured number, falls to what was held when a link was refused, and is tried one higher again after a while.
//!
//! Links are given by priority (1 before 2), then to whoever has waited longest. Nobody is put out while there is room.
//! When there is none, a wearable that waits takes the place of one with a lower priority at once, and of one with its
//! own priority after [`TURN`]: so all of one priority get their turn, the rest is heard by broadcast meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a wearable keeps its link while others of its priority wait: long enough for a five-minute HRV window.
pub const TURN: Duration = Duration::from_secs(6 * 60);
/// After a refusal the budget is tried one higher after this time.
pub const TRY_MORE: Duration = Duration::from_secs(5 * 60);

/// The links of one adapter. `W` names a wearable.
#[derive(Debug)]
pub struct Slots<W> {
    configured: usize,
    budget: usize,
    refused_at: Option<Instant>,
    held: BTreeMap<W, Claim>,
    waiting: BTreeMap<W, Claim>,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    priority: u8,
    since: Instant,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant<W> {
    /// This one may connect now; it holds a place from now on.
    Connect(W),
    /// This one must give its place back; once it has ([`Slots::release`]), ask again.
    Yield(W),
}

impl<W: Ord + Clone> Slots<W> {
    pub fn new(configured: usize) -> Self {
        let budget = configured.max(1);
        Self { configured: budget, budget, refused_at: None, held: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// Links that are tried for at present.
    pub fn budget(&self) -> usize {
        self.budget
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn holds(&self, who: &W) -> bool {
        self.held.contains_key(who)
    }

    /// Somebody wants a link; asking again changes nothing but the priority.
    pub fn want(&mut self, who: W, priority: u8, now: Instant) {
        if let Some(claim) = self.held.get_mut(&who) {
            claim.priority = priority;
            return;
        }
        self.waiting.entry(who).or_insert(Claim { priority, since: now }).priority = priority;
    }

    /// Wants none any more, or has lost the one it had.
    pub fn release(&mut self, who: &W) {
        self.held.remove(who);
        self.waiting.remove(who);
    }

    /// Whoever does not fulfil `keep` waits no more.
    pub fn retain_waiting(&mut self, mut keep: impl FnMut(&W) -> bool) {
        self.waiting.retain(|who, _| keep(who));
    }

    /// Has had its turn: the link is given back, and it queues again behind the others.
    pub fn requeue(&mut self, who: &W, now: Instant) {
        if let Some(claim) = self.held.remove(who) {
            self.waiting.insert(who.clone(), Claim { since: now, ..claim });
        }
    }

    /// The controller refused one link more than it holds: `who` waits on, and the budget is what the others hold.
    pub fn refused(&mut self, who: &W, now: Instant) {
        self.requeue(who, now);
        self.budget = self.held.len().max(1);
        self.refused_at = Some(now);
    }

    /// The next step, if there is one. A wearable in `busy` (between connecting and connected) is never told to yield.
    pub fn next(&mut self, now: Instant, mut busy: impl FnMut(&W) -> bool) -> Option<Grant<W>> {
        if self.refused_at.is_some_and(|at| now.saturating_duration_since(at) >= TRY_MORE) {
            self.budget = (self.budget + 1).min(self.configured);
            self.refused_at = (self.budget < self.configured).then_some(now);
        }
        let (who, claim) = self
            .waiting
            .iter()
            .min_by_key(|(_, claim)| (claim.priority, claim.since))
            .map(|(who, claim)| (who.clone(), *claim))?;
        if self.held.len() < self.budget {
            self.waiting.remove(&who);
            self.held.insert(who.clone(), Claim { since: now, ..claim });
            return Some(Grant::Connect(who));
        }
        // The least important, and among equals the one that has had its link for the longest.
        let (worst, held) = self
            .held
            .iter()
            .filter(|(who, _)| !busy(who))
            .max_by_key(|(_, held)| (held.priority, std::cmp::Reverse(held.since)))?;
        let turn_over = now.saturating_duration_since(held.since) >= TURN;
        let gives_way = held.priority > claim.priority || (held.priority == claim.priority && turn_over);
        gives_way.then(|| Grant::Yield(worst.clone()))
    }

    /// When [`Slots::next`] may have something new to say without anything else happening.
    pub fn wake_at(&self) -> Option<Instant> {
        let turn = (!self.waiting.is_empty() && self.held.len() >= self.budget)
            .then(|| self.held.values().map(|claim| claim.since + TURN).min())
            .flatten();
        let more = self.refused_at.filter(|_| !self.waiting.is_empty()).map(|at| at + TRY_MORE);
        [turn, more].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEVER: fn(&u32) -> bool = |_| false;

    fn connect_all(slots: &mut Slots<u32>, now: Instant) -> Vec<u32> {
        let mut connected = Vec::new();
        while let Some(Grant::Connect(who)) = slots.next(now, NEVER) {
            connected.push(who);
        }
        connected
    }

    #[test]
    fn room_goes_by_priority_then_by_waiting() {
        let start = Instant::now();
        let mut slots = Slots::new(2);
        slots.want(1, 2, start);
        slots.want(2, 2, start + Duration::from_secs(1));
        slots.want(3, 1, start + Duration::from_secs(2));
        assert_eq!(connect_all(&mut slots, start + Duration::from_secs(3)), [3, 1]);
    }

    #[test]
    fn a_higher_priority_takes_a_place_at_once_an_equal_one_after_a_turn() {
        let start = Instant::now();
        let mut slots = Slots::new(1);
        slots.want(1, 2, start);
        assert_eq!(connect_all(&mut slots, start), [1]);
        slots.want(2, 2, start);
        assert_eq!(slots.next(start + TURN / 2, NEVER), None);
        assert_eq!(slots.next(start + TURN, |_| true), None, "one that is just connecting is left alone");
        assert_eq!(slots.next(start + TURN, NEVER), Some(Grant::Yield(1)));
        slots.want(3, 1, start + TURN / 2);
        assert_eq!(slots.next(start + TURN / 2, NEVER), Some(Grant::Yield(1)));
        slots.requeue(&1, start + TURN / 2);
        assert_eq!(slots.next(start + TURN / 2, NEVER), Some(Grant::Connect(3)));
        assert_eq!(slots.next(start + 9 * TURN, NEVER), None, "a lower priority never puts a higher one out");
    }

    #[test]
    fn a_refusal_lowers_the_budget_and_it_is_tried_again() {
        let start = Instant::now();
        let mut slots = Slots::new(5);
        for who in 0..5 {
            slots.want(who, 1, start);
        }
        assert_eq!(connect_all(&mut slots, start), [0, 1, 2, 3, 4]);
        slots.refused(&4, start);
        slots.refused(&3, start);
        assert_eq!((slots.budget(), slots.held(), slots.waiting()), (3, 3, 2));
        assert_eq!(slots.next(start + TRY_MORE / 8, NEVER), None);
        assert!(matches!(slots.next(start + TRY_MORE, NEVER), Some(Grant::Connect(_))));
        assert_eq!(slots.budget(), 4);
    }

    proptest! {
        /// Whoever wants a link gets one within the turns of those before it.
        #[test]
        fn nobody_starves(wearables in 1u32..30, places in 1usize..8) {
            let start = Instant::now();
            let mut slots = Slots::new(places);
            let mut had = std::collections::BTreeSet::new();
            for who in 0..wearables {
                slots.want(who, 1, start);
            }
            let mut now = start;
            for _ in 0..=wearables {
                loop {
                    match slots.next(now, NEVER) {
                        Some(Grant::Connect(who)) => { had.insert(who); }
                        Some(Grant::Yield(who)) => slots.requeue(&who, now),
                        None => break,
                    }
                }
                prop_assert!(slots.held() <= places);
                now += TURN;
            }
            prop_assert_eq!(had.len() as u32, wearables);
        }
    }
}
