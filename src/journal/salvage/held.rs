//! What of each device is left in a file of salvaged values: which readings have lost their device's name, and which
//! summaries are gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;

use super::rebuild::wanted;
use super::values::Reader;
use crate::journal::block::{self, Kind};
use crate::journal::keys::Keys;
use crate::journal::manifest::Missing;
use crate::journal::types::{GapCause, unnamed};

/// Readings of each device, as readings or in summaries.
#[derive(Debug, Default)]
pub struct Held {
    generation: u32,
    readings: HashMap<u32, u64>,
    names: HashMap<u32, String>,
    /// Something is sealed with a key that is not at hand: it is not known what is there.
    sealed: bool,
}

impl Held {
    /// Reads the file through, as [`super::Survey::of`] does.
    ///
    /// # Errors
    /// When the file cannot be read at all.
    pub fn of(values: &Path, generation: u32, limit: Option<u32>, keys: &Keys) -> io::Result<Self> {
        let mut held = Self { generation, ..Self::default() };
        for value in Reader::open(values, generation)?.filter(|value| wanted(value, limit)) {
            let (mut readings, mut summaries) = (Vec::new(), Vec::new());
            let opened = match value.header.kind {
                Kind::Readings => block::decode(&value.bytes, keys, &mut readings).is_ok(),
                Kind::Summaries => block::decode_summaries(&value.bytes, keys, &mut summaries).is_ok(),
                Kind::Name => match block::decode_plain(&value.bytes, keys, Kind::Name) {
                    Ok(name) => {
                        let name = String::from_utf8_lossy(&name).into_owned();
                        held.names.insert(value.key as u32, name);
                        true
                    }
                    Err(_) => false,
                },
                Kind::Generation => true,
            };
            held.sealed |= !opened;
            // A commit that failed may have left numbers beyond those that were given.
            let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(value.header.first_n) as usize);
            let readings = readings.iter().map(|reading| (reading.device.0, 1));
            let summaries = summaries.iter().map(|summary| (summary.device.0, u64::from(summary.n)));
            for (device, count) in readings.chain(summaries).take(room) {
                *held.readings.entry(device).or_default() += count;
            }
        }
        Ok(held)
    }

    /// Readings whose device has no name any more.
    pub fn unnamed(&self) -> u64 {
        if self.sealed {
            return 0;
        }
        let nameless = self.readings.iter().filter(|(device, _)| !self.names.contains_key(device));
        nameless.map(|(_, count)| count).sum()
    }

    /// Of what is told as thinned, tells as lost what no summary speaks of any more.
    ///
    /// A summary does not say which numbers its readings had, so that of each thinned range the first numbers stand for
    /// what is left and the last ones for what is lost: how many they are is exact, for each device too, unless names
    /// were lost as well.
    pub fn tell_lost(&self, missing: Vec<Missing>) -> Vec<Missing> {
        if self.sealed {
            return missing;
        }
        let mut left: BTreeMap<String, u64> = BTreeMap::new();
        for (device, count) in &self.readings {
            let name = self.names.get(device).cloned();
            let name = name.unwrap_or_else(|| unnamed(self.generation, *device).to_string());
            *left.entry(name).or_default() += count;
        }
        let thinned = || missing.iter().filter(|part| part.cause == GapCause::Thinned);
        let told: BTreeSet<&String> = thinned().flat_map(|part| part.devices.keys()).collect();
        // Each device by itself, or, where they cannot be told apart, all together.
        let apart =
            left.keys().all(|name| told.contains(name)) && thinned().all(|part| !part.devices.is_empty());
        let mut together: u64 = left.values().sum();
        let mut parts = Vec::with_capacity(missing.len());
        for part in missing {
            if part.cause != GapCause::Thinned {
                parts.push(part);
            } else if apart {
                let (kept, lost) = share(&part.devices, &mut left);
                let gone: u64 = lost.values().sum();
                split(part, gone, kept, lost, &mut parts);
            } else {
                let counted =
                    if part.devices.is_empty() { part.count() } else { part.devices.values().sum() };
                let kept = counted.min(together);
                together -= kept;
                split(part, counted - kept, BTreeMap::new(), BTreeMap::new(), &mut parts);
            }
        }
        parts
    }
}

