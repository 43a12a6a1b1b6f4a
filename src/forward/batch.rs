//! Which entries make a batch, and in which order its lines stand.
//!
//! Pure. A batch is a stretch `[from, to)` of the journal's order. It is closed by size, by age or by a request to
//! drain; once its bounds are fixed, reading the same stretch again gives the same members. Every entry has one
//! position, so that it falls into exactly one batch: a reading its number, a gap its first number, an end line the
//! number after the generation's last one. A gap that crosses a bound is cut there; each part accounts for its own
//! numbers.
//!
//! Inside a member the lines are grouped by device (devices by name, each in the journal's order), because alike
//! lines compress best side by side; ends and gaps come last.
//!
//! What it does not promise: that a batch is one member. A batch whose member would be larger than the uplink takes
//! is cut in half, and again, until each part fits. A single line that is too large for the uplink becomes a member
//! of its own all the same: the uplink shows that it is refused, and nothing is dropped here.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::member::{EncodeError, Encoder, Member};
use crate::clock::BootId;
use crate::journal::{Bounds, Entry, GapCause, Seq};
use crate::reading::line::LineContext;

/// When a batch is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Longest wait of the oldest entry.
    pub max_age: Duration,
    /// Most bytes of JSON lines; a single larger line is a batch of its own.
    pub max_bytes: usize,
}

/// What closed a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    Size,
    Age,
    Drain,
}

impl Policy {
    /// Whether what has been waiting for `waiting` must go now, whatever its size.
    pub fn due(&self, waiting: Duration, draining: bool) -> Option<Close> {
        if draining {
            Some(Close::Drain)
        } else if waiting >= self.max_age {
            Some(Close::Age)
        } else {
            None
        }
    }
}

/// What became of an entry that was offered to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is in (or lies before the batch and belongs to an earlier one).
    Taken,
    /// The batch is complete without it.
    Full,
}

/// Where an open batch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// By size; the bounds are still open.
    Bytes(usize),
    /// The bounds were fixed earlier; this is their `to`.
    Position(Seq),
}

/// Group of the lines that belong to no device: they come last.
const NO_DEVICE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Line {
    device: u32,
    start: u32,
    len: u32,
    position: Seq,
    /// Last number the line speaks of.
    last: Seq,
    reading: bool,
}

/// What all lines of a page have in common.
#[derive(Debug, Clone)]
pub struct Context {
    pub spool: Arc<str>,
    pub boot: BootId,
    pub line: LineContext,
}

/// The lines of the batch under way, rendered as they come.
#[derive(Debug, Default)]
pub struct Lines {
    /// Numbers of one spool only are in a batch: it is part of every id.
    spool: Option<Arc<str>>,
    text: Vec<u8>,
    lines: Vec<Line>,
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    grouped: Vec<u8>,
}

/// Position of an entry, and the position after it.
fn span(entry: &Entry) -> (Seq, Seq) {
    match entry {
        Entry::Reading { seq, .. } => (*seq, Seq(seq.0.saturating_add(1))),
        Entry::Gap { first, last, .. } => (*first, Seq(last.0.saturating_add(1))),
        Entry::End { generation, count } => {
            (Seq::new(*generation, *count), Seq::new(generation.saturating_add(1), 0))
        }
    }
}

