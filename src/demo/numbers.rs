//! Do the numbers add up? Every number a generation gave is delivered, or a line explains why it is not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::lake::Line;

/// What the delivered numbers show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Numbers {
    /// Generations that have readings or an `end` line.
    pub generations: u64,
    /// Numbers below the end of their generation that no delivered reading has.
    pub missing: u64,
    /// Missing numbers that lie in a `gap` line.
    pub explained: u64,
    /// Generations between the first and the last one without an `end` line: nobody says how many numbers they gave.
    pub without_end: u64,
    /// Delivered numbers that a `gap` line says will never come.
    pub contradicted: u64,
    /// Readings whose number lies beyond the count that its generation's `end` line states.
    pub beyond_end: u64,
    /// Lines whose `id` is not `<spool>-<number>`.
    pub unreadable: u64,
}

impl Numbers {
    #[must_use]
    pub const fn unexplained(&self) -> u64 {
        self.missing - self.explained
    }
}

#[derive(Debug, Default)]
struct Generation {
    found: BTreeSet<u32>,
    end: Option<u32>,
}

/// Adds up the numbers of all delivered lines of one gateway.
#[must_use]
pub fn add_up(lines: &[Line]) -> Numbers {
    let mut numbers = Numbers::default();
    let mut generations: BTreeMap<u32, Generation> = BTreeMap::new();
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    for line in lines {
        match (line.kind.as_deref(), line.generation, line.count, line.first_seq, line.last_seq) {
            (None, ..) => match number(&line.id) {
                Some(number) => {
                    generations.entry((number >> 32) as u32).or_default().found.insert(number as u32);
                }
                None => numbers.unreadable += 1,
            },
            (Some("end"), Some(generation), Some(count), ..) => {
                generations.entry(generation).or_default().end = Some(count);
            }
            (Some("gap"), _, _, Some(first), Some(last)) => gaps.push((first, last)),
            (Some("end" | "gap"), ..) => numbers.unreadable += 1,
            // Other events number nothing.
            (Some(_), ..) => {}
        }
    }
    numbers.generations = generations.len() as u64;
    let Some((first, last)) = generations.keys().next().copied().zip(generations.keys().next_back().copied())
    else {
        return numbers;
    };
    for number in first..=last {
        let Generation { found, end } = generations.remove(&number).unwrap_or_default();
        let in_gap = |n: u32| {
            let seq = (u64::from(number) << 32) | u64::from(n);
            gaps.iter().any(|(first, last)| (*first..=*last).contains(&seq))
        };
        let highest = found.last().map_or(0, |n| u64::from(*n) + 1);
        let count = end.map_or(highest, u64::from);
        numbers.without_end += u64::from(end.is_none() && number != last);
        numbers.beyond_end += found.range(u32::try_from(count).unwrap_or(u32::MAX)..).count() as u64;
        numbers.contradicted += found.iter().filter(|n| in_gap(**n)).count() as u64;
        for n in (0..count).filter_map(|n| u32::try_from(n).ok()).filter(|n| !found.contains(n)) {
            numbers.missing += 1;
            numbers.explained += u64::from(in_gap(n));
        }
    }
    numbers
}

/// The number in `<spool>-<number>`.
fn number(id: &str) -> Option<u64> {
    id.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn readings(generation: u64, numbers: &[u64]) -> String {
        numbers.iter().map(|n| format!("{{\"id\":\"spool-{}\"}}\n", (generation << 32) + n)).collect()
    }

    #[test]
    fn an_open_generation_without_holes_needs_no_explanation() {
        let numbers = add_up(&lines(&readings(1, &[0, 1, 2])));
        assert_eq!(numbers, Numbers { generations: 1, ..Numbers::default() });
    }

    #[test]
    fn what_lies_in_a_gap_line_is_explained() {
        let text = readings(1, &[0, 1, 4])
            + "{\"id\":\"spool-x-y\",\"type\":\"gap\",\"first_seq\":4294967298,\"last_seq\":4294967299}\n";
        let numbers = add_up(&lines(&text));
        assert_eq!((numbers.missing, numbers.explained, numbers.unexplained()), (2, 2, 0));
    }

    #[test]
    fn a_thinned_generation_is_explained_and_its_summaries_number_nothing() {
        let summary = "{\"id\":\"spool-4294967296-s10\",\"type\":\"summary\",\"device\":\"a\",\"n\":2,\"bpm_mean\":60.5}\n";
        let gap = "{\"id\":\"spool-x-y\",\"type\":\"gap\",\"first_seq\":4294967296,\"last_seq\":4294967297,\"cause\":\"thinned\",\"devices\":{\"a\":2}}\n";
        let end = "{\"id\":\"spool-z\",\"type\":\"end\",\"generation\":1,\"count\":2}\n";
        let numbers = add_up(&lines(&[summary, gap, end].concat()));
        let explained = Numbers { generations: 1, missing: 2, explained: 2, ..Numbers::default() };
        assert_eq!((numbers, numbers.unexplained()), (explained, 0));
    }

    #[test]
    fn a_short_generation_shows_by_its_end_line() {
        let end = "{\"id\":\"spool-z\",\"type\":\"end\",\"generation\":1,\"count\":4}\n";
        let numbers = add_up(&lines(&(readings(1, &[0, 1]) + end + &readings(2, &[0]))));
        assert_eq!((numbers.generations, numbers.unexplained(), numbers.without_end), (2, 2, 0));
        let numbers = add_up(&lines(&(readings(1, &[0, 5]) + end)));
        assert_eq!(numbers.beyond_end, 1);
    }

    #[test]
    fn only_the_last_generation_may_be_open() {
        assert_eq!(add_up(&lines(&(readings(1, &[0]) + &readings(2, &[0])))).without_end, 1);
        let end = "{\"id\":\"spool-z\",\"type\":\"end\",\"generation\":1,\"count\":1}\n";
        let skipped = readings(1, &[0]) + end + &readings(3, &[0]);
        assert_eq!(add_up(&lines(&skipped)).without_end, 1, "nothing is known of generation 2");
    }

    #[test]
    fn a_gap_over_a_delivered_number_is_a_contradiction() {
        let gap =
            "{\"id\":\"spool-x-y\",\"type\":\"gap\",\"first_seq\":4294967296,\"last_seq\":4294967297}\n";
        assert_eq!(add_up(&lines(&(readings(1, &[1, 2]) + gap))).contradicted, 1);
    }

    #[test]
    fn ids_without_a_number_are_counted() {
        assert_eq!(add_up(&lines("{\"id\":\"spool\"}\n{\"id\":\"a-1\",\"type\":\"end\"}\n")).unreadable, 2);
    }
}
