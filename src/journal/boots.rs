//! Which boots the stored readings are of: what the clock needs to tell their times.

use super::types::Seq;
use super::{GenerationState, GenerationStatus, Journal};
use crate::clock::{BootId, SeenBoot};
use crate::journal::Entry;

/// Readings looked at for a boot's last one: a group is numbered by device, so the newest is among the last few.
const LAST: u32 = 1_000;
/// Boots whose last reading is looked up at a start; each opens a database. Older ones are placed less exactly.
const MOST_LOOKED_UP: usize = 32;

impl Journal {
    /// The boots that stored readings are of, in the order in which they were. `known` are those whose length need not
    /// be looked up. Blocking.
    pub fn boots(&self, known: impl Fn(BootId) -> bool) -> Vec<SeenBoot> {
        let generations = self.generations();
        let mut boots: Vec<(BootId, Vec<&GenerationStatus>)> = Vec::new();
        for generation in &generations {
            let Some(boot) = boot_of(generation) else { continue };
            match boots.iter_mut().find(|(id, _)| *id == boot) {
                Some((_, of)) => of.push(generation),
                None => boots.push((boot, vec![generation])),
            }
        }
        let mut seen: Vec<SeenBoot> =
            boots.iter().map(|&(boot, _)| SeenBoot { boot, lasted_ms: None }).collect();
        let unknown = boots.iter().zip(&mut seen).rev().filter(|((boot, _), _)| !known(*boot));
        for ((_, of), seen) in unknown.take(MOST_LOOKED_UP) {
            seen.lasted_ms = of.iter().rev().find_map(|generation| self.last_uptime(generation));
        }
        seen
    }

    fn last_uptime(&self, generation: &GenerationStatus) -> Option<u64> {
        let last = generation.readings.checked_sub(1)?.saturating_sub(LAST);
        // Summaries have positions of their own, from 0 on.
        let from = Seq::new(generation.generation, if generation.thinned > 0 { 0 } else { last });
        // A boot whose end cannot be read is placed less exactly; the reader that comes to it tells of the damage.
        let page = self.peek(from, LAST as usize + 1).ok()?;
        page.entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Reading { reading, .. } => Some(reading.arrival.uptime_ms),
                Entry::Summary { summary, .. } => Some(summary.arrival.uptime_ms),
                _ => None,
            })
            .max()
    }
}

/// `None` where it is not known (a manifest that had to be rebuilt), or nothing is stored.
fn boot_of(generation: &GenerationStatus) -> Option<BootId> {
    let mut id = [0; 16];
    hex::decode_to_slice(&generation.boot, &mut id).ok()?;
    // What lies in quarantine may be salvaged yet.
    let holds = matches!(
        generation.state,
        GenerationState::Open | GenerationState::Sealed | GenerationState::Quarantined
    );
    (holds && id != [0; 16]).then_some(BootId(id))
}
