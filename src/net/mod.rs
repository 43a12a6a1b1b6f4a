//! Ways out: TCP, straight or through a proxy ([`way`]), and TLS with the gateway's own certificate ([`identity`]).
//!
//! Everything here ends by itself within the time it is given, and its errors tell which step failed.

pub mod identity;
pub mod way;

pub use identity::{Identity, IdentityError, IdentityFiles, not_after};
pub use way::{DialError, Way};

/// What an error and its causes say.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// What TLS says is wrong, if it was TLS that failed.
pub(crate) fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An I/O error shows what is inside of it only when asked this way.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