/// How many of each device's readings are left, and how many are not; what is left is taken off `left`.
fn share(
    told: &BTreeMap<String, u64>,
    left: &mut BTreeMap<String, u64>,
) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let (mut kept, mut lost) = (BTreeMap::new(), BTreeMap::new());
    for (name, &count) in told {
        let there = left.get_mut(name).map_or(0, |left| {
            let there = count.min(*left);
            *left -= there;
            there
        });
        kept.insert(name.clone(), there);
        lost.insert(name.clone(), count - there);
    }
    kept.retain(|_, count| *count > 0);
    lost.retain(|_, count| *count > 0);
    (kept, lost)
}

/// Cuts the last `gone` numbers off a range, as lost.
fn split(
    part: Missing,
    gone: u64,
    kept: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    parts: &mut Vec<Missing>,
) {
    let gone = u32::try_from(gone.min(part.count())).unwrap_or(u32::MAX);
    if gone == 0 {
        parts.push(part);
    } else if u64::from(gone) == part.count() {
        parts.push(Missing { cause: GapCause::Lost, ..part });
    } else {
        let end = part.last - gone;
        parts.push(Missing { last: end, devices: kept, ..part });
        parts.push(Missing { first: end + 1, last: part.last, cause: GapCause::Lost, devices: lost });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Part<'a> = (u32, u32, GapCause, &'a [(&'a str, u64)]);

    fn missing(parts: &[Part<'_>]) -> Vec<Missing> {
        let devices = |counts: &[(&str, u64)]| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<BTreeMap<_, _>>()
        };
        let parts = parts.iter();
        parts
            .map(|&(first, last, cause, counts)| Missing { first, last, cause, devices: devices(counts) })
            .collect()
    }

    fn held(readings: &[(u32, u64)], names: &[(u32, &str)]) -> Held {
        Held {
            generation: 7,
            readings: readings.iter().copied().collect(),
            names: names.iter().map(|(device, name)| (*device, (*name).to_owned())).collect(),
            sealed: false,
        }
    }

    #[test]
    fn what_no_summary_speaks_of_any_more_is_lost_device_by_device() {
        use GapCause::{Lost, Thinned};
        let told = missing(&[
            (0, 9, Thinned, &[("bike", 6), ("rower", 4)]),
            (10, 11, Lost, &[]),
            (12, 21, Thinned, &[("bike", 10)]),
        ]);
        let names = [(0, "bike"), (1, "rower")];
        let whole = held(&[(0, 16), (1, 4)], &names);
        assert_eq!(whole.tell_lost(told.clone()), told);
        let part = held(&[(0, 9), (1, 1)], &names);
        let expected = missing(&[
            (0, 6, Thinned, &[("bike", 6), ("rower", 1)]),
            (7, 9, Lost, &[("rower", 3)]),
            (10, 11, Lost, &[]),
            (12, 14, Thinned, &[("bike", 3)]),
            (15, 21, Lost, &[("bike", 7)]),
        ]);
        assert_eq!(part.tell_lost(told.clone()), expected);
        // Told once, nothing more is lost the second time.
        assert_eq!(part.tell_lost(expected.clone()), expected);
        // One device is gone altogether.
        let one = held(&[(1, 4)], &names);
        let expected = missing(&[
            (0, 3, Thinned, &[("rower", 4)]),
            (4, 9, Lost, &[("bike", 6)]),
            (10, 11, Lost, &[]),
            (12, 21, Lost, &[("bike", 10)]),
        ]);
        assert_eq!(one.tell_lost(told), expected);
    }

    #[test]
    fn where_names_are_lost_too_the_sum_is_exact_and_nobody_is_guessed() {
        use GapCause::{Lost, Thinned};
        let told = missing(&[(0, 9, Thinned, &[("bike", 6), ("rower", 4)])]);
        let nameless = held(&[(0, 6), (1, 1)], &[(1, "rower")]);
        assert_eq!(nameless.unnamed(), 6);
        let expected = missing(&[(0, 6, Thinned, &[]), (7, 9, Lost, &[])]);
        assert_eq!(nameless.tell_lost(told.clone()), expected);
        // Erased since: its readings are in no summary, and nobody counts them as lost.
        let erased = missing(&[(0, 9, Thinned, &[("rower", 4)])]);
        assert_eq!(held(&[(1, 4)], &[(1, "rower")]).tell_lost(erased.clone()), erased);
        // What cannot be opened is not known to be gone.
        let sealed = Held { sealed: true, ..held(&[], &[]) };
        assert_eq!((sealed.tell_lost(told.clone()), sealed.unnamed()), (told, 0));
    }
}
