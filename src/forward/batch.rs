//! Which entries make a batch, and in which order its lines stand.
//!
//! Pure. A batch is a stretch `[from, to)` of the journal's order. It is closed by size, by age or by a request to
//! drain; once its bounds are fixed, reading the same stretch again gives the same members. Every entry has one
//! position, so that it falls into exactly one batch: a reading its number, a gap its first number, an end line the
//! number after the generation's last one. A gap that crosses a bound is cut there; each part accounts for its own
//! numbers. A generation that was thinned has its summaries at the first positions and its gaps, uncut, at the last.
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
use crate::clock::{BootTimes, Correction};
use crate::journal::{Bounds, Entry, GapCause, Seq, Tally};
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
    /// Last position the line speaks of.
    last: Seq,
    reading: bool,
    /// How many numbers it says are missing, and why.
    gap: Option<(GapCause, u64)>,
}

/// What all lines of a page have in common.
#[derive(Debug, Clone)]
pub struct Context {
    pub spool: Arc<str>,
    /// What is known of the boot its readings were stamped in.
    pub times: BootTimes,
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
    /// `clock` lines: they have no position, and ride behind everything else in the batch's first member.
    clocks: Vec<u8>,
    clock_lines: u32,
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
        let (start, mut end) = entry.span();
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
                context.line.write_reading(&mut self.text, seq.0, &context.times, device, reading);
                (self.number(device), *seq)
            }
            Entry::Summary { at, device, summary } => {
                context.line.write_summary(&mut self.text, at.0, &context.times, device, summary);
                (self.number(device), *at)
            }
            // Behind summaries: it stands at one position and is never cut.
            Entry::Gap { at, first, last, cause, devices } if at != first => {
                context.line.write_gap(&mut self.text, first.0, last.0, cause_label(*cause), devices);
                (NO_DEVICE, *at)
            }
            Entry::Gap { first, last: whole, cause, devices, .. } => {
                let last = Seq(end.0.saturating_sub(1));
                // Of a part it is not known how many each device gave.
                let devices: &[_] = if (start, last) == (*first, *whole) { devices } else { &[] };
                context.line.write_gap(&mut self.text, start.0, last.0, cause_label(*cause), devices);
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
        let gap = match entry {
            Entry::Gap { at, first, last, cause, .. } if at != first => Some((*cause, last.0 - first.0 + 1)),
            Entry::Gap { cause, .. } => Some((*cause, end.0.saturating_sub(start.0))),
            _ => None,
        };
        self.spool.get_or_insert_with(|| Arc::clone(&context.spool));
        self.lines.push(Line { device, start: offset32, len, position: start, last, reading, gap });
        *position = end;
        Offer::Taken
    }

    /// Puts the `clock` lines that the batch carries in the place of those it had.
    pub fn carry<'a>(&mut self, line: &LineContext, corrections: impl Iterator<Item = &'a Correction>) {
        self.clocks.clear();
        self.clock_lines = 0;
        for correction in corrections {
            line.write_clock(&mut self.clocks, correction);
            self.clock_lines += 1;
        }
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
            let clock_lines = if part.start == 0 { self.clock_lines } else { 0 };
            if clock_lines > 0 {
                self.grouped.extend_from_slice(&self.clocks);
            }
            let bytes = encoder.encode(&self.grouped)?;
            if bytes.len() > limit && lines.len() > 1 {
                let middle = part.start + lines.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
                continue;
            }
            let member = self.member(bounds, encoder, lines, bytes);
            members.extend(member.map(|member| Member { lines: member.lines + clock_lines, ..member }));
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

    /// What the batch says of its numbers.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for line in &self.lines {
            tally.delivered += u64::from(line.reading);
            if let Some((cause, numbers)) = line.gap {
                tally.tell(cause, numbers);
            }
        }
        tally
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
        self.clocks.clear();
        self.clock_lines = 0;
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
        GapCause::Erased => "erased",
    }
}

#[cfg(test)]
mod tests;
