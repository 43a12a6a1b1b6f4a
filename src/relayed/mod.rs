//! Batches of other fogbeats at the same site, kept until every uplink of this one has them.
//!
//! A member is not taken apart: its bytes, and with them the sender's ids, leave as they came. [`member`] tells whether
//! bytes are a member and whose; [`shelf`] keeps one file for each and says [`Kept`] once it is on disk; [`lane`] is one
//! uplink's view.
//!
//! Promised: a member that was acknowledged survives kill and power cut; one that is sent again is kept once, also when
//! it was delivered already, for the time of `journal.dedupe_window` after that and after a start; each configured
//! uplink gets each member, again only as the same bytes; nothing is ever dropped to make room: at the limit members
//! are not acknowledged, and stay with who sends them.
//!
//! Not promised: encryption at rest, and pseudonyms: the configuration refuses both together with members.

mod erase;
pub mod lane;
pub mod member;
pub mod shelf;

pub use erase::erase;
pub use lane::Lane;
pub use member::{NotAMember, Parsed};
pub use shelf::{Kept, PutError, Shelf, Status};

/// Where members are published: the sender's name follows.
pub const TOPIC: &str = "fogbeat/members/";
