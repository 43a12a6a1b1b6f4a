//! Where batches are made, off the runtime: reads the journal, renders the lines, packs the members, and fixes the
//! bounds on disk before anything can be sent.
//!
//! One batch at a time; between two jobs it holds the lines of the batch under way and nothing else.

use std::sync::Arc;
use std::time::Duration;

use super::batch::{Context, Lines, Offer, Until};
use super::feed::Feed;
use super::member::{EncodeError, Encoder, Member};
use super::patience::{Leave, leave};
use super::{Failure, Origin};
use crate::clock::{BootId, Clock, Correction, WallQuality};
use crate::config::Encoding;
use crate::journal::{Bounds, ClockNote, CursorError, Page, ReadError, Seq, Tally};
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
    /// Fetch a batch of another gateway, as it is.
    Member,
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
    /// What comes next is being salvaged; to be asked again in a moment.
    Waiting,
    /// Nothing is lost or half done; the job can be given again.
    Failed(Failure),
}

/// Why a job was not done.
enum Stop {
    Failed(Failure),
    /// The journal is being repaired there.
    Waiting,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
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
    /// Revision of the clock's anchors by which the batch under way tells its times.
    clock_revision: u32,
    /// Boots of which the batch under way has guessed times.
    guessed: Vec<BootId>,
    /// The next entry is held back, at most so long.
    held: Option<Duration>,
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
            clock_revision: 0,
            guessed: Vec::new(),
            held: None,
            member_limit,
            max_bytes,
        })
    }

    /// Where the next read goes on.
    pub(super) const fn position(&self) -> Seq {
        self.position
    }

    /// How long the next entry may be held back, when the last job came to one whose time may still become known.
    pub(super) const fn held(&self) -> Option<Duration> {
        self.held
    }

    /// Whether lines are waiting for their batch to be closed.
    pub(super) fn holds_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Holds no line any more; goes on where the uplink stands.
    pub(super) fn let_go(&mut self) {
        self.lines.clear(0);
        self.encoder.shrink(0);
        self.from = self.feed.cursor();
        self.position = self.from;
    }

    /// Blocking.
    pub(super) fn work(&mut self, job: Job) -> Outcome {
        let result = match job {
            Job::Fill | Job::Close => self.next_batch(job == Job::Close),
            Job::Again(bounds) => self.again(bounds),
            Job::Member => self.member(),
        };
        result.unwrap_or_else(|stop| match stop {
            Stop::Failed(failure) => Outcome::Failed(failure),
            Stop::Waiting => Outcome::Waiting,
        })
    }

    /// What is under way here is not touched.
    fn member(&self) -> Result<Outcome, Stop> {
        let failed = |error: std::io::Error| {
            Failure::new("members", format!("a batch of another gateway cannot be read: {error}"))
                .remedy("check the disk")
        };
        Ok(match self.feed.next_member().map_err(failed)? {
            Some(member) => {
                let (bounds, tally) = (member.bounds, Tally::default());
                Outcome::Built(Built { bounds, members: vec![member], tally })
            }
            None => Outcome::Exhausted,
        })
    }

    fn next_batch(&mut self, close: bool) -> Result<Outcome, Stop> {
        let known = self.clock.anchors().revision();
        if self.clock_revision != known {
            // What is known now may tell the lines so far a better time: they are written again.
            self.begin_anew(self.from, known);
        }
        let full = match self.fill(Until::Bytes(self.max_bytes)) {
            // What was read before it need not wait.
            Err(Stop::Waiting) if close && !self.lines.is_empty() => false,
            full => full?,
        };
        if self.lines.is_empty() || !(full || close) {
            return Ok(Outcome::Exhausted);
        }
        let now = self.clock.now();
        let bounds = Bounds {
            from: self.from,
            to: self.position,
            fixed_ms: now.wall_ms,
            clock: known,
            guessed: now.quality == WallQuality::Unsynced,
        };
        let told = self.carry(&self.feed.clocks_owed());
        let members = self.pack(bounds)?;
        match self.feed.begin(bounds, &ClockNote { guessed: self.guessed.clone(), told }) {
            Ok(()) => {}
            Err(CursorError::Changed { .. }) => {
                // At the quota something gave way after it was read: the batch is made of what there is now.
                self.begin_anew(self.from, known);
                return self.next_batch(close);
            }
            Err(error) => {
                return Err(Failure::new("cursor", error.to_string()).remedy(CURSOR_REMEDY).into());
            }
        }
        let tally = self.lines.tally();
        self.finish(bounds, if full { usize::MAX } else { IDLE_BUFFER });
        Ok(Outcome::Built(Built { bounds, members, tally }))
    }

    fn again(&mut self, bounds: Bounds) -> Result<Outcome, Stop> {
        self.begin_anew(bounds.from, bounds.clock);
        self.fill(Until::Position(bounds.to))?;
        if self.position < bounds.to {
            return Err(Failure::new(
                "journal",
                format!(
                    "the journal ends at {} inside the open batch {} to {}",
                    self.position.0, bounds.from.0, bounds.to.0
                ),
            )
            .remedy("run `fogbeat journal verify`")
            .into());
        }
        self.carry(&self.feed.clocks_carried(bounds));
        let members = self.pack(bounds)?;
        let tally = self.lines.tally();
        self.finish(bounds, IDLE_BUFFER);
        Ok(Outcome::Built(Built { bounds, members, tally }))
    }

    /// Empties the batch under way and goes back to its first position.
    fn begin_anew(&mut self, from: Seq, clock_revision: u32) {
        self.lines.clear(usize::MAX);
        self.guessed.clear();
        self.position = from;
        self.clock_revision = clock_revision;
        self.context = None;
    }

    /// Gives the batch the `clock` lines of those boots whose times are known; returns which.
    fn carry(&mut self, boots: &[BootId]) -> Vec<BootId> {
        let Some(context) = &self.context else { return Vec::new() };
        let table = self.clock.anchors();
        let corrections: Vec<Correction> =
            boots.iter().filter_map(|boot| table.times(*boot, self.clock_revision).correction()).collect();
        self.lines.carry(&context.line, corrections.iter());
        corrections.iter().map(|correction| correction.boot).collect()
    }

    fn finish(&mut self, bounds: Bounds, keep: usize) {
        self.lines.clear(keep);
        self.guessed.clear();
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
        let line = LineContext::new(&page.spool, &self.origin.gateway, self.origin.site.as_deref())
            .judging_by(self.origin.window);
        let times = self.clock.anchors().times(page.boot, self.clock_revision);
        Context { spool: Arc::clone(&page.spool), times, line }
    }

    /// Reads on until the batch is full (`true`) or nothing more is durable.
    fn fill(&mut self, until: Until) -> Result<bool, Stop> {
        if self.lines.is_empty() {
            self.feed.renew();
        }
        self.held = None;
        let patience = match until {
            Until::Bytes(_) => self.clock.patient_until(),
            // What was sent before is sent again as it was.
            Until::Position(_) => None,
        };
        loop {
            if matches!(until, Until::Position(to) if self.position >= to) {
                return Ok(true);
            }
            let asked = self.position;
            let page = self.feed.read(asked, PAGE).map_err(|error| match error {
                ReadError::Damaged { .. } => Stop::Waiting,
                error => {
                    let failure = Failure::new("journal", error.to_string());
                    Stop::Failed(failure.remedy("run `fogbeat journal verify`"))
                }
            })?;
            let context = match self.context.take().filter(|known| known.spool == page.spool) {
                Some(known) if known.times.boot() == page.boot => known,
                Some(known) => {
                    let times = self.clock.anchors().times(page.boot, self.clock_revision);
                    Context { times, ..known }
                }
                None => self.new_context(&page),
            };
            let context = self.context.insert(context);
            let uptime_ms = self.clock.now().uptime_ms;
            for entry in &page.entries {
                let leave = leave(entry, self.position, &context.times, uptime_ms, patience);
                if let Leave::Held(left) = leave {
                    self.held = Some(left);
                    return Ok(false);
                }
                if self.lines.offer(entry, &mut self.position, until, context) == Offer::Full {
                    return Ok(true);
                }
                let boot = context.times.boot();
                if leave == Leave::Guessed && !self.guessed.contains(&boot) {
                    self.guessed.push(boot);
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
