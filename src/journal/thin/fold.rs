//! Gathers readings, or finer summaries, into windows. Pure; its memory is bounded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::reading::summary::{Summary, Window};

pub struct Folder {
    window_s: u16,
    most: usize,
    windows: HashMap<Window, Open>,
    /// Counts what was added: the clock by which windows grow old.
    added: u64,
}

struct Open {
    summary: Summary,
    touched: u64,
}

impl Folder {
    /// Windows of `window_s` seconds, at most `most` of them open.
    pub fn new(window_s: u16, most: usize) -> Self {
        Self { window_s, most: most.max(1), windows: HashMap::new(), added: 0 }
    }

    /// Adds a reading or a finer summary. Summaries that are done are pushed to `out`, sorted by device and time: the
    /// half of the windows that nothing was added to for longest, when there are too many.
    pub fn add(&mut self, part: Summary, out: &mut Vec<Summary>) {
        self.added += 1;
        let (window, summary) = part.widen(self.window_s);
        match self.windows.entry(window) {
            Entry::Occupied(mut open) => {
                let open = open.get_mut();
                open.touched = self.added;
                if !open.summary.merge(&summary) {
                    // The counts are full: this one is done, another begins.
                    out.push(std::mem::replace(&mut open.summary, summary));
                }
            }
            Entry::Vacant(free) => {
                free.insert(Open { summary, touched: self.added });
                if self.windows.len() > self.most {
                    self.finish_older_half(out);
                }
            }
        }
    }

    /// Pushes everything that is still open to `out`, sorted by device and time.
    pub fn finish(&mut self, out: &mut Vec<Summary>) {
        let all = std::mem::take(&mut self.windows);
        push_sorted(all.into_iter().map(|(window, open)| (window, open.summary)), out);
    }

    fn finish_older_half(&mut self, out: &mut Vec<Summary>) {
        let mut touched: Vec<u64> = self.windows.values().map(|open| open.touched).collect();
        let middle = touched.len() / 2;
        let (_, limit, _) = touched.select_nth_unstable(middle);
        let limit = *limit;
        let done = self.windows.extract_if(|_, open| open.touched < limit);
        push_sorted(done.map(|(window, open)| (window, open.summary)), out);
    }
}

fn push_sorted(done: impl Iterator<Item = (Window, Summary)>, out: &mut Vec<Summary>) {
    let mut done: Vec<(Window, Summary)> = done.collect();
    done.sort_unstable_by_key(|(window, _)| *window);
    out.extend(done.into_iter().map(|(_, summary)| summary));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reading::Reading;
    use crate::reading::summary::tests::{agree, readings};

    fn fold(parts: impl Iterator<Item = Summary>, window_s: u16, most: usize) -> Vec<Summary> {
        let mut folder = Folder::new(window_s, most);
        let mut out = Vec::new();
        for part in parts {
            folder.add(part, &mut out);
            assert!(folder.windows.len() <= most, "memory is bounded");
        }
        folder.finish(&mut out);
        out
    }

    fn sum(summaries: &[Summary]) -> u64 {
        summaries.iter().map(|summary| u64::from(summary.n)).sum()
    }

    proptest! {
        #[test]
        fn n_smallest_mean_largest_and_rr_are_those_of_the_readings(readings in readings(300)) {
            let tens = fold(readings.iter().map(Summary::of), 10, 1 << 16);
            agree(&tens, &readings, 10);
            let minutes = fold(tens.iter().cloned(), 60, 1 << 16);
            agree(&minutes, &readings, 60);
            prop_assert_eq!(&minutes, &fold(readings.iter().map(Summary::of), 60, 1 << 16));
        }

        #[test]
        fn with_little_memory_no_reading_is_lost_and_none_counts_twice(
            readings in readings(300),
            most in 1..20usize,
        ) {
            let tens = fold(readings.iter().map(Summary::of), 10, most);
            prop_assert_eq!(sum(&tens), readings.len() as u64);
            let minutes = fold(tens.into_iter(), 60, most);
            prop_assert_eq!(sum(&minutes), readings.len() as u64);
            // Put together they say what the readings said.
            agree(&fold(minutes.into_iter(), 60, 1 << 16), &readings, 60);
        }

        #[test]
        fn the_same_readings_give_the_same_summaries_in_the_same_order(
            readings in readings(100),
            most in 1..20usize,
        ) {
            let run = |readings: &[Reading]| fold(readings.iter().map(Summary::of), 10, most);
            prop_assert_eq!(run(&readings), run(&readings));
        }
    }
}