impl Lines {
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Bytes of text so far.
    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Offers the next entry of the journal's order; `position` is where the batch has come to, and moves on.
    pub fn offer(&mut self, entry: &Entry, position: &mut Seq, until: Until, context: &Context) -> Offer {
        let (start, mut end) = span(entry);
        if end <= *position {
            return Offer::Taken;
        }
        if self.spool.as_ref().is_some_and(|spool| *spool != context.spool) {
            return Offer::Full;
        }
        let start = start.max(*position);
        if let Until::Position(to) = until {
            if start >= to {
                return Offer::Full;
            }
            end = end.min(to);
        }
        let offset = self.text.len();
        let (device, last) = match entry {
            Entry::Reading { seq, device, reading } => {
                context.line.write_reading(&mut self.text, seq.0, context.boot, device, reading);
                (self.number(device), *seq)
            }
            Entry::Gap { cause, .. } => {
                let last = Seq(end.0.saturating_sub(1));
                context.line.write_gap(&mut self.text, start.0, last.0, cause_label(*cause));
                (NO_DEVICE, last)
            }
            Entry::End { generation, count } => {
                context.line.write_end(&mut self.text, *generation, *count);
                (NO_DEVICE, start)
            }
        };
        let (fits, offset32) = match u32::try_from(self.text.len()) {
            Ok(_) => (true, u32::try_from(offset).unwrap_or(u32::MAX)),
            Err(_) => (false, 0),
        };
        let too_large = matches!(until, Until::Bytes(max) if self.text.len() > max) || !fits;
        if too_large && !self.lines.is_empty() {
            self.text.truncate(offset);
            return Offer::Full;
        }
        let len = u32::try_from(self.text.len() - offset).unwrap_or(u32::MAX);
        let reading = matches!(entry, Entry::Reading { .. });
        self.spool.get_or_insert_with(|| Arc::clone(&context.spool));
        self.lines.push(Line { device, start: offset32, len, position: start, last, reading });
        *position = end;
        Offer::Taken
    }

    fn number(&mut self, device: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(device) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(NO_DEVICE - 1);
        self.names.push(Arc::clone(device));
        self.numbers.insert(Arc::clone(device), number);
        number
    }

    /// Packs everything into members of at most `limit` bytes.
    ///
    /// # Errors
    /// [`EncodeError`]; the lines are kept.
    pub fn encode(
        &mut self,
        bounds: Bounds,
        encoder: &mut Encoder,
        limit: usize,
    ) -> Result<Vec<Member>, EncodeError> {
        let ranks = self.ranks();
        let mut members = Vec::with_capacity(1);
        let mut parts: Vec<Range<usize>> = std::iter::once(0..self.lines.len()).collect();
        while let Some(part) = parts.pop() {
            let Some(lines) = self.lines.get(part.clone()).filter(|lines| !lines.is_empty()) else {
                continue;
            };
            group(lines, &ranks, &self.text, &mut self.grouped);
            let bytes = encoder.encode(&self.grouped)?;
            if bytes.len() > limit && lines.len() > 1 {
                let middle = part.start + lines.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
                continue;
            }
            members.extend(self.member(bounds, encoder, lines, bytes));
        }
        Ok(members)
    }

    fn member(&self, bounds: Bounds, encoder: &Encoder, lines: &[Line], bytes: Bytes) -> Option<Member> {
        let readings = lines.iter().filter(|line| line.reading).count();
        Some(Member {
            bounds,
            spool: Arc::clone(self.spool.as_ref()?),
            first: lines.first()?.position,
            last: lines.last()?.last,
            encoding: encoder.encoding(),
            readings: u32::try_from(readings).unwrap_or(u32::MAX),
            lines: u32::try_from(lines.len()).unwrap_or(u32::MAX),
            text_bytes: self.grouped.len() as u64,
            bytes,
        })
    }

    /// Place of each device in the order of names.
    fn ranks(&self) -> Vec<u32> {
        let mut order: Vec<(&Arc<str>, usize)> = self.names.iter().zip(0..).collect();
        order.sort_unstable();
        let mut ranks = vec![0; order.len()];
        for (rank, (_, device)) in (0..).zip(order) {
            if let Some(slot) = ranks.get_mut(device) {
                *slot = rank;
            }
        }
        ranks
    }

    /// Empties the batch; `keep` is how much memory may stay for the next one.
    pub fn clear(&mut self, keep: usize) {
        self.spool = None;
        self.text.clear();
        self.text.shrink_to(keep);
        self.grouped.clear();
        self.grouped.shrink_to(keep);
        self.lines.clear();
        self.lines.shrink_to(keep / size_of::<Line>());
        self.names.clear();
        self.numbers.clear();
    }
}

