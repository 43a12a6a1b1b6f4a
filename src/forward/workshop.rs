//! Where batches are made, off the runtime: reads the journal, renders the lines, packs the members, and fixes the
//! bounds on disk before anything can be sent.
//!
//! One batch at a time; between two jobs it holds the lines of the batch under way and nothing else.

use std::sync::Arc;

use super::batch::{Context, Lines, Offer, Until};
use super::feed::Feed;
use super::member::{EncodeError, Encoder, Member};
use super::{Failure, Origin};
use crate::clock::Clock;
use crate::config::Encoding;
use crate::journal::{Bounds, CursorError, Page, Seq, Tally};
use crate::reading::line::LineContext;

/// Readings asked of the journal at a time: a page is a few hundred kilobytes.
const PAGE: usize = 1_000;
/// Memory that stays with the buffers of an uplink that has caught up.
const IDLE_BUFFER: usize = 256 * 1024;

/// What to do when a cursor cannot be written.
pub(super) const CURSOR_REMEDY: &str = "make room in the state directory and let the daemon write there";

/// What to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// Read on; make a batch if it is full.
    Fill,
    /// Read on; make a batch of whatever is there.
    Close,
    /// Make this batch again: its bounds were fixed before a restart.
    Again(Bounds),
}

/// A batch ready to be sent: its bounds are on disk.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) bounds: Bounds,
    pub(super) members: Vec<Member>,
    /// What became of its numbers.
    pub(super) tally: Tally,
}

/// What a job came to.
#[derive(Debug)]
pub(super) enum Outcome {
    Built(Built),
    /// Everything durable was read and there is no batch to send yet.
    Exhausted,
    /// Nothing is lost or half done; the job can be given again.
    Failed(Failure),
}

pub(super) struct Workshop<F> {
    feed: Arc<F>,
    clock: Arc<dyn Clock>,
    origin: Origin,
    context: Option<Context>,
    encoder: Encoder,
    lines: Lines,
    /// First position of the batch under way.
    from: Seq,
    /// Where the next read goes on.
    position: Seq,
    member_limit: usize,
    max_bytes: usize,
}

impl<F: Feed> Workshop<F> {
    pub(super) fn new(
        feed: Arc<F>,
        clock: Arc<dyn Clock>,
        origin: Origin,
        encoding: Encoding,
        member_limit: usize,
        max_bytes: usize,
    ) -> Result<Self, EncodeError> {
        // Plain lines are as long as their member: the limit is known before anything is packed.
        let max_bytes = if encoding == Encoding::Json { max_bytes.min(member_limit) } else { max_bytes };
        let from = feed.cursor();
        Ok(Self {
            feed,
            clock,
            origin,
            context: None,
            encoder: Encoder::new(encoding)?,
            lines: Lines::default(),
            from,
            position: from,
            member_limit,
            max_bytes,
        })
    }

    /// Where the next read goes on.
    pub(super) const fn position(&self) -> Seq {
        self.position
    }

    /// Whether lines are waiting for their batch to be closed.
    pub(super) fn holds_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Blocking.
    pub(super) fn work(&mut self, job: Job) -> Outcome {
        let result = match job {
            Job::Fill | Job::Close => self.next_batch(job == Job::Close),
            Job::Again(bounds) => self.again(bounds),
        };
        result.unwrap_or_else(Outcome::Failed)
    }

    fn next_batch(&mut self, close: bool) -> Result<Outcome, Failure> {
        let full = self.fill(Until::Bytes(self.max_bytes))?;
        if self.lines.is_empty() || !(full || close) {
            return Ok(Outcome::Exhausted);
        }
        let bounds = Bounds { from: self.from, to: self.position, fixed_ms: self.clock.now().wall_ms };
        let members = self.pack(bounds)?;
        match self.feed.begin(bounds) {
            Ok(()) => {}
            Err(CursorError::Changed { .. }) => {
                // At the quota something gave way after it was read: the batch is made of what there is now.
                self.lines.clear(IDLE_BUFFER);
                self.position = self.from;
                return self.next_batch(close);
            }
            Err(error) => return Err(Failure::new("cursor", error.to_string()).remedy(CURSOR_REMEDY)),
        }
        let tally = self.lines.tally();
        self.finish(bounds, if full { usize::MAX } else { IDLE_BUFFER });
        Ok(Outcome::Built(Built { bounds, members, tally }))
    }

    fn again(&mut self, bounds: Bounds) -> Result<Outcome, Failure> {
        self.lines.clear(usize::MAX);
        self.position = bounds.from;
        self.fill(Until::Position(bounds.to))?;
        if self.position < bounds.to {
            return Err(Failure::new(
                "journal",
                format!(
                    "the journal ends at {} inside the open batch {} to {}",
                    self.position.0, bounds.from.0, bounds.to.0
                ),
            )
            .remedy("run `fogbeat journal verify`"));
        }
        let members = self.pack(bounds)?;
        let tally = self.lines.tally();
        self.finish(bounds, IDLE_BUFFER);
        Ok(Outcome::Built(Built { bounds, members, tally }))
    }

    fn finish(&mut self, bounds: Bounds, keep: usize) {
        self.lines.clear(keep);
        self.encoder.shrink(keep);
        self.from = bounds.to;
        self.position = self.from;
    }

    fn pack(&mut self, bounds: Bounds) -> Result<Vec<Member>, Failure> {
        self.lines
            .encode(bounds, &mut self.encoder, self.member_limit)
            .map_err(|error| Failure::new("encode", format!("a batch cannot be packed: {error}")))
    }

    fn new_context(&self, page: &Page) -> Context {
        let line = LineContext::new(&page.spool, &self.origin.gateway, self.origin.site.as_deref());
        Context { spool: Arc::clone(&page.spool), boot: page.boot, line }
    }

    /// Reads on until the batch is full (`true`) or nothing more is durable.
    fn fill(&mut self, until: Until) -> Result<bool, Failure> {
        if self.lines.is_empty() {
            self.feed.renew();
        }
        loop {
            if matches!(until, Until::Position(to) if self.position >= to) {
                return Ok(true);
            }
            let asked = self.position;
            let page = self.feed.read(asked, PAGE).map_err(|error| {
                Failure::new("journal", error.to_string()).remedy("run `fogbeat journal verify`")
            })?;
            let context = match self.context.take().filter(|known| known.spool == page.spool) {
                Some(known) => Context { boot: page.boot, ..known },
                None => self.new_context(&page),
            };
            let context = self.context.insert(context);
            for entry in &page.entries {
                if self.lines.offer(entry, &mut self.position, until, context) == Offer::Full {
                    return Ok(true);
                }
            }
            // Numbers without an entry (nothing to account for) lie behind us as well.
            let next = match until {
                Until::Position(to) => page.next.min(to),
                Until::Bytes(_) => page.next,
            };
            self.position = self.position.max(next);
            if self.position == asked {
                return Ok(false);
            }
        }
    }
}

/// How many readings lie between two positions, as far as the numbers tell.
pub(super) const fn ahead(position: Seq, watermark: Seq) -> u64 {
    if position.generation() == watermark.generation() {
        watermark.0.saturating_sub(position.0)
    } else {
        u64::MAX
    }
}
