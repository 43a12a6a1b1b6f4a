//! A look into a journal: what `fogbeat journal` shows, whether a running gateway looks or the command itself. Blocking.
//!
//! Everything comes in answers of bounded size: one generation is verified at a time, and readings come in pages, each
//! asked for when the one before it is written out. So neither side holds more than a page, and a reader that stops
//! keeps nobody waiting.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::forward::batch::cause_label;
use crate::journal::{Entry, GenerationState, Journal, ReadError, Seq, unexplained};
use crate::reading::line::LineContext;
use crate::reading::validity::DeviceTimeWindow;

/// Entries of one page: 2 MB of lines if all had as many RR intervals as a reading may have.
const PAGE: usize = 1024;

/// Generations on disk, and where each uplink stands.
pub fn inspect(journal: &Journal) -> Value {
    let uplinks: Vec<_> = journal
        .uplinks()
        .iter()
        .map(|uplink| {
            let cursor = uplink.cursor();
            let queued = journal.backlog(cursor);
            json!({ "name": uplink.name(), "cursor": cursor.0, "open": uplink.open(), "queued_readings": queued })
        })
        .collect();
    let facts = journal.facts();
    json!({
        "spool": journal.spool(), "generations": journal.generations(), "damage": journal.damage(),
        "uplinks": uplinks, "facts": facts, "quota": journal.quota(),
    })
}

/// Whether every value of a generation is there and sound.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verdict {
    pub sound: bool,
    pub report: Value,
    /// Ranges of numbers that can be read, both ends included.
    pub found: Vec<(u32, u32)>,
}

/// Reads every value of a generation. `None`: it is not there (any more).
pub fn verify(journal: &Journal, generation: u32) -> Option<Verdict> {
    let given = journal.facts().generations.into_iter().find(|given| given.generation == generation)?;
    let mut known = journal.generations().into_iter().find(|known| known.generation == generation)?;
    // The head has grown since.
    known.readings = given.record.count;
    if !matches!(known.state, GenerationState::Open | GenerationState::Sealed) {
        let report =
            json!({ "generation": generation, "state": known.state, "missing": given.record.missing });
        let sound = known.state != GenerationState::Quarantined;
        return Some(Verdict { sound, report, found: Vec::new() });
    }
    Some(match journal.verify(&known) {
        Ok(verified) => {
            let places: Vec<_> = verified
                .damaged
                .iter()
                .map(|(place, error)| json!({ "at": place, "error": error.to_string() }))
                .collect();
            // What is known to be missing is told; what nobody knew of is damage.
            let unexplained = unexplained(&given.record, &verified.found);
            Verdict {
                sound: unexplained == 0 && (given.record.summaries.is_none() || verified.damaged.is_empty()),
                report: json!({
                    "generation": verified.generation, "blocks": verified.blocks, "readings": verified.readings,
                    "bytes": verified.bytes, "missing": verified.missing, "unexplained": unexplained,
                    "sealed_without_key": verified.sealed, "damaged": places,
                }),
                found: verified.found,
            }
        }
        Err(error) => Verdict {
            sound: false,
            report: json!({ "generation": generation, "error": error.to_string() }),
            found: Vec::new(),
        },
    })
}

/// Some of what is kept, as JSON lines.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page {
    pub lines: String,
    /// Where the next page begins; the same place again: nothing more is kept.
    pub next: u64,
}

/// The lines from `from` on, delivered or not.
///
/// # Errors
/// When the journal cannot be read.
pub fn page(
    journal: &Journal,
    gateway: &str,
    site: Option<&str>,
    window: DeviceTimeWindow,
    from: u64,
) -> Result<Page, ReadError> {
    let page = journal.peek(Seq(from), PAGE)?;
    // A cloned card has readings of two spools.
    let lines = LineContext::new(&page.spool, gateway, site).judging_by(window);
    let anchors = journal.clock().anchors();
    let times = anchors.times(page.boot, anchors.revision());
    let mut text = Vec::new();
    for entry in &page.entries {
        match entry {
            Entry::Reading { seq, device, reading } => {
                lines.write_reading(&mut text, seq.0, &times, device, reading);
            }
            Entry::Summary { at, device, summary } => {
                lines.write_summary(&mut text, at.0, &times, device, summary);
            }
            Entry::End { generation, count } => lines.write_end(&mut text, *generation, *count),
            Entry::Gap { first, last, cause, devices, .. } => {
                lines.write_gap(&mut text, first.0, last.0, cause_label(*cause), devices);
            }
        }
    }
    Ok(Page { lines: String::from_utf8_lossy(&text).into_owned(), next: page.next.0 })
}