/// Copies the lines' text in the order in which it is sent.
fn group(lines: &[Line], ranks: &[u32], text: &[u8], grouped: &mut Vec<u8>) {
    let mut order: Vec<(u32, u32)> = lines
        .iter()
        .zip(0u32..)
        .map(|(line, index)| (ranks.get(line.device as usize).copied().unwrap_or(NO_DEVICE), index))
        .collect();
    order.sort_unstable();
    grouped.clear();
    for (_, index) in order {
        let Some(line) = lines.get(index as usize) else { continue };
        let range = line.start as usize..line.start as usize + line.len as usize;
        grouped.extend_from_slice(text.get(range).unwrap_or_default());
    }
}

/// What a `gap` line says.
pub const fn cause_label(cause: GapCause) -> &'static str {
    match cause {
        GapCause::Lost => "lost",
        GapCause::Evicted => "evicted",
        GapCause::Thinned => "thinned",
        GapCause::Withheld => "withheld",
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Encoding;
    use crate::forward::member::Encoder;
    use crate::reading::{Contact, DeviceId, Reading, RrIntervals, Source};

    fn reading(seq: u64, device: &str, bpm: u16) -> Entry {
        let reading = Reading {
            device: DeviceId(0),
            source: Source::Mqtt,
            arrival: crate::clock::Stamp::default(),
            device_time: None,
            bpm: NonZeroU16::new(bpm),
            rr: RrIntervals::default(),
            contact: Contact::Unsupported,
            energy_kj: None,
            battery_percent: None,
            rssi_dbm: None,
            reason: None,
        };
        Entry::Reading { seq: Seq(seq), device: device.into(), reading }
    }

    fn context(spool: &str) -> Context {
        Context { spool: spool.into(), boot: BootId([1; 16]), line: LineContext::new(spool, "g", None) }
    }

    /// Offers everything; says where the batch came to and whether it was full.
    fn fill(lines: &mut Lines, entries: &[Entry], from: Seq, until: Until) -> (Seq, bool) {
        let mut position = from;
        for entry in entries {
            if lines.offer(entry, &mut position, until, &context("s")) == Offer::Full {
                return (position, true);
            }
        }
        (position, false)
    }

    fn bounds(from: Seq, to: Seq) -> Bounds {
        Bounds { from, to, fixed_ms: 0 }
    }

    /// The ids in the order of the lines.
    fn ids(members: &[Member]) -> Vec<String> {
        let text: Vec<u8> = members.iter().flat_map(|member| member.bytes.to_vec()).collect();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        String::from_utf8(text)
            .unwrap()
            .lines()
            .map(|line| value(line)["id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn json() -> Encoder {
        Encoder::new(Encoding::Json).unwrap()
    }

    #[test]
    fn lines_stand_by_device_and_events_come_last() {
        let mut lines = Lines::default();
        let entries = [
            reading(0, "b", 60),
            Entry::Gap { first: Seq(1), last: Seq(3), cause: GapCause::Lost },
            reading(4, "a", 61),
            reading(5, "b", 62),
            Entry::End { generation: 0, count: 6 },
            reading(Seq::new(1, 0).0, "a", 63),
        ];
        let (to, full) = fill(&mut lines, &entries, Seq(0), Until::Bytes(1 << 20));
        assert!(!full);
        assert_eq!(to, Seq::new(1, 1));
        let members = lines.encode(bounds(Seq(0), to), &mut json(), 1 << 20).unwrap();
        assert_eq!(ids(&members), ["s-4", "s-4294967296", "s-0", "s-5", "s-1-3", "s-6"]);
        let member = &members[0];
        assert_eq!((members.len(), member.readings, member.lines), (1, 4, 6));
        assert_eq!((member.first, member.last), (Seq(0), Seq::new(1, 0)));
        assert_eq!(member.text_bytes, member.bytes.len() as u64);
    }

    #[test]
    fn a_batch_ends_before_the_line_that_would_make_it_too_large() {
        let entries: Vec<Entry> = (0..100).map(|n| reading(n, "a", 60)).collect();
        let mut lines = Lines::default();
        let (to, full) = fill(&mut lines, &entries, Seq(0), Until::Bytes(1_000));
        assert!(full);
        assert!(lines.text_bytes() <= 1_000);
        let count = to.0;
        let size = lines.text_bytes();
        lines.clear(0);
        fill(&mut lines, &entries[..=usize::try_from(count).unwrap()], Seq(0), Until::Bytes(usize::MAX));
        assert!(lines.text_bytes() > 1_000, "one more would not have fitted ({size})");
    }

    #[test]
    fn a_single_line_that_is_too_large_is_a_batch_of_its_own() {
        let mut lines = Lines::default();
        let entries = [reading(7, "a", 60), reading(8, "a", 60)];
        let (to, full) = fill(&mut lines, &entries, Seq(0), Until::Bytes(10));
        assert_eq!((to, full), (Seq(8), true));
        let members = lines.encode(bounds(Seq(0), to), &mut json(), 10).unwrap();
        assert_eq!(ids(&members), ["s-7"]);
    }

    #[test]
    fn a_gap_is_cut_at_the_bounds_and_each_part_accounts_for_its_own() {
        let gap = [Entry::Gap { first: Seq(10), last: Seq(19), cause: GapCause::Evicted }];
        let mut lines = Lines::default();
        assert_eq!(fill(&mut lines, &gap, Seq(5), Until::Position(Seq(14))), (Seq(14), false));
        let first = lines.encode(bounds(Seq(5), Seq(14)), &mut json(), 1 << 20).unwrap();
        lines.clear(0);
        fill(&mut lines, &gap, Seq(14), Until::Bytes(1 << 20));
        let second = lines.encode(bounds(Seq(14), Seq(20)), &mut json(), 1 << 20).unwrap();
        assert_eq!([ids(&first), ids(&second)].concat(), ["s-10-13", "s-14-19"]);
    }

    #[test]
    fn two_spools_never_share_a_batch() {
        let mut lines = Lines::default();
        let mut position = Seq(0);
        let until = Until::Bytes(1 << 20);
        assert_eq!(lines.offer(&reading(0, "a", 60), &mut position, until, &context("old")), Offer::Taken);
        assert_eq!(lines.offer(&reading(1, "a", 60), &mut position, until, &context("new")), Offer::Full);
        assert_eq!(position, Seq(1));
    }

    #[test]
    fn what_closes_a_batch() {
        let policy = Policy { max_age: Duration::from_secs(60), max_bytes: 1 };
        assert_eq!(policy.due(Duration::from_secs(59), false), None);
        assert_eq!(policy.due(Duration::from_secs(60), false), Some(Close::Age));
        assert_eq!(policy.due(Duration::ZERO, true), Some(Close::Drain));
    }

    proptest! {
        /// However the journal hands its entries out, each falls into exactly one batch, and the same bounds give
        /// the same members, each within the limit.
        #[test]
        fn bounds_partition_the_journal(
            devices in prop::collection::vec(0u8..5, 1..200),
            max in 100usize..3_000,
            limit in 150usize..1_500,
            encoding in prop::sample::select(vec![Encoding::Gzip, Encoding::Zstd, Encoding::Json]),
        ) {
            let entries: Vec<Entry> = devices.iter().zip(0..).map(|(d, n)| reading(n, &format!("d{d}"), 60)).collect();
            let mut encoder = Encoder::new(encoding).unwrap();
            let mut lines = Lines::default();
            let mut from = Seq(0);
            let mut seen = 0;
            while from.0 < entries.len() as u64 {
                lines.clear(0);
                let (to, _) = fill(&mut lines, &entries, from, Until::Bytes(max));
                prop_assert!(to > from);
                let members = lines.encode(bounds(from, to), &mut encoder, limit).unwrap();
                lines.clear(0);
                prop_assert_eq!(fill(&mut lines, &entries, from, Until::Position(to)).0, to);
                let again = lines.encode(bounds(from, to), &mut encoder, limit).unwrap();
                prop_assert_eq!(members.len(), again.len());
                let mut next = from;
                for (one, two) in members.iter().zip(&again) {
                    prop_assert_eq!(&one.bytes, &two.bytes);
                    prop_assert!(one.bytes.len() <= limit || one.lines == 1);
                    prop_assert_eq!(one.first, next);
                    next = Seq(one.last.0 + 1);
                    seen += one.readings;
                }
                prop_assert_eq!(next, to);
                from = to;
            }
            prop_assert_eq!(seen as usize, entries.len());
        }
    }
}
