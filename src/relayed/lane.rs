//! One uplink's view of the shelf, in the forwarder's words: each member is a batch of its own, ready made.

use std::io;

use tokio::sync::watch;

use super::member::{self, NotAMember};
use super::shelf::Shelf;
use crate::config::{Encoding, From};
use crate::forward::Member;
use crate::journal::{Bounds, Seq};

/// No generation of the journal has this number: bounds of relayed members begin in it.
const GENERATION: u32 = u32::MAX;

/// See the module's documentation.
pub struct Lane {
    shelf: Shelf,
    uplink: String,
}

impl Shelf {
    /// The view of a configured uplink that takes members of at most `largest` bytes. Blocking.
    pub fn lane(&self, uplink: &str, from: From, largest: usize) -> Lane {
        self.enter(uplink, from, largest);
        Lane { shelf: self.clone(), uplink: uplink.to_owned() }
    }
}

impl Lane {
    /// Told when there may be something new.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shelf.0.changes()
    }

    /// Whether there is something that was not handed out.
    pub fn is_waiting(&self) -> bool {
        self.shelf.0.is_waiting(&self.uplink)
    }

    /// Members that are not confirmed.
    pub fn unconfirmed(&self) -> usize {
        self.shelf.0.unconfirmed(&self.uplink)
    }

    /// The next member. Blocking.
    ///
    /// # Errors
    /// It cannot be read just now.
    pub fn next(&self) -> io::Result<Option<Member>> {
        let (number, item, bytes, parsed) = loop {
            let Some((number, item, bytes)) = self.shelf.0.give(&self.uplink)? else { return Ok(None) };
            match member::parse(&bytes) {
                Ok(parsed) => break (number, item, bytes, parsed),
                Err(NotAMember::Empty) => self.shelf.0.confirm(&self.uplink, number)?,
                // Its own checksum tells what the disk has done to it.
                Err(_) => self.shelf.0.lose(number, &item),
            }
        };
        // Numbers beyond 32 bits would take an age of the world at a thousand a second.
        let at = |n: u64| Seq::new(GENERATION, u32::try_from(n % u64::from(u32::MAX)).unwrap_or(0));
        Ok(Some(Member {
            bounds: Bounds {
                from: at(number),
                to: at(number + 1),
                fixed_ms: item.stored_ms,
                clock: 0,
                guessed: false,
            },
            // Where the spool becomes part of a file's name, the sum keeps two members of one stretch apart.
            spool: format!("{}.{:08x}", item.identity.spool, item.identity.sum).into(),
            first: Seq(item.identity.first),
            last: Seq(item.identity.last),
            encoding: Encoding::Gzip,
            readings: parsed.readings,
            lines: parsed.lines,
            text_bytes: parsed.text_bytes,
            bytes,
        }))
    }

    /// Whether bounds are those of a member from here.
    pub fn owns(bounds: Bounds) -> bool {
        bounds.from.generation() == GENERATION
    }

    /// The other side has it. Blocking at times.
    ///
    /// # Errors
    /// Its place cannot be written.
    pub fn confirm(&self, bounds: Bounds) -> io::Result<()> {
        self.shelf.0.confirm(&self.uplink, u64::from(bounds.from.n()))
    }

    /// Nothing that was handed out is held any more.
    pub fn let_go(&self) {
        self.shelf.0.let_go(&self.uplink);
    }

    /// Writes the uplink's place. Blocking.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&self) -> io::Result<()> {
        self.shelf.0.write(&self.uplink)
    }
}
