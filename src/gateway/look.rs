//! A look into a journal: what `fogbeat journal` shows, whether a running gateway looks or the command itself. Blocking.
//!
//! Everything comes in answers of bounded size: one generation is verified at a time, and readings come in pages, each
//! asked for when the one before it is written out. So neither side holds more than a page, and a reader that stops
//! keeps nobody waiting.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::forward::batch::cause_label;
use crate::journal::{Entry, Journal, ReadError, Seq};
use crate::reading::line::LineContext;

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
    json!({ "spool": journal.spool(), "generations": journal.generations(), "uplinks": uplinks })
}

/// Whether every value of a generation is there and sound.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verdict {
    pub sound: bool,
    pub report: Value,
}

/// Reads every value of a generation. `None`: it is not there (any more).
pub fn verify(journal: &Journal, generation: u32) -> Option<Verdict> {
    let known = journal.generations().into_iter().find(|known| known.generation == generation)?;
    Some(match journal.verify(&known) {
        Ok(verified) => {
            let places: Vec<_> = verified
                .damaged
                .iter()
                .map(|(place, error)| json!({ "at": place, "error": error.to_string() }))
                .collect();
            Verdict {
                sound: verified.damaged.is_empty() && verified.missing == 0,
                report: json!({
                    "generation": verified.generation, "blocks": verified.blocks, "readings": verified.readings,
                    "bytes": verified.bytes, "missing": verified.missing, "sealed_without_key": verified.sealed,
                    "damaged": places,
                }),
            }
        }
        Err(error) => {
            Verdict { sound: false, report: json!({ "generation": generation, "error": error.to_string() }) }
        }
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
pub fn page(journal: &Journal, gateway: &str, site: Option<&str>, from: u64) -> Result<Page, ReadError> {
    let page = journal.peek(Seq(from), PAGE)?;
    // A cloned card has readings of two spools.
    let lines = LineContext::new(&page.spool, gateway, site);
    let mut text = Vec::new();
    for entry in &page.entries {
        match entry {
            Entry::Reading { seq, device, reading } => {
                lines.write_reading(&mut text, seq.0, page.boot, device, reading);
            }
            Entry::Summary { at, device, summary } => {
                lines.write_summary(&mut text, at.0, page.boot, device, summary);
            }
            Entry::End { generation, count } => lines.write_end(&mut text, *generation, *count),
            Entry::Gap { first, last, cause, devices, .. } => {
                lines.write_gap(&mut text, first.0, last.0, cause_label(*cause), devices);
            }
        }
    }
    Ok(Page { lines: String::from_utf8_lossy(&text).into_owned(), next: page.next.0 })
}
