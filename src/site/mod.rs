//! What a site has of its own: its certificates, and its names on the local network.
//!
//! Promise: with `[mqtt.listener.tls]` and no certificate in it, the encrypted port has one that devices can check, from
//! the first start on and for ever: a CA of the site's own, made once, whose key stays on the gateway (`tls/ca.key`,
//! mode 0600), and a server certificate that is renewed long before it ends and when the gateway's names or addresses
//! change. Devices need the CA's certificate (`tls/ca.pem`) once.
//!
//! Not promised: that a stolen card does not hold the CA's key. Who has it can be this gateway towards its devices.

mod announce;
mod authority;
mod names;

pub use announce::{Announced, Announcement, host_label};
pub use authority::{AuthorityError, Due, Files, Summary, due, ensure, renew};
pub use names::Names;
