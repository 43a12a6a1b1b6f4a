//! What can be kept of a database that sled cannot open, or opens with holes.
//!
//! ```text
//! quarantine/gen-7          the damaged directory, as it was found; never written to
//! quarantine/gen-7.values   what the child finds there
//! raw/gen-7.r1              the new database; takes gen-7's place by one replacement of the manifest
//! ```
//!
//! Promise: a value is taken over only when its own sum is right and it says that it belongs to this generation, so that
//! nothing is ever altered; every value whose own bytes are whole is found, whatever is broken around it; what was not
//! found is told, number by number. Everything that may go wrong with a damaged database goes wrong in a [`child`].
//!
//! Not promised: the name of a device whose every copy is damaged, in the database and beside it
//! ([`super::names`]). It is never guessed from another generation's numbers: its readings are kept under a stand-in,
//! `unnamed-<generation>-<number>`, one for each device, and counted.

mod child;
mod collect;
mod held;
mod log;
mod rebuild;
mod scan;
mod shelf;
mod values;

pub use child::{ChildError, Program, WORKER, work};
pub use collect::Job;
pub use held::Held;
pub use log::{Soundness, soundness};
pub use rebuild::{Survey, build};
pub use scan::scan;
pub use shelf::{QUARANTINE, Shelf, directories, directory, put_aside};

#[cfg(test)]
mod tests;
