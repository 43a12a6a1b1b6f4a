//! Heart-rate wearables on the gateway's own radio.
//!
//! Two ways: what wearables broadcast ([`crate::reading::advert`]), from any number of them and without RR intervals,
//! and connections to those on the allow-list, with RR intervals, as far as the adapters' slots go. [`core`] decides
//! everything and is pure; [`driver`] makes its calls on a [`radio::Radio`], of which [`BlueZ`] is the real one.
//!
//! Promised: whoever is not listed leaves no trace (unless `accept_unknown`); one heart is one stream of readings,
//! whatever hears it; each notification that came is one reading; nothing is repeated, invented or bridged over a
//! gap. Not promised: what a wearable sent while nobody was connected. It keeps nothing: such a gap is final.

mod allowed;
pub mod beats;
mod bluez;
mod commands;
pub mod core;
mod driver;
mod handle;
pub mod heart;
pub mod ladder;
mod look;
mod metrics;
mod pace;
pub mod quality;
pub mod radio;
pub mod roster;
pub mod session;
mod settings;
pub mod signal;
pub mod slots;
mod tell;

pub use allowed::{AllowError, Allowed};
pub use bluez::BlueZ;
pub use commands::{CommandError, Commands};
pub use core::Sight;
pub use driver::Driver;
pub use handle::{Ended, Handle, Shown};
pub use look::Look;
pub use metrics::Metrics;
pub use pace::Pace;
pub use settings::{is_alias, problems, set_up, set_up_look};
