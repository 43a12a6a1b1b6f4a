//! Privacy by means: what a consumer of the data is not told, and what can be taken back.
//!
//! [`Pseudonyms`] stand in for device names in everything that uplinks send, under a key that stays on the gateway.
//! [`erase`] removes a device from everything the gateway keeps, and [`sql`] from what was delivered.
//!
//! What is not promised: anonymity. A heart rate over weeks may point to a person by itself, and whoever has the key can
//! tell which of the names they know a pseudonym stands for.

pub mod erase;
mod key;
mod names;
mod pseudonym;
pub mod sql;

pub use key::{Key, KeyError};
pub use names::{Known, Names};
pub use pseudonym::{CREDENTIAL, Pseudonyms, tag};
